//! `/api/users`.

use super::body::Body;
use super::caller::administrators;
use super::{Answer, Api, Refusal, answer, done, is_new, made};
use crate::directory::Put;
use crate::directory::users::{Credential, UserEntry};
use crate::node::Node;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::middleware::from_fn;
use axum::routing;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatepost_core::properties::Name;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// For administrators.
pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/users", routing::get(list))
        .route("/api/users/bulk-delete", routing::post(delete_many))
        .route("/api/users/without-permissions", routing::get(without_permissions))
        .route(
            "/api/users/{user}",
            routing::get(get).put(put).patch(patch).delete(delete),
        )
        .route_layer(from_fn(administrators))
}

async fn list(State(node): Api) -> Answer {
    let users: Vec<Value> = node.users().iter().map(|user| shape(&node, user)).collect();
    answer(&users.into())
}

async fn without_permissions(State(node): Api) -> Answer {
    let permissions = node.permissions();
    let has_none = |user: &UserEntry| !permissions.iter().any(|permission| permission.user == user.name);
    let users = node.users().into_iter().filter(has_none);
    let users: Vec<Value> = users.map(|user| shape(&node, &user)).collect();
    answer(&users.into())
}

async fn get(State(node): Api, Path(user): Path<String>) -> Answer {
    let user = node.user(&user).ok_or_else(Refusal::not_found)?;
    answer(&shape(&node, &user))
}

/// As in RabbitMQ: without a password or a hash, the user can log in by certificate only. With `If-None-Match: *`, a
/// user that exists is not changed, and the request is refused.
async fn put(State(node): Api, Path(user): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let body = Body::parse(&body)?;
    // They are required, as in RabbitMQ: a user that is set again without them would lose its tags.
    let tags = body.texts("tags")?;
    let tags = tags.ok_or_else(|| Refusal::bad_request("tags_not_present"))?;
    let credential = credential(&body)?.unwrap_or(Credential::Nothing);
    if is_new(&headers) {
        node.add_user(&user, credential, names(tags)).await?;
        return made(Put::Created);
    }
    made(node.put_user(&user, credential, names(tags)).await?)
}

/// Changes only the members in the body. RabbitMQ has no such request.
async fn patch(State(node): Api, Path(user): Path<String>, body: Bytes) -> Answer {
    let body = Body::parse(&body)?;
    if let Some(credential) = credential(&body)? {
        node.change_password(&user, credential).await?;
    }
    if let Some(tags) = body.texts("tags")? {
        node.set_user_tags(&user, names(tags)).await?;
    }
    done()
}

async fn delete(State(node): Api, Path(user): Path<String>) -> Answer {
    node.delete_user(&user).await?;
    done()
}

async fn delete_many(State(node): Api, body: Bytes) -> Answer {
    for user in Body::parse(&body)?.texts("users")?.unwrap_or_default() {
        node.delete_user(&user).await?;
    }
    done()
}

pub(super) fn credential(body: &Body) -> Result<Option<Credential>, Refusal> {
    if let Some(password) = body.text("password")? {
        return Ok(Some(Credential::Password(password.as_bytes().into())));
    }
    let scram = body.text(OWN_SCRAM)?.map(str::to_owned);
    if let Some(hash) = body.text(OWN_HASH)? {
        return Ok(Some(Credential::Hash {
            algorithm: String::new(),
            hash: hash.to_owned(),
            scram,
        }));
    }
    let algorithm = body.text("hashing_algorithm")?.unwrap_or_default().to_owned();
    Ok(match body.text("password_hash")? {
        None => None,
        // RabbitMQ's way to set no password.
        Some("") => Some(Credential::Nothing),
        Some(hash) => Some(Credential::Hash {
            algorithm,
            hash: hash.to_owned(),
            scram,
        }),
    })
}

fn names(texts: Vec<String>) -> Vec<Name> {
    texts.iter().map(|text| Name::from(text.as_str())).collect()
}

/// The definition of a user for an import elsewhere. RabbitMQ would refuse the whole document if it had a hash that
/// RabbitMQ cannot read. So such a hash has a member of its own; in RabbitMQ the user then has no password.
pub(super) fn definition(node: &Node, user: &UserEntry) -> Value {
    let mut shape = shape(node, user);
    if let Some(members) = shape.as_object_mut() {
        members.remove("connections");
        members.remove("channels");
        let is_text = |hash: &Value| hash.as_str().is_some_and(|hash| hash.starts_with('$'));
        if let Some(hash) = members.get("password_hash").filter(|hash| is_text(hash)).cloned() {
            members.insert(OWN_HASH.to_owned(), hash);
            members.insert("password_hash".to_owned(), "".into());
        }
        if let Some(scram) = &user.scram {
            members.insert(OWN_SCRAM.to_owned(), scram.as_str().into());
        }
        if members.get("password_hash").and_then(Value::as_str) == Some("") {
            // RabbitMQ requires the algorithm, even if there is no hash.
            members.insert("hashing_algorithm".to_owned(), RABBIT_SHA256.into());
        }
    }
    shape
}

/// Member for hashes that begin with `$`.
const OWN_HASH: &str = "gatepost_password_hash";
/// Member for a SCRAM-SHA-256 verifier, which RabbitMQ does not know.
const OWN_SCRAM: &str = "gatepost_scram_sha_256";
const RABBIT_SHA256: &str = "rabbit_password_hashing_sha256";

fn shape(node: &Node, user: &UserEntry) -> Value {
    // Hashes that other brokers write as text begin with `$`; RabbitMQ's are bytes.
    let hash = match std::str::from_utf8(&user.password_hash) {
        Ok(text) if text.starts_with('$') => text.to_owned(),
        _ => STANDARD.encode(&user.password_hash),
    };
    let limits = node.user_limits().into_iter().find(|(name, _)| *name == user.name);
    let limits = limits.into_iter().flat_map(|(_, limits)| limits);
    let limits: Map<String, Value> = limits.map(|(name, value)| (name.to_string(), value.into())).collect();
    json!({
        "name": &*user.name,
        "password_hash": hash,
        "hashing_algorithm": &*user.hashing_algorithm,
        "tags": user.tags.iter().map(|tag| &**tag).collect::<Vec<&str>>(),
        "limits": limits,
        "connections": user.connections,
        "channels": user.channels,
    })
}
