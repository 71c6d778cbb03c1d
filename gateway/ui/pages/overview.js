import { api } from "../api.js";
import { bytes, h, number, rate, span, table, tile, at } from "../dom.js";
import { chart, levels, rates } from "../chart.js";

const SAMPLES = "?lengths_age=600&lengths_incr=5&msg_rates_age=600&msg_rates_incr=5";

export async function render({ me }) {
  const seesNodes = me.tags.some((tag) => tag === "administrator" || tag === "monitoring");
  const [overview, nodes] = await Promise.all([api(`/overview${SAMPLES}`), seesNodes ? api("/nodes") : []]);
  const node = nodes[0];
  const stats = overview.message_stats ?? {};
  const samples = (name) => rates(stats[`${name}_details`]?.samples);
  const depth = (name) => levels(overview.queue_totals?.[`${name}_details`]?.samples);
  const totals = overview.object_totals ?? {};
  const now = (name) => rate(at(stats, `${name}_details.rate`));
  return [
    h("h1", {}, overview.cluster_name ?? overview.node),
    node && alarms(node),
    h("div", { class: "tiles" },
      tile("ready", number(overview.queue_totals?.messages_ready)), tile("unsettled", number(overview.queue_totals?.messages_unacknowledged)),
      tile("published", now("publish")), tile("delivered", now("deliver_get")), tile("connections", number(totals.connections)),
      tile("channels", number(totals.channels)), tile("queues", number(totals.queues)), tile("exchanges", number(totals.exchanges)), tile("consumers", number(totals.consumers))),
    h("div", { class: "charts" },
      chart("Messages a second", [{ name: "published", points: samples("publish") }, { name: "confirmed", points: samples("confirm") }, { name: "delivered", points: samples("deliver_get") }, { name: "settled", points: samples("ack") }], "/s"),
      chart("Messages in queues", [{ name: "ready", points: depth("messages_ready") }, { name: "unsettled", points: depth("messages_unacknowledged") }])),
    node && [h("h2", {}, "Node"), h("div", { class: "tiles" },
      tile("memory", `${bytes(node.mem_used)} of ${bytes(node.mem_limit)}`), tile("disk free", bytes(node.disk_free)), tile("publishers wait below", bytes(node.disk_free_limit)),
      tile("descriptors", `${number(node.fd_used)} of ${number(node.fd_total)}`), tile("sockets", number(node.sockets_used)), tile("up for", span(node.uptime)), tile("version", overview.product_version ?? overview.rabbitmq_version))],
    h("h2", {}, "Listeners"),
    table("Listeners", [{ name: "Protocol", get: (l) => l.protocol }, { name: "Address", get: (l) => l.ip_address }, { name: "Port", get: (l) => l.port }], overview.listeners ?? []),
  ];
}

function alarms(node) {
  const raised = [node.mem_alarm && "Memory is short: publishers wait.", node.disk_free_alarm && "Disk is short: publishers wait."].filter(Boolean);
  return raised.length ? h("div", { class: "alarm", role: "alert" }, raised.join(" ")) : null;
}
