//! `/api/bans`: bans of addresses, users and clients. RabbitMQ has no counterpart.

use super::body::Body;
use super::caller::administrators;
use super::{Answer, Api, Refusal, answer, done};
use crate::network::Network;
use crate::node::Node;
use crate::protection::{Ban, BanKind, BanOrigin};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::middleware::from_fn;
use axum::routing::{self, get};
use gatepost_core::event::CloseReason;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Routes for administrators.
pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/bans", get(list))
        .route("/api/bans/{kind}/{value}", routing::put(put).delete(delete))
        .route_layer(from_fn(administrators))
}

async fn list(State(node): Api) -> Answer {
    let now = node.clock.now().monotonic;
    let shape = |ban: Ban| {
        json!({
            "kind": ban.kind.name(),
            "value": ban.value,
            "origin": match ban.origin {
                BanOrigin::Configuration => "configuration",
                BanOrigin::RunTime => "run time",
                BanOrigin::Failures => "failed logins",
            },
            "seconds_left": ban.until.map(|until| (until - now).as_secs()),
        })
    };
    answer(
        &node
            .protection
            .list(now)
            .into_iter()
            .map(shape)
            .collect::<Vec<Value>>()
            .into(),
    )
}

/// Sets a ban until the gateway stops, or for `seconds`. A banned user's connections end.
async fn put(State(node): Api, Path((kind, value)): Path<(String, String)>, body: Bytes) -> Answer {
    let kind = known(&kind)?;
    let seconds = Body::parse(&body)?.number("seconds")?;
    let seconds = seconds.map(u64::try_from).transpose();
    let seconds = seconds.map_err(|_| Refusal::bad_request("seconds: expected a number from 0"))?;
    if kind == BanKind::Address && value.parse::<Network>().is_err() {
        return Err(Refusal::bad_request(
            "expected an address or a network, such as 192.0.2.0/24",
        ));
    }
    let until = seconds.map(|seconds| node.clock.now().monotonic + Duration::from_secs(seconds));
    node.protection.ban(Ban {
        kind,
        value: value.clone(),
        until,
        origin: BanOrigin::RunTime,
    });
    if kind == BanKind::User {
        for vhost in node.vhosts.list().iter() {
            vhost.enter(|engine| engine.end_user(&value, CloseReason::Forced));
        }
    }
    tracing::info!(kind = kind.name(), value, seconds, "banned");
    done()
}

async fn delete(State(node): Api, Path((kind, value)): Path<(String, String)>) -> Answer {
    let kind = known(&kind)?;
    if !node.protection.lift(kind, &value) {
        return Err(Refusal::not_found());
    }
    tracing::info!(kind = kind.name(), value, "ban lifted");
    done()
}

fn known(kind: &str) -> Result<BanKind, Refusal> {
    let found = BanKind::ALL.into_iter().find(|known| known.name() == kind);
    found.ok_or_else(|| Refusal::bad_request("expected address, user or client"))
}
