// A list that the server sorts, filters and pages. The choices are in the address, so that it can be bookmarked and shared.

import { api, query } from "../api.js";
import { field, h, number, table } from "../dom.js";

const SIZE = 100;

/** Navigates to the same page with other choices. */
export function choose(place, changes) {
  const search = new URLSearchParams(place.search);
  for (const [key, value] of Object.entries(changes)) value === "" || value === undefined ? search.delete(key) : search.set(key, value);
  const text = search.toString();
  location.hash = `#/${place.path}${text ? `?${text}` : ""}`;
}

/**
 * The list at `path`, and what stands around it. `about` is { empty, label, key, fields, also }: what is said of an empty list; the
 * name of the filter and its key in the address; fields beside it; and what else is asked for.
 */
export async function listing(place, path, caption, columns, about = {}) {
  const { empty, label = "Name contains", key = "name", fields = [], also = {} } = about;
  const wanted = {
    page: place.search.get("page") ?? 1, page_size: SIZE, [key]: place.search.get(key) ?? "",
    sort: place.search.get("sort") ?? "", sort_reverse: place.search.get("reverse") === "true", ...also,
  };
  let answer;
  try { answer = await api(path + query(wanted)); } catch (error) {
    // The rows of that page are gone.
    if (error.status !== 400 || Number(wanted.page) === 1 || !/out of range/.test(error.message)) throw error;
    answer = await api(path + query({ ...wanted, page: 1 }));
  }
  const order = { sort: wanted.sort, reverse: wanted.sort_reverse, set: (sort, reverse) => choose(place, { sort, reverse, page: "" }) };
  const send = (event) => {
    event.preventDefault();
    choose(place, { ...Object.fromEntries(new FormData(event.target)), page: "" });
  };
  const filter = h("form", { role: "search", "aria-label": `Filter ${caption}`, submit: send },
    fields.map(field), field({ name: key, label, value: wanted[key], type: "search" }), h("button", {}, "Filter"));
  const go = (word, page, possible) => h("button", { type: "button", disabled: !possible, click: () => choose(place, { page }) }, word);
  const some = answer.filtered_count < answer.total_count;
  const pages = () => answer.page_count > 1 && [go("Previous", answer.page - 1, answer.page > 1), ` page ${answer.page} of ${answer.page_count} `, go("Next", answer.page + 1, answer.page < answer.page_count)];
  const pager = h("p", { class: "quiet" }, some ? `${number(answer.filtered_count)} of ${number(answer.total_count)} match. ` : `${number(answer.total_count)} in all. `, pages());
  // Whoever has read the rows to their end is below them.
  const below = answer.page_count > 1 && h("nav", { class: "quiet", "aria-label": `Pages of ${caption}, below the list` }, pages());
  return [filter, pager, table(caption, columns, answer.items, order, some ? "None match the filter." : empty), below];
}

/** The vhosts that this user sees. */
export const vhosts = async () => (await api("/vhosts")).map((vhost) => vhost.name);
