// The frame around the pages: login, navigation, and a refresh every five seconds while the page is visible.

import { api, logIn, logOut, onLogout } from "./api.js";
import { announce, bdi, field, h, say, silence, visible } from "./dom.js";
import * as overview from "./pages/overview.js";
import * as flow from "./pages/flow.js";
import * as trace from "./pages/trace.js";
import * as connections from "./pages/connections.js";
import * as channels from "./pages/channels.js";
import * as sessions from "./pages/sessions.js";
import * as topics from "./pages/topics.js";
import * as exchanges from "./pages/exchanges.js";
import * as queues from "./pages/queues.js";
import * as policies from "./pages/policies.js";
import * as admin from "./pages/admin.js";
import * as log from "./pages/log.js";
import * as attempt from "./pages/try.js";

const PAGES = {
  overview: ["Overview", overview], flow: ["Flow", flow], trace: ["Trace", trace], connections: ["Connections", connections], channels: ["Channels", channels],
  sessions: ["Sessions", sessions], topics: ["Topics", topics], exchanges: ["Exchanges", exchanges], queues: ["Queues", queues],
  policies: ["Policies", policies], admin: ["Admin", admin], log: ["Log", log], try: ["Try it", attempt],
};
const EVERY = 5000;
const SOON = 1200;
const ENDED = "Your session has ended: it was not used for eight hours, the password has changed, or the gateway was started again. Please log in.";
const app = document.getElementById("app");

let me = null;
let timer = null;
/** Grows with each page shown. A response for an earlier page is dropped. */
let turn = 0;
/** Whether the user has pressed Pause. */
let paused = false;

/** A part of the address. One that nobody has written by a link is taken as it is. */
function decoded(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

/** The current address: the page, the path after its name, and the query, which holds filters. */
export function here() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [page = "overview", ...rest] = path.split("/").filter(Boolean).map(decoded);
  return { page: Object.hasOwn(PAGES, page) ? page : "overview", rest, search: new URLSearchParams(search), path };
}

function theme(choice) {
  if (choice) localStorage.setItem("theme", choice);
  const stored = localStorage.getItem("theme");
  if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
  else delete document.documentElement.dataset.theme;
}

function frame() {
  const { page } = here();
  const item = ([name, [title]]) => h("a", { href: `#/${name}`, "aria-current": name === page ? "page" : undefined }, title);
  const choice = h("select", { "aria-label": "Theme", change: (event) => theme(event.target.value) },
    ["system", "light", "dark"].map((name) => h("option", { value: name, selected: (localStorage.getItem("theme") ?? "system") === name }, name)));
  const leave = async () => { await logOut().catch(() => {}); me = null; show(); announce("You are logged out."); };
  return [
    h("header", {}, h("a", { class: "brand", href: "#/overview" }, "Gatepost"), h("nav", { "aria-label": "Pages" }, Object.entries(PAGES).map(item)),
      h("span", { class: "quiet user" }, bdi(me.name)), choice, h("button", { type: "button", click: leave }, "Log out")),
    h("div", { class: "live" }, h("span", { id: "live", class: "quiet" }), !PAGES[page][1].still && h("button", { id: "pause", type: "button", class: "small", "aria-pressed": String(paused), click: pause }, "Pause")),
    h("main", { id: "main", tabindex: "-1" }, h("p", { class: "quiet" }, "Loading…")),
  ];
}

/** Pauses or resumes refreshing. */
function pause() {
  paused = !paused;
  document.getElementById("pause").setAttribute("aria-pressed", String(paused));
  if (paused) live("Paused."); else show(true);
}

/** Shows next to the page how old it is, or why it is not refreshed. */
function live(text, bad = false) {
  const line = document.getElementById("live");
  if (!line) return;
  line.className = bad ? "bad" : "quiet";
  if (line.textContent !== text) line.textContent = text;
}

function loginPage(why = "") {
  const problem = h("p", { class: "bad", role: "alert" });
  const submit = async (event) => {
    event.preventDefault();
    const { user, password } = event.target.elements;
    problem.textContent = "";
    try {
      await logIn(user.value, password.value);
      await start();
    } catch (error) {
      problem.textContent = error.status === 401 && error.message === "Login failed" ? "Login failed: the user or the password is wrong, or the user may not log in." : error.message;
      password.select();
    }
  };
  document.title = "Log in · Gatepost";
  app.replaceChildren(h("main", { id: "main", class: "login", tabindex: "-1" }, h("h1", {}, "Gatepost"), why && h("p", {}, why),
    h("form", { submit, "aria-label": "Log in" }, field({ name: "user", label: "User", autocomplete: "username", required: true }),
      field({ name: "password", label: "Password", type: "password", autocomplete: "current-password" }), h("button", { class: "primary" }, "Log in")), problem));
  app.querySelector("input").focus();
}

/** The text of an error for the user. */
function told(error, { page, rest }) {
  const back = rest.length ? h("p", {}, h("a", { href: `#/${page}` }, `Back to ${PAGES[page][0].toLowerCase()}`)) : "";
  const text = error.status === 404 && rest.length ? `${visible(rest.at(-1))} is not there (any more).` : error.status === 401 ? `Your user may not see this: ${error.message}.` : error.message;
  return [h("h1", {}, PAGES[page][0]), h("p", { class: "bad", role: "alert" }, text), back];
}

/** Shows the page of the current address. A refresh does not interrupt typing, unless the user's action `asked` for it. */
async function show(refresh = false, asked = false) {
  clearTimeout(timer);
  if (!me) return loginPage();
  const mine = ++turn;
  const at = here();
  const [title, page] = PAGES[at.page];
  if (!refresh) {
    silence();
    app.replaceChildren(...frame());
    document.title = [at.rest.at(-1), title, "Gatepost"].filter(Boolean).join(" · ");
  }
  const main = document.getElementById("main");
  try {
    const content = await page.render({ ...at, me, again: () => { closeForm(); return show(true, true); } });
    if (mine !== turn || !me) return;
    // The user may have begun to type since the request was sent.
    const why = refresh && !asked ? reason() : "";
    if (!why && (!refresh || !page.still)) replace(main, content, refresh);
    if (!page.still) live(why ? why : paused ? "Paused." : `As of ${new Date().toLocaleTimeString("en-GB")}.`);
  } catch (error) {
    if (mine !== turn || !me) return;
    if (!(error.status >= 0)) console.error(error);
    if (!refresh || (error.status === 404 && at.rest.length)) replace(main, told(error, at), false);
    else live(`Not refreshed: ${error.message}`, true);
  }
  // Rates that the first view of a page does not have are there soon afterwards.
  if (mine === turn) timer = setTimeout(tick, !refresh && main.querySelector(".unknown") ? SOON : EVERY);
}

function replace(main, content, refresh) {
  const kept = refresh ? [keepForms(main), keepValues(main), keepFocus(main), keepScroll(main)] : [];
  main.replaceChildren(...[content].flat(9).filter((node) => node instanceof Node || typeof node === "string"));
  for (const restore of kept) restore?.(main);
}

/** Why the page must not be refreshed now; empty if it may be. */
function reason() {
  const at = document.activeElement;
  if (paused) return "Paused.";
  // A refresh would undo a selection before it is copied.
  if (String(getSelection()) !== "") return "Paused while text is selected.";
  const isFilter = at?.closest?.("form[role=search]") && (at.value === at.defaultValue || at.matches("select"));
  if (at?.matches?.("main input, main select, main textarea") && !isFilter) return "Paused while you are in a form.";
  return "";
}

function tick() {
  const { page } = here();
  const why = reason();
  if (why) live(why);
  if (document.hidden || why || PAGES[page][1].still) timer = setTimeout(tick, EVERY);
  else show(true);
}

/** After a form was submitted: empties it, and closes it if it can be closed. */
function closeForm() {
  const form = document.querySelector("main form[data-sent]");
  form?.reset();
  const around = form?.closest("details[open]");
  if (!around) return;
  around.open = false;
  around.querySelector("summary").focus();
}

/** Keeps open sections over a refresh, with their input and results. */
function keepForms(main) {
  const titleOf = (one) => one.querySelector("summary").textContent;
  const open = new Map([...main.querySelectorAll("details[open]")].map((one) => [titleOf(one), one]));
  const focused = document.activeElement;
  return (fresh) => {
    for (const one of fresh.querySelectorAll("details")) {
      const before = open.get(titleOf(one));
      if (before) one.replaceWith(before);
    }
    if (fresh.contains(focused)) focused.focus({ preventScroll: true });
  };
}

/** Keeps the input of forms that are always open over a refresh. */
function keepValues(main) {
  const fields = (root) => [...root.querySelectorAll("form:not(details form) [name]")];
  const keyOf = (field) => `${field.form.getAttribute("aria-label")} ${field.name}`;
  const isChanged = (field) => (field.matches("select") ? ![...field.options].some((o) => o.selected && o.defaultSelected) : field.value !== field.defaultValue);
  const written = new Map(fields(main).filter(isChanged).map((field) => [keyOf(field), field.value]));
  return (fresh) => {
    for (const field of fields(fresh)) if (written.has(keyOf(field))) field.value = written.get(keyOf(field));
  };
}

/** A refresh replaces the page: keeps the focus on the same link or button, also where it has moved. */
function keepFocus(main) {
  const focused = document.activeElement;
  const all = "a, button, input, select, summary, [tabindex]";
  const index = [...main.querySelectorAll(all)].indexOf(focused);
  if (index < 0) return null;
  const keyOf = (node) => node.dataset.key ?? node.getAttribute("href") ?? node.getAttribute("aria-label") ?? (node.matches("summary") ? node.textContent : null);
  const key = keyOf(focused);
  return (fresh) => {
    if (fresh.contains(focused)) return;
    const nodes = [...fresh.querySelectorAll(all)];
    // The row with this button is gone. The button of the next row must not get the focus: the user did not choose it.
    const found = key ? nodes.find((node) => keyOf(node) === key) ?? fresh : nodes[index];
    found?.focus({ preventScroll: true });
  };
}

/** Keeps the scroll positions within the page over a refresh. */
function keepScroll(main) {
  const boxes = ".scroll, pre";
  const before = [...main.querySelectorAll(boxes)].map((box) => [box.scrollLeft, box.scrollTop]);
  return (fresh) => fresh.querySelectorAll(boxes).forEach((box, n) => before[n] && box.scrollTo(...before[n]));
}

async function start() {
  me = await api("/whoami");
  await show();
}

onLogout(() => { if (me) { me = null; loginPage(ENDED); announce(ENDED); } });
// Whoever hears the page is at its content. Whoever sees it is at its top, with the navigation.
addEventListener("hashchange", () => show().then(() => { if (me) document.getElementById("main")?.focus({ preventScroll: true }); scrollTo(0, 0); }));
document.addEventListener("visibilitychange", () => { if (!document.hidden && me) tick(); });
theme();
start().catch((error) => { me = null; loginPage(error.status === 401 ? "" : error.message); });
