//! Temporary users: those of a token exist until it expires, those of the HTTP back end while they are connected. Their
//! rights are set in the engines when they log in, and removed with the user.
//!
//! ```text
//!   login ─► hashing thread verifies ─► this task: sets rights in the engines ─► answer
//!                                                  └─ at the expiry: removes rights, ends connections
//! ```
//!
//! Only the newest token of a user counts, for all its connections. Wills need its rights too: a will that is published
//! after the expiry is dropped.

use super::hashing::Answer;
use super::jwt::{Grant, Token};
use super::people::{Backend, NotAdded, TemporaryUser};
use crate::logging::lines::LineKind;
use crate::logging::shown;
use crate::node::Node;
use gatepost_core::event::{CloseReason, Event, LoginFailure, LoginRefused};
use gatepost_core::properties::Name;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// A verified token, and the login that waits for its user to be added.
pub(crate) struct Granted {
    pub token: Token,
    pub to: Weak<dyn Answer>,
}

/// Unix seconds.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Estimated memory of a user's entries here and in the engines, without names and rights.
const USER_BYTES: usize = 768;
/// How often expired users are removed.
const LOOK: Duration = Duration::from_secs(1);

/// Adds the users of verified tokens and removes expired ones. Runs until the node ends.
pub(crate) async fn run(node: &Node, mut granted: mpsc::UnboundedReceiver<Granted>) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Not after each login: it visits all users, and each of many logins at once would do that.
        tokio::select! {
            _ = look.tick() => expire(node, now()),
            next = granted.recv() => match next {
                Some(granted) => add_temporary(node, granted),
                None => return,
            },
        }
    }
}

fn add_temporary(node: &Node, Granted { token, to }: Granted) {
    let Some(to) = to.upgrade() else { return };
    let Token { user, until, grant } = token;
    let added = TemporaryUser {
        bytes: bytes(&user, &grant),
        grant,
        quota: Arc::default(),
        until,
        by: Backend::Jwt,
    };
    to.answer(put(node, user, added));
}

/// Estimated memory of a user.
pub(super) fn bytes(user: &str, grant: &Grant) -> usize {
    USER_BYTES + user.len() + grant.memory()
}

/// Adds the user and sets its rights in the engines. Returns the answer to its login.
pub(super) fn put(node: &Node, user: Name, added: TemporaryUser) -> Event {
    let taken = node.directory.people.write().add_temporary(user.clone(), added);
    match taken {
        Ok(()) => {
            node.directory.push_user(&node.vhosts.list(), &user);
            Event::authenticated(user)
        }
        Err(NotAdded::Others) => {
            if node.lines.admit(LineKind::LoginRefused) {
                let user = &*shown(&user);
                tracing::warn!(user, "a login from outside names a user of another back end: refused");
            }
            refused(user)
        }
        Err(NotAdded::OutOfMemory) => {
            if node.lines.admit(LineKind::LoginRefused) {
                let user = &*shown(&user);
                tracing::warn!(user, "a user from outside is refused: auth.outside_memory is used up");
            }
            let why = LoginFailure::Busy;
            Event::LoginRefused(Box::new(LoginRefused { user, why }))
        }
    }
}

fn expire(node: &Node, now: u64) {
    let gone = node.directory.people.write().remove_expired(now);
    for user in gone {
        tracing::debug!(%user, "the user from outside is known no longer");
        for vhost in node.vhosts.list().iter() {
            vhost.enter(|engine| {
                engine.remove_rights(&user);
                engine.end_user(&user, CloseReason::CredentialsExpired);
            });
        }
    }
}

pub(super) fn refused(user: Name) -> Event {
    Event::LoginRefused(Box::new(LoginRefused {
        user,
        why: LoginFailure::BadCredentials,
    }))
}
