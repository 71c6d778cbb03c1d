//! Sessions of the console: a browser keeps a cookie with a random number, and no password.
//!
//! A session is valid as long as its login would be: it ends when the password changes, and when the user is deleted,
//! loses its tags, or is banned. It also ends if it is unused for [`IDLE_MAX`], if it is displaced as one of more than
//! [`SESSIONS_MAX`], and with the process.

use crate::directory::users::Standing;
use axum::http::{HeaderMap, HeaderValue, header};
use gatepost_core::time::Time;
use parking_lot::Mutex;
use ring::rand::{SecureRandom as _, SystemRandom};
use std::collections::HashMap;
use std::fmt::Write as _;

/// An unused session ends after this time, in milliseconds.
const IDLE_MAX: u64 = HOUR_MS * 8;
const HOUR_MS: u64 = 3_600_000;
/// Maximum sessions. One more displaces the one that was used least recently.
const SESSIONS_MAX: usize = 1000;
const COOKIE: &str = "gatepost_session";

/// All sessions. Times are those of the node's monotonic clock.
#[derive(Default)]
pub(super) struct Sessions {
    open: Mutex<HashMap<String, Open>>,
}

struct Open {
    standing: Standing,
    used: Time,
}

impl Sessions {
    /// Opens a session and returns its cookie. `is_secure`: the browser may send it over TLS only.
    pub(super) fn open(&self, standing: Standing, now: Time, path: &str, is_secure: bool) -> Option<HeaderValue> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).ok()?;
        let token = bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let mut open = self.open.lock();
        open.retain(|_, session| now.0.saturating_sub(session.used.0) < IDLE_MAX);
        if open.len() >= SESSIONS_MAX {
            let oldest = open.iter().min_by_key(|(_, session)| session.used);
            if let Some(oldest) = oldest.map(|(token, _)| token.clone()) {
                open.remove(&oldest);
            }
        }
        let cookie = cookie(&token, path, is_secure);
        open.insert(token, Open { standing, used: now });
        cookie
    }

    /// The login behind a request's cookie.
    pub(super) fn of(&self, headers: &HeaderMap, now: Time) -> Option<Standing> {
        let mut open = self.open.lock();
        let session = open.get_mut(token(headers)?)?;
        if now.0.saturating_sub(session.used.0) >= IDLE_MAX {
            return None;
        }
        session.used = now;
        Some(session.standing.clone())
    }

    /// Ends the session of a request's cookie. Returns the cookie that deletes it in the browser.
    pub(super) fn end(&self, headers: &HeaderMap, path: &str) -> Option<HeaderValue> {
        if let Some(token) = token(headers) {
            self.open.lock().remove(token);
        }
        HeaderValue::try_from(format!("{COOKIE}=; Path={path}; Max-Age=0; HttpOnly; SameSite=Strict")).ok()
    }
}

/// With `SameSite`, no page of another site makes a browser send it.
fn cookie(token: &str, path: &str, is_secure: bool) -> Option<HeaderValue> {
    let secure = if is_secure { "; Secure" } else { "" };
    HeaderValue::try_from(format!(
        "{COOKIE}={token}; Path={path}; HttpOnly; SameSite=Strict{secure}"
    ))
    .ok()
}

fn token(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|value| value.split(';'))
        .find_map(|cookie| cookie.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(cookie: &HeaderValue) -> HeaderMap {
        let pair = cookie.to_str().expect("text").split(';').next().unwrap_or_default();
        let text = format!("theme=dark; {pair}");
        HeaderMap::from_iter([(header::COOKIE, HeaderValue::try_from(text).expect("a header"))])
    }

    #[test]
    fn a_session_lasts_while_it_is_used() {
        let sessions = Sessions::default();
        let at = |hour: u64| Time(hour * HOUR_MS);
        let cookie = sessions.open(Standing::default(), at(1), "/", false).expect("a cookie");
        assert!(sessions.of(&with(&cookie), at(8)).is_some());
        assert!(sessions.of(&with(&cookie), at(15)).is_some());
        assert!(sessions.of(&with(&cookie), at(24)).is_none());
        assert!(sessions.of(&HeaderMap::new(), at(1)).is_none());
    }

    #[test]
    fn a_session_that_was_ended_is_gone() {
        let sessions = Sessions::default();
        let cookie = sessions
            .open(Standing::default(), Time(0), "/gp", true)
            .expect("a cookie");
        assert!(
            cookie
                .to_str()
                .is_ok_and(|text| text.ends_with("Path=/gp; HttpOnly; SameSite=Strict; Secure"))
        );
        sessions.end(&with(&cookie), "/gp");
        assert!(sessions.of(&with(&cookie), Time(0)).is_none());
    }

    #[test]
    fn there_is_a_bound_and_the_oldest_gives_way() {
        let sessions = Sessions::default();
        let at = |n: usize| Time(n as u64);
        let cookies: Vec<HeaderValue> = (0..=SESSIONS_MAX)
            .filter_map(|n| sessions.open(Standing::default(), at(n), "/", false))
            .collect();
        assert!(sessions.of(&with(&cookies[0]), at(2000)).is_none());
        assert!(sessions.of(&with(&cookies[1]), at(2000)).is_some());
        assert_eq!(sessions.open.lock().len(), SESSIONS_MAX);
    }
}
