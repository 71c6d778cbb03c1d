import { api, part, post, put, remove } from "../api.js";
import { at, bdi, danger, details, facts, form, h, link, q, perSecond, say, short, tile } from "../dom.js";
import { parsed, publishing } from "./messages.js";
import { bindingTable } from "./queues.js";
import { listing, vhosts } from "./list.js";

const flags = (x) => [x.durable && "durable", x.auto_delete && "auto-delete", x.internal && "internal", x.policy && `policy ${x.policy}`].filter(Boolean).join(", ");
const COLUMNS = [
  { name: "vhost", sort: "vhost", get: (x) => x.vhost }, { name: "Name", sort: "name", cell: (x) => link(x.name || "(default)", "exchanges", x.vhost, x.name || "amq.default") }, { name: "Type", sort: "type", get: (x) => x.type }, { name: "Features", get: flags },
  { name: "In", number: true, sort: "message_stats.publish_in_details.rate", cell: (x) => perSecond(at(x, "message_stats.publish_in_details")) },
  { name: "Out", number: true, sort: "message_stats.publish_out_details.rate", cell: (x) => perSecond(at(x, "message_stats.publish_out_details")) },
];

/** What the counts of an exchange leave out. */
const ASIDE = "In and Out are of messages that were published to the exchange. What other exchanges pass on to it is on the page Flow.";

export async function render(place) {
  const [vhost, name] = place.rest;
  if (name !== undefined) return one(place, vhost, name);
  const [list, names] = await Promise.all([listing(place, "/exchanges", "exchanges", COLUMNS, { empty: "You see no vhost: an administrator can give you permissions in one." }), vhosts()]);
  const create = form("Declare an exchange", [
    { name: "vhost", label: "vhost", options: names }, { name: "name", label: "Name", required: true }, { name: "type", label: "Type", options: ["direct", "fanout", "topic", "headers"] },
    { name: "durable", label: "Durable", type: "checkbox", value: true }, { name: "auto_delete", label: "Auto-delete", type: "checkbox" }, { name: "internal", label: "Internal", type: "checkbox" }, { name: "arguments", label: "Arguments (JSON)", type: "textarea" },
  ], async ({ vhost, name, ...values }) => {
    await put(`/exchanges/${part(vhost)}/${part(name)}`, { ...values, arguments: parsed(values.arguments) });
    say(`Exchange ${q(name)} is there.`);
    place.again();
  });
  return [h("h1", {}, "Exchanges"), ...list, h("p", { class: "quiet" }, ASIDE), details("Declare an exchange", create)];
}

async function one(place, vhost, name) {
  const path = `/exchanges/${part(vhost)}/${part(name)}`;
  const isDefault = name === "amq.default";
  const [exchange, to, from] = await Promise.all([api(path), isDefault ? [] : api(`${path}/bindings/source`), isDefault ? [] : api(`${path}/bindings/destination`)]);
  const bind = form("Bind", [{ name: "kind", label: "To", options: ["queue", "exchange"] }, { name: "to", label: "Name", required: true }, { name: "key", label: "Routing key" }, { name: "arguments", label: "Arguments (JSON)", type: "textarea" }], async (values) => {
    await post(`/bindings/${part(vhost)}/e/${part(name)}/${values.kind === "queue" ? "q" : "e"}/${part(values.to)}`, { routing_key: values.key, arguments: parsed(values.arguments) });
    place.again();
  });
  return [
    h("h1", {}, "Exchange ", bdi(exchange.name || "(default)"), h("span", { class: "quiet" }, " in ", bdi(vhost))),
    exchange.message_stats && h("div", { class: "tiles" }, tile("in", perSecond(at(exchange, "message_stats.publish_in_details"))), tile("out", perSecond(at(exchange, "message_stats.publish_out_details")))),
    facts([["Type", exchange.type], ["Features", flags(exchange)], ["Arguments", short(exchange.arguments) || "none"]]),
    isDefault ? h("p", { class: "quiet" }, "Every queue is bound here by its name.") : [h("h2", {}, "Bindings from here"), bindingTable(to, place, "destination", "Nothing is bound to it: messages that are published here go nowhere. Bind a queue below."), h("h2", {}, "Bindings to here"), bindingTable(from, place, "source"), from.length > 0 && h("p", { class: "quiet" }, ASIDE), details("Bind something to it", bind)],
    details("Publish", publishing(vhost, name)),
    !isDefault && !name.startsWith("amq.") && details("Delete", danger("Delete", `Delete the exchange ${q(name)} with its bindings?`, async () => { await remove(path); say("Deleted."); location.hash = "#/exchanges"; })),
  ];
}
