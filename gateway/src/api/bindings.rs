//! `/api/bindings`: bindings from exchanges to queues and to other exchanges. Every declared queue is also bound to the
//! default exchange by its name. MQTT subscriptions are bindings of their session's queue, shown in AMQP's form.

use super::caller::Caller;
use super::collect::collect;
use super::fields::Fields;
use super::properties_key::properties_key;
use super::rates::Spans;
use super::view::{Pages, Row, View};
use super::{Answer, Api, Refusal};
use crate::node::Node;
use crate::vhost::Vhost;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing;
use gatepost_core::binding::Destination;
use gatepost_core::engine::inspect::{Item, Kind};
use gatepost_core::message::Dialect;
use gatepost_core::properties::{Name, Table};
use gatepost_core::topic;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/bindings", routing::get(list))
        .route("/api/bindings/{vhost}", routing::get(of_vhost))
        .route(
            "/api/bindings/{vhost}/e/{source}/{kind}/{destination}",
            routing::get(between),
        )
        .route(
            "/api/bindings/{vhost}/e/{source}/{kind}/{destination}/{properties_key}",
            routing::get(get),
        )
}

/// A binding.
pub(super) struct Binding {
    vhost: Name,
    pub(super) source: Name,
    destination: Name,
    to_exchange: bool,
    key: String,
    arguments: Table,
    properties_key: String,
}

impl Binding {
    fn new(vhost: &Name, source: Name, destination: Name, to_exchange: bool, key: String, arguments: Table) -> Binding {
        Binding {
            vhost: vhost.clone(),
            properties_key: properties_key(&key, &arguments),
            source,
            destination,
            to_exchange,
            key,
            arguments,
        }
    }

    fn of(vhost: &Name, item: Item) -> Option<Binding> {
        match item {
            Item::Binding(binding) => {
                let (destination, to_exchange) = match binding.destination {
                    Destination::Queue { name, .. } => (name, false),
                    Destination::Exchange(name) => (name, true),
                };
                let key = spelled(&binding.key, binding.dialect);
                Some(Binding::new(
                    vhost,
                    binding.source,
                    destination,
                    to_exchange,
                    key,
                    binding.arguments,
                ))
            }
            Item::Queue {
                name,
                is_declared: true,
                ..
            } => {
                let key = name.to_string();
                Some(Binding::new(vhost, Name::default(), name, false, key, Table::default()))
            }
            _ => None,
        }
    }

    /// Whether it leads to that queue, or to that exchange.
    pub(super) fn leads_to(&self, destination: &str, to_exchange: bool) -> bool {
        *self.destination == *destination && self.to_exchange == to_exchange
    }
}

impl Row for Binding {
    fn name(&self) -> &str {
        &self.key
    }

    fn write(&self, fields: &mut Fields<'_>, _: &Spans) {
        fields.text("source", &self.source);
        fields.text("vhost", &self.vhost);
        fields.text("destination", &self.destination);
        let kind = if self.to_exchange { "exchange" } else { "queue" };
        fields.text("destination_type", kind);
        fields.text("routing_key", &self.key);
        fields.table("arguments", &self.arguments);
        fields.text("properties_key", &self.properties_key);
    }
}

/// A key in AMQP's form.
fn spelled(key: &str, dialect: Dialect) -> String {
    let Some(dotted) = topic::translate(key, dialect, Dialect::Dot) else {
        return key.to_owned();
    };
    if dialect == Dialect::Dot {
        return dotted.into_owned();
    }
    let levels = dotted.split('.').map(|level| if level == "+" { "*" } else { level });
    levels.collect::<Vec<_>>().join(".")
}

/// All bindings of a vhost, those of the default exchange first.
pub(super) async fn in_vhost(vhost: &Vhost) -> Vec<Binding> {
    let mut items = collect(vhost, Kind::Queues).await;
    items.extend(collect(vhost, Kind::Bindings).await);
    let all = items.into_iter().filter_map(|item| Binding::of(&vhost.name, item));
    sorted(all.collect())
}

fn sorted(mut all: Vec<Binding>) -> Vec<Binding> {
    let of = |binding: &Binding| {
        (
            binding.source.clone(),
            binding.destination.clone(),
            binding.properties_key.clone(),
        )
    };
    all.sort_by_cached_key(of);
    all
}

/// Those that lead to a queue, that of the default exchange first. Monitoring tools ask this for each queue, so only what is of
/// the queue is put together.
pub(super) async fn to_queue(vhost: &Vhost, queue: &str) -> Vec<Binding> {
    let item = vhost.enter(|engine| engine.inspect_queue(queue));
    let leads_there = |item: &Item| match item {
        Item::Binding(binding) => {
            matches!(&binding.destination, Destination::Queue { name, .. } if **name == *queue)
        }
        _ => false,
    };
    let mut bindings = collect(vhost, Kind::Bindings).await;
    bindings.retain(leads_there);
    let items = item.into_iter().chain(bindings);
    sorted(items.filter_map(|item| Binding::of(&vhost.name, item)).collect())
}

async fn list(caller: Caller, view: View, State(node): Api) -> Answer {
    let mut all = Vec::new();
    for vhost in caller.vhosts(&node) {
        all.extend(in_vhost(&vhost).await);
    }
    view.list(all, Pages::None)
}

async fn of_vhost(caller: Caller, view: View, State(node): Api, Path(vhost): Path<String>) -> Answer {
    let vhost = caller.vhost(&node, &vhost)?;
    view.list(in_vhost(&vhost).await, Pages::None)
}

/// The name of the default exchange in paths.
const DEFAULT: &str = "amq.default";

/// The exchange of this name in a path.
pub(super) fn exchange_named(segment: &str) -> &str {
    if segment == DEFAULT { "" } else { segment }
}

async fn find(
    caller: &Caller,
    node: &Node,
    (vhost, source, kind, destination): (&str, &str, &str, &str),
) -> Result<Vec<Binding>, Refusal> {
    let to_exchange = match kind {
        "q" => false,
        "e" => true,
        _ => return Err(Refusal::not_found()),
    };
    let vhost = caller.vhost(node, vhost)?;
    let source = exchange_named(source);
    let mut all = in_vhost(&vhost).await;
    all.retain(|binding| *binding.source == *source && binding.leads_to(destination, to_exchange));
    Ok(all)
}

async fn between(
    caller: Caller,
    view: View,
    State(node): Api,
    Path((vhost, source, kind, destination)): Path<(String, String, String, String)>,
) -> Answer {
    let all = find(&caller, &node, (&vhost, &source, &kind, &destination)).await?;
    view.list(all, Pages::None)
}

async fn get(
    caller: Caller,
    view: View,
    State(node): Api,
    Path((vhost, source, kind, destination, key)): Path<(String, String, String, String, String)>,
) -> Answer {
    let all = find(&caller, &node, (&vhost, &source, &kind, &destination)).await?;
    let found = all.iter().find(|binding| binding.properties_key == key);
    view.one(found.ok_or_else(Refusal::not_found)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_shown_as_amqp_spells_them() {
        assert_eq!(spelled("a/+/b/#", Dialect::Slash), "a.*.b.#");
        assert_eq!(spelled("v1.5/+", Dialect::Slash), "v1%2E5.*");
        assert_eq!(spelled("a.*.#", Dialect::Dot), "a.*.#");
    }
}
