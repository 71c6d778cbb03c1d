//! `/api/user-limits` and `/api/vhost-limits`.

use super::body::Body;
use super::caller::{Caller, administrators};
use super::{Answer, Api, Refusal, answer, done};
use crate::directory::DirectoryError;
use crate::directory::limits::LimitEntry;
use crate::node::Node;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::middleware::from_fn;
use axum::routing::{get, put};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Users' limits are for administrators. A vhost's limits are visible to everybody who may see the vhost.
pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/user-limits", get(users))
        .route("/api/user-limits/{user}", get(user))
        .route("/api/user-limits/{user}/{name}", put(put_user).delete(delete_user))
        .route("/api/vhost-limits/{vhost}/{name}", put(put_vhost).delete(delete_vhost))
        .route_layer(from_fn(administrators))
        .route("/api/vhost-limits", get(vhosts))
        .route("/api/vhost-limits/{vhost}", get(vhost))
}

async fn users(State(node): Api) -> Answer {
    shapes("user", node.user_limits())
}

async fn user(State(node): Api, Path(user): Path<String>) -> Answer {
    node.user(&user).ok_or_else(Refusal::not_found)?;
    let mut limits = node.user_limits();
    limits.retain(|(name, _)| **name == *user);
    shapes("user", limits)
}

async fn put_user(State(node): Api, Path((user, name)): Path<(String, String)>, body: Bytes) -> Answer {
    node.set_user_limit(&user, &name, value(&body)?).await?;
    done()
}

async fn delete_user(State(node): Api, Path((user, name)): Path<(String, String)>) -> Answer {
    cleared(node.clear_user_limit(&user, &name).await)
}

async fn vhosts(caller: Caller, State(node): Api) -> Answer {
    let mut limits = node.vhost_limits();
    limits.retain(|(name, _)| caller.sees(name));
    shapes("vhost", limits)
}

async fn vhost(caller: Caller, State(node): Api, Path(vhost): Path<String>) -> Answer {
    caller.vhost(&node, &vhost)?;
    let mut limits = node.vhost_limits();
    limits.retain(|(name, _)| **name == *vhost);
    shapes("vhost", limits)
}

async fn put_vhost(State(node): Api, Path((vhost, name)): Path<(String, String)>, body: Bytes) -> Answer {
    node.set_vhost_limit(&vhost, &name, value(&body)?).await?;
    done()
}

async fn delete_vhost(State(node): Api, Path((vhost, name)): Path<(String, String)>) -> Answer {
    cleared(node.clear_vhost_limit(&vhost, &name).await)
}

/// Clearing a limit that is not set succeeds, as in RabbitMQ: tools clear limits without checking first.
fn cleared(cleared: Result<(), DirectoryError>) -> Answer {
    match cleared {
        Ok(()) | Err(DirectoryError::NotSet(_)) => done(),
        Err(other) => Err(other.into()),
    }
}

fn value(body: &Bytes) -> Result<i64, Refusal> {
    let value = Body::parse(body)?.number("value")?;
    value.ok_or_else(|| Refusal::bad_request("key_missing: value"))
}

fn shapes(of: &str, entries: Vec<LimitEntry>) -> Answer {
    let shape = |(name, limits): LimitEntry| {
        let limits = limits.into_iter().map(|(name, value)| (name.to_string(), value.into()));
        json!({ of: &*name, "value": limits.collect::<Map<String, Value>>() })
    };
    answer(&entries.into_iter().map(shape).collect::<Vec<Value>>().into())
}
