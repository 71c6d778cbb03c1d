// What MQTT leaves behind: sessions with their subscriptions, and retained messages.

import { api, part, remove } from "../api.js";
import { bytes, danger, details, field, h, link, number, say, span, table } from "../dom.js";
import { choose, vhosts } from "./list.js";

const ends = (x) => (x.expiry === null ? "never" : x.expires_at ? new Date(x.expires_at).toLocaleString("en-GB") : `${span(x.expiry * 1000)} after it leaves`);

export async function render(place) {
  const names = await vhosts();
  const vhost = place.search.get("vhost") ?? names[0] ?? "/";
  const filter = place.search.get("topic") ?? "";
  const [sessions, retained] = await Promise.all([
    api(`/gatepost/sessions/${part(vhost)}`), api(`/gatepost/retained/${part(vhost)}?filter=${part(filter || "#")}&limit=200`),
  ]);
  const clear = (m) => danger("Clear", `Clear the retained message of ${m.topic}?`, async () => { await remove(`/gatepost/retained/${part(vhost)}/${part(m.topic)}`); say("Cleared."); place.again(); });
  return [
    h("h1", {}, "MQTT"),
    h("form", { role: "search", submit: (event) => { event.preventDefault(); choose(place, { vhost: event.target.elements.vhost.value, topic: event.target.elements.topic.value }); } },
      field({ name: "vhost", label: "vhost", options: names, value: vhost }), field({ name: "topic", label: "Retained topics (a filter)", value: filter, placeholder: "plant/#" }), h("button", {}, "Show")),
    h("h2", {}, `Sessions (${number(sessions.length)})`),
    table("Sessions", [
      { name: "Client id", get: (x) => x.client_id }, { name: "User", get: (x) => x.user }, { name: "Connected", get: (x) => (x.connected ? "yes" : "no") }, { name: "Waiting", number: true, get: (x) => x.messages },
      { name: "Ends", get: ends },
      { name: "Subscriptions", cell: (x) => details(number(x.subscriptions.length), x.subscriptions.map((f) => h("div", {}, `${f.filter} (QoS ${f.qos})`))) },
    ], sessions),
    h("h2", {}, `Retained messages (${number(retained.total)})`),
    table("Retained messages", [{ name: "Topic", get: (m) => m.topic }, { name: "Size", number: true, cell: (m) => bytes(m.bytes) }, { name: "", cell: clear }], retained.items),
    retained.items.length < retained.total && h("p", { class: "quiet" }, "Only the first are shown: narrow the filter."),
    h("p", {}, "Publish and subscribe from here: ", link("Try it", "try"), "."),
  ];
}
