//! `/api/parameters` and `/api/global-parameters`.
//!
//! Components with parameters are shovels and federation in RabbitMQ, which this gateway has not: it refuses their parameters
//! rather than keep what does nothing. Global parameters are for people and their tools, and kept as they are.

use super::body::Body;
use super::caller::{Caller, administrators};
use super::{Answer, Api, Refusal, answer, done, made, table};
use crate::node::Node;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::middleware::from_fn;
use axum::routing;
use serde_json::{Value, json};
use std::sync::Arc;

/// For policymakers to see, for administrators to change.
pub(super) fn routes() -> Router<Arc<Node>> {
    let change = routing::put(put_global)
        .delete(delete_global)
        .route_layer(from_fn(administrators));
    Router::new()
        .route("/api/parameters", routing::get(nothing))
        .route("/api/parameters/{component}", routing::get(nothing))
        .route("/api/parameters/{component}/{vhost}", routing::get(nothing))
        .route(
            "/api/parameters/{component}/{vhost}/{name}",
            routing::get(none).put(put).delete(none),
        )
        .route("/api/global-parameters", routing::get(globals))
        .route("/api/global-parameters/{name}", change.get(global))
}

fn makes_policies(caller: &Caller) -> Result<(), Refusal> {
    let may = caller.is_policymaker() || caller.is_monitor();
    may.then_some(())
        .ok_or_else(|| Refusal::not_authorised("User not authorised to access object"))
}

async fn nothing(caller: Caller) -> Answer {
    makes_policies(&caller)?;
    answer(&json!([]))
}

async fn none(caller: Caller) -> Answer {
    makes_policies(&caller)?;
    Err(Refusal::not_found())
}

async fn put(caller: Caller, State(node): Api, Path((component, vhost, _)): Path<(String, String, String)>) -> Answer {
    makes_policies(&caller)?;
    caller.vhost_to_use(&node, &vhost)?;
    Err(Refusal::bad_request(format!(
        "Validation failed\n\ncomponent {component} not found\n"
    )))
}

async fn globals(caller: Caller, State(node): Api) -> Answer {
    makes_policies(&caller)?;
    let all = node.global_parameters();
    let shapes = all
        .iter()
        .map(|(name, value)| json!({ "name": &**name, "value": table::json_of(value) }));
    answer(&shapes.collect::<Vec<Value>>().into())
}

async fn global(caller: Caller, State(node): Api, Path(name): Path<String>) -> Answer {
    makes_policies(&caller)?;
    let all = node.global_parameters();
    let found = all.into_iter().find(|(known, _)| **known == *name);
    let (name, value) = found.ok_or_else(Refusal::not_found)?;
    answer(&json!({ "name": &*name, "value": table::json_of(&value) }))
}

async fn put_global(State(node): Api, Path(name): Path<String>, body: Bytes) -> Answer {
    let body = Body::parse(&body)?;
    let value = body.member("value");
    let value = table::value(value.ok_or_else(|| Refusal::bad_request("key_missing: value"))?);
    let value = value.map_err(Refusal::bad_request)?;
    made(node.set_global_parameter(&name, value).await?)
}

async fn delete_global(State(node): Api, Path(name): Path<String>) -> Answer {
    node.clear_global_parameter(&name).await?;
    done()
}
