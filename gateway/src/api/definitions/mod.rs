//! `/api/definitions`: all declared objects as one JSON document in RabbitMQ's format.
//!
//! ```text
//!   document ──read──► Definitions ──check──► nothing is changed yet ──apply──► vhosts, users, … bindings
//! ```
//!
//! An import adds and changes, and deletes nothing. All of it is checked before anything is changed. A queue or an
//! exchange that exists stays as it is, as in RabbitMQ. The same import twice changes nothing the second time.

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
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatepost_core::properties::Value as CoreValue;
use reading::Definitions;
use ring::digest::{SHA256, digest};
use serde_json::Value;
use std::path;
use std::sync::Arc;

/// The definitions of the whole node, with hashes of passwords, are for administrators. Those of a vhost, without
/// users, are for its policymakers.
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
    let _turn = node.importing.lock().await;
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
    let _turn = node.importing.lock().await;
    import(&node, &document(&headers, &body)?, Some(&vhost.name)).await?;
    done()
}

fn makes_policies(caller: &Caller) -> Result<(), Refusal> {
    let may = caller.is_policymaker();
    may.then_some(())
        .ok_or_else(|| Refusal::not_authorised("User not authorised to access object"))
}

/// As a file for download, if the query has `?download=NAME`.
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

/// The document in a request: its body, or the field `file` of a form.
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

/// A document that was found at the start.
pub(crate) struct Found {
    document: Value,
    /// Whether it creates users.
    pub has_users: bool,
    /// SHA-256 of its bytes.
    digest: String,
}

/// Reads a document and checks its format.
///
/// # Errors
/// A text with the file's name.
pub(crate) fn look_into(file: &path::Path) -> Result<Found, String> {
    let named = |what: &dyn std::fmt::Display| format!("{}: {what}", file.display());
    let text = std::fs::read(file).map_err(|error| named(&error))?;
    let document = parse(&text).map_err(|refusal| named(&refusal.reason))?;
    let definitions = Definitions::read(&document, None).map_err(|refusal| named(&refusal.reason))?;
    Ok(Found {
        has_users: definitions.has_users(),
        digest: STANDARD.encode(digest(&SHA256, &text)),
        document,
    })
}

/// Imports a document at the start, unless it is the one that was imported last.
///
/// # Errors
/// The error in the document, as text.
pub(crate) async fn import_at_start(node: &Arc<Node>, found: &Found) -> Result<(), String> {
    let skips = node.config().definitions.skip_if_unchanged;
    let last = node
        .global_parameters()
        .into_iter()
        .find(|(name, _)| **name == *IMPORTED);
    if skips && last.is_some_and(|(_, last)| last.as_str() == Some(&found.digest)) {
        tracing::info!("definitions.file has not changed since it was imported, and is skipped");
        return Ok(());
    }
    import(node, &found.document, None)
        .await
        .map_err(|refusal| refusal.reason)?;
    if skips {
        let digest = CoreValue::text(&found.digest);
        let noted = node.set_global_parameter(IMPORTED, digest).await;
        noted.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// RabbitMQ's name of the global parameter with the digest of the last imported document. It is about this node, so it
/// is neither exported nor imported.
const IMPORTED: &str = "imported_definition_hash_value";
