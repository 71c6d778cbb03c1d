//! A listener's rules for its connections, and the count of them.

use crate::config::{Anonymous, AnonymousHere, Listener};
use crate::network::Network;
use crate::protocols;
use crate::transport::UpgradeRules;
use gatepost_core::properties::Name;
use gatepost_core::session::WebSocket;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The rules, shared by a listener and its connections.
#[derive(Debug)]
pub(crate) struct Terms {
    /// The listener's name.
    pub name: String,
    /// The index of its protocol in the node's list.
    pub protocol: usize,
    /// Settings for WebSocket; `None`: the protocol is spoken on the socket itself.
    pub websocket: Option<(&'static WebSocket, UpgradeRules)>,
    /// If set, each connection must come from one of these networks and begin with a PROXY header.
    pub proxies: Option<Vec<Network>>,
    /// The vhost of clients that name none, or the default one.
    pub vhost: Option<Name>,
    /// The listener's own rule for clients without credentials; `None`: the node's rule applies.
    pub anonymous: Option<Anonymous>,
    /// Open connections.
    connections: AtomicU64,
}

impl Terms {
    /// The rules of a configured listener; `None`: it speaks HTTP.
    pub(crate) fn of(name: &str, listener: &Listener) -> Option<Arc<Terms>> {
        let protocol = protocols::find(&listener.protocol)?;
        let websocket = protocols::ALL.get(protocol)?.websocket;
        let websocket = websocket.filter(|_| listener.websocket).map(|websocket| {
            let rules = UpgradeRules {
                paths: websocket.paths,
                subprotocols: websocket.subprotocols,
                subprotocol_optional: websocket.subprotocol_optional,
                origins: listener.origins.clone(),
            };
            (websocket, rules)
        });
        Some(Arc::new(Terms {
            name: name.to_owned(),
            websocket,
            proxies: listener
                .proxy_protocol
                .then(|| listener.proxy_from.iter().filter_map(|n| n.parse().ok()).collect()),
            vhost: Some(listener.vhost.as_str())
                .filter(|vhost| !vhost.is_empty())
                .map(Name::from),
            anonymous: match listener.anonymous {
                AnonymousHere::Default => None,
                AnonymousHere::Deny => Some(Anonymous::Deny),
                AnonymousHere::Loopback => Some(Anonymous::Loopback),
                AnonymousHere::Allow => Some(Anonymous::Allow),
            },
            ..Terms::plain(protocol)
        }))
    }

    /// The rules of a plain socket for the protocol with that index.
    pub(crate) fn plain(protocol: usize) -> Terms {
        Terms {
            name: String::new(),
            protocol,
            websocket: None,
            proxies: None,
            vhost: None,
            anonymous: None,
            connections: AtomicU64::new(0),
        }
    }

    /// Whether one more connection is allowed. `connections_max` 0: no limit.
    pub(crate) fn has_room(&self, connections_max: u64) -> bool {
        connections_max == 0 || self.connections.load(Ordering::Relaxed) < connections_max
    }

    /// Whether the peer may connect: if the listener requires a PROXY header, only its proxies may.
    pub(crate) fn takes(&self, address: Option<SocketAddr>) -> bool {
        match (&self.proxies, address) {
            (Some(proxies), Some(address)) => proxies.iter().any(|network| network.contains(address.ip())),
            // A Unix socket: the mode of its file decides who may connect.
            (Some(_), None) | (None, _) => true,
        }
    }

    /// Counts a new connection.
    pub(crate) fn opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Uncounts a connection that has closed.
    pub(crate) fn closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
