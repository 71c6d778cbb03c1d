// Building pages: elements, tables, forms, and how numbers are written.

/** An element. `props` are attributes; functions are listeners; children are nodes or text. Text is never HTML. */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    // Also the value to which a reset of its form returns.
    else if (name === "value" && tag === "textarea") node.defaultValue = value;
    // Not the attribute, because the content security policy allows no inline style.
    else if (name === "style") node.style.cssText = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(9).filter((child) => child !== undefined && child !== null && child !== false));
  return node;
}

const NS = "http://www.w3.org/2000/svg";

/** The same for SVG. */
export function s(tag, props = {}, ...children) {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Live regions for messages. They must be in the page before the first message, or screen readers do not announce it. */
const [news, problems] = [h("div", { role: "status" }), h("div", { role: "alert" })];
document.body.append(h("div", { id: "says" }, news, problems));

/** Shows a message at the edge of the page, and announces it to screen readers. Errors stay until they are dismissed. */
export function say(text, bad = false) {
  const line = h("p", { class: bad ? "bad" : undefined }, text);
  if (bad) line.append(h("button", { type: "button", class: "small", "aria-label": "Dismiss", click: () => line.remove() }, "×"));
  else setTimeout(() => line.remove(), 8000);
  (bad ? problems : news).append(line);
}

/** Announces a text to screen readers only. A repeated text is not announced again. */
export function announce(text) {
  spoken.textContent = text;
}
const spoken = h("div", { role: "status", class: "unseen" });
document.body.append(spoken);

/** Removes the errors of the previous page. */
export const silence = () => problems.replaceChildren();

const known = (value) => value !== undefined && value !== null && !Number.isNaN(value);

export const number = (value) => (known(value) ? Number(value).toLocaleString("en") : "unknown");
export const rate = (value) => (known(value) ? `${Number(value).toLocaleString("en", { maximumFractionDigits: 1 })}/s` : "unknown");

/** The prefetch of a consumer or a channel. */
export const prefetch = (of) => (of.prefetch_count ? number(of.prefetch_count) : "no limit");

/** A rate of the API. It is measured from the first view on, so it is unknown for some seconds; the API then says 0. */
export const perSecond = (details, format = rate) => (details && !details.unknown ? format(details.rate) : h("span", { class: "unknown", title: "Not known yet: it is measured since you first looked" }, "–", h("span", { class: "unseen" }, " not known yet")));
/** The same of a counter of bytes. */
export const bytesPerSecond = (details) => perSecond(details, (value) => `${bytes(value)}/s`);

export function bytes(value) {
  if (!known(value)) return "unknown";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) (value /= 1024), unit++;
  return `${value.toLocaleString("en", { maximumFractionDigits: unit ? 1 : 0 })} ${units[unit]}`;
}

export function span(ms) {
  if (!known(ms)) return "unknown";
  const seconds = Math.round(ms / 1000);
  const [d, hr, m] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  return d ? `${d} d ${hr} h` : hr ? `${hr} h ${m} min` : m ? `${m} min ${seconds % 60} s` : `${seconds} s`;
}

/** Makes invisible characters visible: text of spaces alone, control characters, and those that change the direction of text. */
export const visible = (text) => {
  const plain = String(text).replace(/[\u0000-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0))).replace(/[\u007f-\u009f\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]/g, (c) => `<U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}>`);
  return plain.trim() === "" ? plain.replace(/\s/g, "␣") : plain;
};
/** A name in isolation: letters of right-to-left scripts do not change the direction of the text around it. */
export const bdi = (text) => h("bdi", {}, visible(text ?? ""));
/** The same within a sentence that is only text. */
export const q = (name) => `\u2068${visible(name)}\u2069`;

/** The value at a dotted path in an object. */
export const at = (object, path) => path.split(".").reduce((value, key) => value?.[key], object);

/** Rows that a table shows before it is expanded. */
const ROWS = 100;
/** Tables that the user has expanded, by their place in the page. */
const more = new Map();

/**
 * A table of rows. A column is { name, get, cell?, number?, tight?, sort? }: `sort` is the API's field, and makes the heading a
 * button; a `tight` column is not broken into lines.
 * `order` is { sort, reverse, set(sort, reverse) }. `empty` is the text shown if there are no rows.
 */
export function table(caption, columns, rows, order, empty = "None.") {
  const heading = (column) => {
    const props = { scope: "col", class: column.number ? "n" : undefined };
    if (!column.name) return h("td");
    if (!column.sort || !order) return h("th", props, column.name);
    const current = order.sort === column.sort;
    if (current) props["aria-sort"] = order.reverse ? "descending" : "ascending";
    const turn = () => order.set(column.sort, current ? !order.reverse : Boolean(column.number));
    return h("th", props, h("button", { type: "button", click: turn }, column.name, current ? (order.reverse ? " ▾" : " ▴") : ""));
  };
  const cell = (column, row) => {
    const value = column.cell ? column.cell(row) : column.number ? number(column.get(row)) : column.get(row) ?? "";
    return h("td", { class: column.number ? "n" : column.tight ? "tight" : column.name ? undefined : "do" }, typeof value === "string" && !column.number ? bdi(value) : value ?? "");
  };
  const key = `${location.hash} ${caption}`;
  const most = more.get(key) ?? ROWS;
  const body = rows.slice(0, most).map((row) => h("tr", {}, columns.map((column) => cell(column, row))));
  if (!rows.length) body.push(h("tr", {}, h("td", { colspan: columns.length, class: "quiet" }, empty)));
  const whole = h("div", { class: "scroll" },
    h("table", { "aria-label": caption }, h("thead", {}, h("tr", {}, columns.map(heading))), h("tbody", {}, body)));
  if (rows.length <= most) return whole;
  const grow = () => { more.set(key, most + 10 * ROWS); around.replaceWith(table(caption, columns, rows, order, empty)); };
  const around = h("div", {}, whole, h("p", { class: "quiet" }, `${number(most)} of ${number(rows.length)}. `, h("button", { type: "button", click: grow, "aria-label": `Show more: ${caption}` }, "Show more")));
  return around;
}

/** A field of a form: { name, label, type?, value?, options?, required?, placeholder?, hint? }. */
export function field({ name, label, options, type = "text", ...rest }) {
  if (type === "checkbox") return h("label", { class: "check" }, h("input", { type, name, checked: rest.value }), label);
  if (options) return h("label", {}, label, h("select", { name }, options.map((o) => h("option", { value: o, selected: o === rest.value }, visible(o)))));
  if (type === "textarea") return h("label", {}, label, h("textarea", { name, ...rest }));
  return h("label", {}, label, h("input", { type, name, autocomplete: "off", ...rest }));
}

/** A form that calls `submit(values)`, shows its error, and cannot be sent twice at once. */
export function form(title, fields, submit, word = title) {
  const button = h("button", { class: "primary" }, word);
  return h("form", {
    "aria-label": title,
    async submit(event) {
      event.preventDefault();
      const values = {};
      for (const input of event.target.elements) {
        if (input.name && input.type !== "file") values[input.name] = input.type === "checkbox" ? input.checked : input.value;
      }
      button.disabled = true;
      event.target.dataset.sent = "";
      try { await submit(values, event.target); } catch (error) { say(error.message, true); }
      delete event.target.dataset.sent;
      button.disabled = false;
    },
  }, fields.map(field), button);
}

/** A button that asks for confirmation before an action that cannot be undone. Its accessible name also names the object. */
export function danger(word, question, action) {
  const whole = question.replace(/[?.]$/, "");
  return h("button", {
    type: "button", class: "danger small", "aria-label": whole.startsWith(word) ? whole : `${word}: ${whole}`,
    async click(event) {
      if (!confirm(question)) return;
      const button = event.currentTarget;
      button.disabled = true;
      try { await action(); } catch (error) { say(error.message, true); }
      button.disabled = false;
    },
  }, word);
}

/** A button that fills the form with this label with the current values, so that they can be changed. */
export function edit(what, title, values) {
  const fill = () => {
    const form = document.querySelector(`main form[aria-label="${title}"]`);
    form.closest("details").open = true;
    for (const [name, value] of Object.entries(values)) form.elements[name].value = value;
    form.querySelector("input:not([readonly]), textarea, select").focus();
    form.scrollIntoView({ block: "nearest" });
  };
  return h("button", { type: "button", class: "small", "aria-label": `Edit ${what}`, click: fill }, "Edit");
}

export const details = (summary, ...children) => h("details", {}, h("summary", {}, summary), children);
export const facts = (pairs) => h("dl", {}, pairs.filter(Boolean).map(([name, value]) => [h("dt", {}, name), h("dd", {}, typeof value === "string" ? bdi(value) : value ?? "")]));
export const tile = (name, value, page) => h(page ? "a" : "div", { class: "tile", href: page && `#/${page}` }, h("b", {}, value), h("span", {}, name));
export const json = (value) => JSON.stringify(value, null, 2);
export const link = (text, ...path) => h("a", { href: "#/" + path.map(encodeURIComponent).join("/") }, bdi(text));
export const time = (ms) => new Date(ms).toLocaleString("en-GB");
export const short = (value) => (value && Object.keys(value).length ? JSON.stringify(value) : "");
