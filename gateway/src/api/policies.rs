//! `/api/policies` and `/api/operator-policies`.

use super::body::Body;
use super::caller::{Caller, administrators};
use super::errand::{CHANNEL, Errand};
use super::{Answer, Api, Refusal, answer, done, made, table};
use crate::directory::Put;
use crate::node::Node;
use crate::vhost::Vhost;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::middleware::from_fn;
use axum::routing;
use gatepost_core::catalog::directory::PolicyRecord;
use gatepost_core::command::{Command, PolicyChange, SetPolicies};
use gatepost_core::fault::Fault;
use gatepost_core::policy::PolicyKind;
use gatepost_core::properties::{Name, Table};
use serde_json::{Value, json};
use std::sync::Arc;

/// Policies are for policymakers, in vhosts that they may use. Operator policies can be read by policymakers and
/// changed by administrators.
pub(super) fn routes() -> Router<Arc<Node>> {
    let policies = Router::new()
        .route("/api/policies", routing::get(list))
        .route("/api/policies/{vhost}", routing::get(of_vhost))
        .route(
            "/api/policies/{vhost}/{name}",
            routing::get(get).put(put).delete(delete),
        )
        .layer(Extension(PolicyKind::User));
    let change = routing::put(put).delete(delete).route_layer(from_fn(administrators));
    let operators = Router::new()
        .route("/api/operator-policies", routing::get(list))
        .route("/api/operator-policies/{vhost}", routing::get(of_vhost))
        .route("/api/operator-policies/{vhost}/{name}", change.get(get))
        .layer(Extension(PolicyKind::Operator));
    policies.merge(operators)
}

/// Applies changes of policies: all of them or none. Returns once they are synced.
///
/// # Errors
/// The error in one of them.
pub(crate) async fn change(node: &Arc<Node>, vhost: &Arc<Vhost>, changes: Vec<PolicyChange>) -> Result<(), Fault> {
    let set = SetPolicies {
        channel: CHANNEL,
        changes,
        reply: true,
    };
    let mut errand = Errand::of_node(node, vhost)?;
    errand.ask(Command::SetPolicies(Box::new(set))).await.map(drop)
}

/// The JSON form of a policy, also used in definitions.
pub(crate) fn shape(vhost: &str, name: &str, record: &PolicyRecord) -> Value {
    json!({
        "vhost": vhost,
        "name": name,
        "pattern": record.pattern,
        "apply-to": &*record.apply_to,
        "definition": table::json(&record.definition),
        "priority": record.priority,
    })
}

/// The policy that a JSON object describes.
///
/// # Errors
/// Something is missing or has the wrong type.
pub(crate) fn record(body: &Body) -> Result<PolicyRecord, Refusal> {
    let priority = match body.member("priority") {
        None => 0,
        Some(Value::Number(number)) => number.as_i64().unwrap_or_default(),
        Some(other) => {
            let text = format!("Validation failed\n\npriority should be a number, actually was {other}\n");
            return Err(Refusal::bad_request(text));
        }
    };
    body.needs(&["pattern", "definition"])?;
    let definition = body.members("definition")?.unwrap_or_default();
    Ok(PolicyRecord {
        pattern: body.required("pattern")?.to_owned(),
        apply_to: body.text("apply-to")?.unwrap_or("all").into(),
        definition: table::table(&definition).map_err(Refusal::bad_request)?,
        priority,
        more: Table::default(),
    })
}

/// Checks that the caller is a policymaker; the refusal has RabbitMQ's words.
fn makes_policies(caller: &Caller) -> Result<(), Refusal> {
    let may = caller.is_policymaker() || caller.is_monitor();
    may.then_some(())
        .ok_or_else(|| Refusal::not_authorised("User not authorised to access object"))
}

async fn list(caller: Caller, State(node): Api, Extension(kind): Extension<PolicyKind>) -> Answer {
    makes_policies(&caller)?;
    let vhosts = caller.vhosts(&node);
    shapes(vhosts.iter(), kind)
}

async fn of_vhost(
    caller: Caller,
    State(node): Api,
    Extension(kind): Extension<PolicyKind>,
    Path(vhost): Path<String>,
) -> Answer {
    makes_policies(&caller)?;
    shapes([caller.vhost(&node, &vhost)?].iter(), kind)
}

async fn get(
    caller: Caller,
    State(node): Api,
    Extension(kind): Extension<PolicyKind>,
    Path((vhost, name)): Path<(String, String)>,
) -> Answer {
    makes_policies(&caller)?;
    let vhost = caller.vhost(&node, &vhost)?;
    let found = vhost.enter(|engine| engine.policy(kind, &name).cloned());
    answer(&shape(&vhost.name, &name, &found.ok_or_else(Refusal::not_found)?))
}

async fn put(
    caller: Caller,
    State(node): Api,
    Extension(kind): Extension<PolicyKind>,
    Path((vhost, name)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let vhost = may_change(&caller, &node, &vhost)?;
    let record = record(&Body::parse(&body)?)?;
    let there = vhost.enter(|engine| engine.policy(kind, &name).is_some());
    let name: Name = name.into();
    change(
        &node,
        &vhost,
        vec![PolicyChange {
            kind,
            name,
            policy: Some(record),
        }],
    )
    .await?;
    made(if there { Put::Changed } else { Put::Created })
}

async fn delete(
    caller: Caller,
    State(node): Api,
    Extension(kind): Extension<PolicyKind>,
    Path((vhost, name)): Path<(String, String)>,
) -> Answer {
    let vhost = may_change(&caller, &node, &vhost)?;
    let name: Name = name.into();
    change(
        &node,
        &vhost,
        vec![PolicyChange {
            kind,
            name,
            policy: None,
        }],
    )
    .await?;
    done()
}

fn may_change(caller: &Caller, node: &Node, vhost: &str) -> Result<Arc<Vhost>, Refusal> {
    if caller.is_policymaker() {
        caller.vhost_to_use(node, vhost)
    } else {
        Err(Refusal::not_authorised("User not authorised to access object"))
    }
}

fn shapes<'a>(vhosts: impl Iterator<Item = &'a Arc<Vhost>>, kind: PolicyKind) -> Answer {
    let mut all = Vec::new();
    for vhost in vhosts {
        let policies = vhost.enter(|engine| engine.policies(kind));
        all.extend(policies.iter().map(|(name, record)| shape(&vhost.name, name, record)));
    }
    answer(&all.into())
}
