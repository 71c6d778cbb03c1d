//! What MQTT leaves behind, which RabbitMQ's paths have no place for: `/api/gatepost/sessions/{vhost}` and
//! `/api/gatepost/retained/{vhost}`.

use super::caller::Caller;
use super::collect::collect;
use super::errand::{CHANNEL, Errand};
use super::query::Query;
use super::{Answer, Api, Refusal, answer, done};
use crate::node::Node;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{delete, get};
use gatepost_core::command::{Command, PublishFlags};
use gatepost_core::engine::inspect::{Item, Kind};
use gatepost_core::event::Event;
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::{Name, Origin};
use gatepost_core::topic::{Levels, Pattern};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// For every user of the API, in vhosts that it may use.
pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/gatepost/sessions/{vhost}", get(sessions))
        .route("/api/gatepost/retained/{vhost}", get(retained))
        .route("/api/gatepost/retained/{vhost}/{topic}", delete(clear))
}

/// Retained messages that one answer names, unless it is asked for fewer.
const RETAINED_MAX: usize = 1000;

async fn sessions(caller: Caller, State(node): Api, Path(vhost): Path<String>) -> Answer {
    let vhost = caller.vhost_to_use(&node, &vhost)?;
    let mut subscriptions: HashMap<Name, Vec<Value>> = HashMap::new();
    for item in collect(&vhost, Kind::Subscriptions).await {
        if let Item::Subscription {
            client_id,
            filter,
            share,
            qos,
        } = item
        {
            let filter = share.map_or_else(|| filter.to_string(), |share| format!("$share/{share}/{filter}"));
            subscriptions
                .entry(client_id)
                .or_default()
                .push(json!({ "filter": filter, "qos": qos }));
        }
    }
    let shape = |item| match item {
        Item::Session {
            client_id,
            user,
            link,
            in_flight,
            waiting,
            expiry_s,
            expires_at,
            ..
        } => Some(json!({
            "client_id": client_id,
            "user": user,
            "connected": link.is_some(),
            "messages": waiting,
            "in_flight": in_flight,
            "expiry": expiry_s,
            "expires_at": expires_at.map(|at| at.0),
            "subscriptions": subscriptions.remove(&client_id).unwrap_or_default(),
        })),
        _ => None,
    };
    let mut list: Vec<Value> = collect(&vhost, Kind::Sessions)
        .await
        .into_iter()
        .filter_map(shape)
        .collect();
    list.sort_by(|a, b| a["client_id"].as_str().cmp(&b["client_id"].as_str()));
    answer(&list.into())
}

/// `filter` (MQTT's) and `limit`.
async fn retained(caller: Caller, State(node): Api, Path(vhost): Path<String>, query: Query) -> Answer {
    let vhost = caller.vhost_to_use(&node, &vhost)?;
    let filter = query.get("filter").unwrap_or("#");
    let filter = Pattern::parse(filter, Dialect::Slash).map_err(|_| Refusal::bad_request("filter: no MQTT filter"))?;
    let limit = query.get("limit").map_or(Ok(RETAINED_MAX), str::parse);
    let limit = limit.map_err(|_| Refusal::bad_request("limit: expected a number"))?;
    let mut total = 0;
    let mut items = Vec::new();
    for item in collect(&vhost, Kind::Retained).await {
        let Item::Retained { topic, bytes } = item else {
            continue;
        };
        if filter.matches(&Levels::new(&topic, Dialect::Slash)) {
            total += 1;
            if items.len() < limit.min(RETAINED_MAX) {
                items.push(json!({ "topic": topic, "bytes": bytes }));
            }
        }
    }
    answer(&json!({ "total": total, "items": items }))
}

/// As a client would: an empty retained message.
async fn clear(caller: Caller, State(node): Api, Path((vhost, topic)): Path<(String, String)>) -> Answer {
    let vhost = caller.vhost_to_use(&node, &vhost)?;
    let mut errand = Errand::of(&caller, &node, &vhost)?;
    let envelope = Envelope {
        origin: Origin::NEUTRAL,
        dialect: Dialect::Slash,
        durable: true,
        qos: 1,
        retain: true,
        received: node.clock.now().wall,
        ..Envelope::default()
    };
    let exchange = node.config().mqtt.exchange.clone();
    errand.send(Command::Publish {
        channel: CHANNEL,
        flags: PublishFlags::CONFIRM,
        packet_id: 0,
        message: Message::new(envelope, &exchange, &topic, &[], &[]),
    });
    loop {
        match errand.next().await? {
            Event::Refused { why, .. } => return Err(Refusal::bad_request(format!("it is refused: {why:?}"))),
            Event::Failed { fault, .. } => return Err((*fault).into()),
            Event::Confirmed { .. } => return done(),
            _ => {}
        }
    }
}
