//! The counters and limits that a connection counts in: those of its listener, its user, its vhost. Dropping it
//! uncounts it.

use crate::directory::scram::Exchange;
use crate::logging::lines::LineKind;
use crate::node::{ConnectionCounts, DEFAULT_VHOST, Node};
use crate::protection::{Entrant, Meters};
use crate::terms::Terms;
use gatepost_core::properties::Name;
use gatepost_core::quota::Seat;
use gatepost_core::session::Protocol;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

/// One connection's place in the node's counters and limits.
pub(super) struct Place {
    pub(super) node: Arc<Node>,
    /// Settings of the listener that accepted it.
    pub(super) terms: Arc<Terms>,
    protocol: u16,
    /// Counted in `Node::attached` until its last output is written, so that a stop waits for it.
    attached: bool,
    /// A limit on connections is reached. This one was accepted only to be refused in its protocol's words.
    pub(super) over: bool,
    /// It has sent bytes. A connection that never does is probably a probe, and is not logged at `info`.
    pub(super) heard: bool,
    /// The answer to its failed login was delayed.
    pub(super) delayed: bool,
    /// Its entry among the connections that have not tried to log in; they may be closed when too many wait.
    entrant: Option<Arc<Entrant>>,
    /// A login of several rounds in progress.
    pub(super) exchange: Option<Box<Exchange>>,
    /// Meters of what it publishes; only with quotas.
    pub(super) meters: Option<Box<Meters>>,
    /// The client id that it gave with its password, if its protocol has client ids.
    pub(super) client_id: Option<Name>,
    /// What the client that logged in calls itself, for the log.
    pub(super) client: Option<Name>,
    /// An HTTP back end is being asked whether the user may use the vhost.
    pub(super) asked_vhost: bool,
    /// Counts the connection for its user's limit.
    seat: Option<Seat>,
}

impl Place {
    /// The caller has counted the connection as opened; dropping this counts it as closed.
    pub(super) fn new(node: Arc<Node>, terms: Arc<Terms>, over: bool) -> Place {
        if over {
            node.protection.turned_away.fetch_add(1, Ordering::Relaxed);
        } else {
            terms.opened();
        }
        let entrant = node.protection.half_open.enter(node.half_open_max());
        let protocol = u16::try_from(terms.protocol).unwrap_or(u16::MAX);
        Place {
            node,
            terms,
            protocol,
            attached: false,
            over,
            heard: false,
            delayed: false,
            entrant: Some(entrant),
            exchange: None,
            meters: None,
            client_id: None,
            client: None,
            asked_vhost: false,
            seat: None,
        }
    }

    /// Stores the task's waker, so that the connection can be closed before it logs in.
    pub(super) fn introduce(&self, task: &Waker) {
        if let Some(entrant) = &self.entrant {
            entrant.introduce(task);
        }
    }

    /// Whether to close the connection: it has not logged in, and there are too many such connections.
    pub(super) fn gives_way(&self) -> bool {
        let cut = self.entrant.as_ref().is_some_and(|entrant| entrant.is_cut());
        if cut {
            self.node.protection.counts.half_open.fetch_add(1, Ordering::Relaxed);
            if self.node.lines.admit(LineKind::GaveWay) {
                let listener = &*self.terms.name;
                tracing::warn!(
                    listener,
                    "a connection gives way that has not logged in: there are more than protection.half_open_max"
                );
            }
        }
        cut
    }

    /// The client has sent its credentials. While they are checked, the connection is not closed for newer ones.
    pub(super) fn knocks(&mut self) {
        self.entrant = None;
    }

    /// The client must answer a challenge before it is logged in. Until it does, the connection may be closed for newer
    /// ones again.
    pub(super) fn is_asked(&mut self, exchange: Box<Exchange>, task: Option<&Waker>) {
        self.exchange = Some(exchange);
        if !self.attached {
            self.entrant = Some(self.node.protection.half_open.enter(self.node.half_open_max()));
            if let Some(task) = task {
                self.introduce(task);
            }
        }
    }

    /// The first bytes showed the connection's protocol.
    pub(super) fn speaks(&mut self, protocol: usize) {
        self.protocol = u16::try_from(protocol).unwrap_or(u16::MAX);
    }

    pub(super) fn protocol(&self) -> Option<&dyn Protocol> {
        self.node
            .protocols
            .get(usize::from(self.protocol))
            .map(|protocol| &**protocol)
    }

    pub(super) fn protocol_name(&self) -> &'static str {
        self.protocol().map_or("", |protocol| protocol.name())
    }

    /// The vhost for a name that a client gave: the listener's, if the client named none or the default one.
    pub(super) fn vhost_name(&self, named: &Name) -> Name {
        match &self.terms.vhost {
            Some(vhost) if &**named == DEFAULT_VHOST => vhost.clone(),
            _ => named.clone(),
        }
    }

    /// Counts the connection towards its user's limit.
    pub(super) fn sit(&mut self, seat: Seat) {
        self.seat = Some(seat);
    }

    /// The connection is bound to a vhost: a stop waits for it.
    pub(super) fn attached(&mut self) {
        if !std::mem::replace(&mut self.attached, true) {
            self.node.attached.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts that it is not read because of a quota.
    pub(super) fn throttled(&self) {
        if let Some(counts) = self.node.connections.get(usize::from(self.protocol)) {
            counts.throttled.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a login as accepted or refused, under its protocol.
    pub(super) fn logged_in(&self, good: bool) {
        if let Some(counts) = self.node.connections.get(usize::from(self.protocol)) {
            let counter = if good { &counts.logged_in } else { &counts.login_refused };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.over {
            self.node.protection.turned_away.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.terms.closed();
        }
        if self.attached {
            self.node.attached.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(ConnectionCounts { closed, .. }) = self.node.connections.get(usize::from(self.protocol)) {
            closed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
