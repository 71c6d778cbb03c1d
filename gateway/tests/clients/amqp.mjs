// AMQP under amqplib: another implementation of the protocol, and the field types that pika cannot send.

import assert from "node:assert/strict";
import { eventually, host, keepsSome, later, main, ports, require, test, unique } from "./harness.mjs";

const amqp = require("amqplib");

async function connect(options = {}) {
  const connection = await amqp.connect({ hostname: host, port: ports.amqp, heartbeat: 0, ...options });
  connection.on("error", () => {});
  later(() => connection.close());
  return connection;
}

async function channel(connection) {
  const ch = await (connection ?? (await connect())).createChannel();
  ch.on("error", () => {});
  return ch;
}

test("a work queue hands each message to one worker", async () => {
  const queue = unique();
  const publisher = await channel();
  await publisher.assertQueue(queue, { autoDelete: true });
  const seen = [];
  for (let worker = 0; worker < 3; worker++) {
    const ch = await channel();
    await ch.prefetch(1);
    await ch.consume(queue, (message) => {
      seen.push(Number(message.content));
      ch.ack(message);
    });
  }
  for (let n = 0; n < 300; n++) publisher.sendToQueue(queue, Buffer.from(String(n)));
  await eventually(() => seen.length === 300);
  assert.deepEqual([...seen].sort((a, b) => a - b), [...Array(300).keys()]);
});

test("every field type survives the round trip", async () => {
  const ch = await channel();
  const { queue } = await ch.assertQueue("", { exclusive: true });
  const headers = {
    text: "grün",
    yes: true,
    no: false,
    nothing: null,
    int8: { "!": "byte", value: -100 },
    int16: { "!": "short", value: -30_000 },
    int32: { "!": "int", value: -2_000_000_000 },
    int64: { "!": "long", value: -(2 ** 50) },
    float: { "!": "float", value: 0.5 },
    double: 1.0e-300,
    when: { "!": "timestamp", value: 1234567890 },
    decimal: { "!": "decimal", value: { digits: 314, places: 2 } },
    bytes: Buffer.from([0, 1, 255]),
    list: [1, "two", [3.5], { four: 4 }],
    table: { a: { b: { c: "deep" } } },
  };
  ch.sendToQueue(queue, Buffer.from("x"), { headers, contentType: "a/b", timestamp: 42, expiration: "60000" });
  const message = await eventually(() => ch.get(queue, { noAck: true }));
  const got = message.properties.headers;
  assert.equal(got.text, "grün");
  assert.equal(got.yes, true);
  assert.equal(got.no, false);
  assert.equal(got.nothing, null);
  assert.equal(got.int8, -100);
  assert.equal(got.int16, -30_000);
  assert.equal(got.int32, -2_000_000_000);
  assert.equal(got.int64, -(2 ** 50));
  assert.equal(got.float, 0.5);
  assert.equal(got.double, 1.0e-300);
  assert.deepEqual(got.when, { "!": "timestamp", value: 1234567890 });
  assert.deepEqual(got.decimal, { "!": "decimal", value: { digits: 314, places: 2 } });
  assert.deepEqual(Buffer.from(got.bytes), headers.bytes);
  assert.deepEqual(got.list, headers.list);
  assert.deepEqual(got.table, headers.table);
  assert.equal(message.properties.contentType, "a/b");
  assert.equal(message.properties.timestamp, 42);
  assert.equal(message.properties.expiration, "60000");
  assert.equal(message.properties.deliveryMode, undefined);
});

test("a confirm channel confirms each publish", async () => {
  const ch = await (await connect()).createConfirmChannel();
  const { queue } = await ch.assertQueue("", { exclusive: true });
  let confirmed = 0;
  for (let n = 0; n < 1000; n++) {
    ch.sendToQueue(queue, Buffer.from("x"), { persistent: true }, (error) => error ?? confirmed++);
  }
  await ch.waitForConfirms();
  assert.equal(confirmed, 1000);
  assert.equal((await ch.checkQueue(queue)).messageCount, 1000);
});

test("a mandatory message comes back", async () => {
  const ch = await channel();
  const returned = new Promise((done) => ch.on("return", done));
  ch.publish("amq.direct", unique("nowhere"), Buffer.from("back"), { mandatory: true, messageId: "m" });
  const message = await returned;
  assert.equal(message.fields.replyCode, 312);
  assert.equal(message.fields.replyText, "NO_ROUTE");
  assert.equal(message.properties.messageId, "m");
  assert.equal(message.content.toString(), "back");
});

test("a channel error is reported to the call that caused it and does not close the connection", async () => {
  const connection = await connect();
  const ch = await channel(connection);
  await assert.rejects(ch.checkQueue(unique("nosuch")), /404.*NOT_FOUND - no queue/s);
  const other = await channel(connection);
  await other.assertQueue("", { exclusive: true });
});

test("redeclaring with other properties is refused", async () => {
  const connection = await connect();
  const { queue } = await (await channel(connection)).assertQueue(unique(), { exclusive: true, maxLength: 5 });
  await assert.rejects(
    (await channel(connection)).assertQueue(queue, { exclusive: true, maxLength: 6 }),
    /406.*inequivalent arg 'x-max-length'/s,
  );
});

test("a deleted queue tells its consumer with null", async () => {
  const ch = await channel();
  const queue = unique();
  await ch.assertQueue(queue, { durable: false });
  let cancelled = false;
  await ch.consume(queue, (message) => {
    cancelled = message === null;
  });
  await (await channel()).deleteQueue(queue);
  await eventually(() => cancelled);
});

test("nack all gives everything back in order", async () => {
  const connection = await connect();
  const ch = await channel(connection);
  const { queue } = await ch.assertQueue("", { exclusive: true });
  for (let n = 0; n < 10; n++) ch.sendToQueue(queue, Buffer.from(String(n)));
  let held = 0;
  await ch.consume(queue, () => held++);
  await eventually(() => held === 10);
  await ch.close();
  const other = await channel(connection);
  for (let n = 0; n < 10; n++) {
    const message = await eventually(() => other.get(queue, { noAck: true }));
    assert.equal(message.content.toString(), String(n));
    assert.equal(message.fields.redelivered, true);
  }
});

test("exchanges of all types route", async () => {
  const ch = await channel();
  for (const [type, binding, key, args, headers] of [
    ["direct", "k", "k"],
    ["fanout", "", "whatever"],
    ["topic", "a.*.#", "a.b.c.d"],
    ["headers", "", "", { "x-match": "any", colour: "red" }, { colour: "red" }],
  ]) {
    const exchange = unique("x");
    await ch.assertExchange(exchange, type, { autoDelete: true });
    const { queue } = await ch.assertQueue("", { exclusive: true });
    await ch.bindQueue(queue, exchange, binding, args);
    ch.publish(exchange, key, Buffer.from(type), { headers });
    const message = await eventually(() => ch.get(queue, { noAck: true }));
    assert.equal(message.content.toString(), type);
    assert.equal(message.fields.exchange, exchange);
  }
});

test("heartbeats keep an idle connection", async () => {
  const kept = async (seconds) => {
    const connection = await connect({ heartbeat: seconds });
    let ended = false;
    connection.on("close", () => (ended = true));
    connection.on("error", () => (ended = true));
    await new Promise((done) => setTimeout(done, 4_000 * seconds));
    if (!ended) await channel(connection);
    return !ended;
  };
  assert.ok(await keepsSome(kept));
});

test("a wrong password is 403", async () => {
  await assert.rejects(connect({ username: "guest", password: "wrong" }), /403.*ACCESS_REFUSED/s);
});

test("a hundred channels work side by side", async () => {
  const connection = await connect();
  const channels = await Promise.all(Array.from({ length: 100 }, () => channel(connection)));
  await Promise.all(
    channels.map(async (ch, n) => {
      const { queue } = await ch.assertQueue("", { exclusive: true });
      ch.sendToQueue(queue, Buffer.from(String(n)));
      const message = await eventually(() => ch.get(queue, { noAck: true }));
      assert.equal(message.content.toString(), String(n));
    }),
  );
});

await main();
