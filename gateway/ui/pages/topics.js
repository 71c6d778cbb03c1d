// Topics: retained messages, the subscribers of a topic, and publishing.

import { api, part, put, remove } from "../api.js";
import { bdi, bytes, danger, details, facts, form, h, link, q, say, short, table, time } from "../dom.js";
import { listing, vhosts } from "./list.js";

const retained = (vhost, topic) => `/gatepost/retained/${part(vhost)}/${part(topic)}`;
/** Bytes of a body that are shown at most. */
const SHOWN = 50000;

export async function render(place) {
  const [vhost, topic] = place.rest;
  if (topic !== undefined) return one(place, vhost, topic);
  const names = await vhosts();
  const chosen = place.search.get("vhost") ?? names[0] ?? "/";
  const columns = [
    { name: "Topic", sort: "topic", cell: (m) => link(m.topic, "topics", chosen, m.topic) }, { name: "Stored", number: true, sort: "bytes", cell: (m) => bytes(m.bytes) },
    { name: "", cell: (m) => clearing(chosen, m.topic, place.again) },
  ];
  const about = {
    key: "filter", label: "Topics (an MQTT filter, such as plant/#)", fields: [{ name: "vhost", label: "vhost", options: names, value: chosen }],
    empty: place.search.get("filter") ? "No retained message matches the filter." : "No topic has a retained message. Set one below, or have a client publish with RETAIN.",
  };
  const look = form("Look at a topic", [{ name: "topic", label: "Topic", required: true, placeholder: "plant/1/temp" }], ({ topic }) => { location.hash = `#/topics/${part(chosen)}/${part(topic)}`; }, "Look");
  return [
    h("h1", {}, "Topics"), h("h2", {}, "Retained messages"), ...(await listing(place, `/gatepost/retained/${part(chosen)}`, "retained messages", columns, about)),
    details("Set a retained message", setting(place, chosen)),
    h("h2", {}, "Look at any topic"), h("p", { class: "quiet" }, "Its retained message, and who gets what is published to it."), look,
    h("p", {}, "To publish and subscribe as a client would: ", link("Try it", "try"), "."),
  ];
}

const clearing = (vhost, topic, then) => danger("Clear", `Clear the retained message of ${q(topic)}?`, async () => {
  await remove(retained(vhost, topic));
  say("Cleared.");
  then();
});

/** Shows the retained message of `topic`. */
function setting(place, vhost, topic) {
  const fields = [topic === undefined && { name: "topic", label: "Topic", required: true, placeholder: "plant/1/temp" }, { name: "payload", label: "Body", type: "textarea", required: true }].filter(Boolean);
  return form("Set a retained message", fields, async (values) => {
    await put(retained(vhost, topic ?? values.topic), { payload: values.payload, payload_encoding: "string" });
    say("Set.");
    place.again();
  }, "Set");
}

async function one(place, vhost, topic) {
  const [message, subscriptions] = await Promise.all([
    api(`${retained(vhost, topic)}?truncate=${SHOWN}`).catch((error) => { if (error.status === 404) return null; throw error; }),
    api(`/gatepost/subscriptions/${part(vhost)}?topic=${part(topic)}`),
  ]);
  return [
    h("h1", {}, "Topic ", bdi(topic), h("span", { class: "quiet" }, " in ", bdi(vhost))),
    h("h2", {}, "Retained message"),
    message ? body(message) : h("p", { class: "quiet" }, "It has none."),
    message && h("p", {}, clearing(vhost, topic, place.again)),
    details(message ? "Replace it" : "Set one", setting(place, vhost, topic)),
    h("h2", {}, "MQTT subscriptions that match"),
    table("Subscriptions", [{ name: "Filter", get: (x) => x.filter }, { name: "Client id", cell: (x) => link(x.client_id, "sessions", vhost, x.client_id) }, { name: "QoS", number: true, get: (x) => x.qos }], subscriptions, undefined, "No MQTT client has subscribed to this topic. Queues of AMQP and STOMP that are bound to it are on the page of their exchange."),
  ];
}

function body(message) {
  const left = message.payload_bytes > SHOWN ? `, of which ${bytes(SHOWN)} are shown` : "";
  return [
    facts([["Published", time(message.published_at)], ["Expires", message.expires_at ? time(message.expires_at) : "never"], ["Body", `${bytes(message.payload_bytes)}${left}`], short(message.properties) && ["Properties", short(message.properties)]]),
    h("pre", { tabindex: 0, "aria-label": "Body" }, message.payload_encoding === "string" ? message.payload : `base64: ${message.payload}`),
  ];
}
