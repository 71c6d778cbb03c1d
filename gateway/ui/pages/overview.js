import { api } from "../api.js";
import { announce, at, bytes, h, number, perSecond, span, table, tile } from "../dom.js";
import { chart, levels, rates } from "../chart.js";

const SAMPLES = "?lengths_age=600&lengths_incr=5&msg_rates_age=600&msg_rates_incr=5";

const CHURN = [["connection_created", "connections opened"], ["connection_closed", "connections closed"], ["channel_created", "channels opened"], ["channel_closed", "channels closed"], ["queue_created", "queues made"], ["queue_deleted", "queues deleted"]];

export async function render({ me }) {
  const seesNodes = me.tags.some((tag) => tag === "administrator" || tag === "monitoring");
  const [overview, nodes] = await Promise.all([api(`/overview${SAMPLES}`), seesNodes ? api("/nodes") : []]);
  const node = nodes[0];
  const stats = overview.message_stats ?? {};
  const samples = (name) => rates(stats[`${name}_details`]);
  const depth = (name) => levels(overview.queue_totals?.[`${name}_details`]);
  const totals = overview.object_totals ?? {};
  const now = (name) => perSecond(at(stats, `${name}_details`));
  const churn = overview.churn_rates ?? {};
  alarms(node);
  return [
    h("h1", {}, overview.cluster_name ?? overview.node),
    node && raised(node).map((text) => h("p", { class: "alarm" }, text)),
    h("div", { class: "tiles" },
      tile("ready", number(overview.queue_totals?.messages_ready), "queues?sort=messages_ready&reverse=true"), tile("unsettled", number(overview.queue_totals?.messages_unacknowledged), "queues?sort=messages_unacknowledged&reverse=true"),
      tile("published", now("publish")), tile("delivered", now("deliver_get")), tile("connections", number(totals.connections), "connections"),
      tile("channels", number(totals.channels), "channels"), tile("queues", number(totals.queues), "queues"), tile("exchanges", number(totals.exchanges), "exchanges"), tile("consumers", number(totals.consumers))),
    h("div", { class: "charts" },
      chart("Messages a second", [{ name: "published", points: samples("publish") }, { name: "confirmed", points: samples("confirm") }, { name: "delivered", points: samples("deliver_get") }, { name: "settled", points: samples("ack") }], "/s"),
      chart("Messages in queues", [{ name: "ready", points: depth("messages_ready") }, { name: "unsettled", points: depth("messages_unacknowledged") }])),
    h("h2", {}, "Coming and going"),
    h("div", { class: "tiles wide" }, CHURN.map(([key, name]) => tile(name, [number(churn[key]), " (", perSecond(at(churn, `${key}_details`)), ")"]))),
    node && [h("h2", {}, "Node"), h("div", { class: "tiles wide" },
      tile("memory", `${bytes(node.mem_used)} of ${bytes(node.mem_limit)}`), tile("disk free", bytes(node.disk_free)), tile("publishers wait below", bytes(node.disk_free_limit)),
      tile("descriptors", `${number(node.fd_used)} of ${number(node.fd_total)}`), tile("up for", span(node.uptime)), tile("version", overview.product_version ?? overview.rabbitmq_version))],
    h("h2", {}, "Listeners"),
    table("Listeners", [{ name: "Protocol", get: (l) => l.protocol }, { name: "Address", get: (l) => l.ip_address }, { name: "Port", get: (l) => String(l.port) }], overview.listeners ?? []),
  ];
}

const raised = (node) => [node.mem_alarm && "Memory is short: publishers wait.", node.disk_free_alarm && "Disk is short: publishers wait."].filter(Boolean);

/** Announces an alarm to screen readers when it begins and when it ends, not at every refresh. */
function alarms(node) {
  const text = node ? raised(node).join(" ") : "";
  if (text === last) return;
  announce(text || "No alarm any more.");
  last = text;
}
let last = "";
