//! The management API, with RabbitMQ's paths and JSON members, as far as they are built.
//!
//! Handlers call the node's functions and have no rules of their own. Every request passes [`door`] first, which
//! authenticates it. Handlers take a [`caller::Caller`] and ask it what the user may see and do. A request over the
//! control socket is an administrator's.
//!
//! Each kind of object has a file with its routes. If reading and changing are in two files, each has its own list of
//! routes for the same paths, with different methods.
//!
//! Errors are `{"error": …, "reason": …}`, both texts. Creating answers 201, changing or deleting 204.

mod backup;
mod bans;
mod bindings;
mod body;
pub(crate) mod caller;
mod channels;
mod collect;
mod connections;
mod consumers;
mod cors;
mod declaring;
pub(crate) mod definitions;
mod door;
mod errand;
mod exchanges;
mod fields;
pub(crate) mod flow;
mod gzip;
mod health;
mod limits;
mod log;
pub(crate) mod login;
mod memory;
mod messages;
mod moving;
mod mqtt;
mod nodes;
mod overview;
mod parameters;
mod permissions;
mod policies;
mod process;
mod properties_key;
mod query;
mod queues;
pub(crate) mod rates;
mod retained;
mod sessions;
pub(crate) mod socket;
mod table;
mod trace;
mod ui;
mod users;
mod vhosts;
mod view;

use crate::directory::{DirectoryError, Put};
use crate::node::Node;
use crate::vhosts::VhostError;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use backup::BYTES as BACKUP_BYTES;
pub(crate) use door::Entrance;

/// Time from one request of a connection to the next, and for a whole request head. Tools that poll keep their
/// connection open.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(65);

/// The state that handlers get.
pub(crate) type Api = axum::extract::State<Arc<Node>>;

/// All routes, for requests from that entrance.
pub(crate) fn router(node: Arc<Node>, entrance: Entrance) -> Router {
    let routes = Router::new()
        .merge(overview::routes())
        .merge(nodes::routes())
        .merge(memory::routes())
        .merge(health::routes())
        .merge(connections::routes())
        .merge(channels::routes())
        .merge(consumers::routes())
        .merge(queues::routes())
        .merge(exchanges::routes())
        .merge(bindings::routes())
        .merge(vhosts::routes())
        .merge(limits::routes())
        .merge(users::routes())
        .merge(permissions::routes())
        .merge(backup::routes())
        .merge(bans::routes())
        .merge(policies::routes())
        .merge(parameters::routes())
        .merge(declaring::routes())
        .merge(messages::routes())
        .merge(definitions::routes())
        .merge(log::routes())
        .merge(process::routes())
        .merge(flow::routes())
        .merge(trace::routes())
        .merge(moving::routes())
        .merge(mqtt::routes())
        .merge(retained::routes())
        .fallback(|| async { Refusal::not_found() })
        // `door` has read the body and checked its size.
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::clone(&node));
    door::behind(node, entrance, routes)
}

/// A request that is refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: &'static str,
    reason: String,
}

impl Refusal {
    fn of(status: StatusCode, error: &'static str, reason: impl Into<String>) -> Refusal {
        Refusal {
            status,
            error,
            reason: reason.into(),
        }
    }

    /// The user is known but may not do this. RabbitMQ answers 401, in these words.
    fn not_authorised(reason: &str) -> Refusal {
        Refusal::of(StatusCode::UNAUTHORIZED, "not_authorised", reason)
    }

    /// With RabbitMQ's word for the error.
    fn bad(error: &'static str, reason: impl Into<String>) -> Refusal {
        Refusal::of(StatusCode::BAD_REQUEST, error, reason)
    }

    fn bad_request(reason: impl Into<String>) -> Refusal {
        Refusal {
            status: StatusCode::BAD_REQUEST,
            error: "bad_request",
            reason: reason.into(),
        }
    }

    fn not_found() -> Refusal {
        Refusal {
            status: StatusCode::NOT_FOUND,
            error: "Object Not Found",
            reason: "Not Found".to_owned(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let text = json!({ "error": self.error, "reason": self.reason });
        (self.status, [JSON, NO_CACHE], text.to_string()).into_response()
    }
}

impl From<DirectoryError> for Refusal {
    fn from(error: DirectoryError) -> Refusal {
        match error {
            DirectoryError::NoSuchUser(_) | DirectoryError::NoSuchVhost(_) | DirectoryError::NotSet(_) => Refusal {
                reason: error.to_string(),
                ..Refusal::not_found()
            },
            DirectoryError::UserExists(_) => exists(error.to_string()),
            DirectoryError::LogClosed => stopping(),
            other => Refusal::bad_request(other.to_string()),
        }
    }
}

impl From<VhostError> for Refusal {
    fn from(error: VhostError) -> Refusal {
        match error {
            VhostError::NotFound(_) => Refusal {
                reason: error.to_string(),
                ..Refusal::not_found()
            },
            VhostError::Exists(_) => exists(error.to_string()),
            VhostError::LogClosed => stopping(),
            other => Refusal::bad_request(other.to_string()),
        }
    }
}

/// Whether the request may only create and not change (RFC 9110 13.1.2).
fn is_new(headers: &HeaderMap) -> bool {
    headers.get(header::IF_NONE_MATCH).is_some_and(|value| value == "*")
}

fn exists(reason: String) -> Refusal {
    Refusal {
        status: StatusCode::PRECONDITION_FAILED,
        error: "precondition_failed",
        reason,
    }
}

fn stopping() -> Refusal {
    Refusal {
        status: StatusCode::SERVICE_UNAVAILABLE,
        error: "service_unavailable",
        reason: "the gateway is stopping".to_owned(),
    }
}

/// The result of a handler.
type Answer = Result<Response, Refusal>;

const JSON: (header::HeaderName, &str) = (header::CONTENT_TYPE, "application/json");
const NO_CACHE: (header::HeaderName, &str) = (header::CACHE_CONTROL, "no-cache");

fn answer(value: &Value) -> Answer {
    Ok(([JSON, NO_CACHE], value.to_string()).into_response())
}

fn made(put: Put) -> Answer {
    Ok(match put {
        Put::Created => StatusCode::CREATED,
        Put::Changed => StatusCode::NO_CONTENT,
    }
    .into_response())
}

fn done() -> Answer {
    Ok(StatusCode::NO_CONTENT.into_response())
}
