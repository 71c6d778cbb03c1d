//! `/api/parameters` and `/api/global-parameters`.
//!
//! The limits of vhosts are parameters, as in RabbitMQ, since scripts set them here. RabbitMQ's other components with
//! parameters are shovels and federation. This gateway does not have them, and refuses their parameters instead of
//! storing values without effect. Global parameters are for people and their tools, and are stored unchanged.

use super::body::Body;
use super::caller::{Caller, administrators};
use super::{Answer, Api, Refusal, answer, done, made, table};
use crate::directory::Put;
use crate::node::Node;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::middleware::from_fn;
use axum::routing;
use gatepost_core::properties::Name;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Policymakers may read, administrators may change.
pub(super) fn routes() -> Router<Arc<Node>> {
    let change = routing::put(put_global)
        .delete(delete_global)
        .route_layer(from_fn(administrators));
    Router::new()
        .route("/api/parameters", routing::get(list))
        .route("/api/parameters/{component}", routing::get(of_component))
        .route("/api/parameters/{component}/{vhost}", routing::get(of_vhost))
        .route(
            "/api/parameters/{component}/{vhost}/{name}",
            routing::put(put).delete(delete).get(get),
        )
        .route("/api/global-parameters", routing::get(globals))
        .route("/api/global-parameters/{name}", change.get(global))
}

fn makes_policies(caller: &Caller) -> Result<(), Refusal> {
    let may = caller.is_policymaker() || caller.is_monitor();
    may.then_some(())
        .ok_or_else(|| Refusal::not_authorised("User not authorised to access object"))
}

/// The only component that has parameters, and RabbitMQ's name for its parameter.
const VHOST_LIMITS: &str = "vhost-limits";
const LIMITS: &str = "limits";

fn not_found(component: &str) -> Refusal {
    Refusal::bad_request(format!("Validation failed\n\ncomponent {component} not found\n"))
}

/// The parameters of the vhosts that the caller sees.
fn parameters(caller: &Caller, node: &Node) -> Vec<Value> {
    let limits = node.vhost_limits().into_iter();
    let seen = limits.filter(|(vhost, _)| caller.sees(vhost));
    let shapes = seen.map(|(vhost, limits)| {
        let value = limits.into_iter().map(|(name, value)| (name.to_string(), value.into()));
        json!({
            "vhost": &*vhost, "component": VHOST_LIMITS, "name": LIMITS,
            "value": value.collect::<Map<String, Value>>(),
        })
    });
    shapes.collect()
}

async fn list(caller: Caller, State(node): Api) -> Answer {
    makes_policies(&caller)?;
    answer(&parameters(&caller, &node).into())
}

async fn of_component(caller: Caller, State(node): Api, Path(component): Path<String>) -> Answer {
    makes_policies(&caller)?;
    let mut all = parameters(&caller, &node);
    all.retain(|one| one["component"] == component);
    answer(&all.into())
}

async fn of_vhost(caller: Caller, State(node): Api, Path((component, vhost)): Path<(String, String)>) -> Answer {
    makes_policies(&caller)?;
    caller.vhost(&node, &vhost)?;
    let mut all = parameters(&caller, &node);
    all.retain(|one| one["component"] == component && one["vhost"] == vhost);
    answer(&all.into())
}

type Place = Path<(String, String, String)>;

async fn get(caller: Caller, State(node): Api, Path((component, vhost, name)): Place) -> Answer {
    makes_policies(&caller)?;
    let is_it = |one: &Value| one["component"] == component && one["vhost"] == vhost && one["name"] == name;
    let found = parameters(&caller, &node).into_iter().find(is_it);
    answer(&found.ok_or_else(Refusal::not_found)?)
}

/// Replaces the vhost's limits by those in the body. Users who may set limits by their own path may do it here.
async fn put(caller: Caller, State(node): Api, Path((component, vhost, name)): Place, body: Bytes) -> Answer {
    makes_policies(&caller)?;
    caller.vhost_to_use(&node, &vhost)?;
    if component != VHOST_LIMITS {
        return Err(not_found(&component));
    }
    caller.administers()?;
    if name != LIMITS {
        let text = format!("Validation failed\n\nthe limits of a vhost are called {LIMITS}, not {name}\n");
        return Err(Refusal::bad_request(text));
    }
    let value = Body::parse(&body)?.members("value")?;
    let limits = Body::of(value.ok_or_else(|| Refusal::bad_request("key_missing: value"))?).numbers()?;
    for (limit, _) in &limits {
        Node::check_vhost_limit(limit)?;
    }
    let before = limits_of(&node, &vhost);
    for (limit, value) in &limits {
        node.set_vhost_limit(&vhost, limit, *value).await?;
    }
    for (limit, _) in &before {
        if !limits.iter().any(|(kept, _)| kept == limit) {
            node.clear_vhost_limit(&vhost, limit).await?;
        }
    }
    made(if before.is_empty() { Put::Created } else { Put::Changed })
}

async fn delete(caller: Caller, State(node): Api, Path((component, vhost, name)): Place) -> Answer {
    makes_policies(&caller)?;
    caller.vhost_to_use(&node, &vhost)?;
    let limits = limits_of(&node, &vhost);
    if component != VHOST_LIMITS || name != LIMITS || limits.is_empty() {
        return Err(Refusal::not_found());
    }
    caller.administers()?;
    for (limit, _) in &limits {
        node.clear_vhost_limit(&vhost, limit).await?;
    }
    done()
}

fn limits_of(node: &Node, vhost: &str) -> Vec<(Name, i64)> {
    let mut all = node.vhost_limits();
    all.retain(|(known, _)| **known == *vhost);
    all.into_iter().flat_map(|(_, limits)| limits).collect()
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
