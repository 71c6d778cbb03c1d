//! `/api/user-limits` and `/api/vhost-limits`.

use super::body::Body;
use super::{Answer, Api, Refusal, answer, done};
use crate::directory::limits::LimitEntry;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde_json::{Map, Value, json};

pub(super) async fn users(State(node): Api) -> Answer {
    shapes("user", node.user_limits())
}

pub(super) async fn user(State(node): Api, Path(user): Path<String>) -> Answer {
    node.user(&user).ok_or_else(Refusal::not_found)?;
    let mut limits = node.user_limits();
    limits.retain(|(name, _)| **name == *user);
    shapes("user", limits)
}

pub(super) async fn put_user(State(node): Api, Path((user, name)): Path<(String, String)>, body: Bytes) -> Answer {
    node.set_user_limit(&user, &name, value(&body)?).await?;
    done()
}

pub(super) async fn delete_user(State(node): Api, Path((user, name)): Path<(String, String)>) -> Answer {
    node.clear_user_limit(&user, &name).await?;
    done()
}

pub(super) async fn vhosts(State(node): Api) -> Answer {
    shapes("vhost", node.vhost_limits())
}

pub(super) async fn vhost(State(node): Api, Path(vhost): Path<String>) -> Answer {
    node.vhost(&vhost).ok_or_else(Refusal::not_found)?;
    let mut limits = node.vhost_limits();
    limits.retain(|(name, _)| **name == *vhost);
    shapes("vhost", limits)
}

pub(super) async fn put_vhost(State(node): Api, Path((vhost, name)): Path<(String, String)>, body: Bytes) -> Answer {
    node.set_vhost_limit(&vhost, &name, value(&body)?).await?;
    done()
}

pub(super) async fn delete_vhost(State(node): Api, Path((vhost, name)): Path<(String, String)>) -> Answer {
    node.clear_vhost_limit(&vhost, &name).await?;
    done()
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
