import { api, query } from "../api.js";
import { field, h, time, visible } from "../dom.js";
import { choose } from "./list.js";

export async function render(place) {
  const level = place.search.get("level") ?? "info";
  const text = place.search.get("text") ?? "";
  const { lines } = await api(`/gatepost/log${query({ level, limit: 500 })}`);
  const shown = lines.filter((line) => line.text.toLowerCase().includes(text.toLowerCase()));
  const colour = { ERROR: "bad", WARN: "warn" };
  return [
    h("h1", {}, "Log"),
    h("form", { role: "search", "aria-label": "Filter the log", submit: (event) => { event.preventDefault(); choose(place, Object.fromEntries(new FormData(event.target))); } },
      field({ name: "level", label: "At least", options: ["error", "warn", "info"], value: level }), field({ name: "text", label: "Text contains", value: text, type: "search" }), h("button", {}, "Filter")),
    h("pre", { tabindex: "0", "aria-label": "The newest lines, newest first" }, shown.length ? shown.map((line) => [h("span", { class: colour[line.level] }, `${time(line.timestamp)} ${line.level} ${visible(line.text)}`), "\n"]) : text ? "No line contains that." : "Nothing has been logged yet."),
    h("p", { class: "quiet" }, "The newest lines that this process has written, newest first."),
  ];
}
