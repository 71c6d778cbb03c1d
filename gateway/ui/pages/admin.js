import { api, part, post, put, remove } from "../api.js";
import { bdi, danger, details, edit, form, h, q, say, span, table, time } from "../dom.js";

/** An empty list instead of an error, for what an older gateway does not have or this user may not see. */
const quietly = (promise) => promise.catch(() => []);
const LIMITS = { vhost: ["max-connections", "max-queues"], user: ["max-connections", "max-channels"] };

export async function render(place) {
  const { me, again } = place;
  if (!me.tags.includes("administrator")) return [h("h1", {}, "Admin"), h("p", { class: "quiet" }, "This page is for administrators.")];
  const [users, vhosts, permissions, topics, ofVhosts, ofUsers, bans, certificates, keys] = await Promise.all([api("/users"), api("/vhosts"), api("/permissions"), quietly(api("/topic-permissions")), quietly(api("/vhost-limits")), quietly(api("/user-limits")), quietly(api("/bans")), quietly(api("/gatepost/certificates")), quietly(api("/gatepost/configuration"))]);
  const names = { user: users.map((u) => u.name), vhost: vhosts.map((v) => v.name) };
  const done = async (action, text) => { await action; say(text); again(); };
  const gone = (path, what) => danger("Delete", `Delete ${what}?`, () => done(remove(path), "Deleted."));
  return [
    h("h1", {}, "Admin"),
    h("h2", {}, "Users"), usersTable(users, gone), details("Add or change a user", userForm(users, done)),
    h("h2", {}, "Permissions"), permissionsTable(permissions, gone),
    details("Set a permission", form("Set a permission", [
      { name: "user", label: "User", options: names.user }, { name: "vhost", label: "vhost", options: names.vhost }, ...["configure", "write", "read"].map((name) => ({ name, label: `May ${name} (regular expression)`, value: ".*" })),
    ], ({ user, vhost, ...rights }) => done(put(`/permissions/${part(vhost)}/${part(user)}`, rights), "Set."), "Set")),
    h("h2", {}, "Topic permissions"), topicsTable(topics, gone),
    details("Set a topic permission", form("Set a topic permission", [
      { name: "user", label: "User", options: names.user }, { name: "vhost", label: "vhost", options: names.vhost }, { name: "exchange", label: "Exchange", value: "amq.topic" },
      { name: "write", label: "May publish to (filters, one a line)", type: "textarea", placeholder: "plant/{client_id}/#" }, { name: "read", label: "May read", type: "textarea", placeholder: "plant/#" },
    ], ({ user, vhost, ...rights }) => done(put(`/topic-permissions/${part(vhost)}/${part(user)}`, rights), "Set."), "Set")),
    h("h2", {}, "vhosts"),
    table("vhosts", [{ name: "Name", get: (v) => v.name }, { name: "Description", get: (v) => v.description }, { name: "Messages", number: true, get: (v) => v.messages }, { name: "", cell: (v) => gone(`/vhosts/${part(v.name)}`, `the vhost ${q(v.name)} with everything in it`) }], vhosts),
    details("Add a vhost", form("Add a vhost", [{ name: "name", label: "Name", required: true }, { name: "description", label: "Description" }], ({ name, description }) => done(put(`/vhosts/${part(name)}`, { description }), `vhost ${q(name)} is there.`), "Add")),
    limits("vhost", "vhosts", ofVhosts, names.vhost, done, gone), limits("user", "users", ofUsers, names.user, done, gone),
    banned(bans, done),
    h("h2", {}, "Definitions"), h("p", {}, h("a", { href: "api/definitions?download=definitions.json", download: "definitions.json" }, "Download them"), ": users, vhosts, permissions, policies, exchanges, queues, bindings."),
    details("Import definitions", importing(done)),
    h("h2", {}, "Certificates"),
    table("Certificates", [{ name: "Listener", get: (c) => c.listener }, { name: "Expires", get: (c) => time(c.not_after * 1000) }, { name: "In", cell: (c) => expiry(c.not_after * 1000 - Date.now()) }], certificates, undefined, "No listener has TLS."),
    h("h2", {}, "Configuration"), configuration(keys),
  ];
}

/** How long it is good for. A month is time to get another. */
const expiry = (left) => h("span", { class: left <= 0 ? "bad" : left < 30 * 86400e3 ? "warn" : undefined }, left <= 0 ? "has expired" : span(left));

/** What was set, and all of it on request. No key holds a secret. */
function configuration(keys) {
  const list = (name, rows, empty) => table(name, [{ name: "Key", get: (k) => k.key }, { name: "Value", get: (k) => k.value }, { name: "Default", get: (k) => (k.value === k.default ? "" : k.default) }, { name: "A change applies", get: (k) => k.change_applies }], rows, undefined, empty);
  return [list("Keys that were set", keys.filter((k) => k.changed), "Everything is as by default."), details("All keys", list("All keys", keys))];
}

function usersTable(users, gone) {
  const tags = (u) => [u.tags].flat().join(", ");
  return table("Users", [
    { name: "Name", get: (u) => u.name }, { name: "Tags", get: tags }, { name: "Password", get: (u) => (u.password_hash ? "yes" : "no") },
    { name: "", cell: (u) => [edit(`the user ${q(u.name)}`, "Set a user", { name: u.name, tags: tags(u), password: "" }), " ", gone(`/users/${part(u.name)}`, `the user ${q(u.name)}, and end its connections`)] },
  ], users);
}

function userForm(users, done) {
  const fields = [
    { name: "name", label: "Name", required: true }, { name: "password", label: "Password (empty: as it is, or none)", type: "password", autocomplete: "new-password" },
    { name: "tags", label: "Tags, with commas", placeholder: "administrator, monitoring, …" }, { name: "none", label: "No password: logs in by certificate or token", type: "checkbox" },
  ];
  return form("Set a user", fields, ({ name, password, tags, none }) => {
    const known = users.find((u) => u.name === name);
    const kept = known?.password_hash ? { password_hash: known.password_hash, hashing_algorithm: known.hashing_algorithm } : { password_hash: "" };
    const credential = none ? { password_hash: "" } : password ? { password } : kept;
    return done(put(`/users/${part(name)}`, { ...credential, tags }), `User ${q(name)} is set.`);
  }, "Set");
}

const permissionsTable = (permissions, gone) => table("Permissions", [
  { name: "User", get: (p) => p.user }, { name: "vhost", get: (p) => p.vhost }, { name: "Configure", get: (p) => p.configure }, { name: "Write", get: (p) => p.write }, { name: "Read", get: (p) => p.read },
  { name: "", cell: (p) => [edit(`the permission of ${q(p.user)} in ${q(p.vhost)}`, "Set a permission", { user: p.user, vhost: p.vhost, configure: p.configure, write: p.write, read: p.read }), " ", gone(`/permissions/${part(p.vhost)}/${part(p.user)}`, `the permission of ${q(p.user)} in ${q(p.vhost)}`)] },
], permissions, undefined, "Nobody may do anything yet. Set a permission below.");

const lines = (filters) => filters.split("\n").map((filter) => h("div", {}, bdi(filter)));
const topicsTable = (topics, gone) => table("Topic permissions", [
  { name: "User", get: (p) => p.user }, { name: "vhost", get: (p) => p.vhost }, { name: "Exchange", get: (p) => p.exchange }, { name: "Write", cell: (p) => lines(p.write) }, { name: "Read", cell: (p) => lines(p.read) },
  { name: "", cell: (p) => [edit(`the topic permission of ${q(p.user)}`, "Set a topic permission", { user: p.user, vhost: p.vhost, exchange: p.exchange, write: p.write, read: p.read }), " ", gone(`/topic-permissions/${part(p.vhost)}/${part(p.user)}/${part(p.exchange)}`, `the topic permission of ${q(p.user)} for ${q(p.exchange)}`)] },
], topics, undefined, "There are none: only permissions apply.");

function limits(of, plural, entries, names, done, gone) {
  const rows = entries.flatMap((entry) => Object.entries(entry.value).map(([name, value]) => ({ of: entry[of], name, value })));
  const path = (row) => `/${of}-limits/${part(row.of)}/${part(row.name)}`;
  const title = `Set a limit of a ${of}`;
  return [
    h("h2", {}, `Limits of ${plural}`),
    table(`Limits of ${plural}`, [
      { name: of === "user" ? "User" : of, get: (row) => row.of }, { name: "Limit", get: (row) => row.name }, { name: "Value", number: true, get: (row) => row.value },
      { name: "", cell: (row) => [edit(`${row.name} of ${q(row.of)}`, title, row), " ", gone(path(row), `the limit ${row.name} of ${q(row.of)}`)] },
    ], rows, undefined, "There are none."),
    details(title, form(title, [{ name: "of", label: of === "user" ? "User" : of, options: names }, { name: "name", label: "Limit", options: LIMITS[of] }, { name: "value", label: "Value (-1: no limit)", type: "number", min: -1, required: true }], (row) => done(put(path(row), { value: Number(row.value) }), "Set."), "Set")),
  ];
}

function banned(bans, done) {
  const lift = (b) => danger("Lift", `Lift the ban of ${q(b.value)}?`, () => done(remove(`/bans/${b.kind}/${part(b.value)}`), "Lifted."));
  return [
    h("h2", {}, "Bans"),
    table("Bans", [
      { name: "Whom", get: (b) => b.kind }, { name: "Value", get: (b) => b.value }, { name: "By", get: (b) => b.origin }, { name: "For", get: (b) => (b.seconds_left === null ? "until it is lifted" : span(b.seconds_left * 1000)) },
      { name: "", cell: (b) => (b.origin === "configuration" ? "" : lift(b)) },
    ], bans, undefined, "There are no bans. An address with too many failed logins is banned for a while."),
    details("Ban somebody", form("Ban somebody", [{ name: "kind", label: "Whom", options: ["address", "user", "client"] }, { name: "value", label: "Address, network, user or client id", required: true }, { name: "seconds", label: "Seconds (empty: until it is lifted)", type: "number", min: 1 }],
      ({ kind, value, seconds }) => done(put(`/bans/${kind}/${part(value)}`, seconds ? { seconds: Number(seconds) } : {}), "Banned."), "Ban")),
  ];
}

function importing(done) {
  const input = h("input", { type: "file", accept: ".json,application/json" });
  const whole = form("Import definitions", [{ name: "text", label: "Definitions (JSON, RabbitMQ's too)", type: "textarea" }], async ({ text }) => {
    const [file] = input.files;
    const body = file ? await file.text() : text;
    if (!body.trim()) throw new Error("Choose a file, or paste definitions.");
    await done(post("/definitions", body), "Imported.");
  }, "Import");
  whole.prepend(h("label", {}, "From a file", input));
  return whole;
}
