//! Where a connection belongs, and that it is counted there for as long as it exists.

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

/// See the module.
pub(super) struct Place {
    pub(super) node: Arc<Node>,
    /// Of the listener it came through.
    pub(super) terms: Arc<Terms>,
    protocol: u16,
    /// It is one of `Node::attached`, until its goodbye is written.
    attached: bool,
    /// There is no room for it. It is here to be told so.
    pub(super) over: bool,
    /// It has said something, and the log says that it is here.
    pub(super) heard: bool,
    /// The answer to its failed login was held back.
    pub(super) delayed: bool,
    /// It has not tried to log in yet, and may have to give way to others.
    entrant: Option<Arc<Entrant>>,
    /// A login under way in rounds.
    pub(super) exchange: Option<Box<Exchange>>,
    /// What it publishes, where there are quotas.
    pub(super) meters: Option<Box<Meters>>,
    /// As it gave it with its password, where its protocol's clients have one.
    pub(super) client_id: Option<Name>,
    /// Somebody outside is asked whether it may use its vhost.
    pub(super) asked_vhost: bool,
    /// Counts it among its user's connections.
    seat: Option<Seat>,
}

impl Place {
    /// For a connection that was counted as opened, and is counted as closed when this is dropped.
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
            asked_vhost: false,
            seat: None,
        }
    }

    /// The task of a connection that may have to give way.
    pub(super) fn introduce(&self, task: &Waker) {
        if let Some(entrant) = &self.entrant {
            entrant.introduce(task);
        }
    }

    /// Whether the connection has to go, because it does not go on and others want to come in.
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

    /// The connection tries to log in.
    pub(super) fn knocks(&mut self) {
        self.entrant = None;
    }

    /// The connection is asked something before it is logged in: again it may have to give way to others.
    pub(super) fn is_asked(&mut self, exchange: Box<Exchange>, task: Option<&Waker>) {
        self.exchange = Some(exchange);
        if !self.attached {
            self.entrant = Some(self.node.protection.half_open.enter(self.node.half_open_max()));
            if let Some(task) = task {
                self.introduce(task);
            }
        }
    }

    /// The connection turned out to speak that protocol.
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

    /// The vhost that a client means by a name: that of its listener, if it names none or the default one.
    pub(super) fn vhost_name(&self, named: &Name) -> Name {
        match &self.terms.vhost {
            Some(vhost) if &**named == DEFAULT_VHOST => vhost.clone(),
            _ => named.clone(),
        }
    }

    /// The connection is one of its user's.
    pub(super) fn sit(&mut self, seat: Seat) {
        self.seat = Some(seat);
    }

    /// The connection is bound to a vhost: a stop waits for it.
    pub(super) fn attached(&mut self) {
        if !std::mem::replace(&mut self.attached, true) {
            self.node.attached.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A login was good, or not.
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
