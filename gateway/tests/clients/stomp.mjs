// STOMP over WebSocket under @stomp/stompjs.

import assert from "node:assert/strict";
import { eventually, host, keepsSome, later, main, ports, require, sleep, test, unique } from "./harness.mjs";

const { WebSocket } = require("ws");
const { Client, Versions } = require("@stomp/stompjs");

Object.assign(globalThis, { WebSocket });

async function connect(options = {}) {
  const client = new Client({
    brokerURL: `ws://${host}:${ports.webStomp}/ws`,
    connectHeaders: { login: "guest", passcode: "guest", host: "/" },
    reconnectDelay: 0,
    heartbeatIncoming: 0,
    heartbeatOutgoing: 0,
    ...options,
  });
  client.errors = [];
  client.onStompError = (frame) => client.errors.push(frame);
  later(() => client.deactivate({ force: true }));
  await new Promise((done, fail) => {
    client.onConnect = done;
    client.onWebSocketClose = () => fail(new Error("closed before CONNECTED"));
    client.activate();
  });
  client.onWebSocketClose = () => (client.gone = true);
  return client;
}

const receipt = (client, send) =>
  new Promise((done) => {
    const id = unique("r");
    client.watchForReceipt(id, done);
    send(id);
  });

async function subscribe(client, destination, headers = {}) {
  const inbox = [];
  await receipt(client, (id) => {
    inbox.handle = client.subscribe(destination, (message) => inbox.push(message), { ...headers, receipt: id });
  });
  return inbox;
}

for (const version of [Versions.V1_0, Versions.V1_1, Versions.V1_2]) {
  test(`a message goes round in version ${version}`, async () => {
    const client = await connect({ stompVersions: new Versions([version]) });
    assert.equal(client.connectedVersion, version);
    const topic = `/topic/${unique("t")}.x`;
    const inbox = await subscribe(client, topic);
    client.publish({ destination: topic, body: "grün", headers: { key: "value" } });
    await eventually(() => inbox.length === 1);
    assert.equal(inbox[0].body, "grün");
    assert.equal(inbox[0].headers.key, "value");
    assert.equal(inbox[0].headers.destination, topic);
  });
}

test("binary bodies survive", async () => {
  const client = await connect();
  const queue = `/queue/${unique()}`;
  const inbox = await subscribe(client, queue);
  const binaryBody = Uint8Array.from({ length: 1024 }, (_, n) => n % 256);
  client.publish({ destination: queue, binaryBody, headers: { "content-type": "application/octet-stream" } });
  await eventually(() => inbox.length === 1);
  assert.deepEqual([...inbox[0].binaryBody], [...binaryBody]);
});

test("nack gives back, ack does not", async () => {
  const client = await connect();
  const queue = `/queue/${unique()}`;
  const inbox = await subscribe(client, queue, { ack: "client-individual" });
  client.publish({ destination: queue, body: "x" });
  await eventually(() => inbox.length === 1);
  inbox[0].nack();
  await eventually(() => inbox.length === 2);
  assert.equal(inbox[1].headers.redelivered, "true");
  inbox[1].ack();
  client.publish({ destination: queue, body: "behind" });
  await eventually(() => inbox.length === 3);
  assert.equal(inbox[2].body, "behind");
});

test("a committed transaction is delivered and an aborted one is not", async () => {
  const client = await connect();
  const queue = `/queue/${unique()}`;
  const inbox = await subscribe(client, queue);
  const kept = client.begin();
  client.publish({ destination: queue, body: "kept", headers: { transaction: kept.id } });
  const dropped = client.begin();
  client.publish({ destination: queue, body: "dropped", headers: { transaction: dropped.id } });
  dropped.abort();
  kept.commit();
  client.publish({ destination: queue, body: "behind" });
  await eventually(() => inbox.length === 2);
  assert.deepEqual(inbox.map((m) => m.body), ["kept", "behind"]);
});

test("heart-beats keep an idle connection", async () => {
  const kept = async (seconds) => {
    const client = await connect({ heartbeatIncoming: 1000 * seconds, heartbeatOutgoing: 1000 * seconds });
    await sleep(4_000 * seconds);
    return client.connected && !client.gone;
  };
  assert.ok(await keepsSome(kept));
});

test("an error is delivered before the end", async () => {
  const client = await connect();
  client.publish({ destination: "/nowhere/x", body: "x" });
  await eventually(() => client.errors.length === 1);
  assert.equal(client.errors[0].headers.message, "Unknown destination");
});

test("deactivating says goodbye and gets its receipt", async () => {
  const client = await connect();
  await client.deactivate();
  assert.equal(client.connected, false);
});

test("large frames split over many messages are put together", async () => {
  const client = await connect({ splitLargeFrames: true, maxWebSocketChunkSize: 1000 });
  const queue = `/queue/${unique()}`;
  const inbox = await subscribe(client, queue);
  const body = "0123456789".repeat(20_000);
  client.publish({ destination: queue, body });
  await eventually(() => inbox.length === 1);
  assert.equal(inbox[0].body, body);
});

await main();
