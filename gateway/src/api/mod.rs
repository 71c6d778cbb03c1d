//! The management API: RabbitMQ's paths and shapes, as far as they are built.
//!
//! Handlers call the node's verbs and know no rule of their own. Who may call them is decided before: at the control socket
//! by the file's owner. So far that is the only door, and whoever comes through it is an administrator.
//!
//! Errors are `{"error": …, "reason": …}`, both texts. What is made answers 201, what is changed or deleted 204.

mod bans;
mod body;
mod limits;
mod overview;
mod permissions;
pub(crate) mod socket;
mod users;
mod vhosts;

use crate::directory::{DirectoryError, Put};
use crate::node::Node;
use crate::vhosts::VhostError;
use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde_json::{Value, json};
use std::sync::Arc;

/// Bytes of a request's body, at most.
const BODY_MAX: usize = 1 << 20;

/// What handlers work with.
pub(crate) type Api = axum::extract::State<Arc<Node>>;

/// All routes, for a door that lets in administrators only.
pub(crate) fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/api/overview", get(overview::get))
        .route("/api/whoami", get(overview::whoami))
        .route("/api/users", get(users::list))
        .route("/api/users/bulk-delete", post(users::delete_many))
        .route("/api/users/without-permissions", get(users::without_permissions))
        .route(
            "/api/users/{user}",
            get(users::get)
                .put(users::put)
                .patch(users::patch)
                .delete(users::delete),
        )
        .route("/api/users/{user}/permissions", get(permissions::of_user))
        .route("/api/users/{user}/topic-permissions", get(permissions::topics_of_user))
        .route("/api/vhosts", get(vhosts::list))
        .route(
            "/api/vhosts/{vhost}",
            get(vhosts::get).put(vhosts::put).delete(vhosts::delete),
        )
        .route("/api/vhosts/{vhost}/permissions", get(permissions::of_vhost))
        .route(
            "/api/vhosts/{vhost}/topic-permissions",
            get(permissions::topics_of_vhost),
        )
        .route("/api/permissions", get(permissions::list))
        .route(
            "/api/permissions/{vhost}/{user}",
            get(permissions::get).put(permissions::put).delete(permissions::delete),
        )
        .route("/api/topic-permissions", get(permissions::topics))
        .route(
            "/api/topic-permissions/{vhost}/{user}",
            get(permissions::topics_get)
                .put(permissions::topics_put)
                .delete(permissions::topics_delete_all),
        )
        .route(
            "/api/topic-permissions/{vhost}/{user}/{exchange}",
            axum::routing::delete(permissions::topics_delete),
        )
        .route("/api/user-limits", get(limits::users))
        .route("/api/user-limits/{user}", get(limits::user))
        .route(
            "/api/user-limits/{user}/{name}",
            put(limits::put_user).delete(limits::delete_user),
        )
        .route("/api/vhost-limits", get(limits::vhosts))
        .route("/api/vhost-limits/{vhost}", get(limits::vhost))
        .route(
            "/api/vhost-limits/{vhost}/{name}",
            put(limits::put_vhost).delete(limits::delete_vhost),
        )
        .route("/api/bans", get(bans::list))
        .route("/api/bans/{kind}/{value}", put(bans::put).delete(bans::delete))
        .fallback(|| async { Refusal::not_found() })
        .layer(axum::extract::DefaultBodyLimit::max(BODY_MAX))
        .with_state(node)
}

/// A request that is not done.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: &'static str,
    reason: String,
}

impl Refusal {
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

/// Whether the request is to make something, and not to change it (RFC 9110 13.1.2).
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

/// What a handler answers.
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
