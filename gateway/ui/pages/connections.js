import { api, part, remove } from "../api.js";
import { at, bytes, danger, details, facts, field, h, json, link, number, rate, say, table, tile } from "../dom.js";
import { listing } from "./list.js";

const COLUMNS = [
  { name: "Name", sort: "name", cell: (c) => link(c.name, "connections", c.name) },
  { name: "Client", get: (c) => c.variable_map?.client_id ?? c.user_provided_name ?? c.client_properties?.product ?? "" },
  { name: "User", sort: "user", get: (c) => c.user }, { name: "vhost", sort: "vhost", get: (c) => c.vhost },
  { name: "Protocol", sort: "protocol", get: (c) => c.protocol + (c.ssl ? " over TLS" : "") }, { name: "State", sort: "state", get: (c) => c.state },
  { name: "Channels", number: true, sort: "channels", get: (c) => c.channels },
  { name: "From client", number: true, sort: "recv_oct_details.rate", cell: (c) => `${bytes(at(c, "recv_oct_details.rate"))}/s` },
  { name: "To client", number: true, sort: "send_oct_details.rate", cell: (c) => `${bytes(at(c, "send_oct_details.rate"))}/s` },
];

export async function render(place) {
  const [name] = place.rest;
  return name === undefined ? [h("h1", {}, "Connections"), ...(await listing(place, "/connections", "connections", COLUMNS))] : one(name);
}

async function one(name) {
  const [connection, channels] = await Promise.all([api(`/connections/${part(name)}`), api(`/connections/${part(name)}/channels`)]);
  const reason = field({ name: "reason", label: "Reason, told to the client", value: "closed by the operator" });
  const close = danger("Close", "Close this connection?", async () => {
    await remove(`/connections/${part(name)}`, { "X-Reason": reason.querySelector("input").value });
    say("Closed.");
    location.hash = "#/connections";
  });
  return [
    h("h1", {}, `Connection ${name}`),
    h("div", { class: "tiles" }, tile("from client", bytes(connection.recv_oct)), tile("to client", bytes(connection.send_oct)), tile("channels", number(connection.channels))),
    h("h2", {}, "What is known"),
    facts([["User", connection.user], ["vhost", connection.vhost], ["Protocol", connection.protocol], ["TLS", connection.ssl ? "yes" : "no"], ["Peer", `${connection.peer_host}:${connection.peer_port}`],
      ["Since", connection.connected_at ? new Date(connection.connected_at).toLocaleString("en-GB") : "unknown"], ["Heartbeat", `${connection.timeout} s`], ["State", connection.state]]),
    details("What the client says of itself", h("pre", {}, json(connection.client_properties ?? {}))),
    h("h2", {}, "Channels"), table("Channels", CHANNELS, channels),
    h("h2", {}, "Close it"), h("form", { submit: (event) => event.preventDefault() }, reason, close),
  ];
}

export const CHANNELS = [
  { name: "Channel", sort: "name", cell: (c) => c.name }, { name: "User", sort: "user", get: (c) => c.user }, { name: "Mode", get: (c) => [c.confirm && "confirms", c.transactional && "transactions"].filter(Boolean).join(", ") },
  { name: "Consumers", number: true, sort: "consumer_count", get: (c) => c.consumer_count }, { name: "Prefetch", number: true, sort: "prefetch_count", get: (c) => c.prefetch_count },
  { name: "Unsettled", number: true, sort: "messages_unacknowledged", get: (c) => c.messages_unacknowledged }, { name: "Unconfirmed", number: true, sort: "messages_unconfirmed", get: (c) => c.messages_unconfirmed },
  { name: "Published", number: true, cell: (c) => rate(at(c, "message_stats.publish_details.rate")) }, { name: "Delivered", number: true, cell: (c) => rate(at(c, "message_stats.deliver_get_details.rate")) },
];
