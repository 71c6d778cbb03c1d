//! `/api/exchanges`.

use super::bindings::{self, Binding, exchange_named};
use super::caller::Caller;
use super::collect::collect;
use super::fields::Fields;
use super::rates::{ExchangeHistory, ExchangeSample, Spans};
use super::view::{Pages, Row, View};
use super::{Answer, Api, Refusal};
use crate::node::Node;
use crate::vhost::Vhost;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing;
use gatepost_core::engine::inspect::{Item, Kind};
use gatepost_core::properties::Name;
use gatepost_core::router::ExchangeInfo;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/exchanges", routing::get(list))
        .route("/api/exchanges/{vhost}", routing::get(of_vhost))
        .route("/api/exchanges/{vhost}/{exchange}", routing::get(get))
        .route(
            "/api/exchanges/{vhost}/{exchange}/bindings/{end}",
            routing::get(bindings),
        )
}

struct Exchange {
    vhost: Name,
    info: ExchangeInfo,
    history: ExchangeHistory,
}

impl Exchange {
    fn of(node: &Node, vhost: &Vhost, info: ExchangeInfo, spans: &Spans) -> Exchange {
        let now = node.clock.now().wall.0;
        let sample = ExchangeSample::new(&info.counts);
        Exchange {
            vhost: vhost.name.clone(),
            history: node.rates.exchange(now, vhost.number, &info.name, sample, spans),
            info,
        }
    }
}

/// A function that reads one value of a sample.
type Of = fn(&ExchangeSample) -> u64;

impl Row for Exchange {
    fn name(&self) -> &str {
        &self.info.name
    }

    fn write(&self, fields: &mut Fields<'_>, spans: &Spans) {
        let info = &self.info;
        fields.text("name", &info.name);
        fields.text("vhost", &self.vhost);
        fields.text("type", info.kind);
        fields.flag("durable", info.durable);
        fields.flag("auto_delete", info.auto_delete);
        fields.flag("internal", info.internal);
        fields.table("arguments", &info.arguments);
        let policy = info.policy.as_deref();
        fields.optional("policy", policy.and_then(|policy| policy.policy.as_deref()));
        fields.text("user_who_performed_action", "");
        let now = ExchangeSample::new(&info.counts);
        let stats: [(&str, Of); 2] = [
            ("publish_in", ExchangeSample::published_in),
            ("publish_out", ExchangeSample::published_out),
        ];
        fields.object("message_stats", |fields| {
            for (key, of) in stats {
                self.history.write(fields, key, of(&now), spans.messages, of);
            }
        });
    }
}

/// An exchange with the statistics per publisher and per destination, which RabbitMQ has and this gateway has not.
struct Whole(Exchange);

impl Row for Whole {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn write(&self, fields: &mut Fields<'_>, spans: &Spans) {
        self.0.write(fields, spans);
        for key in ["incoming", "outgoing"] {
            fields.list(key, [], |_, ()| {});
        }
    }
}

async fn in_vhost(node: &Node, vhost: &Vhost, spans: &Spans) -> Vec<Exchange> {
    let items = collect(vhost, Kind::Exchanges).await.into_iter();
    let all = items.filter_map(|item| match item {
        Item::Exchange(info) => Some(Exchange::of(node, vhost, info, spans)),
        _ => None,
    });
    // They are sorted by name already.
    all.collect()
}

async fn list(caller: Caller, view: View, State(node): Api) -> Answer {
    let mut all = Vec::new();
    for vhost in caller.vhosts(&node) {
        all.extend(in_vhost(&node, &vhost, &view.spans).await);
    }
    view.list(all, Pages::Known)
}

async fn of_vhost(caller: Caller, view: View, State(node): Api, Path(vhost): Path<String>) -> Answer {
    let vhost = caller.vhost(&node, &vhost)?;
    view.list(in_vhost(&node, &vhost, &view.spans).await, Pages::Known)
}

async fn get(caller: Caller, view: View, State(node): Api, Path((vhost, name)): Path<(String, String)>) -> Answer {
    let vhost = caller.vhost(&node, &vhost)?;
    let info = named(&vhost, &name)?;
    view.one(&Whole(Exchange::of(&node, &vhost, info, &view.spans)))
}

fn named(vhost: &Vhost, name: &str) -> Result<ExchangeInfo, Refusal> {
    let found = vhost.enter(|engine| engine.inspect_exchange(exchange_named(name)));
    found.ok_or_else(Refusal::not_found)
}

/// `source`: the bindings from the exchange. `destination`: the bindings to it. The list of an unknown exchange is
/// empty, as in RabbitMQ.
async fn bindings(
    caller: Caller,
    view: View,
    State(node): Api,
    Path((vhost, name, end)): Path<(String, String, String)>,
) -> Answer {
    let vhost = caller.vhost(&node, &vhost)?;
    let exchange = exchange_named(&name);
    let mut all = bindings::in_vhost(&vhost).await;
    match end.as_str() {
        "source" => all.retain(|binding: &Binding| *binding.source == *exchange),
        "destination" => all.retain(|binding| binding.leads_to(exchange, true)),
        _ => return Err(Refusal::not_found()),
    }
    view.list(all, Pages::None)
}
