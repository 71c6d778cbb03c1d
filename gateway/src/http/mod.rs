//! HTTP for probes and Prometheus. `/healthz` and `/readyz` are open to everybody and show nothing else. `/metrics` is
//! served at loopback addresses only, unless the configuration opens it, and only to users who log in if the
//! configuration demands it.

pub(crate) mod answers;
pub(crate) mod bounded;
mod families;
mod flow;
mod help;
pub(crate) mod metrics;
mod objects;
mod page;
mod place;

use crate::api::login;
use crate::node::Node;
use crate::threads::IoThreads;
use axum::Router;
use axum::extract::{RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bounded::AtLoopback;
use metrics::{Detail, Exporter};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Time for a probe's whole request head, and from one request of a connection to the next.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Http {
    node: Arc<Node>,
    threads: Arc<IoThreads>,
    exporter: Arc<Exporter>,
}

/// The routes of the metrics port.
pub(crate) fn router(node: Arc<Node>, threads: Arc<IoThreads>) -> Router {
    let exporter = Arc::new(Exporter::new(&node));
    Router::new()
        .route("/metrics", get(scrape))
        .route("/metrics/per-object", get(scrape_objects))
        .route("/metrics/detailed", get(scrape_detailed))
        .layer(from_fn_with_state(Arc::clone(&node), admit))
        .with_state(Http {
            node: Arc::clone(&node),
            threads,
            exporter,
        })
        .merge(health(node))
}

/// The routes of probes.
pub(crate) fn health(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .with_state(node)
}

/// Lets requests through that may read metrics by the configuration.
async fn admit(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let config = node.config();
    let here = request.extensions().get::<AtLoopback>().is_some_and(|at| at.0);
    if config.metrics.loopback_only && !here {
        return (StatusCode::FORBIDDEN, NOT_HERE).into_response();
    }
    if !config.metrics.auth {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let caller = match login::by_header(&node, &parts, "metrics").await {
        Ok(caller) => caller,
        Err(answer) => return answer,
    };
    match caller.monitors() {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(refusal) => refusal.into_response(),
    }
}

async fn scrape(State(http): State<Http>) -> Response {
    text(http.exporter.scrape(&http.node, &http.threads, Detail::Aggregated))
}

async fn scrape_objects(State(http): State<Http>) -> Response {
    text(http.exporter.scrape(&http.node, &http.threads, Detail::PerObject))
}

async fn scrape_detailed(State(http): State<Http>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let all = |wanted: &str| -> Vec<String> {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let values = pairs.filter(|(name, _)| *name == wanted);
        values.map(|(_, value)| percent_decoded(value)).collect()
    };
    text(http.exporter.detailed(&http.node, &all("family"), &all("vhost")))
}

fn text(page: String) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, page).into_response()
}

/// Decodes a value of a query. Invalid encoding stays as it is; it then matches no name.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

const NOT_HERE: &str =
    "/metrics is answered at 127.0.0.1 and ::1 only; metrics.loopback_only = false answers it at all addresses\n";

/// Whether the process works. Fails only when the process can no longer work and is about to end.
async fn alive(State(node): State<Arc<Node>>) -> impl IntoResponse {
    if node.health.poisoned.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, LOG_FAILED)
    } else {
        (StatusCode::OK, "ok\n")
    }
}

const LOG_FAILED: &str = "the message log failed; nothing is confirmed any more\n";

const READS_FAIL: &str = "reads of the message log fail and are tried again; queues wait for them\n";

const DISK_FULL: &str = "the disk is full: durable publishes are refused\n";

/// Whether the gateway accepts clients. An alarm that only makes publishers wait does not change the answer.
async fn ready(State(node): State<Arc<Node>>) -> impl IntoResponse {
    let health = &node.health;
    let checks = [
        (health.poisoned.load(Ordering::Relaxed), LOG_FAILED),
        (health.reads_failing.load(Ordering::Relaxed) > 0, READS_FAIL),
        (health.stopping.load(Ordering::Relaxed), "stopping\n"),
        (health.disk_full.load(Ordering::Relaxed), DISK_FULL),
        (!health.listening.load(Ordering::Relaxed), "not listening yet\n"),
    ];
    match checks.into_iter().find(|(bad, _)| *bad) {
        Some((_, why)) => (StatusCode::SERVICE_UNAVAILABLE, why),
        None => (StatusCode::OK, "ready\n"),
    }
}
