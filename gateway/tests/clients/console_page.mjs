// The base of the scripts about the console: its pages in a real browser, used by their forms and buttons as a person would.
//
// With GATEPOST_PICTURES=DIR it saves screenshots of each page: light, dark and narrow.

import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import path from "node:path";
import { browser } from "./chromium.mjs";
import { eventually as soon, host, ports, require, test as scripted } from "./harness.mjs";

const amqplib = require("amqplib");
const pictures = process.env.GATEPOST_PICTURES;
export const address = process.env.GATEPOST_CONSOLE ?? `http://${host}:${ports.management}`;
const inBrowser = await browser();
/** The pages of the running case. They are closed at its end, or they would go on refreshing during the others. */
const pages = new AsyncLocalStorage();

export async function open(...how) {
  const page = await inBrowser(...how);
  pages.getStore().push(page);
  return page;
}

export const test = (name, body) => scripted(name, () => pages.run([], async () => {
  await body();
  await Promise.all(pages.getStore().map((page) => page.close()));
}));

export const PAGES = ["overview", "flow", "trace", "connections", "channels", "sessions", "topics", "exchanges", "queues", "policies", "admin", "log", "try"];

/** A browser on a busy machine is slow. */
export const eventually = (condition, what) => soon(condition, what, 60_000);

/** The console at one of its pages, logged in. */
export async function consoleAt(place = "overview", { user = "guest", password = "guest", at = address, ...more } = {}) {
  const page = await open(`${at}/#/${place}`, more);
  const text = (selector = "body") => page.evaluate(`document.querySelector(${JSON.stringify(selector)})?.innerText ?? ""`);
  /** Waits for a condition of the page. The error says what the page shows instead. */
  const seen = (condition, what) => eventually(condition, what).catch(async (error) => {
    throw new Error(`${error.message}; it said ${JSON.stringify(await page.evaluate("said"))}, and ${await page.evaluate("location.hash")} says:\n${await text("body")}`);
  });
  /** Waits until the page shows that message at its edge. Messages disappear, so earlier ones are ignored. */
  const says = (wanted) => seen(() => page.evaluate(`(() => { const at = said.findIndex((line) => line.includes(${JSON.stringify(wanted)})); return at >= 0 && Boolean(said.splice(0, at + 1)); })()`), wanted);
  const shows = (wanted, selector = "main") => seen(async () => (await text(selector)).includes(wanted), `${wanted} on ${place}`);
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
  /** Presses the button of that name in the row of a table that has that text. */
  const pressInRow = async (row, name, within = "main") => {
    const pressed = `(() => {
      const found = [...document.querySelectorAll(${JSON.stringify(`${within} tbody tr`)})].find((one) => one.textContent.includes(${JSON.stringify(row)}));
      const button = [...(found?.querySelectorAll("button") ?? [])].find((one) => one.textContent.trim() === ${JSON.stringify(name)});
      button?.click();
      return Boolean(button);
    })()`;
    await seen(() => page.evaluate(pressed), `the button ${name} of ${row}`);
  };
  /** Follows the link of that text. */
  const follow = async (text) => {
    const followed = `(() => {
      const link = [...document.querySelectorAll("main a")].find((one) => one.textContent === ${JSON.stringify(text)});
      link?.click();
      return Boolean(link);
    })()`;
    await seen(() => page.evaluate(followed), `the link ${text}`);
  };
  const go = (where) => page.evaluate(`(() => { const to = ${JSON.stringify(`#/${where}`)}; if (location.hash === to) dispatchEvent(new Event("hashchange")); else location.hash = to; })()`);
  /** Navigates to a page, and waits until it has replaced the one before. */
  const goAfresh = async (where) => {
    await page.evaluate(`document.querySelector("main").replaceChildren()`);
    await go(where);
    const shown = `document.querySelector("nav [aria-current]")?.getAttribute("href") === "#/${where.split("/")[0]}" && Boolean(document.querySelector("main h1"))`;
    await eventually(() => page.evaluate(shown), where);
  };
  await page.agree();
  await eventually(() => page.evaluate(`Boolean(document.querySelector(".login, nav"))`), "the login");
  await page.evaluate(`(() => {
    window.said = [];
    const listen = (changes) => changes.forEach((change) => change.addedNodes.forEach((line) => said.push(line.textContent)));
    new MutationObserver(listen).observe(document.querySelector("#says"), { childList: true, subtree: true });
  })()`);
  if (await page.evaluate(`Boolean(document.querySelector(".login"))`)) await send("Log in", { user, password });
  return { ...page, text, shows, says, send, press, pressInRow, follow, go, goAfresh };
}

/** A screenshot of the page in each theme and width. */
export async function photograph(page, name) {
  if (!pictures) return;
  for (const [look, settings] of Object.entries({ light: { width: 1280, height: 900 }, dark: { width: 1280, height: 900, dark: true }, narrow: { width: 390, height: 900 } })) {
    await page.looks(settings);
    await page.picture(path.join(pictures, `${name}-${look}.png`));
  }
}

/** Checks that there is no such queue. */
export async function noQueue(name) {
  const channel = await amqp();
  channel.on("error", () => {});
  await assert.rejects(channel.checkQueue(name), /NOT_FOUND/);
}

export const amqp = async () => (await amqplib.connect(`amqp://guest:guest@${host}:${ports.amqp}`)).createConfirmChannel();

/** Names that a page may misinterpret. AMQP allows 255 bytes. */
export const HOSTILE = {
  "that look like markup and paths": '<img src=x onerror="window.hit=1">a/b?c=d&e=f;g %2F%\'"`${1}\\',
  "of other directions": "\u2764\ufe0f \u05e2\u05d1\u05e8\u05d9\u05ea \u202eevil",
  "that are long": "x".repeat(220),
};

/** A name as a page shows it, with invisible characters spelled out. */
export const shown = (name) => name.replace("\u202e", "<U+202E>");
