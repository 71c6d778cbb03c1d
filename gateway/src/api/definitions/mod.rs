//! `/api/definitions`: all that is declared, as one JSON document in RabbitMQ's form.
//!
//! ```text
//!   document ──read──► Definitions ──check──► nothing is changed yet ──apply──► vhosts, users, … bindings
//! ```
//!
//! An import adds and changes, and deletes nothing. All of it is checked before anything is changed. A queue or an exchange
//! that is there stays as it is, as in RabbitMQ. The same import twice changes nothing the second time.

mod applying;
mod checking;
mod export;
mod multipart;
mod reading;

use super::caller::{Caller, administrators};
use super::{Answer, Api, JSON, NO_CACHE, Refusal, answer, done};
use crate::node::Node;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::from_fn;
use axum::response::IntoResponse as _;
use axum::routing;
use reading::Definitions;
use serde_json::Value;
use std::path;
use std::sync::Arc;

/// Of the whole node, hashes of passwords included: for administrators. Of a vhost: for policymakers there, without users.
pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/definitions", routing::get(get).post(post))
        .route_layer(from_fn(administrators))
        .route("/api/definitions/{vhost}", routing::get(get_of).post(post_of))
}

async fn get(State(node): Api, uri: Uri) -> Answer {
    download(&export::of_node(&node).await, &uri)
}

async fn get_of(caller: Caller, State(node): Api, Path(vhost): Path<String>, uri: Uri) -> Answer {
    let vhost = caller.vhost_to_use(&node, &vhost)?;
    makes_policies(&caller)?;
    download(&export::of_vhost(&vhost).await, &uri)
}

async fn post(State(node): Api, headers: HeaderMap, body: Bytes) -> Answer {
    import(&node, &document(&headers, &body)?, None).await?;
    done()
}

async fn post_of(
    caller: Caller,
    State(node): Api,
    Path(vhost): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let vhost = caller.vhost_to_use(&node, &vhost)?;
    caller.administers()?;
    import(&node, &document(&headers, &body)?, Some(&vhost.name)).await?;
    done()
}

fn makes_policies(caller: &Caller) -> Result<(), Refusal> {
    let may = caller.is_policymaker();
    may.then_some(())
        .ok_or_else(|| Refusal::not_authorised("User not authorised to access object"))
}

/// As a file, if `?download=NAME` says so.
fn download(document: &Value, uri: &Uri) -> Answer {
    let mut pairs = uri.query().unwrap_or_default().split('&');
    let Some(name) = pairs.find_map(|pair| pair.strip_prefix("download=")) else {
        return answer(document);
    };
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let name: String = name.chars().filter(is_plain).collect();
    let disposition = (header::CONTENT_DISPOSITION, format!("attachment; filename={name}"));
    Ok(([JSON, NO_CACHE], [disposition], document.to_string()).into_response())
}

/// The document that a request brings: its body, or the field `file` of a form.
fn document(headers: &HeaderMap, body: &[u8]) -> Result<Value, Refusal> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let body = match content_type.and_then(multipart::boundary) {
        Some(boundary) => multipart::field(body, boundary, "file")
            .ok_or_else(|| Refusal::bad_request("the form has no field 'file'"))?,
        None => body,
    };
    parse(body)
}

fn parse(text: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(text).map_err(|error| Refusal::bad_request(format!("failed_to_parse_json: {error}")))
}

async fn import(node: &Arc<Node>, document: &Value, vhost: Option<&str>) -> Result<(), Refusal> {
    let definitions = Definitions::read(document, vhost)?;
    definitions.check(node)?;
    definitions.apply(node).await
}

/// Whether a document makes users, and what is wrong with its form.
///
/// # Errors
/// As text, with the file's name.
pub(crate) fn look_into(file: &path::Path) -> Result<(Value, bool), String> {
    let named = |what: &dyn std::fmt::Display| format!("{}: {what}", file.display());
    let text = std::fs::read(file).map_err(|error| named(&error))?;
    let document = parse(&text).map_err(|refusal| named(&refusal.reason))?;
    let definitions = Definitions::read(&document, None).map_err(|refusal| named(&refusal.reason))?;
    Ok((document, definitions.has_users()))
}

/// Imports a document at the start.
///
/// # Errors
/// What is wrong with it, as text.
pub(crate) async fn import_at_start(node: &Arc<Node>, document: &Value) -> Result<(), String> {
    import(node, document, None).await.map_err(|refusal| refusal.reason)
}
