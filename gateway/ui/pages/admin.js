import { api, part, post, put, remove } from "../api.js";
import { danger, details, form, h, json, say, table } from "../dom.js";

const quietly = (promise) => promise.catch(() => []);

export async function render(place) {
  const { me, again } = place;
  if (!me.tags.includes("administrator")) return [h("h1", {}, "Admin"), h("p", { class: "quiet" }, "This page is for administrators.")];
  const [users, vhosts, permissions, topics, limits] = await Promise.all([api("/users"), api("/vhosts"), api("/permissions"), quietly(api("/topic-permissions")), quietly(api("/vhost-limits"))]);
  const names = vhosts.map((v) => v.name);
  const done = async (action, text) => { await action; say(text); again(); };
  const gone = (path, what) => danger("Delete", `Delete ${what}?`, () => done(remove(path), "Deleted."));
  return [
    h("h1", {}, "Admin"),
    h("h2", {}, "Users"),
    table("Users", [{ name: "Name", get: (u) => u.name }, { name: "Tags", get: (u) => [u.tags].flat().join(", ") }, { name: "Password", get: (u) => (u.password_hash ? "yes" : "no") }, { name: "", cell: (u) => gone(`/users/${part(u.name)}`, `the user ${u.name}, and end its connections`) }], users),
    details("Add or change a user", form("Set a user", [
      { name: "name", label: "Name", required: true }, { name: "password", label: "Password (empty: none)", type: "password", autocomplete: "new-password" }, { name: "tags", label: "Tags", placeholder: "administrator, monitoring, …" },
    ], ({ name, password, tags }) => done(put(`/users/${part(name)}`, password ? { password, tags } : { password_hash: "", tags }), `User ${name} is set.`), "Set")),
    h("h2", {}, "Permissions"),
    table("Permissions", [{ name: "User", get: (p) => p.user }, { name: "vhost", get: (p) => p.vhost }, { name: "Configure", get: (p) => p.configure }, { name: "Write", get: (p) => p.write }, { name: "Read", get: (p) => p.read }, { name: "", cell: (p) => gone(`/permissions/${part(p.vhost)}/${part(p.user)}`, `${p.user}'s permission in ${p.vhost}`) }], permissions),
    details("Set a permission", form("Set a permission", [
      { name: "user", label: "User", options: users.map((u) => u.name) }, { name: "vhost", label: "vhost", options: names }, ...["configure", "write", "read"].map((name) => ({ name, label: `May ${name} (regular expression)`, value: ".*" })),
    ], ({ user, vhost, ...rights }) => done(put(`/permissions/${part(vhost)}/${part(user)}`, rights), "Set."), "Set")),
    h("h2", {}, "Topic permissions"),
    table("Topic permissions", [{ name: "User", get: (p) => p.user }, { name: "vhost", get: (p) => p.vhost }, { name: "Exchange", get: (p) => p.exchange }, { name: "Write", get: (p) => p.write }, { name: "Read", get: (p) => p.read }, { name: "", cell: (p) => gone(`/topic-permissions/${part(p.vhost)}/${part(p.user)}/${part(p.exchange)}`, `${p.user}'s topic permission`) }], topics),
    details("Set a topic permission", form("Set a topic permission", [
      { name: "user", label: "User", options: users.map((u) => u.name) }, { name: "vhost", label: "vhost", options: names }, { name: "exchange", label: "Exchange", value: "amq.topic" },
      { name: "write", label: "May publish to (filters, one a line)", type: "textarea", placeholder: "plant/{client_id}/#" }, { name: "read", label: "May read", type: "textarea", placeholder: "plant/#" },
    ], ({ user, vhost, ...rights }) => done(put(`/topic-permissions/${part(vhost)}/${part(user)}`, rights), "Set."), "Set")),
    h("h2", {}, "vhosts"),
    table("vhosts", [{ name: "Name", get: (v) => v.name }, { name: "Description", get: (v) => v.description }, { name: "Messages", number: true, get: (v) => v.messages }, { name: "", cell: (v) => gone(`/vhosts/${part(v.name)}`, `the vhost ${v.name} with everything in it`) }], vhosts),
    details("Add a vhost", form("Add a vhost", [{ name: "name", label: "Name", required: true }, { name: "description", label: "Description" }], ({ name, description }) => done(put(`/vhosts/${part(name)}`, { description }), `vhost ${name} is there.`), "Add")),
    h("h2", {}, "Limits of vhosts"),
    table("Limits", [{ name: "vhost", get: (l) => l.vhost }, { name: "Limits", get: (l) => json(l.value) }], limits),
    details("Set a limit", form("Set a limit", [{ name: "vhost", label: "vhost", options: names }, { name: "name", label: "Limit", options: ["max-connections", "max-queues"] }, { name: "value", label: "Value (-1: none)", type: "number", required: true }], ({ vhost, name, value }) => done(put(`/vhost-limits/${part(vhost)}/${name}`, { value: Number(value) }), "Set."), "Set")),
    h("h2", {}, "Definitions"), h("p", {}, h("a", { href: "api/definitions?download=definitions.json", download: "definitions.json" }, "Download them"), ": users, vhosts, permissions, policies, exchanges, queues, bindings."),
    details("Import definitions", form("Import definitions", [{ name: "text", label: "Definitions (JSON, RabbitMQ's too)", type: "textarea", required: true }], ({ text }) => done(post("/definitions", text), "Imported."), "Import")),
  ];
}
