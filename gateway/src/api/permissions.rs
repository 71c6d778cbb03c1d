//! `/api/permissions` and `/api/topic-permissions`.

use super::body::Body;
use super::caller::{Caller, administrators};
use super::{Answer, Api, Refusal, answer, done, made};
use crate::directory::DirectoryError;
use crate::directory::permissions::{Permission, PermissionEntry, TopicPermissionEntry};
use crate::node::Node;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::middleware::from_fn;
use axum::routing;
use serde_json::{Value, json};
use std::sync::Arc;

/// For administrators. A user may see its own permissions.
pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/vhosts/{vhost}/permissions", routing::get(of_vhost))
        .route("/api/vhosts/{vhost}/topic-permissions", routing::get(topics_of_vhost))
        .route("/api/permissions", routing::get(list))
        .route(
            "/api/permissions/{vhost}/{user}",
            routing::get(get).put(put).delete(delete),
        )
        .route("/api/topic-permissions", routing::get(topics))
        .route(
            "/api/topic-permissions/{vhost}/{user}",
            routing::get(topics_get).put(topics_put).delete(topics_delete_all),
        )
        .route(
            "/api/topic-permissions/{vhost}/{user}/{exchange}",
            routing::delete(topics_delete),
        )
        .route_layer(from_fn(administrators))
        .route("/api/users/{user}/permissions", routing::get(of_user))
        .route("/api/users/{user}/topic-permissions", routing::get(topics_of_user))
}

/// Checks that the caller may see the user's permissions.
fn sees(caller: &Caller, user: &str) -> Result<(), Refusal> {
    if caller.is_administrator() || **caller.name() == *user {
        Ok(())
    } else {
        Err(Refusal::not_authorised("User not authorised to access object"))
    }
}

async fn list(State(node): Api) -> Answer {
    shapes(node.permissions().iter())
}

async fn of_user(caller: Caller, State(node): Api, Path(user): Path<String>) -> Answer {
    sees(&caller, &user)?;
    node.user(&user).ok_or_else(Refusal::not_found)?;
    shapes(node.permissions().iter().filter(|entry| *entry.user == *user))
}

async fn of_vhost(State(node): Api, Path(vhost): Path<String>) -> Answer {
    node.vhost(&vhost).ok_or_else(Refusal::not_found)?;
    shapes(node.permissions().iter().filter(|entry| *entry.vhost == *vhost))
}

async fn get(State(node): Api, Path((vhost, user)): Path<(String, String)>) -> Answer {
    let all = node.permissions();
    let found = all.iter().find(|entry| *entry.vhost == *vhost && *entry.user == *user);
    answer(&shape(found.ok_or_else(Refusal::not_found)?))
}

async fn put(State(node): Api, Path((vhost, user)): Path<(String, String)>, body: Bytes) -> Answer {
    let body = Body::parse(&body)?;
    body.needs(&["configure", "write", "read"])?;
    let permission = Permission {
        configure: body.required("configure")?.to_owned(),
        write: body.required("write")?.to_owned(),
        read: body.required("read")?.to_owned(),
    };
    made(node.set_permission(&user, &vhost, permission).await.map_err(unknown)?)
}

async fn delete(State(node): Api, Path((vhost, user)): Path<(String, String)>) -> Answer {
    node.clear_permission(&user, &vhost).await?;
    done()
}

async fn topics(State(node): Api) -> Answer {
    topic_shapes(node.topic_permissions().iter())
}

async fn topics_of_user(caller: Caller, State(node): Api, Path(user): Path<String>) -> Answer {
    sees(&caller, &user)?;
    node.user(&user).ok_or_else(Refusal::not_found)?;
    topic_shapes(node.topic_permissions().iter().filter(|entry| *entry.user == *user))
}

async fn topics_of_vhost(State(node): Api, Path(vhost): Path<String>) -> Answer {
    node.vhost(&vhost).ok_or_else(Refusal::not_found)?;
    topic_shapes(node.topic_permissions().iter().filter(|entry| *entry.vhost == *vhost))
}

async fn topics_get(State(node): Api, Path((vhost, user)): Path<(String, String)>) -> Answer {
    let all = node.topic_permissions();
    let found: Vec<_> = all
        .iter()
        .filter(|entry| *entry.vhost == *vhost && *entry.user == *user)
        .collect();
    if found.is_empty() {
        return Err(Refusal::not_found());
    }
    topic_shapes(found.into_iter())
}

async fn topics_put(State(node): Api, Path((vhost, user)): Path<(String, String)>, body: Bytes) -> Answer {
    let body = Body::parse(&body)?;
    body.needs(&["exchange", "write", "read"])?;
    let exchange = body.required("exchange")?;
    let (write, read) = (body.required("write")?, body.required("read")?);
    let put = node.set_topic_permission(&user, &vhost, exchange, write, read).await;
    made(put.map_err(unknown)?)
}

async fn topics_delete_all(State(node): Api, Path((vhost, user)): Path<(String, String)>) -> Answer {
    node.clear_topic_permission(&user, &vhost, None).await?;
    done()
}

async fn topics_delete(State(node): Api, Path((vhost, user, exchange)): Path<(String, String, String)>) -> Answer {
    node.clear_topic_permission(&user, &vhost, Some(&exchange)).await?;
    done()
}

/// RabbitMQ's answer to a request for an unknown user or vhost.
fn unknown(error: DirectoryError) -> Refusal {
    match error {
        DirectoryError::NoSuchUser(_) | DirectoryError::NoSuchVhost(_) => {
            Refusal::bad_request(format!("vhost_or_user_not_found: {error}"))
        }
        other => other.into(),
    }
}

fn shape(entry: &PermissionEntry) -> Value {
    let Permission { configure, write, read } = &entry.permission;
    json!({
        "user": &*entry.user, "vhost": &*entry.vhost,
        "configure": configure, "write": write, "read": read,
    })
}

fn shapes<'a>(entries: impl Iterator<Item = &'a PermissionEntry>) -> Answer {
    answer(&entries.map(shape).collect::<Vec<Value>>().into())
}

fn topic_shapes<'a>(entries: impl Iterator<Item = &'a TopicPermissionEntry>) -> Answer {
    let shape = |entry: &TopicPermissionEntry| {
        json!({
            "user": &*entry.user, "vhost": &*entry.vhost, "exchange": &*entry.exchange,
            "write": entry.write, "read": entry.read,
        })
    };
    answer(&entries.map(shape).collect::<Vec<Value>>().into())
}
