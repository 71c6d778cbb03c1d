// The flow map: which clients send to which, from the traffic of the last interval. Clients that publish are on the left, then exchanges
// and topics, then queues, then clients that receive. The table below shows the same edges.

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
    details("What the lines mean", h("p", {}, "A wider line carries more messages a second. A queue shows its backlog. Latency is how long messages waited: p50 for half of them, p99 for all but one in a hundred.")),
  ];
}

const ms = (value) => `${number(value)} ms`;
const latency = (edge) => (edge.latency_ms ? `p50 ${ms(edge.latency_ms.p50)}, p99 ${ms(edge.latency_ms.p99)}` : "");
const backlog = (node) => (node.kind === "queue" && node.messages !== undefined ? `${number(node.messages)} waiting` : "");
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
  { name: "From", cell: (e) => h("span", {}, nodes.get(e.from).kind, " ", named(nodes.get(e.from))) }, { name: "To", cell: (e) => h("span", {}, nodes.get(e.to).kind, " ", named(nodes.get(e.to))) },
  { name: "Messages", number: true, cell: (e) => rate(e.rate) }, { name: "Bytes", number: true, cell: (e) => (e.bytes_rate === null ? "" : `${bytes(e.bytes_rate)}/s`) },
  { name: "So far", number: true, get: (e) => e.total }, { name: "Waiting", cell: (e) => backlog(nodes.get(e.to)) }, { name: "Latency", get: latency },
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

const clip = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function picture(edges, nodes) {
  const { lines, layers } = layout(edges, nodes);
  const height = 28 + Math.max(...layers.map((layer) => layer.length)) * STEP;
  const width = LAYERS.length * WIDE + (LAYERS.length - 1) * GAP;
  const left = (place) => place.layer * (WIDE + GAP);
  const top = (place) => 28 + place.row * STEP;
  const fastest = Math.max(...edges.map((edge) => edge.rate), 1);
  const svg = s("svg", { class: "map flow", viewBox: `-2 0 ${width + 4} ${height}`, width: width + 4, height, role: "group", "aria-label": `${edges.length} edges, said in the table below` });
  LAYERS.forEach((name, n) => svg.append(s("text", { x: n * (WIDE + GAP), y: 14, class: "layer" }, name)));
  const texts = lines.map(({ edge, from, to }, n) => {
    const [x1, y1, y2] = [left(from) + WIDE, top(from) + HIGH / 2, top(to) + HIGH / 2];
    const x2 = from.layer < to.layer ? left(to) : left(to) + WIDE;
    const bend = from.layer < to.layer ? [(x1 + x2) / 2, (x1 + x2) / 2] : [x1 + 70, x2 + 70];
    const said = [`${label(from.node)} → ${label(to.node)}: ${rate(edge.rate)}`, latency(edge)].filter(Boolean).join("; ");
    const thick = 1.5 + 6.5 * Math.sqrt(edge.rate / fastest);
    const path = s("path", { d: `M${x1} ${y1}C${bend[0]} ${y1} ${bend[1]} ${y2} ${x2} ${y2}`, "stroke-width": thick.toFixed(1) }, s("title", {}, said));
    svg.append(path);
    // Labels of neighbouring lines are placed at different points of their lines, or they would cover each other.
    const t = [0.5, 0.36, 0.64][n % 3];
    const at = (a, b, c, d) => (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t ** 2 * c + t ** 3 * d;
    return s("text", { x: at(x1, bend[0], bend[1], x2), y: at(y1, y1, y2, y2) - 3 - thick / 2, "text-anchor": "middle", class: "rate" }, rate(edge.rate));
  });
  for (const place of layers.flat()) svg.append(box(place, left(place), top(place)));
  svg.append(...texts);
  return svg;
}

function box({ node, layer }, x, y) {
  const [small, to] = [about(node), address(node)];
  const parts = [
    s("title", {}, [label(node), small].filter(Boolean).join(": ")), s("rect", { x, y, width: WIDE, height: HIGH, rx: 5 }),
    s("text", { x: x + 8, y: y + (small ? 16 : 23) }, clip(label(node), 26)), ...(small ? [s("text", { x: x + 8, y: y + 31, class: "small" }, clip(small, 28))] : []),
  ];
  return to ? s("a", { href: to, "data-key": `${layer} ${node.id}` }, ...parts) : s("g", {}, ...parts);
}
