// The console under names of any characters and long lists.

import assert from "node:assert/strict";
import { amqp, consoleAt, eventually, noQueue, test } from "./console_page.mjs";
import { host, main, ports, require, unique } from "./harness.mjs";

const mqtt = require("mqtt");

/** Names that a page may take for something else. 255 bytes are the most that AMQP has. */
const HOSTILE = {
  "that look like markup and paths": '<img src=x onerror="window.hit=1">a/b?c=d&e=f;g %2F%\'"`${1}\\',
  "of other directions": "\u2764\ufe0f \u05e2\u05d1\u05e8\u05d9\u05ea \u202eevil",
  "that are long": "x".repeat(220),
};

const shown = (name) => name.replace("\u202e", "<U+202E>");

for (const [what, hostile] of Object.entries(HOSTILE)) {
  test(`queues and exchanges have names ${what}, and all their buttons work`, async () => {
    const page = await consoleAt("queues");
    const channel = await amqp();
    const name = `${hostile}${unique("-")}`;
    const [other, exchange] = [`${name}.o`, `${name}.x`];
    await channel.assertQueue(other);
    await page.go("queues");
    await page.send("Declare a queue", { name });
    await page.shows(shown(name));
    await page.send("Filter queues", { name });
    await page.follow(shown(name));
    await page.shows("Nobody consumes from it");
    await page.send("Publish", { payload: hostile, headers: JSON.stringify({ [hostile.slice(0, 100)]: hostile }) });
    await page.says("Published.");
    await page.send("Get messages", { mode: "look, and put back", count: 1 });
    await page.shows(hostile, "main figure pre:last-of-type");
    await page.send("Move messages", { to: other, count: 10 });
    await eventually(async () => (await channel.checkQueue(other)).messageCount === 1, "the message moved");
    await page.go("exchanges");
    await page.send("Declare an exchange", { name: exchange, type: "direct" });
    await page.follow(shown(exchange));
    await page.send("Bind", { kind: "queue", to: name, key: hostile });
    await page.pressInRow(shown(name), "Unbind");
    await page.shows("Nothing is bound to it");
    await page.press("Delete", "details");
    await eventually(() => page.evaluate(`location.hash === "#/exchanges"`), "the exchanges");
    await page.go(`queues/%2F/${encodeURIComponent(name)}`);
    await page.press("Purge", "details");
    await page.says("Purged.");
    await page.press("Delete", "details");
    await eventually(() => page.evaluate(`location.hash === "#/queues"`), "the queues");
    await noQueue(name);
    assert.equal(await page.evaluate("window.hit"), undefined);
    assert.ok(await page.evaluate("document.documentElement.clientWidth === document.documentElement.scrollWidth"));
  });

  test(`clients, topics, users and vhosts have names ${what}`, async () => {
    const page = await consoleAt("sessions");
    const name = `${hostile.slice(0, 150)}${unique("-")}`;
    const device = await mqtt.connectAsync(`mqtt://${host}:${ports.mqtt}`, { clientId: name, protocolVersion: 5, properties: { sessionExpiryInterval: 600 }, reconnectPeriod: 0 });
    await device.publishAsync(name, hostile, { qos: 1, retain: true });
    await page.go("topics");
    await page.follow(shown(name));
    await page.shows(hostile.slice(0, 20), "main pre");
    await page.press("Clear");
    await page.shows("It has none.");
    await page.go("sessions");
    await page.follow(shown(name));
    await page.press("End");
    await eventually(() => page.evaluate(`location.hash.startsWith("#/sessions?")`), "the sessions");
    await page.go("admin");
    await page.send("Set a user", { name, password: "x", tags: "management" });
    await page.pressInRow(shown(name), "Edit", '[aria-label="Users"]');
    assert.equal(await page.evaluate(`document.querySelector('form[aria-label="Set a user"]').elements.name.value`), name);
    await page.pressInRow(shown(name), "Delete", '[aria-label="Users"]');
    await eventually(() => page.evaluate(`![...document.querySelectorAll('table[aria-label="Users"] tr')].some((row) => row.innerText.includes(${JSON.stringify(shown(name))}))`), "the user gone");
    await page.send("Add a vhost", { name });
    await page.pressInRow(shown(name), "Delete", '[aria-label="vhosts"]');
    await eventually(() => page.evaluate(`![...document.querySelectorAll('table[aria-label="vhosts"] tr')].some((row) => row.innerText.includes(${JSON.stringify(shown(name))}))`), "the vhost gone");
    await device.endAsync(true);
    assert.equal(await page.evaluate("window.hit"), undefined);
  });
}

test("long lists have pages", async () => {
  const [exchange, queue, name] = [unique("x"), unique(), unique("long")];
  const channel = await amqp();
  await channel.assertExchange(exchange, "topic");
  await channel.assertQueue(queue);
  const device = await mqtt.connectAsync(`mqtt://${host}:${ports.mqtt}`, { clientId: name });
  for (let n = 0; n < 105; n++) {
    await channel.bindQueue(queue, exchange, `key.${n}.`);
    await device.publishAsync(`${name}/${String(n).padStart(3, "0")}`, "x", { qos: 1, retain: true });
  }
  const page = await consoleAt(`topics?filter=${encodeURIComponent(`${name}/#`)}`);
  await page.shows("105 in all. Previous page 1 of 2 Next");
  await page.shows(`${name}/099`);
  await page.press("Next");
  await page.shows(`${name}/104`);
  assert.ok(!(await page.text("main")).includes(`${name}/099`));
  await page.go(`exchanges/%2F/${exchange}`);
  await page.shows("100 of 105.");
  await page.press("Show more");
  await eventually(() => page.evaluate(`document.querySelectorAll("main tbody tr").length >= 105`), "all of them");
  for (let n = 0; n < 105; n++) await device.publishAsync(`${name}/${String(n).padStart(3, "0")}`, "", { qos: 1, retain: true });
  await device.endAsync();
});

// A machine with two cores is busy with four pages.
await main(100_000, 4);
