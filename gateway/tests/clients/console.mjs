// The console in a real browser: its pages, used by their forms and buttons as a person would.
//
// With GATEPOST_PICTURES=DIR each page is photographed: light, dark and narrow.

import assert from "node:assert/strict";
import path from "node:path";
import { browser } from "./chromium.mjs";
import { eventually, host, main, ports, require, test, unique } from "./harness.mjs";

const amqplib = require("amqplib");
const mqtt = require("mqtt");
const pictures = process.env.GATEPOST_PICTURES;
const address = process.env.GATEPOST_CONSOLE ?? `http://${host}:${ports.management}`;
const open = await browser();
const PAGES = ["overview", "connections", "channels", "exchanges", "queues", "mqtt", "policies", "admin", "log", "try"];

/** The console at one of its pages, logged in. */
async function consoleAt(place = "overview") {
  const page = await open(`${address}/#/${place}`);
  const text = (selector = "body") => page.evaluate(`document.querySelector(${JSON.stringify(selector)})?.innerText ?? ""`);
  const shows = (wanted, selector = "main") => eventually(async () => (await text(selector)).includes(wanted), `${wanted} on ${place}`).catch(async (error) => {
    throw new Error(`${error.message}; the page says:\n${await text("body")}`);
  });
  /** Fills a form, named by its label, and sends it. */
  const send = async (label, values) => {
    const form = `document.querySelector('form[aria-label=${JSON.stringify(label)}]')`;
    await eventually(() => page.evaluate(`Boolean(${form})`), `the form ${label}`);
    await page.evaluate(`(() => {
      const form = ${form};
      form.closest("details")?.setAttribute("open", "");
      for (const [name, value] of Object.entries(${JSON.stringify(values)})) {
        const input = form.elements[name];
        if (input.type === "checkbox") input.checked = value; else input.value = value;
      }
      form.requestSubmit();
    })()`);
  };
  /** Presses the button of that name, within what the selector finds. */
  const press = async (name, within = "main") => {
    const button = `[...document.querySelectorAll(${JSON.stringify(within)} + " button")].find((b) => b.innerText.trim() === ${JSON.stringify(name)} || b.textContent.trim() === ${JSON.stringify(name)})`;
    await eventually(() => page.evaluate(`Boolean(${button})`), `the button ${name}`);
    await page.evaluate(`${button}.click()`);
  };
  const go = (where) => page.evaluate(`(() => { const to = ${JSON.stringify(`#/${where}`)}; if (location.hash === to) dispatchEvent(new Event("hashchange")); else location.hash = to; })()`);
  /** Goes there, and waits until that page is shown and not the one before. */
  const goAfresh = async (where) => {
    await page.evaluate(`document.querySelector("main").replaceChildren()`);
    await go(where);
    const shown = `document.querySelector("nav [aria-current]")?.getAttribute("href") === "#/${where.split("/")[0]}" && Boolean(document.querySelector("main h1"))`;
    await eventually(() => page.evaluate(shown), where);
  };
  await page.agree();
  await eventually(() => page.evaluate(`Boolean(document.querySelector(".login, nav"))`), "the login");
  if (await page.evaluate(`Boolean(document.querySelector(".login"))`)) await send("Log in", { user: "guest", password: "guest" });
  return { ...page, text, shows, send, press, go, goAfresh };
}

/** A picture of the page as it is, in each look. */
async function photograph(page, name) {
  if (!pictures) return;
  for (const [look, settings] of Object.entries({ light: { width: 1280, height: 900 }, dark: { width: 1280, height: 900, dark: true }, narrow: { width: 390, height: 900 } })) {
    await page.looks(settings);
    await page.picture(path.join(pictures, `${name}-${look}.png`));
  }
}

const amqp = async () => (await amqplib.connect(`amqp://guest:guest@${host}:${ports.amqp}`)).createConfirmChannel();

test("nobody comes in with a wrong password, and a session lasts over a reload", async () => {
  // Apart from the other cases, which run beside it and would log it in.
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
  await page.shows("Published.", "#says");
  await page.send("Get messages", { mode: "look, and put back", count: 1 });
  await page.shows("temperature 21.5");
  await page.send("Bind", { source: "amq.topic", key: "plant.#" });
  await page.shows("plant.#");
  await photograph(page, "queue");
  await page.send("Move messages", { to: other, count: 10 });
  await page.shows("1 moved.", "#says");
  const channel = await amqp();
  assert.equal((await channel.checkQueue(other)).messageCount, 1);
  await channel.publish("amq.topic", "plant.1", Buffer.from("y"));
  await channel.waitForConfirms();
  await page.press("Purge", "details");
  await page.shows("Purged.", "#says");
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
  await page.shows("Published.", "#says");
  assert.equal((await channel.checkQueue(queue)).messageCount, 1);
  await photograph(page, "exchange");
  await page.press("Delete", "details");
  await eventually(() => page.evaluate(`location.hash === "#/exchanges"`), "the list again");
});

test("a connection and its channels are seen, and closed with a reason", async () => {
  const name = unique("app");
  const connection = await amqplib.connect(`amqp://guest:guest@${host}:${ports.amqp}`, { clientProperties: { connection_name: name } });
  const channel = await connection.createChannel();
  await channel.prefetch(7);
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
  await page.press("Close");
  assert.match(await why, /closed by the operator/);
});

test("sessions and retained messages of MQTT are seen and cleared", async () => {
  const [id, topic] = [unique("device"), `plant/${unique("t")}`];
  const device = await mqtt.connectAsync(`mqtt://${host}:${ports.mqtt}`, { clientId: id, clean: false, protocolVersion: 5, properties: { sessionExpiryInterval: 600 } });
  await device.subscribeAsync("command/#", { qos: 1 });
  await device.publishAsync(topic, "21.5", { qos: 1, retain: true });
  const page = await consoleAt("mqtt");
  await page.shows(id);
  await page.shows(topic);
  await photograph(page, "mqtt");
  await page.evaluate(`[...document.querySelectorAll("main tr")].find((row) => row.innerText.includes(${JSON.stringify(topic)})).querySelector("button").click()`);
  await page.shows("Cleared.", "#says");
  await eventually(async () => !(await page.text("main")).includes(topic), "the retained message gone");
  await device.endAsync();
});

test("a policy is set, holds, and is deleted", async () => {
  const [policy, queue] = [unique("policy"), unique("bounded")];
  const channel = await amqp();
  await channel.assertQueue(queue);
  const page = await consoleAt("policies");
  await page.send("Set a policy", { name: policy, pattern: `^${queue}$`, apply: "queues", definition: '{ "max-length": 2 }' });
  await page.shows(policy);
  await photograph(page, "policies");
  for (let n = 0; n < 5; n++) channel.sendToQueue(queue, Buffer.from("x"));
  await channel.waitForConfirms();
  assert.equal((await channel.checkQueue(queue)).messageCount, 2);
  await page.press("Delete", "tbody");
  await eventually(async () => !(await page.text("main")).includes(policy), "the policy gone");
});

test("a user is made, may do what it is given, and is deleted", async () => {
  const user = unique("ann");
  const page = await consoleAt("admin");
  await page.send("Set a user", { name: user, password: "secret", tags: "monitoring" });
  await page.shows(user);
  await page.send("Set a permission", { user, vhost: "/", configure: "", write: "", read: ".*" });
  await eventually(() => page.evaluate(`[...document.querySelectorAll('table[aria-label="Permissions"] tr')].some((row) => row.innerText.includes(${JSON.stringify(user)}))`), "the permission");
  await photograph(page, "admin");
  const connection = await amqplib.connect(`amqp://${user}:secret@${host}:${ports.amqp}`);
  connection.on("error", () => {});
  await page.evaluate(`[...document.querySelectorAll('table[aria-label="Users"] tr')].find((row) => row.innerText.includes(${JSON.stringify(user)})).querySelector("button").click()`);
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
});

test("every control has a name, and every page one heading", async () => {
  const page = await consoleAt("overview");
  for (const name of PAGES) {
    await page.goAfresh(name);
    const nameless = await page.evaluate(`[...document.querySelectorAll("main input, main select, main textarea, main button, main svg[role=img]")].filter((c) => !(c.labels?.length || c.getAttribute("aria-label") || c.textContent.trim())).map((c) => c.outerHTML.slice(0, 120))`);
    assert.deepEqual(nameless, [], `controls without a name on ${name}`);
    const headings = await page.evaluate(`document.querySelectorAll("h1").length`);
    assert.equal(headings, 1, `one first heading on ${name}`);
  }
});

test("with Tab and Enter alone one gets to another page", async () => {
  const page = await consoleAt("overview");
  await page.shows("Listeners");
  await page.evaluate(`document.querySelector(".skip").focus()`);
  for (let n = 0; n < 40; n++) {
    await page.key("Tab");
    if ((await page.evaluate("document.activeElement.innerText")) === "Queues") break;
  }
  await page.key("Enter");
  await eventually(() => page.evaluate(`location.hash === "#/queues"`), "the page of queues");
});

/** Texts whose contrast with their ground is under what WCAG's level AA asks. Runs in the page. */
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

test("texts stand out from their ground, and a narrow page does not scroll sideways", async () => {
  const [queue, exchange] = [unique("q".repeat(60)), unique("x".repeat(60))];
  const channel = await amqp();
  await channel.assertQueue(queue);
  await channel.assertExchange(exchange, "topic");
  await channel.bindQueue(queue, exchange, "a.#");
  const page = await consoleAt("overview");
  await page.shows("Listeners");
  for (const name of [...PAGES, `queues/%2F/${queue}`, `exchanges/%2F/${exchange}`]) {
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

test("whoever goes by keyboard sees where they are", async () => {
  const page = await consoleAt("queues");
  await page.shows("Declare a queue");
  await page.evaluate(`document.querySelector(".skip").focus()`);
  for (let n = 0; n < 30; n++) {
    await page.key("Tab");
    const unseen = await page.evaluate(`(() => { const at = document.activeElement; return at === document.body || getComputedStyle(at).outlineStyle !== "none" ? "" : at.outerHTML.slice(0, 120); })()`);
    assert.equal(unseen, "", "an element that shows no focus");
  }
});

await main(90_000);
