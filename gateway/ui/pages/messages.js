// Publishing and getting by hand, from the pages of exchanges and queues.

import { part, post } from "../api.js";
import { bdi, bytes, danger, form, h, json, q, say, short } from "../dom.js";

/** JSON of a text area, or the value for an empty one. */
export function parsed(text, empty = {}) {
  if (!text.trim()) return empty;
  try { return JSON.parse(text); } catch (error) { throw new Error(`This is no JSON: ${error.message}`); }
}

/** Publishes to an exchange. `key` fixes the routing key, for a queue. */
export function publishing(vhost, exchange, key) {
  const fields = [
    key === undefined && { name: "key", label: "Routing key" }, { name: "payload", label: "Body", type: "textarea" },
    { name: "headers", label: "Headers (JSON)", type: "textarea", placeholder: '{ "unit": "°C" }' },
    { name: "properties", label: "Other properties (JSON)", type: "textarea", placeholder: '{ "content_type": "text/plain", "expiration": "60000" }' },
    { name: "durable", label: "Stored", type: "checkbox", value: true }, { name: "base64", label: "The body is base64", type: "checkbox" },
  ].filter(Boolean);
  return form("Publish", fields, async (values) => {
    const answer = await post(`/exchanges/${part(vhost)}/${part(exchange || "amq.default")}/publish`, {
      routing_key: key ?? values.key, payload: values.payload, payload_encoding: values.base64 ? "base64" : "string",
      properties: { delivery_mode: values.durable ? 2 : 1, headers: parsed(values.headers), ...parsed(values.properties) },
    });
    say(answer.routed ? "Published." : "Published, but no queue took it.", !answer.routed);
  });
}

const MODES = { "look, and put back": "ack_requeue_true", "take away": "ack_requeue_false", "reject, and put back": "reject_requeue_true", "reject": "reject_requeue_false" };

/** Gets messages of a queue. */
export function getting(vhost, queue) {
  const found = h("div", { "aria-live": "polite" });
  const fields = [{ name: "mode", label: "What happens to them", options: Object.keys(MODES) }, { name: "count", label: "How many", type: "number", value: 1, min: 1, max: 1000 }];
  const get = form("Get messages", fields, async (values) => {
    const asked = { count: Number(values.count), ackmode: MODES[values.mode], encoding: "auto", truncate: 50000 };
    const messages = await post(`/queues/${part(vhost)}/${part(queue)}/get`, asked);
    found.replaceChildren(...(messages.length ? messages.map(message) : [h("p", { class: "quiet" }, "The queue has no ready message.")]));
  }, "Get");
  return [h("p", { class: "warn" }, "Getting disturbs a queue: messages that are put back are marked as redelivered."), get, found];
}

const message = (m) => h("figure", {}, h("figcaption", {}, bdi(m.exchange || "(default)"), " → ", bdi(m.routing_key), h("span", { class: "quiet" }, `${bytes(m.payload_bytes)}${m.redelivered ? ", redelivered" : ""}, ${m.message_count} more`)),
  short(m.properties) && h("pre", { tabindex: 0, "aria-label": "Properties" }, json(m.properties)), h("pre", { tabindex: 0, "aria-label": "Body" }, m.payload_encoding === "string" ? m.payload : `base64: ${m.payload}`));

export const purging = (action, what) => danger("Purge", `Purge the queue ${q(what)}: delete all its ready messages?`, action);
