// Building pages: elements, tables, forms, and how numbers are written.

/** An element. `props` are attributes; functions are listeners; children are nodes or text. Text is never HTML. */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else if (name === "value") node.value = value;
    // Not the attribute: the content policy allows no inline style.
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

/** Says something at the edge of the page, and to screen readers. */
export function say(text, bad = false) {
  let box = document.getElementById("says");
  if (!box) document.body.append((box = h("div", { id: "says", role: "status", "aria-live": "polite" })));
  const line = h("div", { class: bad ? "bad" : undefined }, text);
  box.append(line);
  setTimeout(() => line.remove(), bad ? 12000 : 5000);
}

const known = (value) => value !== undefined && value !== null && !Number.isNaN(value);

export const number = (value) => (known(value) ? Number(value).toLocaleString("en") : "unknown");
export const rate = (value) => (known(value) ? `${Number(value).toLocaleString("en", { maximumFractionDigits: 1 })}/s` : "unknown");

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

/** Follows a dotted path. */
export const at = (object, path) => path.split(".").reduce((value, key) => value?.[key], object);

/**
 * A table of rows. A column is { name, get, cell?, number?, sort? }: `sort` is the API's field, and makes the heading a button.
 * `order` is { sort, reverse, set(sort, reverse) }.
 */
export function table(caption, columns, rows, order) {
  const heading = (column) => {
    const props = { scope: "col", class: column.number ? "n" : undefined };
    if (!column.sort || !order) return h("th", props, column.name);
    const current = order.sort === column.sort;
    if (current) props["aria-sort"] = order.reverse ? "descending" : "ascending";
    const turn = () => order.set(column.sort, current ? !order.reverse : Boolean(column.number));
    return h("th", props, h("button", { type: "button", click: turn }, column.name, current ? (order.reverse ? " ▾" : " ▴") : ""));
  };
  const cell = (column, row) => {
    const value = column.cell ? column.cell(row) : column.get(row);
    return h("td", { class: column.number ? "n" : undefined }, column.number && !column.cell ? number(value) : value ?? "");
  };
  const body = rows.map((row) => h("tr", {}, columns.map((column) => cell(column, row))));
  if (!rows.length) body.push(h("tr", {}, h("td", { colspan: columns.length, class: "quiet" }, "None.")));
  return h("div", { class: "scroll" },
    h("table", { "aria-label": caption }, h("thead", {}, h("tr", {}, columns.map(heading))), h("tbody", {}, body)));
}

/** A field of a form: { name, label, type?, value?, options?, required?, placeholder?, hint? }. */
export function field({ name, label, options, type = "text", ...rest }) {
  if (type === "checkbox") return h("label", { class: "check" }, h("input", { type, name, checked: rest.value }), label);
  if (options) return h("label", {}, label, h("select", { name }, options.map((o) => h("option", { value: o, selected: o === rest.value }, o))));
  if (type === "textarea") return h("label", {}, label, h("textarea", { name, ...rest }));
  return h("label", {}, label, h("input", { type, name, autocomplete: "off", ...rest }));
}

/** A form that calls `submit(values)`, says what went wrong, and cannot be sent twice at once. */
export function form(title, fields, submit, word = title) {
  const button = h("button", { class: "primary" }, word);
  return h("form", {
    "aria-label": title,
    async submit(event) {
      event.preventDefault();
      const values = {};
      for (const input of event.target.elements) {
        if (input.name) values[input.name] = input.type === "checkbox" ? input.checked : input.value;
      }
      button.disabled = true;
      try { await submit(values, event.target); } catch (error) { say(error.message, true); }
      button.disabled = false;
    },
  }, fields.map(field), button);
}

/** A button that asks before it does something that cannot be undone. */
export function danger(word, question, action) {
  return h("button", {
    type: "button", class: "danger small",
    async click() {
      if (!confirm(question)) return;
      try { await action(); } catch (error) { say(error.message, true); }
    },
  }, word);
}

export const details = (summary, ...children) => h("details", {}, h("summary", {}, summary), children);
export const facts = (pairs) => h("dl", {}, pairs.filter(Boolean).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value ?? "")]));
export const tile = (name, value) => h("div", { class: "tile" }, h("b", {}, value), h("span", {}, name));
export const json = (value) => JSON.stringify(value, null, 2);
export const link = (text, ...path) => h("a", { href: "#/" + path.map(encodeURIComponent).join("/") }, text);
export const short = (value) => (value && Object.keys(value).length ? JSON.stringify(value) : "");
