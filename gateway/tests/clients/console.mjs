// The console in a real browser: what an operator does with each of its pages.

import assert from "node:assert/strict";
import { address, amqp, consoleAt, eventually, open, photograph, test } from "./console_page.mjs";
import { host, main, ports, require, unique } from "./harness.mjs";

const amqplib = require("amqplib");
const mqtt = require("mqtt");

test("a wrong password is refused, and a session survives a reload", async () => {
  // Separate from the other cases, which run at the same time and would log it in.
  const page = await open(`${address}/`, { apart: true });
  const submit = (password) => page.evaluate(`(() => { const form = document.querySelector("form"); form.elements.user.value = "guest"; form.elements.password.value = "${password}"; form.requestSubmit(); })()`);
  await eventually(() => page.evaluate(`Boolean(document.querySelector(".login"))`), "the login");
  await photograph(page, "login");
  await submit("wrong");
  await eventually(async () => (await page.evaluate("document.body.innerText")).includes("Login failed"), "a refusal");
  await submit("guest");
  await eventually(() => page.evaluate(`Boolean(document.querySelector("nav"))`), "the console");
  await page.evaluate("location.reload()");
  await eventually(() => page.evaluate(`Boolean(document.querySelector("nav"))`).catch(() => false), "the console again");
  assert.equal(await page.evaluate("document.cookie"), "", "a script cannot read the session");
});

test("the overview counts what happens and draws it", async () => {
  const queue = unique();
  const channel = await amqp();
  await channel.assertQueue(queue, { durable: true });
  for (let n = 0; n < 50; n++) channel.sendToQueue(queue, Buffer.from("x"), { persistent: true });
  await channel.waitForConfirms();
  const page = await consoleAt();
  await page.shows("Messages a second");
  await eventually(() => page.evaluate(`[...document.querySelectorAll("svg.chart path")].some((p) => p.getAttribute("d").includes("L"))`), "a line in a chart");
  await page.press("Table", "figure");
  await eventually(() => page.evaluate(`Boolean(document.querySelector("figure table"))`), "the chart as a table");
  await photograph(page, "overview");
});

test("a queue is declared, filled, looked at, moved, bound, purged and deleted", async () => {
  const [name, other] = [unique(), unique("other")];
  const page = await consoleAt("queues");
  await page.send("Declare a queue", { name, arguments: '{ "x-max-length": 100 }' });
  await page.shows(name);
  await page.send("Declare a queue", { name: other });
  await page.shows(other);
  await photograph(page, "queues");
  await page.go(`queues/${encodeURIComponent("/")}/${name}`);
  await page.shows("x-max-length");
  await page.send("Publish", { payload: "temperature 21.5", headers: '{ "unit": "C" }' });
  await page.says("Published.");
  await page.send("Get messages", { mode: "look, and put back", count: 1 });
  await page.shows("temperature 21.5");
  await page.send("Bind", { source: "amq.topic", key: `${name}.#` });
  await page.shows(`${name}.#`);
  await photograph(page, "queue");
  await page.send("Move messages", { to: other, count: 10 });
  await page.says("1 moved.");
  const channel = await amqp();
  assert.equal((await channel.checkQueue(other)).messageCount, 1);
  await channel.publish("amq.topic", `${name}.1`, Buffer.from("y"));
  await channel.waitForConfirms();
  await page.press("Purge", "details");
  await page.says("Purged.");
  assert.equal((await channel.checkQueue(name)).messageCount, 0);
  await page.press("Delete", "details");
  await eventually(() => page.evaluate(`location.hash === "#/queues"`), "the list again");
  await eventually(async () => !(await page.text("main")).includes(name), "the queue gone");
});

test("an exchange is declared, bound and published to", async () => {
  const [exchange, queue] = [unique("x"), unique()];
  const channel = await amqp();
  await channel.assertQueue(queue);
  const page = await consoleAt("exchanges");
  await page.send("Declare an exchange", { name: exchange, type: "topic" });
  await page.shows(exchange);
  await photograph(page, "exchanges");
  await page.go(`exchanges/${encodeURIComponent("/")}/${exchange}`);
  await page.send("Bind", { kind: "queue", to: queue, key: "a.*" });
  await page.shows("a.*");
  await page.send("Publish", { key: "a.b", payload: "hello" });
  await page.says("Published.");
  assert.equal((await channel.checkQueue(queue)).messageCount, 1);
  await photograph(page, "exchange");
  await page.press("Delete", "details");
  await eventually(() => page.evaluate(`location.hash === "#/exchanges"`), "the list again");
});

test("a connection and its channels are shown, and closed with a reason", async () => {
  const name = unique("app");
  const connection = await amqplib.connect(`amqp://guest:guest@${host}:${ports.amqp}`, { clientProperties: { connection_name: name } });
  const channel = await connection.createChannel();
  await channel.prefetch(7);
  const { queue } = await channel.assertQueue("", { exclusive: true });
  await channel.consume(queue, () => {}, { consumerTag: `tag-of-${name}` });
  const why = new Promise((done) => { connection.on("error", (error) => done(error.message)); connection.on("close", (error) => done(error?.message ?? "closed")); });
  const page = await consoleAt("channels");
  await page.shows("7");
  await photograph(page, "channels");
  await page.go("connections");
  await page.shows(name);
  await photograph(page, "connections");
  await page.evaluate(`[...document.querySelectorAll("main tr")].find((row) => row.innerText.includes(${JSON.stringify(name)})).querySelector("a").click()`);
  await page.shows("What is known");
  await photograph(page, "connection");
  const connectionPage = await page.evaluate("location.hash");
  await page.evaluate(`document.querySelector('main table[aria-label="Channels"] a').click()`);
  await page.shows(`tag-of-${name}`);
  await page.shows(queue);
  await photograph(page, "channel");
  await page.go(connectionPage.slice(2));
  await page.shows("Close it");
  await page.evaluate(`document.querySelector('main input[name=reason]').value = "geschlossen für heute"`);
  await page.press("Close");
  assert.match(await why, /geschlossen für heute/);
});

test("an MQTT session is shown with its subscriptions, and ended", async () => {
  const id = unique("device");
  const device = await mqtt.connectAsync(`mqtt://${host}:${ports.mqtt}`, { clientId: id, clean: false, protocolVersion: 5, properties: { sessionExpiryInterval: 600 }, reconnectPeriod: 0 });
  const told = new Promise((done) => device.on("disconnect", (packet) => done(packet.reasonCode)));
  await device.subscribeAsync(`command/${id}/#`, { qos: 1 });
  const page = await consoleAt("sessions");
  await page.shows(id);
  await photograph(page, "sessions");
  await page.go("sessions?list=subscriptions");
  await page.shows(`command/${id}/#`);
  await page.follow(id);
  await page.shows("10 min 0 s after it leaves");
  await photograph(page, "session");
  await page.press("End");
  await page.says("Ended.");
  assert.equal(await told, 0x8e);
  await eventually(() => page.evaluate(`location.hash.startsWith("#/sessions?")`), "the list again");
  await eventually(async () => !(await page.text("main")).includes(id), "the session gone");
});

test("a retained message is set, looked at, replaced and cleared, and subscribers get it", async () => {
  const topic = `plant/${unique("t")}`;
  const id = unique("reader");
  const device = await mqtt.connectAsync(`mqtt://${host}:${ports.mqtt}`, { clientId: id });
  const got = [];
  device.on("message", (_, body) => got.push(String(body)));
  await device.subscribeAsync(`${topic}/#`, { qos: 1 });
  const page = await consoleAt("topics");
  await page.send("Set a retained message", { topic, payload: "21.5" });
  await page.says("Set.");
  await page.shows(topic);
  await photograph(page, "topics");
  await page.send("Filter retained messages", { filter: `${topic}/#` });
  await page.shows("1 in all.");
  await page.follow(topic);
  await page.shows("21.5", "main pre");
  await page.shows(`${topic}/#`);
  await page.send("Set a retained message", { payload: "22 °C <b>" });
  await page.shows("22 °C <b>", "main pre");
  await photograph(page, "topic");
  await page.press("Clear");
  await page.shows("It has none.");
  await eventually(() => got.length === 3, "what was published");
  assert.deepEqual(got, ["21.5", "22 °C <b>", ""]);
  await page.go("topics");
  await page.send("Set a retained message", { topic: "a/#", payload: "x" });
  await page.says("a topic has no wildcards");
  await page.send("Filter retained messages", { filter: "a#" });
  await page.shows("no MQTT filter");
  await device.endAsync();
});

test("a policy is set, applies, is shown at its queue, changed and deleted", async () => {
  const [policy, queue] = [unique("policy"), unique("bounded")];
  const channel = await amqp();
  await channel.assertQueue(queue, { arguments: { "x-message-ttl": 600000 } });
  const page = await consoleAt("policies");
  await page.send("Set a policy", { name: policy, pattern: `^${queue}$`, apply: "queues", definition: '{ "max-length": 2 }' });
  await page.shows(policy);
  await photograph(page, "policies");
  for (let n = 0; n < 5; n++) channel.sendToQueue(queue, Buffer.from("x"));
  await channel.waitForConfirms();
  assert.equal((await channel.checkQueue(queue)).messageCount, 2);
  await page.go(`queues/%2F/${queue}`);
  await page.shows("max-length");
  const held = await page.evaluate(`[...document.querySelectorAll('table[aria-label="What holds"] tbody tr')].map((row) => [...row.cells].map((cell) => cell.innerText).join(" "))`);
  assert.deepEqual(held, ["x-message-ttl 600000 declared", "max-length 2 policy"]);
  await page.go("policies");
  await page.pressInRow(policy, "Edit");
  const filled = await page.evaluate(`document.querySelector('form[aria-label="Set a policy"]').elements.pattern.value`);
  assert.equal(filled, `^${queue}$`);
  await page.send("Set a policy", { definition: '{ "max-length": 1 }' });
  await eventually(async () => (await channel.checkQueue(queue)).messageCount === 1, "the lower limit");
  await page.pressInRow(policy, "Delete");
  await eventually(async () => !(await page.text("main")).includes(policy), "the policy gone");
});

test("a user is added, changed without a new password, limited, banned and deleted", async () => {
  const user = unique("ann");
  const logsIn = () => amqplib.connect(`amqp://${user}:secret@${host}:${ports.amqp}`).then((c) => { c.on("error", () => {}); return true; }, () => false);
  const page = await consoleAt("admin");
  await page.send("Set a user", { name: user, password: "secret", tags: "monitoring" });
  await page.shows(user);
  await page.send("Set a permission", { user, vhost: "/", configure: "", write: "", read: ".*" });
  await eventually(() => page.evaluate(`[...document.querySelectorAll('table[aria-label="Permissions"] tr')].some((row) => row.innerText.includes(${JSON.stringify(user)}))`), "the permission");
  await photograph(page, "admin");
  await page.shows("No listener has TLS.");
  await eventually(() => page.evaluate(`document.querySelector('table[aria-label="Keys that were set"]').innerText.includes("node.data_dir")`), "the configuration");
  await page.pressInRow(user, "Edit", '[aria-label="Users"]');
  await page.send("Set a user", { tags: "management" });
  await eventually(() => page.evaluate(`[...document.querySelectorAll('table[aria-label="Users"] tr')].some((row) => row.innerText.includes(${JSON.stringify(user)}) && row.innerText.includes("management"))`), "the new tag");
  assert.ok(await logsIn(), "the password is what it was");
  await page.send("Set a limit of a user", { of: user, name: "max-connections", value: 7 });
  await page.pressInRow(user, "Delete", '[aria-label="Limits of users"]');
  await page.send("Ban somebody", { kind: "user", value: user });
  await eventually(() => page.evaluate(`document.querySelector('table[aria-label="Bans"]').innerText.includes(${JSON.stringify(user)})`), "the ban");
  assert.ok(!(await logsIn()), "who is banned does not log in");
  await page.pressInRow(user, "Lift", '[aria-label="Bans"]');
  await eventually(logsIn, "the ban lifted");
  await page.pressInRow(user, "Delete", '[aria-label="Users"]');
  await eventually(() => page.evaluate(`![...document.querySelectorAll('table[aria-label="Users"] tr')].some((row) => row.innerText.includes(${JSON.stringify(user)}))`), "the user gone");
});

test("the log is read in the browser", async () => {
  const device = await mqtt.connectAsync(`mqtt://${host}:${ports.mqtt}`, { clientId: unique("logged") });
  await device.endAsync();
  const page = await consoleAt("log");
  await page.shows("INFO");
  await photograph(page, "log");
});

test("MQTT and STOMP are tried in the page, and meet", async () => {
  const page = await consoleAt("try");
  await page.send("Connect by MQTT over WebSocket", { user: "guest", password: "guest" });
  await page.shows("connected", '[data-kind="web-mqtt"] pre');
  await page.send("Connect by STOMP over WebSocket", { user: "guest", password: "guest" });
  await page.shows("connected", '[data-kind="web-stomp"] pre');
  await page.send("Subscribe by STOMP over WebSocket", { filter: "/topic/tried.#" });
  await page.shows("subscribed", '[data-kind="web-stomp"] pre');
  await page.send("Subscribe by MQTT over WebSocket", { filter: "tried/#" });
  await page.shows("subscribed", '[data-kind="web-mqtt"] pre');
  await page.send("Publish by MQTT over WebSocket", { topic: "tried/1", body: "from a device" });
  await page.shows("/topic/tried.1: from a device", '[data-kind="web-stomp"] pre');
  await page.send("Publish by STOMP over WebSocket", { topic: "/topic/tried.2", body: "from a page" });
  await page.shows("tried/2: from a page", '[data-kind="web-mqtt"] pre');
  await photograph(page, "try");
  // Who leaves the page does not stay connected.
  const trying = () => page.evaluate(`fetch("api/connections").then((answer) => answer.json()).then((all) => all.filter((one) => String(one.variable_map?.client_id).startsWith("try-")).length)`);
  assert.ok(await trying(), "the page is a client");
  await page.go("overview");
  await eventually(async () => (await trying()) === 0, "the page's clients gone");
});

// A machine with two cores is busy with four pages.
await main(100_000, 4);
