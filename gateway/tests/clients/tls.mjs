// TLS under amqplib and mqtt.js. See tls.py for `tls.json`.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { eventually, later, main, require, test, unique } from "./harness.mjs";

const amqp = require("amqplib");
const mqtt = require("mqtt");

const settings = JSON.parse(fs.readFileSync("tls.json", "utf8"));
const read = (name) => fs.readFileSync(path.join(settings.directory, name));
const ca = [read("ca.pem")];
const identity = { cert: read("guest.pem"), key: read("guest.key") };
const large = Buffer.alloc(700_000, "gatepost");

async function work(options, credentials) {
  const url = { protocol: "amqps", hostname: "localhost", port: settings.amqps, heartbeat: 0, ...credentials };
  const connection = await amqp.connect(url, options);
  connection.on("error", () => {});
  later(() => connection.close());
  const channel = await connection.createConfirmChannel();
  const { queue } = await channel.assertQueue("", { exclusive: true });
  const seen = [];
  await channel.consume(queue, (message) => seen.push(message.content), { noAck: true });
  for (const body of [Buffer.from("small"), large]) channel.sendToQueue(queue, body);
  await channel.waitForConfirms();
  await eventually(() => seen.length === 2);
  assert.ok(seen[1].equals(large));
}

test("amqplib works a queue with a password", () => work({ ca }, { username: "guest", password: "guest" }));

test("amqplib works a queue by certificate", () =>
  work({ ca, ...identity, credentials: amqp.credentials.external() }, {}));

test("amqplib is refused EXTERNAL without a certificate", () =>
  assert.rejects(work({ ca, credentials: amqp.credentials.external() }, {})));

test("mqtt.js sends and receives by certificate", async () => {
  for (const protocolVersion of [4, 5]) {
    const options = { ca, ...identity, protocolVersion, ALPNProtocols: ["mqtt"], reconnectPeriod: 0 };
    const client = await mqtt.connectAsync(`mqtts://localhost:${settings.mqtts}`, options);
    later(() => client.endAsync());
    const topic = unique("tls/js");
    const seen = [];
    client.on("message", (_, payload) => seen.push(payload));
    await client.subscribeAsync(topic, { qos: 1 });
    await client.publishAsync(topic, large, { qos: 1 });
    await eventually(() => seen.length === 1);
    assert.ok(seen[0].equals(large));
  }
});

await main();
