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

/// What a protocol says about itself before anything is configured. A constant of its crate, which
/// `gateway/src/protocols.rs` lists: that line is all the gateway knows about it.
pub struct Description {
    /// Short lower-case name: `amqp`. Its listener and its section of the configuration are called so.
    pub name: &'static str,
    /// The port its listener has by default; `None`: it listens only where the configuration says so.
    pub port: Option<u16>,
    /// The port of its listener for TLS, likewise.
    pub tls_port: Option<u16>,
    /// Its `protocol` label in metrics whose names dashboards know from elsewhere.
    pub metrics_label: &'static str,
    /// Its versions as [`Attach::protocol`](crate::command::Attach::protocol) has them, each with its own label.
    pub versions: &'static [(&'static str, &'static str)],
    /// Whether a client that gives no name may log in where the node allows it.
    pub nameless_logins: bool,
    /// Whether a name that no user has counts as none, where the node allows that: its clients always send one.
    pub strangers_are_nameless: bool,
    /// Whether a connection that begins with these bytes speaks it.
    pub first_bytes: fn(&[u8]) -> FirstBytes,
    /// How it is spoken over WebSocket; `None`: it is not.
    pub websocket: Option<&'static WebSocket>,
    /// Whether it is spoken over QUIC, on one bidirectional stream that the client opens. Its name is the ALPN protocol.
    pub quic: bool,
    /// Its own keys of the configuration. What several protocols read belongs to the node.
    pub keys: &'static [Key],
    /// How a person tries it from this machine, with `{port}` for the port.
    pub try_it: Option<&'static str>,
    /// The protocol, set up with these values. Also run to check values, so it must have no effect of its own.
    pub make: fn(&Values) -> Box<dyn Protocol>,
}

/// How a protocol is spoken over WebSocket. The messages' payloads are one stream of bytes, as on a socket.
#[derive(Clone, Copy, Debug)]
pub struct WebSocket {
    /// The port its listener `web_NAME` has by default; `None`: there is none by default.
    pub port: Option<u16>,
    /// The port that listener has with TLS by default.
    pub tls_port: Option<u16>,
    /// Paths of the request that opens it, without a slash at the end.
    pub paths: &'static [&'static str],
    /// Subprotocols, the best one first.
    pub subprotocols: &'static [&'static str],
    /// Whether a client may offer no subprotocol.
    pub subprotocol_optional: bool,
    /// Whether the protocol is text: clients may send text messages, and get them where the output is UTF-8.
    pub text: bool,
}

/// What the first bytes of a connection say about its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstBytes {
    /// It is this one.
    Yes,
    /// It is another.
    No,
    /// More bytes are needed to tell.
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

/// A protocol: makes sessions. One value per process, made by its [`Description`].
pub trait Protocol: Send + Sync {
    /// Short lower-case name, as in the configuration: `amqp`, `mqtt`, `stomp`.
    fn name(&self) -> &'static str;
    /// Decoder of this protocol's message properties.
    fn codec(&self) -> Arc<dyn PropertyCodec>;
    /// A session for a connection accepted at `now`.
    fn open(&self, now: Now, peer: Peer) -> Box<dyn Session>;
    /// The configuration was replaced: sessions opened from here on read these values. Open ones keep theirs.
    fn configure(&self, values: &Values) {
        let _ = values;
    }
    /// What this protocol's sessions have refused by that limit themselves, since the process started. The engine counts what
    /// it refuses.
    fn limit_refusals(&self, limit: Limit) -> u64 {
        let _ = limit;
        0
    }
    /// What was lost when messages of other protocols went out by this one, for the metrics. `None`: it does not count.
    fn drops(&self) -> Option<Arc<Drops>> {
        None
    }
}

/// What a session is lent for one call.
pub struct Cx<'a> {
    /// The turn's time.
    pub now: Now,
    /// Commands for the engine, in order. Reused from turn to turn.
    pub commands: &'a mut Vec<Command>,
    /// The connection's output, in order.
    pub out: &'a mut Vec<u8>,
    /// For messages of another protocol.
    pub codecs: &'a Codecs,
    /// Source of identifiers the session makes up. Deterministic under simulation.
    pub random: &'a mut dyn FnMut() -> u64,
    /// What parsing has cost in this turn, in work units; see [`Cx::is_full`].
    pub work: usize,
    /// What went wrong in this turn without ending the connection; see [`Cx::complain`].
    pub complaints: &'a mut Vec<String>,
}

/// Work units that a turn parses: a frame costs one, a filter of a subscription several.
pub const TURN_WORK: usize = 2048;

/// Complaints of one turn that are kept. A peer may cause thousands; the log leaves out all but a few anyway.
const COMPLAINTS_MAX: usize = 64;

impl Cx<'_> {
    /// Notes, for the node's log, an error that the peer was told and that leaves its connection open: a channel that
    /// was closed, a subscription that was refused. (What ends the connection is in [`Close`].)
    pub fn complain(&mut self, what: impl FnOnce() -> String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(what());
        }
    }

    /// Whether the turn has parsed enough: the rest of the input waits until other connections have had theirs.
    pub fn is_full(&self) -> bool {
        self.work >= TURN_WORK
    }
}

/// One connection's protocol state machine. At most one call per batch goes through this trait, never one per message.
pub trait Session: Send {
    /// Parses every whole frame of `input`, pushes commands, and returns how many bytes it is done with. The driver
    /// keeps the rest and offers it again, longer. A session checks announced lengths against its limits before it
    /// lets the rest grow.
    ///
    /// Stops early (returning what it consumed so far) where [`Session::read_interest`] turns to `Nothing`, or where
    /// [`Cx::is_full`]; the driver offers the rest again when that changes, or in the next turn.
    ///
    /// # Errors
    /// [`Close`]: the connection ends once what is in `out` is flushed. Commands pushed before are still applied.
    fn handle_bytes(&mut self, cx: &mut Cx<'_>, input: &[u8]) -> Result<usize, Close>;

    /// Encodes events into `cx.out`, draining them. May push commands (a login's next step).
    ///
    /// # Errors
    /// [`Close`], as above.
    fn handle_events(&mut self, cx: &mut Cx<'_>, events: &mut Vec<Event>) -> Result<(), Close>;

    /// Called at or after [`Session::poll_timeout`]: heartbeats, keep-alives, handshake limits.
    ///
    /// # Errors
    /// [`Close`], as above.
    fn handle_timeout(&mut self, cx: &mut Cx<'_>) -> Result<(), Close>;

    /// When `handle_timeout` is due next. Asked after every turn; cheap.
    fn poll_timeout(&self) -> Option<Time>;

    /// Whether the session wants bytes now. The driver also stops reading by itself when output piles up.
    fn read_interest(&self) -> ReadInterest;

    /// The driver stopped (or went on) reading for back pressure: while paused, the peer's silence is our doing, and
    /// keep-alive must not count it.
    fn set_paused(&mut self, now: Now, paused: bool);

    /// Bytes that the session keeps of messages it has not passed on: a message in several frames that is not complete, an open
    /// transaction. The node has a limit for all connections together. Asked once in a turn.
    fn buffered(&self) -> usize {
        0
    }

    /// Bytes that the session keeps for other reasons than [`Session::buffered`], as far as its peer chooses how many: topics
    /// that have an alias, names, answers owed. They count in the node's limit, and a peer that is silent is not closed for
    /// them. Asked once in a turn.
    fn kept(&self) -> usize {
        0
    }
}

/// See [`Session::read_interest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadInterest {
    /// Give me bytes.
    All,
    /// Nothing until the next event (a login or a takeover is pending, or the peer must not send more).
    Nothing,
}

/// The session is over: flush the output, then close the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// For our log; the peer was told in its own words, in `out`.
    pub why: String,
    /// The peer misbehaved (or vanished), as opposed to a goodbye.
    pub abnormal: bool,
}

impl Close {
    /// A goodbye.
    pub fn normal(why: impl Into<String>) -> Close {
        Close {
            why: why.into(),
            abnormal: false,
        }
    }
    /// An error.
    pub fn abnormal(why: impl Into<String>) -> Close {
        Close {
            why: why.into(),
            abnormal: true,
        }
    }
}
