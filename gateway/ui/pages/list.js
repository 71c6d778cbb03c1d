// A list that the server sorts, filters and pages. What is chosen is in the address, so that it can be kept and shared.

import { api, query } from "../api.js";
import { field, h, number, table } from "../dom.js";

const SIZE = 100;

/** Goes to the same page with other choices. */
export function choose(place, changes) {
  const search = new URLSearchParams(place.search);
  for (const [key, value] of Object.entries(changes)) value === "" || value === undefined ? search.delete(key) : search.set(key, value);
  const text = search.toString();
  location.hash = `#/${place.path}${text ? `?${text}` : ""}`;
}

/** The list at `path`, and what stands around it. */
export async function listing(place, path, caption, columns, first = { sort: "", reverse: false }) {
  const wanted = {
    page: place.search.get("page") ?? 1, page_size: SIZE, name: place.search.get("name") ?? "",
    sort: place.search.get("sort") ?? first.sort, sort_reverse: (place.search.get("reverse") ?? String(first.reverse)) === "true",
  };
  const answer = await api(path + query(wanted));
  const order = { sort: wanted.sort, reverse: wanted.sort_reverse, set: (sort, reverse) => choose(place, { sort, reverse, page: "" }) };
  const filter = h("form", { role: "search", "aria-label": `Filter ${caption}`, submit: (event) => { event.preventDefault(); choose(place, { name: event.target.elements.name.value, page: "" }); } },
    field({ name: "name", label: "Name contains", value: wanted.name, type: "search" }), h("button", {}, "Filter"));
  const go = (word, page, possible) => h("button", { type: "button", disabled: !possible, click: () => choose(place, { page }) }, word);
  const pager = h("p", { class: "quiet" }, `${number(answer.filtered_count)} of ${number(answer.total_count)} `,
    answer.page_count > 1 && [go("Previous", answer.page - 1, answer.page > 1), ` page ${answer.page} of ${answer.page_count} `, go("Next", answer.page + 1, answer.page < answer.page_count)]);
  return [filter, pager, table(caption, columns, answer.items, order)];
}

/** The vhosts that this user sees. */
export const vhosts = async () => (await api("/vhosts")).map((vhost) => vhost.name);
