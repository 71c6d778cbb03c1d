//! Where a connection belongs, and that it is counted there for as long as it exists.

use crate::node::{ConnectionCounts, Node};
use crate::terms::Terms;
use gatepost_core::session::Protocol;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// See the module.
pub(super) struct Place {
    pub(super) node: Arc<Node>,
    /// Of the listener it came through.
    pub(super) terms: Arc<Terms>,
    protocol: u16,
    /// It is one of `Node::attached`, until its last words are out.
    attached: bool,
}

impl Place {
    /// For a connection that was counted as opened, and is counted as closed when this is dropped.
    pub(super) fn new(node: Arc<Node>, terms: Arc<Terms>) -> Place {
        terms.opened();
        let protocol = u16::try_from(terms.protocol).unwrap_or(u16::MAX);
        Place {
            node,
            terms,
            protocol,
            attached: false,
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
        if self.attached {
            self.node.attached.fetch_sub(1, Ordering::Relaxed);
        }
        self.terms.closed();
        if let Some(ConnectionCounts { closed, .. }) = self.node.connections.get(usize::from(self.protocol)) {
            closed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
