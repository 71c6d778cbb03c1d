// The console's flow map, under real traffic.

import assert from "node:assert/strict";
import { amqp, consoleAt, eventually, photograph, test } from "./console_page.mjs";
import { host, later, main, ports, require, unique } from "./harness.mjs";

const mqtt = require("mqtt");

test("an edge of one message a second appears on the map, links to its ends, and disappears without messages", async () => {
  const [sensor, topic, queue] = [unique("<b>sensor</b>"), `plant/${unique("t")}`, unique("readings")];
  const channel = await amqp();
  await channel.assertQueue(queue);
  await channel.bindQueue(queue, "amq.topic", topic.replaceAll("/", "."));
  await channel.consume(queue, (message) => channel.ack(message));
  const device = await mqtt.connectAsync(`mqtt://${host}:${ports.mqtt}`, { clientId: sensor });
  const beat = setInterval(() => device.publish(topic, "21.5", { qos: 1 }), 1000);
  later(() => clearInterval(beat));
  // Only visible pages are refreshed, and this case presses nothing.
  const page = await consoleAt(`flow?name=${encodeURIComponent(topic)}`, { front: true });
  await page.shows(sensor);
  const edges = () => page.evaluate(`[...document.querySelectorAll("svg.flow path title")].map((title) => title.textContent.split(":")[0]).sort()`);
  await eventually(async () => (await edges()).length === 2, "the edges of the topic");
  assert.deepEqual(await edges(), [`${sensor} → ${topic}`, `${topic} → ${queue}`].sort());
  assert.deepEqual(await page.evaluate(`[...document.querySelectorAll("svg.flow a")].map((a) => a.getAttribute("href")).sort()`),
    [`#/connections?name=${encodeURIComponent(sensor)}`, `#/queues/%2F/${queue}`, `#/topics/%2F/${encodeURIComponent(topic)}`].sort());
  await page.go("flow");
  await eventually(async () => (await page.text("main")).includes("p50"), "the latency to the consumer");
  await page.shows("waiting");
  await photograph(page, "flow");
  const graph = await page.evaluate(`fetch(document.querySelector("a[download='flow.dot']").href).then((answer) => answer.text())`);
  assert.ok(graph.startsWith("digraph flow {") && graph.includes(topic), graph);
  await page.send("Choose what flows", { name: topic.toUpperCase() });
  await eventually(async () => (await edges()).length === 2, "the edges of the topic again");
  clearInterval(beat);
  await page.shows("Nothing of that name has flowed lately.");
  await device.endAsync();
});

test("dead letters and exchanges between are drawn, and said in the table", async () => {
  const name = unique("order");
  const channel = await amqp();
  for (const exchange of [`${name}.failed`, `${name}.audit`]) await channel.assertExchange(exchange, "fanout", { durable: false, autoDelete: true });
  await channel.bindExchange(`${name}.audit`, `${name}.failed`);
  await channel.assertQueue(`${name}.kept`, { maxLength: 5 });
  await channel.bindQueue(`${name}.kept`, `${name}.audit`);
  await channel.assertQueue(`${name}.jobs`, { messageTtl: 1, deadLetterExchange: `${name}.failed` });
  const beat = setInterval(() => channel.sendToQueue(`${name}.jobs`, Buffer.from("x")), 500);
  later(() => clearInterval(beat));
  const page = await consoleAt(`flow?name=${encodeURIComponent(name)}`, { front: true });
  const drawn = (selector) => page.evaluate(`[...document.querySelectorAll("svg.flow path${selector} title")].map((title) => title.textContent)`);
  await eventually(async () => (await drawn(".dead")).some((said) => said.startsWith(`${name}.jobs → ${name}.failed: `) && said.includes("of dead letters")), "the dead letters");
  await eventually(async () => (await drawn("[marker-end]")).some((said) => said.startsWith(`${name}.failed → ${name}.audit: `)), "the exchange between");
  await eventually(async () => (await page.text('table[aria-label="Flow"]')).includes(`exchange ${name}.failed, as dead letters`), "the table");
  await photograph(page, "flow-dead");
});

test("the map is for those who may monitor", async () => {
  const user = unique("few");
  const page = await consoleAt("admin");
  await page.send("Set a user", { name: user, password: "x", tags: "management" });
  await page.shows(user);
  const theirs = await consoleAt("flow", { user, password: "x", apart: true });
  await theirs.shows("The flow map is for users with the tag monitoring");
});

test("a thousand nodes stay readable: the fastest edges are shown, and the number of the others", async () => {
  const page = await consoleAt("overview");
  await page.shows("Listeners");
  const node = (kind, name) => ({ id: `${kind}:/:${name}`, kind, name, vhost: "/" });
  const exchange = node("exchange", "amq.topic");
  const clients = Array.from({ length: 1000 }, (_, n) => node("client", `sensor-${n}`));
  const edges = clients.map((client, n) => ({ from: client.id, to: exchange.id, rate: 1000 - n, bytes_rate: 1, total: 5, latency_ms: null }));
  const flow = { at: 1, interval: 5, nodes: [exchange, ...clients], edges, left_out: { nodes: 3, edges: 7 } };
  await page.evaluate(`(() => {
    const real = window.fetch;
    window.fetch = (path, ...rest) => (String(path).startsWith("api/gatepost/flow?") ? Promise.resolve(new Response(${JSON.stringify(JSON.stringify(flow))})) : real(path, ...rest));
  })()`);
  await page.go("flow");
  await page.shows("940 slower edges are not shown");
  await page.shows("The gateway left out 3 nodes and 7 edges");
  assert.equal(await page.evaluate(`document.querySelectorAll("svg.flow > path").length`), 60);
  assert.ok((await page.text("main")).includes("sensor-0"), "the fastest is there");
});

await main(100_000, 4);
