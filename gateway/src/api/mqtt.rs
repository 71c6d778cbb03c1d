//! MQTT sessions and subscriptions, also of absent clients. RabbitMQ has no paths for them:
//! `/api/gatepost/sessions/{vhost}` and `/api/gatepost/subscriptions/{vhost}`.

use super::caller::Caller;
use super::collect::collect;
use super::errand::Errand;
use super::fields::Fields;
use super::query::Query;
use super::rates::Spans;
use super::view::{Pages, Row, View};
use super::{Answer, Api, Refusal, done};
use crate::logging::shown;
use crate::node::Node;
use crate::vhost::Vhost;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing;
use gatepost_core::command::{Command, OpenSession};
use gatepost_core::engine::inspect::{Item, Kind};
use gatepost_core::message::Dialect;
use gatepost_core::properties::Name;
use gatepost_core::time::Wall;
use gatepost_core::topic::{Levels, Pattern};
use std::collections::HashMap;
use std::sync::Arc;

/// For every user of the API, in vhosts that it may use.
pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/gatepost/sessions/{vhost}", routing::get(sessions))
        .route(
            "/api/gatepost/sessions/{vhost}/{client}",
            routing::get(session).delete(end),
        )
        .route("/api/gatepost/subscriptions/{vhost}", routing::get(subscriptions))
}

struct Session {
    client_id: Name,
    user: Name,
    is_connected: bool,
    subscription_count: usize,
    in_flight: usize,
    waiting: usize,
    expiry_s: Option<u32>,
    expires_at: Option<Wall>,
    subscriptions: Vec<Subscription>,
}

impl Session {
    fn of(item: Item) -> Option<Session> {
        let Item::Session {
            client_id,
            user,
            link,
            subscriptions,
            in_flight,
            waiting,
            expiry_s,
            expires_at,
        } = item
        else {
            return None;
        };
        Some(Session {
            client_id,
            user,
            is_connected: link.is_some(),
            subscription_count: subscriptions,
            in_flight,
            waiting,
            expiry_s,
            expires_at,
            subscriptions: Vec::new(),
        })
    }
}

impl Row for Session {
    fn name(&self) -> &str {
        &self.client_id
    }

    fn other_names(&self) -> [&str; 2] {
        [&self.user, ""]
    }

    fn write(&self, fields: &mut Fields<'_>, _: &Spans) {
        fields.text("client_id", &self.client_id);
        fields.text("user", &self.user);
        fields.flag("connected", self.is_connected);
        fields.count("messages", self.waiting);
        fields.count("in_flight", self.in_flight);
        match self.expiry_s {
            Some(seconds) => fields.count("expiry", seconds),
            None => fields.null("expiry"),
        }
        match self.expires_at {
            Some(at) => fields.count("expires_at", at.0),
            None => fields.null("expires_at"),
        }
        fields.count("subscription_count", self.subscription_count);
        fields.list("subscriptions", &self.subscriptions, |fields, subscription| {
            fields.text("filter", &subscription.filter);
            fields.count("qos", subscription.qos);
        });
    }
}

struct Subscription {
    client_id: Name,
    /// As the client wrote it, with its `$share` group.
    filter: String,
    /// Without the group.
    pattern: Name,
    qos: u8,
}

impl Subscription {
    fn of(item: Item) -> Option<Subscription> {
        let Item::Subscription {
            client_id,
            filter,
            share,
            qos,
        } = item
        else {
            return None;
        };
        Some(Subscription {
            client_id,
            filter: share.map_or_else(|| filter.to_string(), |share| format!("$share/{share}/{filter}")),
            pattern: filter,
            qos,
        })
    }
}

impl Row for Subscription {
    fn name(&self) -> &str {
        &self.filter
    }

    fn write(&self, fields: &mut Fields<'_>, _: &Spans) {
        fields.text("filter", &self.filter);
        fields.text("client_id", &self.client_id);
        fields.count("qos", self.qos);
    }
}

async fn sessions_of(vhost: &Vhost) -> Vec<Session> {
    let items = collect(vhost, Kind::Sessions).await;
    items.into_iter().filter_map(Session::of).collect()
}

async fn subscriptions_of(vhost: &Vhost) -> impl Iterator<Item = Subscription> {
    let items = collect(vhost, Kind::Subscriptions).await;
    items.into_iter().filter_map(Subscription::of)
}

/// The sessions by client id. Subscriptions are collected only if they are needed: there may be many more of them.
async fn sessions(caller: Caller, view: View, State(node): Api, Path(vhost): Path<String>) -> Answer {
    let vhost = caller.vhost_to_use(&node, &vhost)?;
    let mut list = sessions_of(&vhost).await;
    if view.wants("subscriptions") {
        let mut by_client: HashMap<Name, Vec<Subscription>> = HashMap::new();
        for subscription in subscriptions_of(&vhost).await {
            by_client
                .entry(subscription.client_id.clone())
                .or_default()
                .push(subscription);
        }
        for session in &mut list {
            session.subscriptions = by_client.remove(&session.client_id).unwrap_or_default();
        }
    }
    list.sort_by(|a, b| a.client_id.cmp(&b.client_id));
    view.list(list, Pages::Known)
}

async fn named(vhost: &Vhost, client_id: &str) -> Result<Session, Refusal> {
    let found = sessions_of(vhost)
        .await
        .into_iter()
        .find(|s| &*s.client_id == client_id);
    found.ok_or_else(Refusal::not_found)
}

async fn session(
    caller: Caller,
    view: View,
    State(node): Api,
    Path((vhost, client)): Path<(String, String)>,
) -> Answer {
    let vhost = caller.vhost_to_use(&node, &vhost)?;
    let mut session = named(&vhost, &client).await?;
    let all = subscriptions_of(&vhost).await;
    session.subscriptions = all.filter(|s| s.client_id == session.client_id).collect();
    view.one(&session)
}

/// Ends a session and deletes its state, as if its client connected again, asked for a clean start and left. So a
/// connection of the session is told that it was taken over, and its will is published.
async fn end(caller: Caller, State(node): Api, Path((vhost, client)): Path<(String, String)>) -> Answer {
    let vhost = caller.vhost(&node, &vhost)?;
    let session = named(&vhost, &client).await?;
    if !caller.is_administrator() && session.user != *caller.name() {
        return Err(Refusal::not_authorised("User not authorised to access object"));
    }
    let mut errand = Errand::of_node(&node, &vhost)?;
    let open = OpenSession {
        client_id: session.client_id,
        clean_start: true,
        expiry: Some(0),
        receive_maximum: 1,
        will: None,
    };
    errand.ask(Command::OpenSession(Box::new(open))).await?;
    let (client_id, by) = (&*shown(&client), caller.name());
    tracing::info!(client_id, vhost = %vhost.name, %by, "session ended by an operator");
    done()
}

/// The subscriptions by filter. `topic`: only those that match this topic.
async fn subscriptions(
    caller: Caller,
    view: View,
    query: Query,
    State(node): Api,
    Path(vhost): Path<String>,
) -> Answer {
    let vhost = caller.vhost_to_use(&node, &vhost)?;
    let mut list: Vec<Subscription> = subscriptions_of(&vhost).await.collect();
    if let Some(topic) = query.get("topic").filter(|topic| !topic.is_empty()) {
        let levels = Levels::new(topic, Dialect::Slash);
        list.retain(|s| Pattern::parse(&s.pattern, Dialect::Slash).is_ok_and(|pattern| pattern.matches(&levels)));
    }
    list.sort_by(|a, b| (&a.filter, &a.client_id).cmp(&(&b.filter, &b.client_id)));
    view.list(list, Pages::Known)
}
