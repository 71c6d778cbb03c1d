// The console's pages for screen readers, and their contrast, width and focus.

import assert from "node:assert/strict";
import { PAGES, amqp, consoleAt, eventually, test } from "./console_page.mjs";
import { host, main, ports, require, unique } from "./harness.mjs";

const mqtt = require("mqtt");

/** Checks the accessibility tree of a page. */
async function isSpoken(page, name) {
  await page.goAfresh(name);
  await page.evaluate(`document.querySelectorAll("main details").forEach((one) => (one.open = true))`);
  const spoken = await page.spoken();
  const controls = spoken.filter(({ role }) => ["button", "link", "textbox", "searchbox", "combobox", "checkbox", "spinbutton", "table", "image", "form", "search", "DisclosureTriangle"].includes(role));
  assert.ok(controls.length > 12, `controls on ${name}`);
  const nameless = controls.filter((control) => !control.name.trim());
  assert.deepEqual(nameless.map(({ role }) => role), [], `controls without a name on ${name}`);
  // "Delete, button" twenty times would not say what is deleted.
  const inRows = await page.evaluate(`[...document.querySelectorAll("main td button")].map((b) => b.getAttribute("aria-label") ?? b.textContent)`);
  assert.equal(new Set(inRows).size, inRows.length, `buttons of the same name on ${name}: ${inRows}`);
  assert.equal(await page.evaluate(`document.querySelectorAll("h1").length`), 1, `one first heading on ${name}`);
}

test("every control of every page has a name of its own, and every page one heading", async () => {
  const page = await consoleAt("overview");
  for (const name of PAGES) await isSpoken(page, name);
  const missing = await page.evaluate(`["status", "alert"].filter((role) => !document.querySelector("#says [role=" + role + "]"))`);
  assert.deepEqual(missing, [], "where things are said");
});

/** The page of a trace that has a message of that queue. */
async function traced(page, channel, queue) {
  const body = JSON.stringify({ routing_key: queue, exchange: "" });
  const id = await page.evaluate(`fetch("api/gatepost/trace", { method: "POST", headers: { "X-Requested-With": "gatepost" }, body: ${JSON.stringify(body)} }).then((answer) => answer.json()).then((trace) => trace.id)`);
  channel.sendToQueue(queue, Buffer.from("traced"));
  await channel.waitForConfirms();
  await page.go(`trace/${id}`);
  await page.shows("In queue");
  return `trace/${id}`;
}

test("so have those of the pages of one queue, exchange, session and topic", async () => {
  const [queue, id] = [unique(), unique("named")];
  const channel = await amqp();
  await channel.assertQueue(queue);
  await channel.bindQueue(queue, "amq.topic", "a.#");
  await channel.bindQueue(queue, "amq.topic", "b.#");
  const device = await mqtt.connectAsync(`mqtt://${host}:${ports.mqtt}`, { clientId: id });
  await device.publishAsync(`named/${id}`, "x", { qos: 1, retain: true });
  const page = await consoleAt("overview");
  await page.shows("Listeners");
  const trace = await traced(page, channel, queue);
  for (const name of [trace, `queues/%2F/${queue}`, `sessions/%2F/${id}`, `topics/%2F/named%2F${id}`, "exchanges/%2F/amq.topic"]) await isSpoken(page, name);
  await device.endAsync();
});

/** Texts whose contrast with their background is lower than WCAG's level AA requires. Runs in the page. */
function faint() {
  const colour = (text) => { const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number); return { r, g, b, a }; };
  const over = (top, under) => ({ r: top.r * top.a + under.r * (1 - top.a), g: top.g * top.a + under.g * (1 - top.a), b: top.b * top.a + under.b * (1 - top.a), a: 1 });
  const light = ({ r, g, b }) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)).reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(colour(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), colour(getComputedStyle(document.body).backgroundColor));
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    const element = text.parentElement;
    if (!text.data.trim() || !element.getClientRects().length || element.closest("title, :disabled")) continue;
    const style = getComputedStyle(element);
    const inSvg = element instanceof SVGElement;
    const grounds = [ground(element)];
    const rect = inSvg && element.parentElement.querySelector(":scope > rect");
    if (rect) grounds[0] = colour(getComputedStyle(rect).fill);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    for (const under of grounds) {
      const [a, b] = [light(over(colour(inSvg ? style.fill : style.color), under)), light(under)];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (ratio < (large ? 3 : 4.5)) found.push(`${text.data.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
    }
  }
  return found;
}

/** What makes the page scroll sideways. Not measured against the window: a scroll bar at its side takes some of it. Runs in the page. */
function beyond() {
  const { clientWidth, scrollWidth } = document.documentElement;
  if (scrollWidth <= clientWidth) return [];
  const found = [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > clientWidth && !e.closest(".scroll"));
  return [`${scrollWidth} px in ${clientWidth}`, ...found.map((e) => e.outerHTML.slice(0, 100)).slice(0, 5)];
}

test("texts have enough contrast to their background, and a narrow page does not scroll sideways", async () => {
  const [queue, exchange] = [unique("q".repeat(60)), unique("x".repeat(60))];
  const channel = await amqp();
  await channel.assertQueue(queue);
  await channel.assertExchange(exchange, "topic");
  await channel.bindQueue(queue, exchange, "a.#");
  const page = await consoleAt("overview");
  await page.shows("Listeners");
  const trace = await traced(page, channel, queue);
  for (const name of [...PAGES, trace, `queues/%2F/${queue}`, `exchanges/%2F/${exchange}`]) {
    await page.goAfresh(name);
    await page.evaluate(`document.querySelectorAll("main details").forEach((one) => (one.open = true))`);
    for (const dark of [false, true]) {
      await page.looks({ width: 1280, height: 900, dark });
      await eventually(() => page.evaluate(`matchMedia("(prefers-color-scheme: dark)").matches === ${dark}`), "the theme");
      assert.deepEqual(await page.evaluate(`(${faint})()`), [], `texts on ${name}, ${dark ? "dark" : "light"}`);
    }
    await page.looks({ width: 390, height: 900 });
    await eventually(() => page.evaluate("innerWidth === 390"), "a narrow window");
    const wide = await page.evaluate(`(${beyond})()`);
    assert.deepEqual(wide, [], `${name} is wider than the window`);
  }
});

test("the focus is visible to keyboard users", async () => {
  const page = await consoleAt("queues");
  await page.shows("Declare a queue");
  await page.evaluate(`document.querySelector(".skip").focus()`);
  for (let n = 0; n < 30; n++) {
    await page.key("Tab");
    const unseen = await page.evaluate(`(() => { const at = document.activeElement; return at === document.body || getComputedStyle(at).outlineStyle !== "none" ? "" : at.outerHTML.slice(0, 120); })()`);
    assert.equal(unseen, "", "an element that shows no focus");
  }
});

// A machine with two cores is busy with four pages.
await main(100_000, 4);
