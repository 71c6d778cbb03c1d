// MQTT sessions, which outlive connections, and their subscriptions.

import { api, part, remove } from "../api.js";
import { bdi, danger, facts, h, link, number, q, say, span, table, tile, time } from "../dom.js";
import { listing, vhosts } from "./list.js";

const ends = (x) => (x.expires_at ? time(x.expires_at) : x.expiry === null ? "never" : x.expiry === 0 ? "with its connection" : `${span(x.expiry * 1000)} after it leaves`);

export async function render(place) {
  const [vhost, client] = place.rest;
  if (client !== undefined) return one(vhost, client);
  const names = await vhosts();
  const chosen = place.search.get("vhost") ?? names[0] ?? "/";
  const isOfSubscriptions = place.search.get("list") === "subscriptions";
  const to = (list) => `#/sessions?vhost=${part(chosen)}${list ? `&list=${list}` : ""}`;
  const tabs = h("p", {}, h("a", { href: to(""), "aria-current": !isOfSubscriptions && "true" }, "Sessions"), " · ", h("a", { href: to("subscriptions"), "aria-current": isOfSubscriptions && "true" }, "Subscriptions"));
  const fields = [{ name: "vhost", label: "vhost", options: names, value: chosen }];
  const whose = { name: "Client id", sort: "client_id", cell: (x) => link(x.client_id, "sessions", chosen, x.client_id) };
  if (isOfSubscriptions) {
    const columns = [{ name: "Filter", sort: "filter", get: (x) => x.filter }, whose, { name: "QoS", number: true, sort: "qos", get: (x) => x.qos }];
    const about = { fields, label: "Filter contains", empty: "No MQTT client has subscribed to anything." };
    return [h("h1", {}, "MQTT subscriptions"), tabs, ...(await listing(place, `/gatepost/subscriptions/${part(chosen)}`, "subscriptions", columns, about))];
  }
  const columns = [
    whose, { name: "User", sort: "user", get: (x) => x.user }, { name: "Connected", sort: "connected", get: (x) => (x.connected ? "yes" : "no") },
    { name: "Waiting", number: true, sort: "messages", get: (x) => x.messages }, { name: "In flight", number: true, sort: "in_flight", get: (x) => x.in_flight },
    { name: "Subscriptions", number: true, sort: "subscription_count", get: (x) => x.subscription_count }, { name: "Ends", sort: "expires_at", get: ends },
    { name: "", cell: (x) => ending(chosen, x.client_id, place.again) },
  ];
  const also = { columns: "client_id,user,connected,messages,in_flight,subscription_count,expiry,expires_at" };
  const about = { fields, also, label: "Client id or user contains", empty: "No MQTT client is connected, and none has left a session behind." };
  return [h("h1", {}, "MQTT sessions"), tabs, ...(await listing(place, `/gatepost/sessions/${part(chosen)}`, "sessions", columns, about))];
}

const ending = (vhost, client, then) => danger("End", `End the session of ${q(client)}, with its subscriptions and all messages that wait for it?`, async () => {
  await remove(`/gatepost/sessions/${part(vhost)}/${part(client)}`);
  say("Ended. If the client connects again, it gets a new session.");
  then();
});

async function one(vhost, client) {
  const session = await api(`/gatepost/sessions/${part(vhost)}/${part(client)}`);
  const queue = `mqtt-subscription-${client}`;
  return [
    h("h1", {}, "Session ", bdi(client), h("span", { class: "quiet" }, " in ", bdi(vhost))),
    h("div", { class: "tiles" }, tile("waiting", number(session.messages)), tile("in flight", number(session.in_flight)), tile("subscriptions", number(session.subscriptions.length))),
    h("h2", {}, "What is known"),
    facts([["User", session.user], ["Connected", session.connected ? h("a", { href: `#/connections?name=${part(client)}` }, "yes") : "no"], ["Ends", ends(session)], session.subscriptions.length > 0 && ["Queue", link(queue, "queues", vhost, queue)]]),
    h("h2", {}, "Subscriptions"), table("Subscriptions", [{ name: "Filter", get: (x) => x.filter }, { name: "QoS", number: true, get: (x) => x.qos }], session.subscriptions, undefined, "It has subscribed to nothing."),
    h("h2", {}, "End it"), h("p", {}, ending(vhost, client, () => (location.hash = `#/sessions?vhost=${part(vhost)}`))),
    h("p", { class: "quiet" }, "A connected client is told that its session was taken over, and its will is published."),
  ];
}
