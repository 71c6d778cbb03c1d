// Traces: single messages, followed from their publish to their end.

import { api, part, post, query, remove } from "../api.js";
import { bdi, bytes, danger, details, facts, form, h, link, number, q, s, say, table, time, visible } from "../dom.js";
import { vhosts } from "./list.js";

const STATES = { catching: "waiting for messages", following: "following its messages", ended: "ended" };
/** The label of each kind of hop, and whether it is good or bad. */
const HOPS = {
  published: ["Published"], passed_on: ["Passed on"], refused: ["Refused", "bad"], routed: ["Routed"], unroutable: ["No queue wants it", "warn"], queued: ["In queue"], not_queued: ["Not taken by queue", "warn"],
  retained: ["Kept as the topic's retained message"], not_retained: ["No longer the topic's retained message"], written: ["Written to the log"], stored: ["Stored safely", "good"], not_stored: ["Not stored: its consumers had it before"], confirmed: ["Confirmed to its publisher", "good"],
  delivered: ["Delivered from queue"], fetched: ["Fetched from queue"], sent_again: ["Sent again from queue", "warn"], received: ["Received, from queue"], released: ["Released by its publisher"], acknowledged: ["Acknowledged, gone from queue", "good"], requeued: ["Back in queue", "warn"], rejected: ["Rejected, from queue", "bad"],
  expired: ["Expired in queue", "bad"], dropped: ["Dropped by queue", "bad"], dead_lettered: ["Dead-lettered by queue", "warn"], purged: ["Purged from queue", "bad"], queue_deleted: ["Gone with queue", "bad"],
};
/** Hops that say nothing of where a message is. */
const ASIDE = ["written", "stored", "not_stored", "confirmed", "released"];
const word = (hop) => HOPS[hop.hop]?.[0] ?? hop.hop;
const tone = (hop) => HOPS[hop.hop]?.[1];

export async function render(place) {
  if (!place.me.tags.some((tag) => tag === "administrator" || tag === "monitoring")) return [h("h1", {}, "Trace"), h("p", { class: "quiet" }, "Traces are for users with the tag monitoring or administrator.")];
  const [id, message] = place.rest;
  if (id) return one(place, await api(`/gatepost/trace/${part(id)}${query({ count: 1000 })}`), message);
  const [names, traces] = await Promise.all([vhosts(), api("/gatepost/trace")]);
  return [
    h("h1", {}, "Trace"),
    h("p", { class: "quiet" }, "Follows the next messages that match, each with its hops and their times. Bodies are not kept. A restart of the gateway forgets traces."),
    ask(place, names),
    table("Traces", [
      { name: "Of", cell: (t) => link(asked(t), "trace", t.id) }, { name: "vhost", get: (t) => t.vhost }, { name: "State", get: (t) => STATES[t.state] }, { name: "Messages", cell: caught, number: true },
      { name: "Began", get: (t) => time(t.began) }, { name: "Until", get: (t) => time(t.until) }, { name: "", cell: (t) => end(t, place.again) },
    ], traces, undefined, "There are none. Say above what to trace, then publish it."),
  ];
}

const ask = (place, names) => form("Trace messages", [
  { name: "vhost", label: "vhost", options: names, value: place.search.get("vhost") ?? names[0] }, { name: "topic", label: "Topic filter (MQTT)", placeholder: "plant/+/temp", value: place.search.get("topic") ?? "" },
  { name: "routing_key", label: "or routing key (AMQP)", placeholder: "plant.*.temp" }, { name: "exchange", label: "Exchange", placeholder: "any" },
  { name: "property", label: "Property or header", placeholder: "header:colour" }, { name: "value", label: "Its value" },
  { name: "messages", label: "Messages", type: "number", min: 1, max: 1000, value: 100 }, { name: "minutes", label: "Minutes", type: "number", min: 1, max: 1440, value: 10 },
], async ({ minutes, ...values }) => {
  const wanted = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ""));
  const trace = await post("/gatepost/trace", { ...wanted, messages: Number(values.messages), seconds: 60 * Number(minutes) });
  say("Messages are traced from now on.");
  location.hash = `#/trace/${part(trace.id)}`;
}, "Trace");

/** The conditions of a trace, as text. */
function asked(trace) {
  const property = trace.property && `${trace.property} = ${trace.value}`;
  const exchange = trace.exchange !== null && `exchange ${trace.exchange || "(default)"}`;
  return [trace.topic ?? trace.routing_key, exchange, property].filter(Boolean).join(", ");
}

const caught = (trace) => `${number(trace.caught)} of ${number(trace.messages_max)}${trace.missed ? `, ${number(trace.missed)} missed` : ""}`;
const end = (trace, then) => danger("Delete", `Delete the trace of ${q(asked(trace))}?`, async () => { await remove(`/gatepost/trace/${part(trace.id)}`); say("Deleted."); then(); });
const who = (client) => ({ will: `will of ${client.name}`, dead_letter: `dead letter of ${client.name}`, gateway: "the gateway" })[client.kind] ?? client.name;
const ms = (value) => (value < 10_000 ? `${number(value)} ms` : `${number(Math.round(value / 100) / 10)} s`);

function one(place, trace, chosen) {
  const messages = trace.messages;
  const message = messages.find((m) => String(m.number) === chosen) ?? (chosen === undefined ? messages.at(-1) : undefined);
  // Where the message is now. Storing and confirming go on beside its way, and may come after its end.
  const last = (m) => m.hops.findLast((hop) => !ASIDE.includes(hop.hop)) ?? m.hops.at(-1);
  return [
    h("h1", {}, "Trace of ", bdi(asked(trace))),
    facts([["vhost", trace.vhost], ["State", STATES[trace.state]], ["Messages", caught(trace)], ["Until", time(trace.until)]]),
    h("p", {}, h("a", { href: "#/trace" }, "All traces"), " ", end(trace, () => { location.hash = "#/trace"; })),
    h("h2", {}, "Messages"),
    // The chosen message is below: a long list must not hide it.
    h("div", { class: "short" }, table("Traced messages", [
      { name: "#", number: true, cell: (m) => h("a", { href: `#/trace/${part(trace.id)}/${m.number}`, "data-key": `message ${m.number}`, "aria-current": m === message ? "true" : undefined, "aria-label": `Message ${m.number + 1}` }, number(m.number + 1)) },
      { name: "Published", get: (m) => time(m.at) }, { name: "By", get: (m) => who(m.publisher) }, { name: "Routing key", get: (m) => m.routing_key }, { name: "Size", get: (m) => bytes(m.bytes) },
      { name: "Last hop", cell: (m) => h("span", { class: tone(last(m)) }, said(last(m))) }, { name: "After", get: (m) => ms(last(m).after_ms) },
    ], messages, undefined, trace.state === "ended" ? "None came." : "None yet. Publish one that matches, and it is here within seconds.")),
    chosen !== undefined && !message && h("p", { class: "quiet" }, "There is no such message in this trace."),
    message && story(message, trace.vhost),
  ];
}

/** A hop, as one line of text. */
const said = (hop) => [word(hop), hop.queue && visible(hop.queue)].filter(Boolean).join(" ");

function story(message, vhost) {
  const { hops, publisher } = message;
  const delivery = [`QoS ${message.qos}`, message.durable ? "to be stored" : "not to be stored", message.retain && "to be retained"].filter(Boolean).join(", ");
  const step = (hop, n) => {
    const gap = n ? hop.after_ms - hops[n - 1].after_ms : 0;
    return h("li", { class: tone(hop) }, h("span", { class: "after" }, ms(hop.after_ms)), h("div", {}, h("b", {}, word(hop)), hop.queue !== undefined && [" ", link(hop.queue, "queues", vhost, hop.queue)], ways(hop, vhost), more(hop), gap > 0 && h("span", { class: "gap" }, `${ms(gap)} later`)));
  };
  return [
    h("h2", {}, `Message ${number(message.number + 1)}`),
    facts([["Publisher", [who(publisher), publisher.protocol, publisher.user && `user ${publisher.user}`, publisher.address].filter(Boolean).join(", ")], ["Exchange", message.exchange || "(default)"], ["Routing key", message.routing_key], ["Body", bytes(message.bytes)], ["Delivery", delivery]]),
    hops.at(-1).after_ms > 0 && strip(hops),
    h("ol", { class: "hops", "aria-label": "Hops" }, hops.map(step)),
    message.hops_left_out > 0 && h("p", { class: "quiet" }, `${number(message.hops_left_out)} further hops were not kept.`),
    details("What the times mean", h("p", {}, "Times count from the publish. All that the gateway does in one turn has the same time. The time from delivery to acknowledgement is the client's.")),
  ];
}

/** The exchanges of a hop: where the message came from, and where to. */
function ways(hop, vhost) {
  const to = (word, name) => [h("span", { class: "quiet" }, ` ${word} exchange `), name ? link(name, "exchanges", vhost, name) : "(default)"];
  const key = hop.hop !== "passed_on" && [h("span", { class: "quiet" }, " with routing key "), bdi(hop.routing_key)];
  return [hop.source !== undefined && to("by", hop.source), hop.exchange !== undefined && [to("to", hop.exchange), key]];
}

/** The details of a hop other than its kind, queue and exchanges. */
function more(hop) {
  const client = ["delivered", "fetched", "sent_again"].includes(hop.hop) ? "to" : "by";
  const parts = [
    hop.queues !== undefined && (hop.queues === 1 ? "to 1 queue" : `to ${number(hop.queues)} queues`), hop.ahead > 0 && `behind ${number(hop.ahead)} others`, 
    hop.client && `${client} ${visible(hop.client.name)} (${hop.client.protocol})`, hop.consumer_tag && `consumer ${visible(hop.consumer_tag)}`, hop.packet_id && `packet id ${hop.packet_id}`, hop.redelivered && "redelivered", hop.ack_required === false && "nothing to acknowledge",
  ].filter(Boolean);
  const reason = hop.reason && h("span", { class: "quiet" }, ` (${hop.reason})`);
  return [parts.length > 0 && h("span", { class: "quiet" }, hop.source === undefined ? " " : ", ", bdi(parts.join(", "))), reason];
}

/** All hops on one line, at distances in proportion to their times. The list below shows the same. */
function strip(hops) {
  const [width, height, edge] = [900, 44, 12];
  const most = hops.at(-1).after_ms;
  const x = (hop) => edge + ((width - 2 * edge) * hop.after_ms) / most;
  const svg = s("svg", { class: "strip", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${hops.length} hops within ${ms(most)}, listed below` });
  svg.append(s("line", { x1: edge, x2: width - edge, y1: 14, y2: 14 }));
  for (const hop of hops) svg.append(s("circle", { cx: x(hop).toFixed(1), cy: 14, r: 6, class: tone(hop) ?? "" }, s("title", {}, `${ms(hop.after_ms)}: ${said(hop)}`)));
  svg.append(s("text", { x: edge, y: 38 }, "0 ms"), s("text", { x: width - edge, y: 38, "text-anchor": "end" }, ms(most)));
  return svg;
}
