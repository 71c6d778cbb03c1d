// The console under queues and exchanges with names of any characters.

import assert from "node:assert/strict";
import { HOSTILE, amqp, consoleAt, eventually, noQueue, shown, test } from "./console_page.mjs";
import { main, unique } from "./harness.mjs";

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
}

// A machine with two cores is busy with four pages.
await main(100_000, 4);
