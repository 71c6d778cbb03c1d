//! `/api/connections`: the connections of all protocols.

use super::caller::Caller;
use super::collect::collect;
use super::fields::Fields;
use super::rates::{Spans, write_rate};
use super::view::{Pages, Row, View};
use super::{Answer, Api, Refusal, done};
use crate::node::Node;
use crate::protocols;
use crate::vhost::Vhost;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing;
use gatepost_core::command::{Handshake, Peer};
use gatepost_core::engine::inspect::{Item, Kind};
use gatepost_core::engine::{Carried, Link};
use gatepost_core::in_process;
use gatepost_core::properties::Name;
use gatepost_core::store::VhostId;
use gatepost_core::time::Wall;
use std::net::SocketAddr;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/connections", routing::get(list))
        .route("/api/connections/{name}", routing::get(get).delete(delete))
        .route(
            "/api/connections/username/{user}",
            routing::get(of_user).delete(delete_of_user),
        )
        .route("/api/vhosts/{vhost}/connections", routing::get(of_vhost))
}

/// A connection, and the names by which people and tools know it.
pub(super) struct Connection {
    pub(super) name: String,
    pub(super) vhost: Name,
    number: VhostId,
    pub(super) link: Link,
    pub(super) user: Name,
    pub(super) node: Arc<str>,
    pub(super) peer: Peer,
    protocol: &'static str,
    client_name: Option<Name>,
    channels: usize,
    connected_at: Wall,
    heartbeat_s: u16,
    handshake: Option<Box<Handshake>>,
    carried: Carried,
    is_blocked: bool,
    /// Bytes per second, in and out.
    rates: Option<(f64, f64)>,
}

impl Connection {
    /// `None`: the link is not a connection, or one that the gateway has with itself.
    fn of(node_name: &Arc<str>, vhost: &Vhost, item: Item) -> Option<Connection> {
        let Item::Connection {
            link,
            user,
            protocol,
            client_name,
            peer,
            channels,
            connected_at,
            heartbeat_s,
            handshake,
            carried,
            blocked,
            ..
        } = item
        else {
            return None;
        };
        (protocol != in_process::PROTOCOL).then(|| Connection {
            name: name_of(&peer, link),
            vhost: vhost.name.clone(),
            number: vhost.number,
            node: Arc::clone(node_name),
            link,
            user,
            protocol,
            client_name,
            peer,
            channels,
            connected_at,
            heartbeat_s,
            handshake,
            carried,
            is_blocked: blocked,
            rates: None,
        })
    }

    /// The protocol's name: `amqp`.
    pub(super) fn family(&self) -> &'static str {
        protocols::of_version(self.protocol).map_or("", |(protocol, _)| protocol.name)
    }

    /// Whether it has channels that its client opens.
    pub(super) fn has_channels(&self) -> bool {
        self.family() == "amqp"
    }

    /// The number by which a channel is shown. Protocols without channels number theirs from 0, and the first one is
    /// shown as 1.
    pub(super) fn shown_channel(&self, number: u16) -> u16 {
        if self.has_channels() {
            number
        } else {
            number.saturating_add(1)
        }
    }

    pub(super) fn client_name(&self) -> Option<&str> {
        self.client_name.as_deref()
    }

    pub(super) fn write_peer(&self, fields: &mut Fields<'_>) {
        let host = self.peer.address.map(|at| at.ip().to_canonical().to_string());
        fields.text("peer_host", host.as_deref().unwrap_or_default());
        fields.count("peer_port", self.peer.address.map_or(0, |at| at.port()));
    }

    fn write_properties(&self, fields: &mut Fields<'_>) {
        let properties = self.handshake.as_ref().map(|handshake| &handshake.client_properties);
        fields.object("client_properties", |fields| {
            for (name, value) in properties.iter().flat_map(|properties| properties.iter()) {
                fields.text(name, value);
            }
            let has = |name| properties.is_some_and(|properties| properties.lookup(name).is_some());
            match (self.family(), self.client_name()) {
                ("amqp", Some(name)) if !has("connection_name") => fields.text("connection_name", name),
                ("mqtt", Some(name)) if !has("client_id") => fields.text("client_id", name),
                _ => {}
            }
            match self.family() {
                "mqtt" if !has("product") => fields.text("product", "MQTT client"),
                "stomp" if !has("product") => fields.text("product", "STOMP client"),
                _ => {}
            }
        });
        if let ("mqtt", Some(name)) = (self.family(), self.client_name()) {
            fields.object("variable_map", |fields| fields.text("client_id", name));
        }
    }
}

impl Row for Connection {
    fn name(&self) -> &str {
        &self.name
    }

    fn other_names(&self) -> [&str; 2] {
        [self.client_name().unwrap_or_default(), &self.user]
    }

    fn write(&self, fields: &mut Fields<'_>, _: &Spans) {
        fields.text("name", &self.name);
        fields.text("node", &self.node);
        fields.text("vhost", &self.vhost);
        fields.text("user", &self.user);
        fields.text("user_who_performed_action", &self.user);
        fields.text("protocol", self.protocol);
        fields.text("type", "network");
        fields.text("state", if self.is_blocked { "blocked" } else { "running" });
        fields.count("connected_at", self.connected_at.0);
        let host = self.peer.local_address.map(|at| at.ip().to_canonical().to_string());
        fields.text("host", host.as_deref().unwrap_or_default());
        fields.count("port", self.peer.local_address.map_or(0, |at| at.port()));
        self.write_peer(fields);
        fields.flag("ssl", self.peer.is_encrypted);
        for key in ["ssl_protocol", "ssl_key_exchange", "ssl_cipher", "ssl_hash"] {
            fields.null(key);
        }
        let subject = self
            .peer
            .certificate
            .as_ref()
            .and_then(|certificate| certificate.common_name.as_ref());
        let subject = subject.map(|name| format!("CN={name}"));
        fields.optional("peer_cert_subject", subject.as_deref());
        fields.null("peer_cert_issuer");
        fields.null("peer_cert_validity");
        let handshake = self.handshake.as_deref();
        fields.text("auth_mechanism", handshake.map_or("", |handshake| handshake.mechanism));
        fields.count("timeout", self.heartbeat_s);
        fields.count("frame_max", handshake.map_or(0, |handshake| handshake.frame_max));
        fields.count("channel_max", handshake.map_or(1, |handshake| handshake.channel_max));
        fields.count("channels", if self.has_channels() { self.channels } else { 1 });
        if self.has_channels() {
            fields.optional("user_provided_name", self.client_name());
        }
        self.write_properties(fields);
        for (key, value) in [
            ("recv_oct", self.carried.bytes_in),
            ("send_oct", self.carried.bytes_out),
        ] {
            fields.count(key, value);
            let rate = self.rates.map(|(in_, out)| if key == "recv_oct" { in_ } else { out });
            fields.object(&format!("{key}_details"), |fields| write_rate(fields, rate));
        }
        fields.count("recv_cnt", self.carried.reads);
        fields.count("send_cnt", self.carried.writes);
        fields.count("send_pend", 0u64);
    }
}

/// `127.0.0.1:48920 -> 127.0.0.1:5672`; a connection without an address is named by its place.
pub(super) fn name_of(peer: &Peer, link: Link) -> String {
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    match (peer.address, peer.local_address) {
        (Some(from), Some(to)) => format!("{} -> {}", canonical(from), canonical(to)),
        (Some(from), None) => canonical(from).to_string(),
        (None, _) => format!("local {}.{}", link.slot, link.generation),
    }
}

/// The connections of a vhost, by name.
pub(super) async fn in_vhost(node: &Node, vhost: &Vhost) -> Vec<Connection> {
    let name: Arc<str> = node.config().node.name.as_str().into();
    let items = collect(vhost, Kind::Connections).await;
    let all = items.into_iter().filter_map(|item| Connection::of(&name, vhost, item));
    let mut all: Vec<Connection> = all.collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The connections that may be shown: the user's own, or all to a user who monitors.
pub(super) fn shown(caller: &Caller, connection: &Connection) -> bool {
    caller.is_monitor() || connection.user == *caller.name()
}

async fn all(caller: &Caller, node: &Node) -> Vec<Connection> {
    let mut all = Vec::new();
    for vhost in caller.vhosts(node) {
        all.extend(in_vhost(node, &vhost).await);
    }
    all.retain(|connection| shown(caller, connection));
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Reads rates, and from now on measures them for these connections.
fn watch(node: &Node, connections: &mut [Connection]) {
    let now = node.clock.now().wall.0;
    for connection in connections {
        connection.rates = node
            .rates
            .connection(now, connection.number, connection.link, connection.carried);
    }
}

async fn list(caller: Caller, view: View, State(node): Api) -> Answer {
    let mut all = all(&caller, &node).await;
    watch(&node, &mut all);
    view.list(all, Pages::Known)
}

async fn of_vhost(caller: Caller, view: View, State(node): Api, Path(vhost): Path<String>) -> Answer {
    let vhost = caller.vhost(&node, &vhost)?;
    let mut all = in_vhost(&node, &vhost).await;
    all.retain(|connection| shown(&caller, connection));
    watch(&node, &mut all);
    view.list(all, Pages::Known)
}

async fn of_user(caller: Caller, view: View, State(node): Api, Path(user): Path<String>) -> Answer {
    let mut all = all(&caller, &node).await;
    all.retain(|connection| *connection.user == *user);
    view.list(all, Pages::None)
}

async fn get(caller: Caller, view: View, State(node): Api, Path(name): Path<String>) -> Answer {
    let mut connection = named(&caller, &node, &name).await?;
    watch(&node, std::slice::from_mut(&mut connection));
    view.one(&connection)
}

/// The connection of that name.
///
/// # Errors
/// There is none, or the caller may not see it.
pub(super) async fn named(caller: &Caller, node: &Node, name: &str) -> Result<Connection, Refusal> {
    let all = all(caller, node).await;
    let found = all.into_iter().find(|connection| connection.name == name);
    found.ok_or_else(Refusal::not_found)
}

async fn delete(caller: Caller, State(node): Api, headers: HeaderMap, Path(name): Path<String>) -> Answer {
    let connection = named(&caller, &node, &name).await?;
    close(&caller, &node, &connection, &headers)?;
    done()
}

async fn delete_of_user(caller: Caller, State(node): Api, headers: HeaderMap, Path(user): Path<String>) -> Answer {
    for connection in all(&caller, &node)
        .await
        .iter()
        .filter(|connection| *connection.user == *user)
    {
        close(&caller, &node, connection, &headers)?;
    }
    done()
}

/// Maximum bytes of a reason that the client is told.
const REASON_MAX: usize = 200;

/// The beginning of a reason that fits.
fn beginning(reason: &str) -> &str {
    let mut ends = (0..=REASON_MAX.min(reason.len())).rev();
    let end = ends.find(|end| reason.is_char_boundary(*end));
    end.and_then(|end| reason.get(..end)).unwrap_or_default()
}

fn close(caller: &Caller, node: &Node, connection: &Connection, headers: &HeaderMap) -> Result<(), Refusal> {
    if !caller.is_administrator() && connection.user != *caller.name() {
        return Err(Refusal::not_authorised("User not authorised to access object"));
    }
    // Browsers and tools send characters outside ASCII as UTF-8.
    let reason = headers.get("x-reason");
    let reason = reason.and_then(|reason| std::str::from_utf8(reason.as_bytes()).ok());
    let reason = reason.map(beginning).filter(|reason| !reason.is_empty());
    let vhost = node.vhost(&connection.vhost).ok_or_else(Refusal::not_found)?;
    vhost.enter(|engine| engine.end_link(connection.link, reason.map(Name::from)));
    let (name, by) = (&connection.name, caller.name());
    tracing::info!(connection = name, %by, reason, "closed by an operator");
    Ok(())
}
