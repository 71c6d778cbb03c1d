//! On which terms a listener takes connections, and how many it has.

use crate::config::{Anonymous, AnonymousHere, Listener};
use crate::network::Network;
use crate::protocols;
use crate::transport::UpgradeRules;
use gatepost_core::properties::Name;
use gatepost_core::session::WebSocket;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shared by a listener and its connections.
#[derive(Debug)]
pub(crate) struct Terms {
    /// The listener's name.
    pub name: String,
    /// The place of its protocol in the node's list.
    pub protocol: usize,
    /// The protocol is spoken over WebSocket.
    pub websocket: Option<(&'static WebSocket, UpgradeRules)>,
    /// Each connection begins with a PROXY header, and comes from one of these networks.
    pub proxies: Option<Vec<Network>>,
    /// The vhost of clients that name none, or the default one.
    pub vhost: Option<Name>,
    /// Who may log in without credentials, where that differs from the node's rule.
    pub anonymous: Option<Anonymous>,
    /// Open now.
    connections: AtomicU64,
}

impl Terms {
    /// Those of a listener in the configuration; `None`: it speaks no protocol.
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

    /// Those of a bare socket that speaks the protocol at that place.
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

    /// Whether one more connection is allowed where there may be `connections_max`; 0: any number.
    pub(crate) fn has_room(&self, connections_max: u64) -> bool {
        connections_max == 0 || self.connections.load(Ordering::Relaxed) < connections_max
    }

    /// Whether who connects is a proxy, where only proxies may.
    pub(crate) fn takes(&self, address: Option<SocketAddr>) -> bool {
        match (&self.proxies, address) {
            (Some(proxies), Some(address)) => proxies.iter().any(|network| network.contains(address.ip())),
            // A Unix socket's file: its owner lets in whom he trusts.
            (Some(_), None) | (None, _) => true,
        }
    }

    /// A connection came through the listener.
    pub(crate) fn opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// It is gone.
    pub(crate) fn closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
