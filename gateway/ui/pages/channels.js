import { api, part } from "../api.js";
import { at, bdi, facts, h, link, number, perSecond, prefetch, table, tile } from "../dom.js";
import { CHANNELS } from "./connections.js";
import { listing } from "./list.js";

export async function render(place) {
  const [name] = place.rest;
  const about = { empty: "There are none. AMQP clients open channels; MQTT and STOMP connections are on the page of connections." };
  return name === undefined ? [h("h1", {}, "Channels"), ...(await listing(place, "/channels", "channels", CHANNELS, about))] : one(name);
}

async function one(name) {
  const channel = await api(`/channels/${part(name)}`);
  const stats = (key) => perSecond(at(channel, `message_stats.${key}_details`));
  return [
    h("h1", {}, "Channel ", bdi(name)),
    h("div", { class: "tiles" }, tile("unsettled", number(channel.messages_unacknowledged)), tile("unconfirmed", number(channel.messages_unconfirmed)), tile("uncommitted", number(channel.messages_uncommitted)), tile("published", stats("publish")), tile("delivered", stats("deliver_get")), tile("settled", stats("ack"))),
    h("h2", {}, "What is known"),
    facts([["Connection", link(channel.connection_details?.name ?? "", "connections", channel.connection_details?.name ?? "")], ["User", channel.user], ["vhost", channel.vhost], ["State", channel.state], ["Confirms", channel.confirm ? "yes" : "no"], ["Transactions", channel.transactional ? "yes" : "no"],
      ["Prefetch", channel.prefetch_count ? `${channel.prefetch_count} for each consumer` : "no limit"], ["Prefetch of the channel", channel.global_prefetch_count ? String(channel.global_prefetch_count) : "no limit"]]),
    h("h2", {}, "Consumers"),
    table("Consumers", [{ name: "Queue", cell: (c) => link(c.queue?.name ?? "", "queues", c.queue?.vhost ?? channel.vhost, c.queue?.name ?? "") }, { name: "Tag", get: (c) => c.consumer_tag }, { name: "Acknowledges", get: (c) => (c.ack_required ? "yes" : "no") }, { name: "Prefetch", number: true, cell: prefetch }], channel.consumer_details ?? [], undefined, "Nothing is consumed on it."),
  ];
}
