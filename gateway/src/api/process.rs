//! Requests about the process, for its operators: `/api/gatepost/reload`, `/api/gatepost/log/level`,
//! `/api/gatepost/log/rotate`, `/api/gatepost/stop`, `/api/gatepost/configuration` and `/api/gatepost/certificates`.

use super::body::Body;
use super::caller::{Caller, administrators};
use super::{Answer, Api, Refusal, answer, done, stopping};
use crate::logging;
use crate::node::Node;
use crate::reload::Request;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::from_fn;
use axum::routing;
use gatepost_core::event::LoginFailure;
use gatepost_core::keys::Applies;
use serde_json::{Value, json};
use std::sync::Arc;

/// For administrators.
pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/gatepost/reload", routing::post(reload))
        .route("/api/gatepost/log/level", routing::put(set_level))
        .route("/api/gatepost/log/rotate", routing::post(rotate))
        .route("/api/gatepost/stop", routing::post(stop))
        .route("/api/gatepost/authenticate", routing::post(authenticate))
        .route("/api/gatepost/configuration", routing::get(configuration))
        .route("/api/gatepost/certificates", routing::get(certificates))
        .route_layer(from_fn(administrators))
}

/// Reloads, as SIGHUP does. Answers with the changes, and when each applies.
async fn reload(State(node): Api) -> Answer {
    let reloaded = node.desk.ask(Request::Reload).await.ok_or_else(stopping)?;
    let changes = reloaded.map_err(|problems| {
        let text = problems.join("\n");
        Refusal::of(StatusCode::BAD_REQUEST, "configuration_refused", text)
    })?;
    let changes = changes.iter().map(|change| {
        json!({
            "key": change.name, "from": change.from, "to": change.to, "applies": when(change.applies),
        })
    });
    answer(&json!({ "changes": changes.collect::<Vec<Value>>() }))
}

fn when(applies: Applies) -> &'static str {
    match applies {
        Applies::Now => "now",
        Applies::NewConnections => "to new connections",
        Applies::Restart => "after a restart",
    }
}

/// Sets the log level by `{"level": "debug"}`, until the next reload or start.
async fn set_level(State(node): Api, body: Bytes) -> Answer {
    let body = Body::parse(&body)?;
    let level = body.required("level")?.to_owned();
    if !logging::is_level(&level) {
        return Err(Refusal::bad_request(format!(
            "level: expected {}, found \"{level}\"",
            logging::LEVELS
        )));
    }
    let set = node.desk.ask(|answer| Request::SetLevel(level, answer)).await;
    set.ok_or_else(stopping)?;
    done()
}

/// Reopens the log file by its name.
async fn rotate(State(node): Api) -> Answer {
    let rotated = node.desk.ask(Request::RotateLogs).await.ok_or_else(stopping)?;
    rotated.map_err(Refusal::bad_request)?;
    done()
}

/// Stops the gateway, as SIGTERM does. Only over the control socket, so that nobody can stop it from elsewhere.
async fn stop(caller: Caller, State(node): Api) -> Answer {
    if !caller.is_operator() {
        return Err(Refusal::not_authorised("A gateway is stopped by its control socket"));
    }
    node.desk.stop();
    answer(&json!({ "pid": std::process::id() }))
}

/// Checks `{"name": "ann", "password": "…"}`: whether a client on this machine could log in with them. The request is
/// for administrators, so a wrong password is no attack and bans nobody.
async fn authenticate(State(node): Api, body: Bytes) -> Answer {
    let body = Body::parse(&body)?;
    body.needs(&["name", "password"])?;
    let (name, password) = (body.required("name")?, body.required("password")?);
    match node.log_in(name, password.as_bytes(), true).await {
        Ok((name, tags)) => {
            let tags: Vec<&str> = tags.iter().map(|tag| &**tag).collect();
            answer(&json!({ "name": &*name, "tags": tags }))
        }
        Err(LoginFailure::Busy | LoginFailure::Full) => Err(Refusal::of(
            StatusCode::SERVICE_UNAVAILABLE,
            "service_unavailable",
            "too many logins wait to be checked",
        )),
        Err(_) => Err(Refusal::bad(
            "not_authorized",
            format!("user '{name}' is refused: there is no such user, or its password is another"),
        )),
    }
}

/// The keys in effect. They contain no secrets, only names of files with secrets.
async fn configuration(State(node): Api) -> Answer {
    let keys = node.config().in_effect().into_iter().map(|key| {
        json!({
            "key": key.name,
            "value": key.value,
            "default": key.default,
            "changed": key.is_changed,
            "change_applies": when(key.applies),
        })
    });
    answer(&keys.collect())
}

/// When the first certificate of each listener with TLS expires, in Unix seconds, as in `gatepost_certificate_not_after_seconds`.
async fn certificates(State(node): Api) -> Answer {
    let listeners = node.tls.good_until();
    let listeners = listeners.map(|(listener, until)| json!({ "listener": &*listener, "not_after": until }));
    answer(&listeners.collect())
}
