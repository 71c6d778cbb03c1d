//! HTTP logins: a password or a token in a request.

use super::Refusal;
use super::caller::Caller;
use crate::http::bounded::{CameFrom, Waiting};
use crate::logging::lines::LineKind;
use crate::logging::{shown, why_refused};
use crate::node::Node;
use crate::protection::BanKind;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatepost_core::command::Peer;
use gatepost_core::event::LoginFailure;
use gatepost_core::properties::Name;
use std::net::SocketAddr;

/// The user of a request with credentials. A request without them is asked for some. `at`: the path, for the log.
///
/// # Errors
/// The answer to a request without a valid login.
pub(crate) async fn by_header(node: &Node, request: &Parts, at: &str) -> Result<Caller, Response> {
    let from = request.extensions.get::<CameFrom>().map(|from| from.0);
    let Some(credentials) = request.headers.get(header::AUTHORIZATION) else {
        return Err((StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, REALM)]).into_response());
    };
    let Some((user, password)) = credentials.to_str().ok().and_then(credentials_of) else {
        return Err(failed().into_response());
    };
    let is_local = from.is_some_and(|from| Peer::at(from, None).is_local);
    let logged_in = node.log_in(&user, &password, is_local).await;
    let logged_in = logged_in.and_then(|(user, tags)| {
        let now = node.clock.now().monotonic;
        let banned = node.protection.bans(now, BanKind::User, &user);
        if banned {
            Err(LoginFailure::Banned)
        } else {
            Ok((user, tags))
        }
    });
    match logged_in {
        Ok((user, tags)) => Ok(Caller::user_of(node, user, tags)),
        Err(why) => {
            if node.lines.admit(LineKind::LoginRefused) {
                let peer = from.map(|from| from.to_string()).unwrap_or_default();
                let user = &*shown(&user);
                tracing::warn!(peer, protocol = at, user, why = why_refused(why), "login refused");
            }
            Err(refuse(node, why, from, request.extensions.get()).await)
        }
    }
}

/// Answers a failed login, and delays clients that try one password after the other.
async fn refuse(node: &Node, why: LoginFailure, from: Option<SocketAddr>, waiting: Option<&Waiting>) -> Response {
    if matches!(why, LoginFailure::Busy | LoginFailure::Full) {
        let reason = "too many logins wait to be checked";
        return Refusal::of(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", reason).into_response();
    }
    let is_failure = why != LoginFailure::Banned;
    if let (Some(from), Some(waiting), true) = (from, waiting, is_failure) {
        let now = node.clock.now().monotonic;
        let consequence = node.protection.login_failed(now, from.ip());
        if let Some(ban) = consequence.ban {
            let (address, seconds) = (from.ip(), ban.as_secs());
            tracing::warn!(%address, seconds, "address banned: too many failed logins");
        }
        if !consequence.delay.is_zero() {
            waiting.aside(tokio::time::sleep(consequence.delay)).await;
        }
    }
    match why {
        LoginFailure::LoopbackOnly => Refusal::not_authorised("User can only log in via localhost").into_response(),
        _ => failed().into_response(),
    }
}

/// RabbitMQ's answer. (It spells the error differently from all others.)
fn failed() -> Refusal {
    Refusal::of(StatusCode::UNAUTHORIZED, "not_authorized", "Login failed")
}

const REALM: &str = "Basic realm=\"RabbitMQ Management\"";

/// A user and its password, or a token without a user.
fn credentials_of(header: &str) -> Option<(Name, Vec<u8>)> {
    let (scheme, rest) = header.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(("".into(), rest.trim().as_bytes().to_vec()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = STANDARD.decode(rest.trim()).ok()?;
    let colon = bytes.iter().position(|byte| *byte == b':')?;
    let user = std::str::from_utf8(bytes.get(..colon)?).ok()?;
    Some((user.into(), bytes.get(colon + 1..)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vhosts::tests::Bench;

    /// Over HTTP as in all protocols: the password of `guest` is public.
    #[test]
    fn guest_from_elsewhere_is_told_that_it_is_for_this_machine_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let bench = Bench::start(dir.path());
        let ask = |from: &str| {
            let mut request = axum::http::Request::new(()).into_parts().0;
            let from = CameFrom(from.parse().expect("an address"));
            request.extensions.insert(from);
            let basic = format!("Basic {}", STANDARD.encode("guest:guest"));
            request
                .headers
                .insert(header::AUTHORIZATION, basic.parse().expect("a value"));
            let answer = by_header(&bench.node, &request, "test");
            let answer = bench.runtime.block_on(answer).map(|caller| caller.name().clone());
            answer.map_err(Box::new)
        };
        assert_eq!(ask("127.0.0.1:40000").expect("logged in"), "guest".into());
        let refused = ask("192.0.2.7:40000").expect_err("refused");
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        let body = bench
            .runtime
            .block_on(axum::body::to_bytes(refused.into_body(), 1 << 10));
        let body = String::from_utf8(body.expect("a body").into()).expect("text");
        assert_eq!(
            body,
            r#"{"error":"not_authorised","reason":"User can only log in via localhost"}"#
        );
    }

    #[test]
    fn credentials_are_a_name_and_a_password_or_a_token() {
        let basic = |text: &str| credentials_of(&format!("Basic {}", STANDARD.encode(text)));
        assert_eq!(basic("ann:a:b"), Some(("ann".into(), b"a:b".to_vec())));
        assert_eq!(basic("ann"), None);
        assert_eq!(credentials_of("bearer abc"), Some(("".into(), b"abc".to_vec())));
        assert_eq!(credentials_of("Basic !"), None);
        assert_eq!(credentials_of("Digest x"), None);
    }
}
