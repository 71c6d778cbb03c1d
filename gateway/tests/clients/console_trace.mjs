// The console's traces: a message is followed through MQTT, a queue and an AMQP consumer, and seen on the page.

import assert from "node:assert/strict";
import { amqp, consoleAt, eventually, photograph, test } from "./console_page.mjs";
import { host, later, main, ports, require, unique } from "./harness.mjs";

const mqtt = require("mqtt");

/** The hops that the page shows, as `word queue`. */
const hops = (page) => page.evaluate(`[...document.querySelectorAll("ol.hops li")].map((li) => [li.querySelector("b"), li.querySelector("div > a")].filter(Boolean).map((node) => node.textContent).join(" "))`);

test("a message is traced from its topic to its acknowledgement, and a rejected one to the dead letters", async () => {
  const [sensor, topic, queue, dead] = [unique("<b>sensor</b>"), `plant/${unique("t")}`, unique("readings"), unique("dead")];
  const channel = await amqp();
  await channel.assertQueue(dead);
  await channel.assertQueue(queue, { deadLetterExchange: "", deadLetterRoutingKey: dead });
  await channel.bindQueue(queue, "amq.topic", topic.replaceAll("/", "."));
  let count = 0;
  await channel.consume(queue, (message) => (count++ ? channel.nack(message, false, false) : channel.ack(message)));
  // Visible pages are refreshed, so new hops appear without pressing anything.
  const page = await consoleAt("trace", { front: true });
  await page.shows("There are none.");
  await page.send("Trace messages", { topic, messages: "2" });
  await page.says("Messages are traced from now on.");
  await page.shows("None yet. Publish one that matches");
  const device = await mqtt.connectAsync(`mqtt://${host}:${ports.mqtt}`, { clientId: sensor });
  later(() => device.end(true));
  await device.publishAsync(topic, "21.5", { qos: 1 });
  await page.shows("Acknowledged, gone from queue");
  const accepted = await hops(page);
  assert.deepEqual(accepted.slice(0, 3), ["Published", "Routed", `In queue ${queue}`]);
  for (const hop of [`Delivered from queue ${queue}`, `Acknowledged, gone from queue ${queue}`, "Confirmed to its publisher"]) assert.ok(accepted.includes(hop), `${hop} in ${accepted}`);
  assert.ok((await page.text("main")).includes(sensor), "its publisher, as it is spelled");
  await device.publishAsync(topic, "22", { qos: 1 });
  await page.shows("Dead-lettered by queue");
  const rejected = await hops(page);
  assert.ok(rejected.indexOf(`Rejected, from queue ${queue}`) < rejected.indexOf(`Dead-lettered by queue ${queue}`), String(rejected));
  assert.equal(rejected.filter((hop) => hop === `In queue ${dead}`).length, 1, String(rejected));
  await page.shows("following its messages");
  await photograph(page, "trace");
  // The first message is a link, and stays chosen over refreshes.
  await page.follow("1");
  await eventually(async () => (await hops(page)).includes(`Acknowledged, gone from queue ${queue}`), "the first message");
  await page.press("Pause", "body");
  await page.go("trace");
  await page.shows("2 of 2");
  await photograph(page, "traces");
  await page.evaluate("window.confirm = () => true");
  await page.pressInRow(topic, "Delete");
  await page.says("Deleted.");
  await eventually(async () => !(await page.text("main table")).includes(topic), "the trace is gone");
});

test("the error of a filter is shown, and the typed text stays", async () => {
  const page = await consoleAt("trace");
  await page.send("Trace messages", { topic: "plant/#/x" });
  await page.says("topic: 'plant/#/x' is no topic filter");
  assert.equal(await page.evaluate(`document.querySelector("form[aria-label='Trace messages']").elements.topic.value`), "plant/#/x");
  await page.send("Trace messages", { topic: "" });
  await page.says("say what to trace");
});

test("traces are for those who may monitor", async () => {
  const user = unique("few");
  const page = await consoleAt("admin");
  await page.send("Set a user", { name: user, password: "x", tags: "management" });
  await page.shows(user);
  const theirs = await consoleAt("trace", { user, password: "x", apart: true });
  await theirs.shows("Traces are for users with the tag monitoring");
});

await main(100_000, 4);
