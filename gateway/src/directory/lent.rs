//! Users that are there for as long as a token says: their rights are pushed when they log in, and go when it expires.
//!
//! ```text
//!   login ─► hashing thread verifies ─► this task: rights into the engines ─► answer
//!                                                  └─ at the expiry: rights out, connections end
//! ```
//!
//! Only the newest token of a user counts, for all its connections. Its wills and its session's messages need it too: a will
//! that is published after the expiry is dropped.

use super::hashing::Answer;
use super::jwt::{Grant, Token};
use super::people::OutOfMemory;
use crate::logging::lines::LineKind;
use crate::logging::shown;
use crate::node::Node;
use gatepost_core::event::{CloseReason, Event, LoginFailure, LoginRefused};
use gatepost_core::properties::Name;
use gatepost_core::quota::Quota;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

/// What a token has brought.
pub(crate) struct Lent {
    pub grant: Grant,
    pub quota: Arc<Quota>,
    /// Unix seconds.
    pub until: u64,
    /// About what it takes in memory.
    pub bytes: usize,
}

/// A token that is good, and who waits for that.
pub(crate) struct Granted {
    pub token: Token,
    pub to: Weak<dyn Answer>,
}

/// Unix seconds.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// A user, without texts and rights: its entries here and in the engines.
const USER_BYTES: usize = 768;
/// How often expiries are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Takes tokens that are good, and ends what has expired; for ever.
pub(crate) async fn run(node: &Node, mut granted: mpsc::UnboundedReceiver<Granted>) {
    loop {
        match tokio::time::timeout(LOOK, granted.recv()).await {
            Ok(Some(granted)) => lend(node, granted),
            Ok(None) => return,
            Err(_) => {}
        }
        expire(node, now());
    }
}

fn lend(node: &Node, Granted { token, to }: Granted) {
    let Some(to) = to.upgrade() else { return };
    let Token { user, until, grant } = token;
    let bytes = USER_BYTES + user.len() + grant.memory();
    {
        let mut people = node.directory.people.write();
        if people.known(&user).is_some() {
            drop(people);
            tracing::warn!(%user, "a token names a user of another back end: refused");
            return to.answer(refused(user));
        }
        let lent = Lent {
            grant,
            quota: Arc::default(),
            until,
            bytes,
        };
        if let Err(OutOfMemory) = people.lend(user.clone(), lent) {
            drop(people);
            if node.lines.admit(LineKind::LoginRefused) {
                tracing::warn!(
                    user = &*shown(&user),
                    "a user of a token is refused: auth.outside_memory is used up"
                );
            }
            let why = LoginFailure::Busy;
            return to.answer(Event::LoginRefused(Box::new(LoginRefused { user, why })));
        }
    }
    node.directory.push_user(&node.vhosts.list(), &user);
    to.answer(Event::authenticated(user));
}

fn expire(node: &Node, now: u64) {
    let gone = node.directory.people.write().take_back(now);
    for user in gone {
        tracing::debug!(%user, "the user's token has expired");
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
