// Publishing and subscribing from this page, by MQTT and STOMP over WebSocket: as a device and a web page would.

import { api } from "../api.js";
import { form, h, say, visible } from "../dom.js";
import { connect as mqtt } from "../mqtt.js";
import { connect as stomp } from "../stomp.js";

/** This page is not refreshed, because it holds connections. */
export const still = true;

const KINDS = {
  "MQTT over WebSocket": { port: 15675, tls: 15676, listener: "web-mqtt", path: "/mqtt", connect: mqtt, topic: "plant/1/temp", filter: "plant/#" },
  "STOMP over WebSocket": { port: 15674, tls: 15673, listener: "web-stomp", path: "/ws", connect: stomp, topic: "/topic/plant.1.temp", filter: "/topic/plant.#" },
};

export async function render({ me }) {
  const listeners = (await api("/overview").catch(() => ({}))).listeners ?? [];
  return [h("h1", {}, "Try it"), h("p", {}, "This page is a client itself: connect in both boxes, subscribe in one and publish in the other. A topic is the same in both protocols."), h("div", { class: "charts" }, Object.entries(KINDS).map(([name, kind]) => box(name, kind, me, listeners)))];
}

function box(name, kind, me, listeners) {
  const secure = location.protocol === "https:";
  const found = listeners.find((l) => l.protocol === `http/${kind.listener}`);
  const address = `${secure ? "wss" : "ws"}://${location.hostname}:${secure ? kind.tls : found?.port ?? kind.port}${kind.path}`;
  const lines = h("pre", { tabindex: "0", role: "log", "aria-label": `${name}: what came` }, "");
  const write = (text) => { lines.prepend(`${new Date().toLocaleTimeString("en-GB")} ${text}\n`); while (lines.childNodes.length > 200) lines.lastChild.remove(); };
  let client = null;
  // Who leaves the page does not stay connected.
  addEventListener("hashchange", () => client?.close(), { once: true });
  const connected = () => { if (!client) throw new Error("Connect first."); return client; };
  const open = form(`Connect by ${name}`, [{ name: "address", label: "Address", value: address, size: 30 }, { name: "user", label: "User", value: me.name }, { name: "password", label: "Password", type: "password", autocomplete: "off" }], async (values) => {
    client?.close();
    client = await kind.connect(values.address, values.user, values.password, { message: (topic, body) => write(`${visible(topic)}: ${body}`), closed: (why) => { client = null; write(`closed${why ? `: ${why}` : ""}`); } });
    write("connected");
  }, "Connect");
  const subscribe = form(`Subscribe by ${name}`, [{ name: "filter", label: "Filter", value: kind.filter }], async (values) => { await connected().subscribe(values.filter); write(`subscribed to ${values.filter}`); }, "Subscribe");
  const publish = form(`Publish by ${name}`, [{ name: "topic", label: "Topic", value: kind.topic }, { name: "body", label: "Body", value: "21.5" }], async (values) => { await connected().publish(values.topic, values.body); say("Stored."); }, "Publish");
  return h("figure", { "data-kind": kind.listener }, h("figcaption", {}, name), open, subscribe, publish, lines);
}
