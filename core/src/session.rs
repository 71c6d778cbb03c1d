//! The two traits a protocol implements. A session is sans-IO: bytes, events and time come in; commands and bytes go out.
//!
//! ```text
//!   socket ──bytes──► handle_bytes ──commands──► engine
//!   socket ◄──out──── handle_events ◄──events─── engine
//! ```

use crate::command::{Command, Peer};
use crate::engine::Limit;
use crate::event::Event;
use crate::interop::Drops;
use crate::keys::{Key, Values};
use crate::properties::{Codecs, PropertyCodec};
use crate::time::{Now, Time};
use std::sync::Arc;

/// What a protocol says about itself before it is configured. A constant in its crate, which `gateway/src/protocols.rs`
/// lists: that line is all that the gateway knows about it.
pub struct Description {
    /// A short lower-case name, such as `amqp`. Its listener and its section of the configuration have this name.
    pub name: &'static str,
    /// The default port of its listener; `None`: it only listens if the configuration says so.
    pub port: Option<u16>,
    /// The default port of its TLS listener, likewise.
    pub tls_port: Option<u16>,
    /// Its `protocol` label in metrics whose names dashboards of other brokers use.
    pub metrics_label: &'static str,
    /// Its versions, as in [`Attach::protocol`](crate::command::Attach::protocol), each with its own label.
    pub versions: &'static [(&'static str, &'static str)],
    /// Whether a client without a user name may log in, if the node permits it.
    pub nameless_logins: bool,
    /// Whether an unknown user name counts as none, if the node permits that, because its clients always send one.
    pub strangers_are_nameless: bool,
    /// Decides whether a connection that begins with these bytes speaks it.
    pub first_bytes: fn(&[u8]) -> FirstBytes,
    /// How it uses WebSocket; `None`: it does not.
    pub websocket: Option<&'static WebSocket>,
    /// Whether it can use QUIC, on one bidirectional stream opened by the client. Its name is the ALPN protocol.
    pub quic: bool,
    /// Its own configuration keys. Keys that several protocols read belong to the node.
    pub keys: &'static [Key],
    /// A command with which a person can try it from this machine; `{port}` stands for the port.
    pub try_it: Option<&'static str>,
    /// Creates the protocol with these values. Also called only to check values, so it must have no side effects.
    pub make: fn(&Values) -> Box<dyn Protocol>,
}

/// How a protocol uses WebSocket. The messages' payloads form one stream of bytes, as on a socket.
#[derive(Clone, Copy, Debug)]
pub struct WebSocket {
    /// The default port of its listener `web_NAME`; `None`: it only listens if configured.
    pub port: Option<u16>,
    /// The default port of that listener with TLS.
    pub tls_port: Option<u16>,
    /// Paths of the opening request, without a slash at the end.
    pub paths: &'static [&'static str],
    /// Subprotocols, best first.
    pub subprotocols: &'static [&'static str],
    /// Whether a client may offer no subprotocol.
    pub subprotocol_optional: bool,
    /// Whether the protocol is text: clients may send text messages, and get them if the output is UTF-8.
    pub text: bool,
}

/// What the first bytes of a connection say about its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstBytes {
    /// It is this one.
    Yes,
    /// It is another one.
    No,
    /// More bytes are needed.
    More,
}

impl FirstBytes {
    /// For a protocol whose connections begin with `prefix`.
    pub fn starts_with(bytes: &[u8], prefix: &[u8]) -> FirstBytes {
        if bytes.starts_with(prefix) {
            FirstBytes::Yes
        } else if prefix.starts_with(bytes) {
            FirstBytes::More
        } else {
            FirstBytes::No
        }
    }
}

/// A protocol: creates sessions. There is one value per process, created by its [`Description`].
pub trait Protocol: Send + Sync {
    /// Short lower-case name, as in the configuration: `amqp`, `mqtt`, `stomp`.
    fn name(&self) -> &'static str;
    /// Decoder of this protocol's message properties.
    fn codec(&self) -> Arc<dyn PropertyCodec>;
    /// A session for a connection accepted at `now`.
    fn open(&self, now: Now, peer: Peer) -> Box<dyn Session>;
    /// The configuration was replaced: sessions opened from now on use these values. Open ones keep theirs.
    fn configure(&self, values: &Values) {
        let _ = values;
    }
    /// How often this protocol's sessions themselves refused something by that limit, since the process started. The
    /// engine counts its own refusals.
    fn limit_refusals(&self, limit: Limit) -> u64 {
        let _ = limit;
        0
    }
    /// What was lost when this protocol delivered messages of other protocols, for the metrics. `None`: it does not
    /// count that.
    fn drops(&self) -> Option<Arc<Drops>> {
        None
    }
}

/// What a session may use during one call.
pub struct Cx<'a> {
    /// The turn's time.
    pub now: Now,
    /// Commands for the engine, in order. Reused from turn to turn.
    pub commands: &'a mut Vec<Command>,
    /// The connection's output, in order.
    pub out: &'a mut Vec<u8>,
    /// Decodes properties of messages of other protocols.
    pub codecs: &'a Codecs,
    /// The source of identifiers that the session generates. Deterministic under simulation.
    pub random: &'a mut dyn FnMut() -> u64,
    /// Work units spent on parsing in this turn; see [`Cx::is_full`].
    pub work: usize,
    /// Errors of this turn that do not end the connection; see [`Cx::complain`].
    pub complaints: &'a mut Vec<String>,
    /// The memory for buffers of all connections is used up: an open transaction must not grow much.
    pub is_memory_short: bool,
}

/// Bytes up to which an open transaction may grow while [`Cx::is_memory_short`].
pub const TRANSACTION_BYTES_SHORT: usize = 64 << 10;

/// Work units that a turn parses at most. A frame costs one, a filter of a subscription several.
pub const TURN_WORK: usize = 2048;

/// The most errors kept of one turn. A peer may cause thousands, and the log leaves out all but a few anyway.
const COMPLAINTS_MAX: usize = 64;

impl Cx<'_> {
    /// Notes an error for the node's log that the peer was told and that leaves its connection open: a closed channel,
    /// a refused subscription. Errors that end the connection are in [`Close`].
    pub fn complain(&mut self, what: impl FnOnce() -> String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(what());
        }
    }

    /// Whether the turn has parsed enough. The rest of the input waits until other connections have had their turns.
    pub fn is_full(&self) -> bool {
        self.work >= TURN_WORK
    }
}

/// One connection's protocol state machine. This trait is called at most once per batch, never per message.
pub trait Session: Send {
    /// Parses every whole frame of `input`, pushes commands, and returns how many bytes it has consumed. The driver
    /// keeps the rest and offers it again with more bytes. A session checks announced lengths against its limits before
    /// it lets the rest grow.
    ///
    /// It stops early if [`Session::read_interest`] becomes `Nothing` or [`Cx::is_full`] is true. The driver offers the
    /// rest again when that changes, or in the next turn.
    ///
    /// # Errors
    /// [`Close`]: the connection ends once `out` is flushed. Commands pushed before are still applied.
    fn handle_bytes(&mut self, cx: &mut Cx<'_>, input: &[u8]) -> Result<usize, Close>;

    /// Encodes events into `cx.out`, draining them. May push commands, such as the next step of a login.
    ///
    /// # Errors
    /// [`Close`], as above.
    fn handle_events(&mut self, cx: &mut Cx<'_>, events: &mut Vec<Event>) -> Result<(), Close>;

    /// Called at or after [`Session::poll_timeout`]: heartbeats, keep-alives, handshake limits.
    ///
    /// # Errors
    /// [`Close`], as above.
    fn handle_timeout(&mut self, cx: &mut Cx<'_>) -> Result<(), Close>;

    /// When `handle_timeout` is due next. Called after every turn, so it must be cheap.
    fn poll_timeout(&self) -> Option<Time>;

    /// Whether the session wants bytes now. The driver also stops reading when too much output waits.
    fn read_interest(&self) -> ReadInterest;

    /// The driver stopped or continued reading because of back pressure. While it is paused, the peer's silence is
    /// caused by us, so keep-alive must not count it.
    fn set_paused(&mut self, now: Now, paused: bool);

    /// Bytes of messages that the session has not passed on: an incomplete message in several frames, an open
    /// transaction. The node limits them for all connections together. Called once in a turn.
    fn buffered(&self) -> usize {
        0
    }

    /// Bytes that the session keeps for other reasons than [`Session::buffered`], if its peer chooses how many: topics
    /// with an alias, names, answers owed. They count in the node's limit, but a silent peer is not closed because of
    /// them. Called once in a turn.
    fn kept(&self) -> usize {
        0
    }
}

/// See [`Session::read_interest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadInterest {
    /// Bytes are wanted.
    All,
    /// No bytes until the next event, because a login or a takeover is in progress, or the peer must not send more.
    Nothing,
}

/// The session has ended: flush the output, then close the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The text for our log. The peer was told in its own protocol, in `out`.
    pub why: String,
    /// Whether the peer misbehaved or vanished, instead of closing in good order.
    pub abnormal: bool,
    /// The peer is to close the socket first. It has a moment for that.
    pub peer_closes: bool,
}

impl Close {
    /// An orderly end.
    pub fn normal(why: impl Into<String>) -> Close {
        Close {
            why: why.into(),
            abnormal: false,
            peer_closes: false,
        }
    }
    /// An orderly end, after which the peer closes the socket.
    pub fn by_peer(why: impl Into<String>) -> Close {
        Close {
            peer_closes: true,
            ..Close::normal(why)
        }
    }
    /// An error.
    pub fn abnormal(why: impl Into<String>) -> Close {
        Close {
            why: why.into(),
            abnormal: true,
            peer_closes: false,
        }
    }
}
