//! The stages of every request before its route: paths, authentication, origin, body.
//!
//! ```text
//!   request ─► prefix, trailing slash ─► OPTIONS ─► the console's files ─► login, tags ─► other pages' origins ─► body ─► routes
//! ```
//!
//! A client sends a password or a token with each request, or the cookie of a session that it opened with one (`/api/session`).
//!
//! A request that changes something runs to its end even if its client disconnects, so that no change is made by half.

use super::caller::Caller;
use super::cors::Origins;
use super::gzip;
use super::login;
use super::sessions::Sessions;
use super::ui;
use super::{JSON, NO_CACHE, Refusal};
use crate::config::Config;
use crate::http;
use crate::http::bounded::{OverTls, Waiting};
use crate::node::Node;
use crate::protection::BanKind;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use gatepost_core::buffers::{Buffers, Part};
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// Through the control socket. A process that may open its file may do everything.
    Socket,
    /// Over the network. Users log in, and their tags decide what they may do.
    Network,
}

/// A body must arrive within this time. Otherwise a slow client could keep one of the connections for ever.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

struct Door {
    node: Arc<Node>,
    entrance: Entrance,
    routes: TowerToHyperService<Router>,
    probes: TowerToHyperService<Router>,
    sessions: Sessions,
}

/// The routes, behind the checks of this module.
pub(super) fn behind(node: Arc<Node>, entrance: Entrance, routes: Router) -> Router {
    let door = Door {
        probes: TowerToHyperService::new(http::health(Arc::clone(&node))),
        routes: TowerToHyperService::new(routes),
        entrance,
        node,
        sessions: Sessions::default(),
    };
    Router::new().fallback(enter).with_state(Arc::new(door))
}

async fn enter(State(door): State<Arc<Door>>, request: Request) -> Response {
    let config = door.node.config();
    let origins = Origins::of(&config.management.cors_origins, request.headers());
    let compresses = gzip::is_asked(request.headers());
    let mut response = match door.pass(&config, &origins, request).await {
        Ok(response) | Err(response) => response,
    };
    if compresses {
        response = gzip::compress(response).await;
    }
    origins.allow(response.headers_mut());
    if door.entrance == Entrance::Network {
        ui::protect(response.headers_mut());
    }
    response
}

impl Door {
    /// # Errors
    /// The answer to a request that is refused.
    async fn pass(&self, config: &Config, origins: &Origins, mut request: Request) -> Result<Response, Response> {
        let prefix = &config.management.path_prefix;
        if config.management.ui && !prefix.is_empty() && request.uri().path() == prefix {
            return Ok(into_prefix(prefix));
        }
        let path = trimmed(request.uri().path(), prefix);
        let path = path.ok_or_else(|| Refusal::not_found().into_response())?;
        if let Some(uri) = with_path(request.uri(), path) {
            *request.uri_mut() = uri;
        }
        if matches!(request.uri().path(), "/healthz" | "/readyz") {
            return Ok(run(&self.probes, request).await);
        }
        if request.method() == Method::OPTIONS {
            return Ok(self.options(origins, request).await);
        }
        let (mut parts, body) = request.into_parts();
        let changes = !matches!(parts.method, Method::GET | Method::HEAD);
        if self.entrance == Entrance::Network {
            let file = (config.management.ui && !changes).then(|| ui::file(parts.uri.path(), &parts.headers));
            if let Some(file) = file.flatten() {
                return Ok(file);
            }
            if parts.uri.path() == "/api/session" {
                return self.session(config, origins, &parts).await;
            }
        }
        let caller = match self.entrance {
            Entrance::Socket => Caller::operator(),
            Entrance::Network => match self.log_in(&parts).await {
                Ok(caller) => caller,
                Err(answer) => {
                    drain(body, &parts).await;
                    return Err(answer);
                }
            },
        };
        if changes && self.entrance == Entrance::Network && origins.is_strange(&parts.headers) {
            return Err(strange());
        }
        let limit = self.limit_of(config, &caller, &parts);
        parts.extensions.insert(caller);
        let mut part = self.node.buffers.part(self.node.clock.now().monotonic);
        let body = read(body, &parts.headers, &limit, &self.node.buffers, &mut part).await?;
        part.set(body.len().saturating_mul(limit.times_in_memory));
        let request = Request::from_parts(parts, Body::from(body));
        if !changes {
            let turn = self.node.answers.turn().await;
            let _turn = turn.ok_or_else(|| busy().into_response())?;
            return Ok(run(&self.routes, request).await);
        }
        let routes = self.routes.clone();
        let done = tokio::spawn(async move {
            let answer = run(&routes, request).await;
            drop(part);
            answer
        });
        // The task fails only if it panics, and the panic is logged.
        let failed = |_| {
            Refusal::of(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_error",
                "the request failed",
            )
        };
        done.await.map_err(|error| failed(error).into_response())
    }

    /// The limits for the body of a request.
    fn limit_of(&self, config: &Config, caller: &Caller, request: &Parts) -> Limit {
        if !request.uri.path().starts_with("/api/definitions") || !caller.is_administrator() {
            return Limit {
                bytes: config.management.max_body.0,
                key: "management.max_body",
                timeout: BODY_TIMEOUT,
                times_in_memory: 1,
            };
        }
        let bytes = config.management.definitions_max.0;
        Limit {
            bytes: match self.entrance {
                // Definitions through the control socket have a larger limit: a whole export must fit.
                Entrance::Socket => bytes.max(OPERATORS_DEFINITIONS_MAX),
                Entrance::Network => bytes,
            },
            key: "management.definitions_max",
            timeout: DEFINITIONS_TIMEOUT,
            times_in_memory: DEFINITIONS_TIMES_IN_MEMORY,
        }
    }

    /// Answers OPTIONS with the methods of the path, which the router knows.
    async fn options(&self, origins: &Origins, request: Request) -> Response {
        let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        let mut answer = run(&self.routes, request).await;
        if answer.status() != StatusCode::METHOD_NOT_ALLOWED {
            return answer;
        }
        *answer.status_mut() = StatusCode::OK;
        *answer.body_mut() = Body::empty();
        origins.preflight(answer.headers_mut(), asked);
        answer
    }

    /// Begins a session (POST) or ends it (DELETE).
    ///
    /// # Errors
    /// The user is unknown, or may not use the API.
    async fn session(&self, config: &Config, origins: &Origins, request: &Parts) -> Result<Response, Response> {
        if origins.is_strange(&request.headers) {
            return Err(strange());
        }
        let path = match config.management.path_prefix.as_str() {
            "" => "/",
            prefix => prefix,
        };
        let cookie = match request.method {
            Method::POST => {
                let caller = self.log_in(request).await?;
                let now = self.node.clock.now().monotonic;
                let standing = self.node.standing(caller.name());
                self.sessions.open(standing, now, path, is_over_tls(request))
            }
            Method::DELETE => self.sessions.end(&request.headers, path),
            _ => return Err((StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "DELETE, POST")]).into_response()),
        };
        let cookie = cookie.map(|cookie| [(header::SET_COOKIE, cookie)]);
        Ok((
            StatusCode::NO_CONTENT,
            cookie.ok_or_else(|| Refusal::not_found().into_response())?,
        )
            .into_response())
    }

    /// The user of a session, if the request belongs to one.
    fn of_session(&self, request: &Parts) -> Option<Caller> {
        let now = self.node.clock.now().monotonic;
        let standing = self.sessions.of(&request.headers, now)?;
        let (user, tags) = self.node.still(&standing)?;
        let banned = self.node.protection.bans(now, BanKind::User, &user);
        let caller = Caller::user_of(&self.node, user, tags);
        (!banned && caller.is_manager()).then_some(caller)
    }

    /// # Errors
    /// The user is unknown, or may not use the API.
    async fn log_in(&self, request: &Parts) -> Result<Caller, Response> {
        if !request.headers.contains_key(header::AUTHORIZATION) {
            if let Some(caller) = self.of_session(request) {
                return Ok(caller);
            }
            // The console asks for the password itself: with a `WWW-Authenticate`, a browser would ask as well.
            if request.headers.contains_key(ASKED_BY_CONSOLE) {
                return Err(StatusCode::UNAUTHORIZED.into_response());
            }
        }
        let caller = login::by_header(&self.node, request, "management").await?;
        if caller.is_manager() {
            Ok(caller)
        } else {
            Err(Refusal::not_authorised("Not management user").into_response())
        }
    }
}

/// See [`Door::limit_of`].
struct Limit {
    bytes: u64,
    /// The key that sets it.
    key: &'static str,
    /// The body has to be there within this time.
    timeout: Duration,
    /// Memory that a body and what is parsed from it take, as a multiple of its size.
    times_in_memory: usize,
}

/// Largest body of definitions that come through the control socket.
const OPERATORS_DEFINITIONS_MAX: u64 = 64 << 20;
/// Definitions may come over a slow line.
const DEFINITIONS_TIMEOUT: Duration = Duration::from_secs(300);
/// For the text, the JSON values, and the definitions made from them.
const DEFINITIONS_TIMES_IN_MEMORY: usize = 6;
/// A header that the console sends and that a link or form on another page cannot.
const ASKED_BY_CONSOLE: &str = "x-requested-with";
const STRANGE: &str = "a page of another server may change something only if management.cors_origins names it";

/// The refusal of a request that others keep from being answered.
pub(super) fn busy() -> Refusal {
    let reason = "other requests take too long";
    Refusal::of(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", reason)
}

fn strange() -> Response {
    Refusal::of(StatusCode::FORBIDDEN, "forbidden", STRANGE).into_response()
}

async fn run(routes: &TowerToHyperService<Router>, request: Request) -> Response {
    match routes.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Redirects to the path with a slash after the prefix: the console's files are relative to it. The location is
/// relative too, so that it is right behind a proxy with a prefix of its own.
fn into_prefix(prefix: &str) -> Response {
    let last = prefix.rsplit('/').next().unwrap_or_default();
    (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, format!("{last}/"))]).into_response()
}

/// The path after the prefix, without a slash at its end. `None`: it has another prefix.
fn trimmed<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let path = path.strip_prefix(prefix)?;
    match path.trim_end_matches('/') {
        "" => Some("/"),
        path if path.starts_with('/') => Some(path),
        _ => None,
    }
}

/// `None` if the request has that path already.
fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    if uri.path() == path {
        return None;
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{path}{query}").parse().ok()
}

/// Whether the browser used TLS, to us or to the proxy in front of us. A client that lies about it only harms itself:
/// it gets a cookie that its browser does not send.
fn is_over_tls(request: &Parts) -> bool {
    let forwarded = request.headers.get("x-forwarded-proto");
    request.extensions.get().is_some_and(|OverTls(over_tls)| *over_tls)
        || forwarded.is_some_and(|scheme| scheme == "https")
}

/// Maximum bytes of a refused request's body that are read, and for how long.
const DRAIN_MAX: usize = 64 << 10;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the body of a refused request. Some clients send a request without credentials first, and again with them on the same
/// connection; with an unread body in it, the connection would have to be closed. The request's place among the concurrent
/// requests is free meanwhile.
async fn drain(body: Body, request: &Parts) {
    let taken = tokio::time::timeout(DRAIN_TIMEOUT, to_bytes(body, DRAIN_MAX));
    match request.extensions.get::<Waiting>() {
        Some(waiting) => waiting.aside(taken).await,
        None => _ = taken.await,
    }
}

/// Reads a whole body. Meanwhile it counts among the buffers.
///
/// # Errors
/// It is too long, or does not arrive in time, or there is no memory for it.
async fn read(
    body: Body,
    headers: &HeaderMap,
    limit: &Limit,
    buffers: &Buffers,
    part: &mut Part,
) -> Result<axum::body::Bytes, Response> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit.bytes) {
        return Err(too_large(limit));
    }
    match tokio::time::timeout(limit.timeout, collect(body, limit, buffers, part)).await {
        Ok(collected) => collected,
        Err(_) => {
            let text = json!({ "error": "request_timeout", "reason": "the body did not come" });
            Err((StatusCode::REQUEST_TIMEOUT, [JSON, NO_CACHE], text.to_string()).into_response())
        }
    }
}

async fn collect(
    mut body: Body,
    limit: &Limit,
    buffers: &Buffers,
    part: &mut Part,
) -> Result<axum::body::Bytes, Response> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal::bad_request(error.to_string()).into_response())?;
        let Ok(data) = frame.into_data() else { continue };
        if (whole.len() + data.len()) as u64 > limit.bytes {
            return Err(too_large(limit));
        }
        whole.extend_from_slice(&data);
        part.set(whole.len());
        if whole.len() > LARGE && buffers.are_full() {
            let reason = "memory for incomplete requests is used up (memory.input)";
            return Err(Refusal::of(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", reason).into_response());
        }
    }
    Ok(whole.into())
}

/// A body up to this size is accepted even if memory is short: an operator may want to free memory.
const LARGE: usize = 64 << 10;

fn too_large(limit: &Limit) -> Response {
    let reason = format!("a body has {} bytes at most ({})", limit.bytes, limit.key);
    Refusal::of(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", reason).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_their_prefix_and_their_last_slash() {
        for (path, prefix, expected) in [
            ("/api/users/", "", Some("/api/users")),
            ("/api/queues/%2F/", "", Some("/api/queues/%2F")),
            ("/gp/api/x", "/gp", Some("/api/x")),
            ("/gp", "/gp", Some("/")),
            ("/gpx/api", "/gp", None),
            ("/api/x", "/gp", None),
        ] {
            assert_eq!(trimmed(path, prefix), expected, "{path}");
        }
    }
}
