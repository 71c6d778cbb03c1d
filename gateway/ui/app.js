// The frame around the pages: login, navigation, and a refresh every five seconds while somebody looks.

import { api, logIn, logOut, onLogout } from "./api.js";
import { field, h, say } from "./dom.js";
import * as overview from "./pages/overview.js";
import * as connections from "./pages/connections.js";
import * as channels from "./pages/channels.js";
import * as exchanges from "./pages/exchanges.js";
import * as queues from "./pages/queues.js";
import * as mqtt from "./pages/mqtt.js";
import * as policies from "./pages/policies.js";
import * as admin from "./pages/admin.js";
import * as log from "./pages/log.js";
import * as attempt from "./pages/try.js";

const PAGES = {
  overview: ["Overview", overview], connections: ["Connections", connections], channels: ["Channels", channels],
  exchanges: ["Exchanges", exchanges], queues: ["Queues", queues], mqtt: ["MQTT", mqtt], policies: ["Policies", policies],
  admin: ["Admin", admin], log: ["Log", log], try: ["Try it", attempt],
};
const EVERY = 5000;
const app = document.getElementById("app");

let me = null;
let timer = null;
/** Grows with each page shown, so that what comes late is dropped. */
let turn = 0;

/** Where we are: the page, what follows its name, and the query, which holds filters. */
export function here() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [page = "overview", ...rest] = path.split("/").filter(Boolean).map(decodeURIComponent);
  return { page: PAGES[page] ? page : "overview", rest, search: new URLSearchParams(search), path };
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
  return [
    h("header", {}, h("a", { class: "brand", href: "#/overview" }, "Gatepost"), h("nav", { "aria-label": "Pages" }, Object.entries(PAGES).map(item)),
      h("span", { class: "quiet" }, me.name), choice, h("button", { type: "button", click: async () => { await logOut().catch(() => {}); me = null; show(); } }, "Log out")),
    h("main", { id: "main", tabindex: "-1" }, h("p", { class: "quiet" }, "Loading…")),
  ];
}

function loginPage() {
  const submit = async (event) => {
    event.preventDefault();
    const { user, password } = event.target.elements;
    try {
      await logIn(user.value, password.value);
      await start();
    } catch (error) {
      say(error.message, true);
      password.select();
    }
  };
  app.replaceChildren(h("main", { id: "main", class: "login" }, h("h1", {}, "Gatepost"),
    h("form", { submit, "aria-label": "Log in" }, field({ name: "user", label: "User", autocomplete: "username", required: true }),
      field({ name: "password", label: "Password", type: "password", autocomplete: "current-password" }), h("button", { class: "primary" }, "Log in"))));
  app.querySelector("input").focus();
}

/** Shows where we are. Whoever is in the middle of a form is not disturbed by a refresh. */
async function show(refresh = false) {
  clearTimeout(timer);
  if (!me) return loginPage();
  const mine = ++turn;
  const at = here();
  const [title, page] = PAGES[at.page];
  if (!refresh) {
    app.replaceChildren(...frame());
    document.title = `${title} · Gatepost`;
  }
  const main = document.getElementById("main");
  try {
    const content = await page.render({ ...at, me, again: () => show(true) });
    if (mine !== turn || !me) return;
    if (!refresh || !page.still) {
      const kept = refresh ? [keepFocus(main), keepScroll(main)] : [];
      main.replaceChildren(...[content].flat(9).filter((node) => node instanceof Node || typeof node === "string"));
      for (const restore of kept) restore?.(main);
    }
  } catch (error) {
    if (mine !== turn || !me) return;
    if (!refresh) main.replaceChildren(h("p", { class: "bad", role: "alert" }, error.message));
  }
  if (mine === turn) timer = setTimeout(tick, EVERY);
}

function tick() {
  const typing = document.activeElement?.closest?.("form, details[open]") && document.activeElement.matches("input, select, textarea, button");
  const reading = document.querySelector("main details[open], main form input:not(:placeholder-shown):focus");
  // A refresh would undo a selection before it is copied.
  const selecting = String(getSelection()) !== "";
  const { page } = here();
  if (document.hidden || typing || reading || selecting || PAGES[page][1].still) timer = setTimeout(tick, EVERY);
  else show(true);
}

/** A refresh replaces the page: who was on a link or a button stays on it. What may move has a key. */
function keepFocus(main) {
  const focused = document.activeElement;
  const all = "a, button, input, select, [tabindex]";
  const index = [...main.querySelectorAll(all)].indexOf(focused);
  const { key } = focused.dataset;
  const found = (fresh) => (key ? [...fresh.querySelectorAll("[data-key]")].find((node) => node.dataset.key === key) : fresh.querySelectorAll(all)[index]);
  return index < 0 ? null : (fresh) => found(fresh)?.focus({ preventScroll: true });
}

/** What was scrolled within the page stays so. */
function keepScroll(main) {
  const boxes = ".scroll, pre";
  const before = [...main.querySelectorAll(boxes)].map((box) => [box.scrollLeft, box.scrollTop]);
  return (fresh) => fresh.querySelectorAll(boxes).forEach((box, n) => before[n] && box.scrollTo(...before[n]));
}

async function start() {
  me = await api("/whoami");
  await show();
}

onLogout(() => { if (me) { me = null; show(); } });
addEventListener("hashchange", () => show().then(() => document.getElementById("main")?.focus()));
document.addEventListener("visibilitychange", () => { if (!document.hidden && me) tick(); });
theme();
start().catch(() => { me = null; show(); });
