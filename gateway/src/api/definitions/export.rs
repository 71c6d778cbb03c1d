//! Exports all declared objects as a document.

use super::super::{policies, table, users};
use crate::node::Node;
use crate::vhost::Vhost;
use gatepost_core::binding::{Binding, Destination};
use gatepost_core::engine::inspect::{Cursor, Item, Kind};
use gatepost_core::policy::PolicyKind;
use gatepost_core::properties::Name;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The RabbitMQ release whose format it has: RabbitMQ checks it on import.
const FORM_OF: &str = "3.10.8";
/// Maximum objects read in one hold of an engine's lock.
const AT_ONCE: usize = 512;

/// The definitions of the whole node.
pub(super) async fn of_node(node: &Arc<Node>) -> Value {
    let mut parts = Parts::default();
    for vhost in node.vhosts.list().iter() {
        parts.add(vhost).await;
    }
    for (vhost, limits) in node.vhost_limits() {
        let limits = limits.into_iter().map(|(name, value)| (name.to_string(), value.into()));
        parts.parameters.push(json!({
            "vhost": &*vhost, "component": "vhost-limits", "name": "limits",
            "value": limits.collect::<Map<String, Value>>(),
        }));
    }
    let vhosts = node.list_vhosts();
    let vhosts = vhosts.iter().map(|(_, record)| {
        let tags: Vec<&str> = record.tags.iter().map(|tag| &**tag).collect();
        json!({
            "name": &*record.name, "description": record.description, "tags": tags,
            "default_queue_type": &*record.default_queue_type,
            "metadata": { "description": record.description, "tags": tags },
        })
    });
    let permissions = node.permissions();
    let permissions = permissions.iter().map(|entry| {
        json!({
            "user": &*entry.user, "vhost": &*entry.vhost, "configure": entry.permission.configure,
            "write": entry.permission.write, "read": entry.permission.read,
        })
    });
    let topics = node.topic_permissions();
    let topics = topics.iter().map(|entry| {
        json!({
            "user": &*entry.user, "vhost": &*entry.vhost, "exchange": &*entry.exchange,
            "write": entry.write, "read": entry.read,
        })
    });
    let globals = node.global_parameters();
    let globals = globals
        .iter()
        .filter(|(name, _)| **name != *super::IMPORTED)
        .map(|(name, value)| json!({ "name": &**name, "value": table::json_of(value) }));
    json!({
        "rabbit_version": FORM_OF,
        "rabbitmq_version": FORM_OF,
        "product_name": "Gatepost",
        "product_version": env!("CARGO_PKG_VERSION"),
        "users": node.users().iter().map(|user| users::definition(node, user)).collect::<Vec<_>>(),
        "vhosts": vhosts.collect::<Vec<_>>(),
        "permissions": permissions.collect::<Vec<_>>(),
        "topic_permissions": topics.collect::<Vec<_>>(),
        "parameters": parts.parameters,
        "global_parameters": globals.collect::<Vec<_>>(),
        "policies": parts.policies,
        "queues": parts.queues,
        "exchanges": parts.exchanges,
        "bindings": parts.bindings,
    })
}

/// The definitions of one vhost. Its objects do not name the vhost.
pub(super) async fn of_vhost(vhost: &Arc<Vhost>) -> Value {
    let mut parts = Parts::default();
    parts.add(vhost).await;
    let all = [
        &mut parts.parameters,
        &mut parts.policies,
        &mut parts.queues,
        &mut parts.exchanges,
        &mut parts.bindings,
    ];
    for object in all.into_iter().flatten().filter_map(Value::as_object_mut) {
        object.remove("vhost");
    }
    json!({
        "rabbit_version": FORM_OF,
        "parameters": parts.parameters,
        "policies": parts.policies,
        "queues": parts.queues,
        "exchanges": parts.exchanges,
        "bindings": parts.bindings,
    })
}

/// The objects of vhosts.
#[derive(Default)]
struct Parts {
    parameters: Vec<Value>,
    policies: Vec<Value>,
    queues: Vec<Value>,
    exchanges: Vec<Value>,
    bindings: Vec<Value>,
}

impl Parts {
    async fn add(&mut self, vhost: &Arc<Vhost>) {
        let name = &*vhost.name;
        let of_users = vhost.enter(|engine| engine.policies(PolicyKind::User));
        self.policies.extend(
            of_users
                .iter()
                .map(|(policy, record)| policies::shape(name, policy, record)),
        );
        for (policy, record) in vhost.enter(|engine| engine.policies(PolicyKind::Operator)) {
            let mut value = policies::shape(name, &policy, &record);
            if let Some(members) = value.as_object_mut() {
                members.remove("vhost");
                members.remove("name");
            }
            let component = "operator_policy";
            self.parameters
                .push(json!({ "vhost": name, "component": component, "name": &*policy, "value": value }));
        }
        // Left out are exclusive queues, which are deleted with their connection, and those of MQTT sessions, which
        // belong to clients.
        let mut queues: Vec<(Name, Value)> = Vec::new();
        for item in listed(vhost, Kind::Queues).await {
            if let Item::Queue {
                name: queue,
                durable,
                exclusive: None,
                auto_delete,
                arguments,
                is_declared: true,
                ..
            } = item
            {
                let value = json!({
                    "name": &*queue, "vhost": name, "durable": durable, "auto_delete": auto_delete,
                    "arguments": table::json(&arguments),
                });
                queues.push((queue, value));
            }
        }
        queues.sort_by(|a, b| a.0.cmp(&b.0));
        let names: BTreeSet<&Name> = queues.iter().map(|(name, _)| name).collect();
        for item in listed(vhost, Kind::Exchanges).await {
            let Item::Exchange(x) = item else { continue };
            if x.name.is_empty() || x.name.starts_with("amq.") {
                continue;
            }
            self.exchanges.push(json!({
                "name": &*x.name, "vhost": name, "type": x.kind, "durable": x.durable,
                "auto_delete": x.auto_delete, "internal": x.internal, "arguments": table::json(&x.arguments),
            }));
        }
        let mut bindings: Vec<Binding> = Vec::new();
        for item in listed(vhost, Kind::Bindings).await {
            if let Item::Binding(b) = item
                && b.grant.is_none()
                && !matches!(&b.destination, Destination::Queue { name, .. } if !names.contains(name))
            {
                bindings.push(b);
            }
        }
        bindings.sort_by(|a, b| (&a.source, &a.key).cmp(&(&b.source, &b.key)));
        for b in &bindings {
            let (kind, destination) = match &b.destination {
                Destination::Queue { name, .. } => ("queue", name),
                Destination::Exchange(name) => ("exchange", name),
            };
            self.bindings.push(json!({
                "source": &*b.source, "vhost": name, "destination": &**destination, "destination_type": kind,
                "routing_key": &*b.key, "arguments": table::json(&b.arguments),
            }));
        }
        self.queues.extend(queues.into_iter().map(|(_, value)| value));
    }
}

async fn listed(vhost: &Arc<Vhost>, kind: Kind) -> Vec<Item> {
    let mut cursor = Cursor::new(kind);
    let mut items = Vec::new();
    while !cursor.is_done() {
        items.extend(vhost.enter(|engine| engine.inspect(&mut cursor, AT_ONCE)));
        tokio::task::yield_now().await;
    }
    items
}
