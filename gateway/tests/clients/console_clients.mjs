// The console under clients, topics, users and vhosts with names of any characters, and under long lists.

import assert from "node:assert/strict";
import { HOSTILE, amqp, consoleAt, eventually, shown, test } from "./console_page.mjs";
import { host, main, ports, require, unique } from "./harness.mjs";

const mqtt = require("mqtt");

for (const [what, hostile] of Object.entries(HOSTILE)) {
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
