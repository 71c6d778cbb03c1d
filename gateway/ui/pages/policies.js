import { api, part, put, remove } from "../api.js";
import { danger, details, edit, form, h, json, q, say, table } from "../dom.js";
import { parsed } from "./messages.js";
import { vhosts } from "./list.js";

const TITLES = { policies: "Set a policy", "operator-policies": "Set an operator policy" };

export async function render(place) {
  const [names, mine, operators] = await Promise.all([vhosts(), api("/policies"), api("/operator-policies").catch(() => [])]);
  const mayOperate = place.me.tags.includes("administrator");
  const list = (kind, policies) => table(kind, [
    { name: "vhost", get: (p) => p.vhost }, { name: "Name", get: (p) => p.name }, { name: "Matches", get: (p) => p.pattern }, { name: "Of", get: (p) => p["apply-to"] }, { name: "Priority", number: true, get: (p) => p.priority },
    { name: "Says", cell: (p) => h("code", {}, json(p.definition)) },
    { name: "", cell: (p) => [edit(`the policy ${q(p.name)}`, TITLES[kind], { vhost: p.vhost, name: p.name, pattern: p.pattern, apply: p["apply-to"], priority: p.priority, definition: json(p.definition) }), " ",
      danger("Delete", `Delete the policy ${q(p.name)}?`, async () => { await remove(`/${kind}/${part(p.vhost)}/${part(p.name)}`); say("Deleted."); place.again(); })] },
  ], policies, undefined, kind === "policies" ? "There are none. A policy can limit queues, for example, or give them a dead-letter exchange." : "There are none.");
  const set = (kind) => form(TITLES[kind], [
    { name: "vhost", label: "vhost", options: names }, { name: "name", label: "Name", required: true }, { name: "pattern", label: "Matches (regular expression)", required: true, value: ".*" },
    { name: "apply", label: "Of", options: kind === "policies" ? ["all", "queues", "exchanges"] : ["queues"] }, { name: "priority", label: "Priority", type: "number", value: 0 },
    { name: "definition", label: "Says (JSON)", type: "textarea", required: true, placeholder: '{ "max-length": 10000, "overflow": "reject-publish" }' },
  ], async (values) => {
    await put(`/${kind}/${part(values.vhost)}/${part(values.name)}`, { pattern: values.pattern, "apply-to": values.apply, priority: Number(values.priority), definition: parsed(values.definition) });
    say("Set. It applies from now on.");
    place.again();
  }, "Set");
  return [
    h("h1", {}, "Policies"), h("p", { class: "quiet" }, "A policy gives arguments to all queues or exchanges whose names match. The one with the highest priority counts."),
    list("policies", mine), details("Set a policy", set("policies")),
    h("h2", {}, "Operator policies"), h("p", { class: "quiet" }, "They limit what users' policies and arguments can set."), list("operator-policies", operators), mayOperate && details("Set an operator policy", set("operator-policies")),
  ];
}
