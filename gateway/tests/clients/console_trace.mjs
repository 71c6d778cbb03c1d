// The console's traces: a message is followed through MQTT, a queue and an AMQP consumer, and seen on the page.

import assert from "node:assert/strict";
import { amqp, consoleAt, eventually, photograph, test } from "./console_page.mjs";
import { host, later, main, ports, require, unique } from "./harness.mjs";

const mqtt = require("mqtt");
const { Client } = require("@stomp/stompjs");
const { WebSocket } = require("ws");

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

test("a message's way over exchanges, a queue and its dead letters to a STOMP subscriber is told", async () => {
  const [topic, first, second, queue, dead] = [`floor/${unique("t")}`, unique("collect"), unique("<i>audit</i> "), unique("checks"), unique("dead")];
  const channel = await amqp();
  await channel.assertExchange(first, "fanout");
  await channel.assertExchange(second, "fanout");
  await channel.bindExchange(first, "amq.topic", topic.replaceAll("/", "."));
  await channel.bindExchange(second, first, "");
  await channel.assertQueue(dead);
  await channel.assertQueue(queue, { deadLetterExchange: "", deadLetterRoutingKey: dead });
  await channel.bindQueue(queue, second, "");
  await channel.consume(queue, (message) => channel.nack(message, false, false));
  const panel = new Client({ webSocketFactory: () => new WebSocket(`ws://${host}:${ports.webStomp}/ws`), reconnectDelay: 0, connectHeaders: { login: "guest", passcode: "guest" } });
  const got = new Promise((resolve) => {
    panel.onConnect = () => panel.subscribe(`/amq/queue/${dead}`, (frame) => { frame.ack(); resolve(frame.body); }, { ack: "client-individual" });
  });
  panel.activate();
  later(() => panel.deactivate());
  const page = await consoleAt("trace", { front: true });
  await page.send("Trace messages", { topic });
  await page.says("Messages are traced from now on.");
  const device = await mqtt.connectAsync(`mqtt://${host}:${ports.mqtt}`, { clientId: unique("press") });
  later(() => device.end(true));
  await device.publishAsync(topic, "7", { qos: 1 });
  assert.equal(await got, "7");
  await page.shows(`Acknowledged, gone from queue ${dead}`);
  const said = await page.evaluate(`[...document.querySelectorAll("ol.hops li div")].map((one) => one.innerText.replace(/\\s*[\\d.]+ m?s later$/, ""))`);
  for (const hop of [
    `Passed on by exchange amq.topic to exchange ${first}`, `Passed on by exchange ${first} to exchange ${second}`, `In queue ${queue} by exchange ${second}`,
    `Dead-lettered by queue ${queue} to exchange (default) with routing key ${dead}`, `In queue ${dead}`,
  ]) assert.ok(said.some((one) => one.startsWith(hop)), `${hop} in ${JSON.stringify(said)}`);
  assert.ok(said.some((one) => one.startsWith(`Delivered from queue ${dead} to `) && one.includes("STOMP 1.2")), JSON.stringify(said));
  await photograph(page, "trace-exchanges");
});

// It was 0/s, as if nothing flowed. This case is here because no other case of this script looks at queues.
test("a rate that is not known yet is not shown as 0", async () => {
  const queue = unique();
  const channel = await amqp();
  await channel.assertQueue(queue);
  const page = await consoleAt("log", { front: true });
  await page.press("Pause", "body");
  await page.go(`queues?name=${queue}`);
  await page.shows(queue);
  const cells = () => page.evaluate(`[...document.querySelectorAll("main tbody tr td")].slice(-2).map((cell) => cell.textContent)`);
  assert.deepEqual(await cells(), ["– not known yet", "– not known yet"]);
  await page.press("Pause", "body");
  await eventually(async () => (await cells()).every((text) => text === "0/s"), "the rates");
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
