//! Takeover: a client connects while its former connection is still there. The new connection gets the session when the
//! former one is done with it.
//!
//! ```text
//!   new link  OpenSession ──► waits ───────────────────────────────► woken: OpenSession again, and the session opens
//!   old link       └─ Closed(TakenOver) ──► what it had received ──► Detach: the will, the expiry
//! ```
//!
//! A client may send DISCONNECT, close, and connect again before the DISCONNECT was read. What it sent on the old
//! connection comes first. So the old link still applies what it has received, but gets no more messages. At its
//! `Detach` the will is published, unless a DISCONNECT removed it, and then the new link opens the session.
//!
//! The wait is short, because the old link does not wait for its peer: it is woken, its pump reads what has arrived, a
//! bounded number of times, and detaches.

use super::Engine;
use super::budget::{Budget, Unfinished};
use super::successors::Successor;
use crate::command::OpenSession;
use crate::event::CloseReason;
use crate::slots::{Link, SessionKey};

impl Engine {
    /// Prepares the opening of a session: the client's old connection loses it, and a clean start ends it. Returns the
    /// batch to wait for. If it returns `Unfinished` and [`super::link::LinkState::waits`] is set, the link is woken
    /// when it can continue.
    pub(crate) fn end_predecessor(
        &mut self,
        link: Link,
        c: &OpenSession,
        budget: &mut Budget,
    ) -> Result<Option<u64>, Unfinished> {
        if self.successors.first(&c.client_id).is_some_and(|s| s.link != link) {
            // Another connection came earlier and gets the session first, even if it loses it at once.
            self.wait_for_session(link, c);
            return Err(Unfinished);
        }
        let session = self.sessions.named(&c.client_id);
        if let Some(session) = session
            && let Some(old) = self.sessions[session].link
            && self.links.get(old).is_some()
        {
            self.take_over(session, old, budget);
            self.wait_for_session(link, c);
            return Err(Unfinished);
        }
        if let Some(l) = self.links.get_mut(link) {
            l.waits = false;
        }
        if let Some(session) = session {
            // A new will must not replace one that is still being published.
            self.check_will(session)?;
        }
        let gate = match session {
            Some(session) if c.clean_start || self.is_over(session) => self.end_session(session, budget)?,
            _ => None,
        };
        self.forget_successor(link);
        Ok(gate)
    }

    fn wait_for_session(&mut self, link: Link, c: &OpenSession) {
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        l.waits = true;
        let succeeds = &mut l.rare.make().succeeds;
        if succeeds.is_none() {
            *succeeds = Some(c.client_id.clone());
            let successor = Successor {
                link,
                clean_start: c.clean_start,
            };
            self.successors.add(&c.client_id, successor);
        }
    }

    /// The link has the session it waited for, or is gone. Wakes the next link that waits for the session.
    pub(crate) fn forget_successor(&mut self, link: Link) {
        let Some(client_id) = self.links.get_mut(link).and_then(|l| l.rare.get_mut()?.succeeds.take()) else {
            return;
        };
        self.successors.remove(&client_id, link);
        self.call_successor(&client_id);
    }

    /// Wakes the first link that waits for the client's session, which no link has now.
    pub(crate) fn call_successor(&mut self, client_id: &str) {
        if let Some(next) = self.successors.first(client_id)
            && let Some(l) = self.links.get_mut(next.link)
        {
            l.call(&mut self.wakes);
        }
    }

    /// Whether another link waits to continue the session of this one, so that the session does not end in between.
    pub(crate) fn goes_on_elsewhere(&self, old: Link, session: SessionKey) -> bool {
        let s = &self.sessions[session];
        self.links.get(old).is_some_and(|l| l.taken_over)
            && s.expiry != Some(0)
            && self
                .successors
                .first(&s.client_id)
                .is_some_and(|next| !next.clean_start)
    }

    /// Takes the session from `old`, because another connection wants it. `old` is told, and gets nothing else.
    fn take_over(&mut self, session: SessionKey, old: Link, budget: &mut Budget) {
        let Some(l) = self.links.get_mut(old).filter(|l| !l.taken_over) else {
            return;
        };
        l.closed = Some(CloseReason::TakenOver);
        l.taken_over = true;
        l.stalled = true;
        l.call(&mut self.wakes);
        self.give_back_reservations(old);
        // Consumers that could not be removed in this hold are removed at the old link's `Detach`.
        let _ = self.stop_session(session, budget);
    }
}
