// The flow map: which clients send to which, from the traffic of the last interval. Clients that publish are on the left, then exchanges
// and topics, then queues, then clients that receive. Edges that lead back have an arrow: dead letters of a queue, and exchanges that
// pass messages on. The table below shows the same edges.

import { api, part, query } from "../api.js";
import { bdi, bytes, details, field, h, number, rate, s, table, visible } from "../dom.js";
import { choose, vhosts } from "./list.js";

const [WIDE, HIGH, GAP, STEP] = [190, 38, 130, 54];
const LAYERS = ["Publishers", "Exchanges and topics", "Queues", "Consumers"];
/** Edges that the drawing and the table show at most, the fastest first. More would be unreadable. */
const SHOWN = 60;

export async function render(place) {
  const names = await vhosts();
  const vhost = place.search.get("vhost") ?? names[0] ?? "/";
  const filter = place.search.get("name") ?? "";
  const choice = h("form", { role: "search", "aria-label": "Choose what flows", submit: (event) => { event.preventDefault(); const { vhost, name } = event.target.elements; choose(place, { vhost: vhost.value, name: name.value }); } },
    field({ name: "vhost", label: "vhost", options: names, value: vhost }), field({ name: "name", label: "Name contains", value: filter, type: "search" }), h("button", {}, "Show"));
  const start = [h("h1", {}, "Flow"), choice];
  if (!place.me.tags.some((tag) => tag === "administrator" || tag === "monitoring")) return [h("h1", {}, "Flow"), h("p", { class: "quiet" }, "The flow map is for users with the tag monitoring or administrator.")];
  const asked = query({ vhost, name: filter });
  let flow;
  try { flow = await api(`/gatepost/flow${asked}`); } catch (error) {
    if (error.status !== 404) throw error;
    return [...start, h("p", { class: "quiet" }, names.includes(vhost) ? "The flow map is off (management.flow)." : "There is no such vhost.")];
  }
  const nodes = new Map(flow.nodes.map((node) => [node.id, node]));
  const edges = flow.edges.filter((e) => nodes.has(e.from) && nodes.has(e.to));
  const shown = edges.slice(0, SHOWN);
  const left = [
    edges.length > SHOWN && `${number(edges.length - SHOWN)} slower edges are not shown: filter by name to see them.`,
    (flow.left_out.nodes > 0 || flow.left_out.edges > 0) && `The gateway left out ${number(flow.left_out.nodes)} nodes and ${number(flow.left_out.edges)} edges.`,
  ].filter(Boolean).join(" ");
  return [
    ...start,
    h("p", { class: "quiet" }, `${number(shown.length)} of ${number(edges.length)} edges, measured over ${flow.interval} s. ${left} `, h("a", { href: `api/gatepost/flow.dot${asked}`, download: "flow.dot" }, "Download as Graphviz")),
    shown.length ? [h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Flow map" }, picture(shown, nodes)), h("h2", {}, "As a table"), listed(shown, nodes)]
      : h("p", {}, filter ? "Nothing of that name has flowed lately." : "There were no messages lately. Publish one, and it appears within seconds."),
    details("What the lines mean", h("p", {}, "Messages go from left to right, or to where an arrow points. A wider line carries more messages a second. A dashed line carries dead letters: what a queue could not deliver. A queue shows its backlog. Latency is how long messages waited: p50 for half of them, p99 for all but one in a hundred.")),
  ];
}

const ms = (value) => (value < 1 ? "under 1 ms" : `${number(value)} ms`);
const latency = (edge) => (edge.latency_ms ? `p50 ${ms(edge.latency_ms.p50)}, p99 ${ms(edge.latency_ms.p99)}` : "");
const waiting = (node) => (node.kind === "queue" && node.messages !== undefined ? number(node.messages) : "");
const backlog = (node) => (waiting(node) ? `${waiting(node)} waiting` : "");
/** Whether a queue sends its dead letters along the edge. */
const carriesDead = (from, to) => from.kind === "queue" && to.kind !== "client";
const about = (node) => [backlog(node), node.protocol, node.user].filter(Boolean).join(", ");

/** The address of a node's own page. The gateway's internal clients and nodes for several topics have none. */
function address(node) {
  const to = (...path) => "#/" + path.map(part).join("/");
  if (node.protocol === "in-process" || node.id.startsWith("topics:")) return null;
  if (node.kind === "queue") return to("queues", node.vhost, node.name);
  if (node.kind === "exchange") return to("exchanges", node.vhost, node.name || "amq.default");
  if (node.kind === "topic") return to("topics", node.vhost, node.name);
  return `#/connections?name=${part(node.name)}`;
}

const label = (node) => (node.name ? visible(node.name) : node.kind === "exchange" ? "(default)" : node.kind);
const named = (node) => (address(node) ? h("a", { href: address(node) }, bdi(label(node))) : bdi(label(node)));

const listed = (edges, nodes) => table("Flow", [
  { name: "From", cell: (e) => h("span", {}, nodes.get(e.from).kind, " ", named(nodes.get(e.from))) }, { name: "To", cell: (e) => h("span", {}, nodes.get(e.to).kind, " ", named(nodes.get(e.to)), carriesDead(nodes.get(e.from), nodes.get(e.to)) && ", as dead letters") },
  { name: "Messages", number: true, cell: (e) => rate(e.rate) }, { name: "Bytes", number: true, cell: (e) => (e.bytes_rate === null ? "" : `${bytes(e.bytes_rate)}/s`) },
  { name: "So far", number: true, get: (e) => e.total }, { name: "Waiting", number: true, cell: (e) => waiting(nodes.get(e.to)) }, { name: "Latency", tight: true, get: latency },
], edges);

/** Positions of nodes. A client that publishes and receives has one on both sides. */
function layout(edges, nodes) {
  const places = new Map();
  const put = (id, isTarget) => {
    const { kind } = nodes.get(id);
    const layer = kind === "client" ? (isTarget ? 3 : 0) : kind === "queue" ? 2 : 1;
    const key = `${layer} ${id}`;
    if (!places.has(key)) places.set(key, { node: nodes.get(id), layer, before: [], row: 0 });
    return places.get(key);
  };
  const lines = edges.map((edge) => {
    const [from, to] = [put(edge.from, false), put(edge.to, true)];
    if (from.layer < to.layer) to.before.push(from);
    return { edge, from, to };
  });
  // On the left, the fastest come first. Each other node is placed at the mean height of its sources, so that few lines cross.
  const layers = LAYERS.map((_, n) => [...places.values()].filter((place) => place.layer === n));
  for (const layer of layers) {
    const middle = new Map(layer.map((place, n) => [place, place.before.length ? place.before.reduce((sum, b) => sum + b.row, 0) / place.before.length : n]));
    layer.sort((a, b) => middle.get(a) - middle.get(b)).forEach((place, row) => (place.row = row));
  }
  return { lines, layers };
}

/** As much of a text as fits into a box. Letters differ in width, by more than twice. */
function clip(text, size) {
  pen.font = `${size}px system-ui, sans-serif`;
  const fits = (some) => pen.measureText(some).width <= WIDE - 16;
  if (fits(text)) return text;
  const letters = [...text];
  while (letters.length && !fits(`${letters.join("")}…`)) letters.length -= Math.ceil(letters.length / 16);
  return `${letters.join("")}…`;
}
const pen = document.createElement("canvas").getContext("2d");

function picture(edges, nodes) {
  const { lines, layers } = layout(edges, nodes);
  const height = 28 + Math.max(...layers.map((layer) => layer.length)) * STEP;
  const width = LAYERS.length * WIDE + (LAYERS.length - 1) * GAP;
  const left = (place) => place.layer * (WIDE + GAP);
  const top = (place) => 28 + place.row * STEP;
  const fastest = Math.max(...edges.map((edge) => edge.rate), 1);
  const svg = s("svg", { class: "map flow", viewBox: `-2 0 ${width + 4} ${height}`, width: width + 4, height, role: "group", "aria-label": `${edges.length} edges, said in the table below` });
  svg.append(s("defs", {}, s("marker", { id: "arrow", viewBox: "0 0 10 10", refX: 9, refY: 5, markerWidth: 10, markerHeight: 10, markerUnits: "userSpaceOnUse", orient: "auto" }, s("path", { d: "M0 0L10 5L0 10z" }))));
  LAYERS.forEach((name, n) => svg.append(s("text", { x: n * (WIDE + GAP), y: 14, class: "layer" }, name)));
  const texts = [];
  const taken = [];
  for (const { edge, from, to } of lines) {
    const [isBack, isForth, isDead] = [from.layer > to.layer, from.layer < to.layer, carriesDead(from.node, to.node)];
    // An edge that leads back starts on the left side of its box, a little below the others.
    const [x1, x2] = [left(from) + (isBack ? 0 : WIDE), left(to) + (isForth ? 0 : WIDE)];
    const [y1, y2] = [from, to].map((place) => top(place) + HIGH / 2 + (isBack ? 11 : 0));
    const bend = from.layer === to.layer ? [x1 + 70, x2 + 70] : [(x1 + x2) / 2, (x1 + x2) / 2];
    const said = [`${label(from.node)} → ${label(to.node)}: ${rate(edge.rate)}${isDead ? " of dead letters" : ""}`, latency(edge)].filter(Boolean).join("; ");
    const thick = 1.5 + 6.5 * Math.sqrt(edge.rate / fastest);
    const path = s("path", { d: `M${x1} ${y1}C${bend[0]} ${y1} ${bend[1]} ${y2} ${x2} ${y2}`, "stroke-width": thick.toFixed(1), ...(isDead && { class: "dead" }), ...(!isForth && { "marker-end": "url(#arrow)" }) }, s("title", {}, said));
    svg.append(path);
    // A label that finds no room beside the labels of faster edges is left out; the table shows the rate.
    const at = (t, a, b, c, d) => (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t ** 2 * c + t ** 3 * d;
    const half = 4 * rate(edge.rate).length + 1;
    const spots = [0.5, 0.36, 0.64, 0.24, 0.76].map((t) => [at(t, x1, bend[0], bend[1], x2), at(t, y1, y1, y2, y2) - 3 - thick / 2]);
    const spot = spots.find(([x, y]) => taken.every(([a, b, other]) => Math.abs(x - a) > half + other || Math.abs(y - b) > 13));
    if (!spot) continue;
    taken.push([...spot, half]);
    texts.push(s("text", { x: spot[0], y: spot[1], "text-anchor": "middle", class: "rate" }, rate(edge.rate)));
  }
  for (const place of layers.flat()) svg.append(box(place, left(place), top(place)));
  svg.append(...texts);
  return svg;
}

function box({ node, layer }, x, y) {
  const [small, to] = [about(node), address(node)];
  const parts = [
    s("title", {}, [label(node), small].filter(Boolean).join(": ")), s("rect", { x, y, width: WIDE, height: HIGH, rx: 5 }),
    s("text", { x: x + 8, y: y + (small ? 16 : 23) }, clip(label(node), 12)), ...(small ? [s("text", { x: x + 8, y: y + 31, class: "small" }, clip(small, 12))] : []),
  ];
  return to ? s("a", { href: to, "data-key": `${layer} ${node.id}` }, ...parts) : s("g", {}, ...parts);
}
