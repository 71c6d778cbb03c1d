// A line chart of samples as the API gives them, and the same as a table for users who cannot see it.

import { h, s } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM] = [420, 130, 48, 16];
const round = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });

/** The samples that were taken, newest first. The API fills up what is older than that. */
const known = (details) => (details?.samples ?? []).filter((p) => p.timestamp >= (details.known_since ?? 0));

/** Changes of a counter per second. */
export function rates(details) {
  const samples = known(details);
  const points = [];
  for (let i = 0; i + 1 < samples.length; i++) {
    const [now, before] = [samples[i], samples[i + 1]];
    const seconds = (now.timestamp - before.timestamp) / 1000;
    if (seconds > 0) points.unshift({ time: now.timestamp, value: Math.max(0, (now.sample - before.sample) / seconds) });
  }
  return points;
}

/** Samples without conversion. */
export const levels = (details) => known(details).map((p) => ({ time: p.timestamp, value: p.sample })).reverse();

/** The smallest round number that is not less than the given one. */
function nice(most) {
  const power = 10 ** Math.floor(Math.log10(Math.max(most, 1)));
  return [1, 2, 4, 6, 8, 10].map((n) => n * power).find((n) => n >= most) ?? most;
}

const open = new Set();

/** `series` are { name, points: [{ time, value }] }, at most four. */
export function chart(title, series, unit = "") {
  const all = series.flatMap((one) => one.points);
  const top = nice(Math.max(2, ...all.map((p) => p.value)));
  const [from, to] = [Math.min(...all.map((p) => p.time)), Math.max(...all.map((p) => p.time))];
  const x = (time) => LEFT + ((WIDTH - LEFT - 4) * (time - from)) / Math.max(1, to - from);
  const y = (value) => 6 + (HEIGHT - BOTTOM - 6) * (1 - value / top);
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": spoken(title, series, unit) });
  for (const value of [0, top / 2, top]) {
    svg.append(s("line", { x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value), stroke: "var(--line)" }));
    svg.append(s("text", { x: LEFT - 4, y: y(value) + 4, "text-anchor": "end" }, round(value)));
  }
  if (all.length) {
    const clock = (time) => new Date(time).toLocaleTimeString("en-GB");
    svg.append(s("text", { x: LEFT, y: HEIGHT - 3 }, clock(from)), s("text", { x: WIDTH - 2, y: HEIGHT - 3, "text-anchor": "end" }, clock(to)));
  }
  series.forEach((one, n) => {
    // A single sample is a dot.
    const d = one.points.map((p, i) => `${i ? "L" : "M"}${x(p.time).toFixed(1)} ${y(p.value).toFixed(1)}`).join("") + (one.points.length === 1 ? "h4" : "");
    // Dashes distinguish the lines without colour.
    svg.append(s("path", { d, fill: "none", stroke: `var(--s${n + 1})`, "stroke-width": 2, "stroke-dasharray": ["", "6 3", "2 2", "8 2 2 2"][n], "vector-effect": "non-scaling-stroke" }));
  });
  const keys = series.map((one, n) => h("span", { class: "key" }, h("i", { style: `border-color: var(--s${n + 1}); border-top-style: ${["solid", "dashed", "dotted", "dashed"][n]}` }), `${one.name} ${latest(one)}${unit}`));
  const button = h("button", { type: "button", class: "small", "aria-label": `Table: ${title}`, "aria-pressed": String(open.has(title)), click: () => { open.has(title) ? open.delete(title) : open.add(title); const fresh = chart(title, series, unit); figure.replaceWith(fresh); fresh.querySelector("button").focus(); } }, "Table");
  const figure = h("figure", {}, h("figcaption", {}, title, keys, button), open.has(title) ? numbers(title, series) : svg, !all.length && h("p", { class: "quiet" }, "There are no samples yet: they are taken every five seconds."));
  return figure;
}

const latest = (one) => (one.points.length ? round(one.points[one.points.length - 1].value) : "unknown");
const spoken = (title, series, unit) => `${title}: ` + series.map((one) => `${one.name} ${latest(one)}${unit}`).join(", ");

function numbers(title, series) {
  const times = (series[0]?.points ?? []).map((p) => p.time).reverse().slice(0, 24);
  const value = (one, time) => one.points.find((p) => p.time === time)?.value;
  const row = (time) => h("tr", {}, h("td", {}, new Date(time).toLocaleTimeString("en-GB")), series.map((one) => h("td", { class: "n" }, value(one, time) === undefined ? "" : round(value(one, time)))));
  return h("div", { class: "scroll" }, h("table", { "aria-label": title }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Time"), series.map((one) => h("th", { scope: "col", class: "n" }, one.name)))), h("tbody", {}, times.map(row))));
}
