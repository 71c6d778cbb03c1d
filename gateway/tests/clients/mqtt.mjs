// MQTT under mqtt.js: another implementation of 3.1.1 and 5.

import assert from "node:assert/strict";
import { eventually, host, keepsSome, later, main, ports, require, sleep, test, unique } from "./harness.mjs";

const mqtt = require("mqtt");

async function connect(options = {}) {
  const client = mqtt.connect({
    host,
    ...(process.env.GATEPOST_TRANSPORT === "websockets"
      ? { protocol: "ws", port: ports.webMqtt, path: "/mqtt" }
      : { port: ports.mqtt }),
    clientId: unique("js"),
    reconnectPeriod: 0,
    connectTimeout: 30_000,
    ...options,
  });
  client.inbox = [];
  client.on("message", (topic, payload, packet) => client.inbox.push(packet));
  later(() => client.endAsync(true));
  client.on("error", (error) => (client.failure = error));
  client.connack = await new Promise((done, fail) => {
    client.once("connect", done);
    client.once("error", fail);
    client.once("close", () => fail(new Error("closed before CONNACK")));
  });
  return client;
}

const text = (packet) => packet.payload.toString();

for (const protocolVersion of [4, 5]) {
  const each = (name, body, options) => test(`${name} (version ${protocolVersion})`, body, options);
  const kept = { clean: false, properties: protocolVersion === 5 ? { sessionExpiryInterval: 3600 } : undefined };

  each("all QoS levels go both ways", async () => {
    const topic = unique("t");
    const [subscriber, publisher] = await Promise.all([connect({ protocolVersion }), connect({ protocolVersion })]);
    await subscriber.subscribeAsync(topic, { qos: 2 });
    for (const qos of [0, 1, 2]) await publisher.publishAsync(topic, `m${qos}`, { qos });
    await eventually(() => subscriber.inbox.length === 3);
    assert.deepEqual(new Set(subscriber.inbox.map((p) => `${text(p)} at ${p.qos}`)),
      new Set(["m0 at 0", "m1 at 1", "m2 at 2"]));
  });

  each("a thousand QoS 1 messages arrive in order", async () => {
    const topic = unique("t");
    const [subscriber, publisher] = await Promise.all([connect({ protocolVersion }), connect({ protocolVersion })]);
    await subscriber.subscribeAsync(topic, { qos: 1 });
    const sent = [];
    for (let n = 0; n < 1000; n++) sent.push(publisher.publishAsync(topic, String(n), { qos: 1 }));
    await Promise.all(sent);
    await eventually(() => subscriber.inbox.length === 1000);
    assert.deepEqual(subscriber.inbox.map((p) => Number(text(p))), [...Array(1000).keys()]);
  });

  each("a kept session collects while its client is away", async () => {
    const topic = unique("t");
    const clientId = unique("kept");
    const first = await connect({ protocolVersion, clientId, ...kept });
    assert.equal(first.connack.sessionPresent, false);
    await first.subscribeAsync(`${topic}/+`, { qos: 1 });
    await first.endAsync();
    const publisher = await connect({ protocolVersion });
    for (let n = 0; n < 20; n++) await publisher.publishAsync(`${topic}/x`, String(n), { qos: 1 });
    const second = await connect({ protocolVersion, clientId, ...kept });
    assert.equal(second.connack.sessionPresent, true);
    await eventually(() => second.inbox.length === 20);
    assert.deepEqual(second.inbox.map((p) => Number(text(p))), [...Array(20).keys()]);
  });

  each("a will fires when the socket is destroyed", async () => {
    const topic = unique("will");
    const watcher = await connect({ protocolVersion });
    await watcher.subscribeAsync(topic, { qos: 1 });
    const device = await connect({ protocolVersion, will: { topic, payload: Buffer.from("gone"), qos: 1 } });
    device.stream.destroy();
    await eventually(() => watcher.inbox.length === 1);
    assert.equal(text(watcher.inbox[0]), "gone");
  });

  each("retained messages replay to wildcards", async () => {
    const topic = unique("r");
    const publisher = await connect({ protocolVersion });
    await publisher.publishAsync(`${topic}/a`, "one", { qos: 1, retain: true });
    await publisher.publishAsync(`${topic}/b/c`, "two", { qos: 1, retain: true });
    const subscriber = await connect({ protocolVersion });
    await subscriber.subscribeAsync(`${topic}/#`, { qos: 1 });
    await eventually(() => subscriber.inbox.length === 2);
    assert.deepEqual(new Set(subscriber.inbox.map(text)), new Set(["one", "two"]));
    assert.ok(subscriber.inbox.every((p) => p.retain));
  });

  each("many filters in one subscribe are granted one by one", async () => {
    const topic = unique("t");
    const client = await connect({ protocolVersion });
    const filters = Object.fromEntries([...Array(100).keys()].map((n) => [`${topic}/${n}`, { qos: n % 3 }]));
    const granted = await client.subscribeAsync(filters);
    assert.deepEqual(granted.map((g) => g.qos), [...Array(100).keys()].map((n) => n % 3));
  });
}

test("properties arrive as they were sent", async () => {
  const topic = unique("t");
  const [subscriber, publisher] = await Promise.all([
    connect({ protocolVersion: 5 }),
    connect({ protocolVersion: 5 }),
  ]);
  await subscriber.subscribeAsync(topic, { qos: 1, properties: { subscriptionIdentifier: 7 } });
  const properties = {
    payloadFormatIndicator: true,
    contentType: "text/plain",
    responseTopic: "answers",
    correlationData: Buffer.from([0, 255]),
    userProperties: { a: ["1", "2"], b: "3" },
  };
  await publisher.publishAsync(topic, "x", { qos: 1, properties });
  await eventually(() => subscriber.inbox.length === 1);
  const got = subscriber.inbox[0].properties;
  assert.equal(got.payloadFormatIndicator, true);
  assert.equal(got.contentType, "text/plain");
  assert.equal(got.responseTopic, "answers");
  assert.deepEqual([...got.correlationData], [0, 255]);
  assert.deepEqual({ ...got.userProperties }, { a: ["1", "2"], b: "3" });
  assert.equal(got.subscriptionIdentifier, 7);
});

test("a takeover is told with 0x8E", async () => {
  const clientId = unique("c");
  const first = await connect({ protocolVersion: 5, clientId });
  const reason = new Promise((done) => first.once("disconnect", (packet) => done(packet.reasonCode)));
  await connect({ protocolVersion: 5, clientId });
  assert.equal(await reason, 0x8e);
}, { differs: "mosquitto" });

test("its own topic aliases are understood", async () => {
  const topic = unique("t");
  const subscriber = await connect({ protocolVersion: 5 });
  await subscriber.subscribeAsync(`${topic}/#`, { qos: 1 });
  const publisher = await connect({ protocolVersion: 5, autoAssignTopicAlias: true });
  for (let n = 0; n < 30; n++) await publisher.publishAsync(`${topic}/${n % 3}`, String(n), { qos: 1 });
  await eventually(() => subscriber.inbox.length === 30);
  subscriber.inbox.forEach((p, n) => assert.equal(`${p.topic} ${text(p)}`, `${topic}/${n % 3} ${n}`));
});

test("pings keep an idle client", async () => {
  const kept = async (seconds) => {
    const client = await connect({ keepalive: seconds });
    await sleep(4_000 * seconds);
    if (client.connected) await client.publishAsync(unique("t"), "x", { qos: 1 });
    return client.connected;
  };
  assert.ok(await keepsSome(kept));
});

await main();
