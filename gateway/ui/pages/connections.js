import { api, octets, part, remove } from "../api.js";
import { at, bdi, bytes, bytesPerSecond, danger, details, facts, field, h, json, link, number, q, perSecond, prefetch, say, table, tile, time } from "../dom.js";
import { listing } from "./list.js";

const client = (c) => c.variable_map?.client_id ?? c.user_provided_name ?? c.client_properties?.connection_name ?? c.client_properties?.product ?? "";
const COLUMNS = [
  { name: "Name", sort: "name", tight: true, cell: (c) => link(c.name, "connections", c.name) },
  { name: "Client", get: client },
  { name: "User", sort: "user", get: (c) => c.user }, { name: "vhost", sort: "vhost", get: (c) => c.vhost },
  { name: "Protocol", sort: "protocol", tight: true, get: (c) => c.protocol + (c.ssl ? " over TLS" : "") }, { name: "State", sort: "state", get: (c) => c.state },
  { name: "Channels", number: true, sort: "channels", get: (c) => c.channels },
  { name: "From client", number: true, sort: "recv_oct_details.rate", cell: (c) => bytesPerSecond(c.recv_oct_details) },
  { name: "To client", number: true, sort: "send_oct_details.rate", cell: (c) => bytesPerSecond(c.send_oct_details) },
];

export async function render(place) {
  const [name] = place.rest;
  const about = { label: "Name, client or user contains", empty: "Nobody is connected. Connect a client to one of the listeners that the overview names." };
  return name === undefined ? [h("h1", {}, "Connections"), ...(await listing(place, "/connections", "connections", COLUMNS, about))] : one(name);
}

async function one(name) {
  const [connection, channels] = await Promise.all([api(`/connections/${part(name)}`), api(`/connections/${part(name)}/channels`)]);
  const reason = field({ name: "reason", label: "Reason, told to the client", value: "closed by the operator", maxlength: 200, size: 30 });
  const close = danger("Close", `Close the connection ${q(name)}?`, async () => {
    await remove(`/connections/${part(name)}`, { "X-Reason": octets(reason.querySelector("input").value) });
    say("Closed.");
    location.hash = "#/connections";
  });
  const id = connection.variable_map?.client_id;
  return [
    h("h1", {}, "Connection ", bdi(name)),
    h("div", { class: "tiles" }, tile("from client", bytes(connection.recv_oct)), tile("from client", bytesPerSecond(connection.recv_oct_details)), tile("to client", bytes(connection.send_oct)), tile("to client", bytesPerSecond(connection.send_oct_details)), tile("channels", number(connection.channels))),
    h("h2", {}, "What is known"),
    facts([["Client", client(connection)], ["User", connection.user], ["vhost", connection.vhost], ["Protocol", connection.protocol], ["TLS", connection.ssl ? "yes" : "no"], ["Peer", `${connection.peer_host}:${connection.peer_port}`],
      ["Since", connection.connected_at ? time(connection.connected_at) : "unknown"], ["Heartbeat", `${connection.timeout} s`], ["State", connection.state], id !== undefined && ["Session", link(id, "sessions", connection.vhost, id)]]),
    details("What the client reports about itself", h("pre", { tabindex: 0 }, json(connection.client_properties ?? {}))),
    h("h2", {}, "Channels"), table("Channels", CHANNELS, channels),
    h("h2", {}, "Close it"), h("form", { "aria-label": "Close", submit: (event) => event.preventDefault() }, reason, close),
    h("p", { class: "quiet" }, "MQTT 3 cannot carry a reason: such a client only sees that the connection ends."),
  ];
}

export const CHANNELS = [
  { name: "Channel", sort: "name", tight: true, cell: (c) => link(c.name, "channels", c.name) }, { name: "User", sort: "user", get: (c) => c.user }, { name: "Mode", get: (c) => [c.confirm && "confirms", c.transactional && "transactions"].filter(Boolean).join(", ") },
  { name: "Consumers", number: true, sort: "consumer_count", get: (c) => c.consumer_count }, { name: "Prefetch", number: true, sort: "prefetch_count", cell: prefetch },
  { name: "Unsettled", number: true, sort: "messages_unacknowledged", get: (c) => c.messages_unacknowledged }, { name: "Unconfirmed", number: true, sort: "messages_unconfirmed", get: (c) => c.messages_unconfirmed },
  { name: "Published", number: true, cell: (c) => perSecond(at(c, "message_stats.publish_details")) }, { name: "Delivered", number: true, cell: (c) => perSecond(at(c, "message_stats.deliver_get_details")) },
];
