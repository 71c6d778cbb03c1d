//! `/api/health/checks` and older forms of them: 200 if all is well, 503 with a reason if not.

use super::caller::Caller;
use super::nodes::alarms;
use super::{Answer, Api, JSON, NO_CACHE, Refusal, answer};
use crate::node::Node;
use crate::tls;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(super) fn routes() -> Router<Arc<Node>> {
    let checks = Router::new()
        .route("/alarms", routing::get(check_alarms))
        .route("/local-alarms", routing::get(check_alarms))
        .route("/port-listener/{port}", routing::get(check_port))
        .route("/protocol-listener/{protocol}", routing::get(check_protocol))
        .route("/virtual-hosts", routing::get(check_serving))
        .route("/is-in-service", routing::get(check_serving))
        .route("/ready-to-serve-clients", routing::get(check_serving))
        .route("/below-node-connection-limit", routing::get(check_connections))
        .route(
            "/certificate-expiration/{within}/{unit}",
            routing::get(check_certificates),
        )
        .route("/node-is-quorum-critical", routing::get(single))
        .route("/node-is-mirror-sync-critical", routing::get(single));
    Router::new()
        .nest("/api/health/checks", checks)
        .route("/api/healthchecks/node", routing::get(check_node))
        .route("/api/healthchecks/node/{node}", routing::get(check_node))
        .route("/api/aliveness-test/{vhost}", routing::get(check_vhost))
}

fn good() -> Answer {
    answer(&json!({ "status": "ok" }))
}

fn failed(reason: &str, more: Value) -> Answer {
    let mut body = json!({ "status": "failed", "reason": reason });
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    Ok((StatusCode::SERVICE_UNAVAILABLE, [JSON, NO_CACHE], body.to_string()).into_response())
}

async fn check_alarms(State(node): Api) -> Answer {
    let alarms = alarms(&node);
    if alarms.is_empty() {
        return good();
    }
    let name = &node.config().node.name;
    let alarms = alarms
        .into_iter()
        .map(|resource| json!({ "node": name, "resource": resource }));
    let alarms: Vec<Value> = alarms.collect();
    failed("There are alarms in effect in the cluster", json!({ "alarms": alarms }))
}

async fn check_port(State(node): Api, Path(port): Path<String>) -> Answer {
    let Ok(port) = port.parse::<u16>() else {
        return Err(Refusal::bad("bad_request", "Invalid port"));
    };
    let ports: Vec<u16> = node.listeners.all().iter().map(|listener| listener.at.port()).collect();
    if ports.contains(&port) {
        answer(&json!({ "status": "ok", "port": port }))
    } else {
        failed("No active listener", json!({ "missing": port, "ports": ports }))
    }
}

async fn check_protocol(State(node): Api, Path(asked): Path<String>) -> Answer {
    let protocol = match asked.to_ascii_lowercase().as_str() {
        "amqp091" | "amqp0.9.1" | "amqp-0-9-1" => "amqp".to_owned(),
        "amqps" | "amqp/tls" | "amqp-tls" => "amqp/ssl".to_owned(),
        "mqtts" | "mqtt/tls" => "mqtt/ssl".to_owned(),
        "stomps" | "stomp/tls" => "stomp/ssl".to_owned(),
        other => other.to_owned(),
    };
    let mut protocols: Vec<&str> = node
        .listeners
        .all()
        .iter()
        .map(|listener| &*listener.protocol)
        .collect();
    protocols.sort_unstable();
    protocols.dedup();
    if protocols.contains(&protocol.as_str()) {
        answer(&json!({ "status": "ok", "protocol": asked }))
    } else {
        failed(
            "No active listener",
            json!({ "missing": asked, "protocols": protocols }),
        )
    }
}

/// Whether clients are served: the log works, and the gateway is not stopping.
async fn check_serving(State(node): Api) -> Answer {
    match trouble(&node) {
        None => good(),
        Some(reason) => failed(reason, json!({})),
    }
}

fn trouble(node: &Node) -> Option<&'static str> {
    let health = &node.health;
    if health.poisoned.load(Ordering::Relaxed) {
        Some("the message log failed")
    } else if node.is_stopping() {
        Some("the gateway is stopping")
    } else if !health.listening.load(Ordering::Relaxed) {
        Some("the gateway does not listen yet")
    } else {
        None
    }
}

async fn check_connections(State(node): Api) -> Answer {
    let (open, limit) = (node.connections_open(), node.connections_limit());
    if open < limit {
        answer(&json!({ "status": "ok", "current": open, "limit": limit }))
    } else {
        failed(
            "There are as many connections as there may be",
            json!({ "current": open, "limit": limit }),
        )
    }
}

async fn check_certificates(State(node): Api, Path((within, unit)): Path<(String, String)>) -> Answer {
    let days = match unit.as_str() {
        "days" => 1,
        "weeks" => 7,
        "months" => 30,
        "years" => 365,
        _ => {
            let known = "Time unit not recognised. Supported units: days, weeks, months, years.";
            return Err(Refusal::bad("bad_request", known));
        }
    };
    let Ok(within) = within.parse::<u64>() else {
        return Err(Refusal::bad("bad_request", "Invalid expiration"));
    };
    let until = node.clock.now().wall.0 / 1_000 + within.saturating_mul(days).saturating_mul(86_400);
    let expired: Vec<Value> = tls::expiries(&node.config())
        .into_iter()
        .filter(|(_, expiry)| *expiry < until)
        .map(|(path, expiry)| json!({ "certfile": path, "expires_at": expiry }))
        .collect();
    if expired.is_empty() {
        good()
    } else {
        failed("Certificates expiring", json!({ "expired": expired }))
    }
}

/// A single node has no quorum to lose.
async fn single() -> Answer {
    answer(&json!({ "status": "ok", "reason": "single node cluster" }))
}

async fn check_node(State(node): Api) -> Answer {
    let alarms = alarms(&node);
    match (trouble(&node), alarms.first()) {
        (Some(reason), _) => failed(reason, json!({})),
        (None, Some(resource)) => failed(&format!("resource alarm(s) in effect: {resource}"), json!({})),
        (None, None) => good(),
    }
}

/// Whether the vhost's engine answers. Nothing is published: such a check every few seconds would wear an SD card.
async fn check_vhost(caller: Caller, State(node): Api, Path(vhost): Path<String>) -> Answer {
    let vhost = caller.vhost(&node, &vhost)?;
    vhost.enter(|engine| engine.has_links());
    check_serving(State(node)).await
}
