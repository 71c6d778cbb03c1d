import { api, query } from "../api.js";
import { field, h } from "../dom.js";
import { choose } from "./list.js";

export async function render(place) {
  const level = place.search.get("level") ?? "info";
  const { lines } = await api(`/gatepost/log${query({ level, limit: 500 })}`);
  const colour = { ERROR: "bad", WARN: "warn" };
  return [
    h("h1", {}, "Log"),
    h("form", { change: (event) => choose(place, { level: event.target.value }), submit: (event) => event.preventDefault() }, field({ name: "level", label: "At least", options: ["error", "warn", "info"], value: level })),
    h("pre", { tabindex: "0", "aria-label": "The newest lines, newest first" }, lines.length ? lines.map((line) => [h("span", { class: colour[line.level] }, `${new Date(line.timestamp).toLocaleString("en-GB")} ${line.level} ${line.text}`), "\n"]) : "Nothing has been logged yet."),
    h("p", { class: "quiet" }, "The newest lines that this process has written, newest first."),
  ];
}
