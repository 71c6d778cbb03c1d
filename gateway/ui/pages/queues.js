import { api, part, post, put, query, remove } from "../api.js";
import { at, bdi, bytes, danger, details, facts, form, h, link, number, q as quoted, perSecond, prefetch, say, short, table, tile } from "../dom.js";
import { chart, levels, rates } from "../chart.js";
import { getting, parsed, publishing, purging } from "./messages.js";
import { listing, vhosts } from "./list.js";

const flags = (q) => [q.durable && "durable", q.auto_delete && "auto-delete", q.exclusive && "exclusive", q.type !== "classic" && q.type, q.policy && `policy ${q.policy}`].filter(Boolean).join(", ");

const COLUMNS = [
  { name: "vhost", sort: "vhost", get: (q) => q.vhost }, { name: "Name", sort: "name", cell: (q) => link(q.name, "queues", q.vhost, q.name) }, { name: "Features", get: flags },
  { name: "Ready", number: true, sort: "messages_ready", get: (q) => q.messages_ready }, { name: "Unsettled", number: true, sort: "messages_unacknowledged", get: (q) => q.messages_unacknowledged },
  { name: "Bytes", number: true, sort: "message_bytes", cell: (q) => bytes(q.message_bytes) }, { name: "Consumers", number: true, sort: "consumers", get: (q) => q.consumers },
  { name: "In", number: true, sort: "message_stats.publish_details.rate", cell: (q) => perSecond(at(q, "message_stats.publish_details")) },
  { name: "Out", number: true, sort: "message_stats.deliver_get_details.rate", cell: (q) => perSecond(at(q, "message_stats.deliver_get_details")) },
];

export async function render(place) {
  const [vhost, name] = place.rest;
  if (name !== undefined) return one(place, vhost, name);
  const [list, names] = await Promise.all([listing(place, "/queues", "queues", COLUMNS, { empty: "There are no queues. Declare one below, or have a client declare or subscribe." }), vhosts()]);
  const create = form("Declare a queue", [
    { name: "vhost", label: "vhost", options: names }, { name: "name", label: "Name", required: true }, { name: "type", label: "Type", options: ["classic", "quorum"] },
    { name: "durable", label: "Durable", type: "checkbox", value: true }, { name: "auto_delete", label: "Auto-delete", type: "checkbox" },
    { name: "arguments", label: "Arguments (JSON)", type: "textarea", placeholder: '{ "x-max-length": 1000 }' },
  ], async (values) => {
    const wanted = parsed(values.arguments);
    if (values.type !== "classic") wanted["x-queue-type"] = values.type;
    await put(`/queues/${part(values.vhost)}/${part(values.name)}`, { durable: values.durable, auto_delete: values.auto_delete, arguments: wanted });
    say(`Queue ${quoted(values.name)} is there.`);
    place.again();
  });
  return [h("h1", {}, "Queues"), ...list, details("Declare a queue", create)];
}

async function one(place, vhost, name) {
  const path = `/queues/${part(vhost)}/${part(name)}`;
  const ages = query({ lengths_age: 300, lengths_incr: 5, msg_rates_age: 300, msg_rates_incr: 5 });
  const [queue, bindings] = await Promise.all([api(path + ages), api(`${path}/bindings`)]);
  const stats = queue.message_stats ?? {};
  const samples = (key) => rates(stats[`${key}_details`]);
  const depth = (key) => levels(queue[`${key}_details`]);
  const bind = form("Bind", [{ name: "source", label: "Exchange", required: true, value: "amq.topic" }, { name: "key", label: "Routing key" }, { name: "arguments", label: "Arguments (JSON)", type: "textarea" }], async (values) => {
    await post(`/bindings/${part(vhost)}/e/${part(values.source)}/q/${part(name)}`, { routing_key: values.key, arguments: parsed(values.arguments) });
    place.again();
  });
  const purge = purging(async () => { await remove(`${path}/contents`); say("Purged."); place.again(); }, name);
  const gone = danger("Delete", `Delete the queue ${quoted(name)} with all its messages?`, async () => { await remove(path); say("Deleted."); location.hash = "#/queues"; });
  return [
    h("h1", {}, "Queue ", bdi(name), h("span", { class: "quiet" }, " in ", bdi(vhost))),
    h("div", { class: "tiles" }, tile("ready", number(queue.messages_ready)), tile("unsettled", number(queue.messages_unacknowledged)), tile("bytes", bytes(queue.message_bytes)),
      tile("in", perSecond(at(stats, "publish_details"))), tile("out", perSecond(at(stats, "deliver_get_details"))), tile("settled", perSecond(at(stats, "ack_details"))), tile("consumers", number(queue.consumers))),
    h("div", { class: "charts" },
      chart("Messages", [{ name: "ready", points: depth("messages_ready") }, { name: "unsettled", points: depth("messages_unacknowledged") }]),
      chart("Messages a second", [{ name: "in", points: samples("publish") }, { name: "out", points: samples("deliver_get") }, { name: "settled", points: samples("ack") }], "/s")),
    h("h2", {}, "What it is"),
    facts([["Features", flags(queue) || "none"], ["State", queue.state], ["Policy", queue.policy || "none"], ["Operator policy", queue.operator_policy || "none"]]),
    h("h2", {}, "What holds"), holding(queue),
    h("h2", {}, "Consumers"),
    table("Consumers", [{ name: "Channel", cell: (c) => (c.channel_details?.name ? link(c.channel_details.name, "channels", c.channel_details.name) : "") }, { name: "Tag", get: (c) => c.consumer_tag }, { name: "Acknowledges", get: (c) => (c.ack_required ? "yes" : "no") }, { name: "Prefetch", number: true, cell: prefetch }, { name: "Active", get: (c) => (c.active === false ? "no" : "yes") }], queue.consumer_details ?? [], undefined, "Nobody consumes from it: messages wait."),
    h("h2", {}, "Bindings"), bindingTable(bindings, place, "source"), details("Bind it to an exchange", bind),
    details("Publish to it", publishing(vhost, "", name)), details("Get messages", getting(vhost, name)), details("Move its messages", moving(place, vhost, name)),
    details("Purge or delete", h("p", {}, purge, " ", gone)),
  ];
}

/** Declared arguments and policies in one list. Of two limits the lower applies; otherwise the declared value. */
function holding(queue) {
  const declared = Object.entries(queue.arguments ?? {}).map(([key, value]) => ({ key, value, by: "declared" }));
  const set = Object.entries(queue.effective_policy_definition ?? {}).map(([key, value]) => ({ key, value, by: "policy" }));
  const columns = [{ name: "Argument", get: (x) => x.key }, { name: "Value", get: (x) => (typeof x.value === "string" && x.value ? x.value : JSON.stringify(x.value)) }, { name: "From", get: (x) => x.by }];
  return [table("What holds", columns, [...declared, ...set], undefined, "No arguments, and no policy."), set.length > 0 && h("p", { class: "quiet" }, "If both are set: of two limits the lower applies; otherwise what was declared.")];
}

/** Bindings, each with a button to unbind. `side` names the column with the link to the other object. */
export function bindingTable(bindings, place, side, empty) {
  const undo = (b) => {
    if (!b.source) return "";
    const kind = b.destination_type === "queue" ? "q" : "e";
    const path = `/bindings/${part(b.vhost)}/e/${part(b.source)}/${kind}/${part(b.destination)}/${part(b.properties_key)}`;
    return danger("Unbind", `Delete the binding of ${quoted(b.destination)} to ${quoted(b.source)} with the key ${quoted(b.routing_key)}?`, async () => { await remove(path); place.again(); });
  };
  const other = { name: side === "source" ? "From" : "To", cell: (b) => (side === "source" ? (b.source ? link(b.source, "exchanges", b.vhost, b.source) : "(default exchange)") : link(b.destination, b.destination_type === "queue" ? "queues" : "exchanges", b.vhost, b.destination)) };
  return table("Bindings", [other, { name: "Routing key", get: (b) => b.routing_key }, { name: "Arguments", get: (b) => short(b.arguments) }, { name: "", cell: undo }], bindings, undefined, empty);
}

/** Moves messages one by one: each is published to the other queue first and removed then, so that none is lost. */
function moving(place, vhost, name) {
  return form("Move messages", [{ name: "to", label: "To the queue", required: true }, { name: "count", label: "How many, at most", type: "number", value: 100, min: 1, max: 10000 }], async (values) => {
    const answer = await post(`/gatepost/queues/${part(vhost)}/${part(name)}/move`, { destination: values.to, count: Number(values.count) });
    say(`${answer.moved} moved.`);
    place.again();
  }, "Move");
}
