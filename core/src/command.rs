//! What a session asks of the engine. Commands never return values: they cause [`Event`](crate::event::Event)s, which
//! the session takes when it can send.
//!
//! Frequent verbs are inline, rare ones boxed: a command is at most 64 bytes.

use crate::message::Message;
use crate::policy::{PolicyKind, PolicyRecord};
use crate::properties::{Name, Table};
pub use crate::will::Will;
use std::net::SocketAddr;
use std::sync::Arc;

/// Number of a channel within a link. Protocols without channels use 0 for publishing and choose freely for the rest.
pub type Channel = u16;

/// A session's own number for one of its subscriptions, echoed in its deliveries.
pub type ConsumerToken = u32;

/// One verb from a session.
#[derive(Clone, Debug)]
pub enum Command {
    /// Publish a message. With [`PublishFlags::CONFIRM`] it takes the channel's next publish number (from 1) and is
    /// covered by a later `Confirmed` or `Refused`.
    Publish {
        /// The publishing channel.
        channel: Channel,
        /// How.
        flags: PublishFlags,
        /// MQTT QoS 2 only: the publisher's packet id, remembered until `Release`; a duplicate is confirmed and not
        /// routed again. 0 otherwise.
        packet_id: u16,
        /// What.
        message: Message,
    },
    /// A consumer's verdict on deliveries of `channel`: `number`, or all up to it if `multiple` (0: all there are).
    Settle {
        /// The consuming channel.
        channel: Channel,
        /// Delivery number; for a link with an MQTT session the packet id (`multiple` is then false).
        number: u64,
        /// All outstanding up to and including `number`.
        multiple: bool,
        /// The verdict.
        outcome: Outcome,
    },
    /// MQTT PUBREC below 0x80 for an outgoing QoS 2 packet id. Answered by `Event::ReleaseDue`, or by `Failed` if the
    /// delivery in flight under that id is of QoS 1.
    Received {
        /// The engine's packet id.
        packet_id: u16,
    },
    /// MQTT PUBCOMP, or PUBREC with a failure, that belongs to no QoS 2 delivery of this connection. Answered by `Failed`
    /// (`Op::Settle`) if the packet id is of a QoS 1 delivery in flight, otherwise not at all.
    Stray {
        /// The engine's packet id.
        packet_id: u16,
    },
    /// MQTT PUBREL: forget the publisher's packet id. Answered by `Event::Released`.
    Release {
        /// The publisher's packet id.
        packet_id: u16,
    },
    /// Opens a channel whose first failure ends it: after `Failed`, its commands are ignored until `CloseChannel`. Answered
    /// by `Done { op: Op::OpenChannel }`, or by `Failed` if its user may have no more.
    /// Other channels are opened by the first command that needs them, and go on after a failure.
    OpenChannel {
        /// Which.
        channel: Channel,
    },
    /// Requeues the channel's unsettled deliveries, cancels its consumers, forgets it. Answered by `Done` if `reply`.
    CloseChannel {
        /// Which.
        channel: Channel,
        /// Whether `Done { op: Op::CloseChannel }` is wanted.
        reply: bool,
    },
    /// Prefetch limit: of the channel's later consumers each (`global` false), or of the channel (`global` true).
    /// 0 is no limit. Answered by `Done { op: Op::Qos }`.
    Qos {
        /// Which channel.
        channel: Channel,
        /// Unsettled deliveries at most; 0 for no limit.
        count: u32,
        /// For the channel as a whole.
        global: bool,
    },
    /// Comes back as `Event::Echo` after the answers to everything sent before on this channel.
    Echo {
        /// Which channel.
        channel: Channel,
        /// Returned as it is.
        token: u64,
    },
    /// Requeue everything unsettled on the channel. Answered by `Done { op: Op::Recover }` if `reply`.
    Recover {
        /// Which channel.
        channel: Channel,
        /// Whether an answer is wanted.
        reply: bool,
    },
    /// Stop a consumer. Its unsettled deliveries stay so. Answered by `Done { op: Op::Cancel, .. }` if `reply`;
    /// nothing is delivered to it after the answer. Unknown tokens are answered too.
    Cancel {
        /// Which channel.
        channel: Channel,
        /// Which consumer.
        consumer: ConsumerToken,
        /// Whether an answer is wanted.
        reply: bool,
    },
    /// Create, or check, an exchange. Answered by `Done { op: Op::DeclareExchange }`.
    DeclareExchange(Box<DeclareExchange>),
    /// Delete an exchange. Answered by `Done { op: Op::DeleteExchange }`.
    DeleteExchange(Box<DeleteExchange>),
    /// Create, or check, a queue. Answered by `QueueDeclared`.
    DeclareQueue(Box<DeclareQueue>),
    /// Delete a queue. Answered by `QueueDeleted`.
    DeleteQueue(Box<DeleteQueue>),
    /// Drop all ready messages of a queue. Answered by `QueuePurged`.
    PurgeQueue(Box<PurgeQueue>),
    /// Add a binding. Answered by `Done { op: Op::Bind }`.
    Bind(Box<Bind>),
    /// Remove a binding. Answered by `Done { op: Op::Unbind }`.
    Unbind(Box<Bind>),
    /// Say what is special about a channel from now on. Not answered.
    SetMode {
        /// Which.
        channel: Channel,
        /// What.
        mode: ChannelMode,
    },
    /// Start a consumer on a queue. Answered by `Consuming`, which precedes its first delivery.
    Consume(Box<Consume>),
    /// Take one message. Answered by `Event::Got` or `Event::GetEmpty`.
    Get(Box<Get>),
    /// Bind this link to an MQTT session, taking it over if another link has it. Answered by `SessionOpened`.
    OpenSession(Box<OpenSession>),
    /// Change an open MQTT session's expiry (seconds; `None` never), as DISCONNECT may.
    SessionExpiry(Option<u32>),
    /// MQTT SUBSCRIBE for the link's session. Answered by `Subscribed`.
    Subscribe(Box<Subscribe>),
    /// MQTT UNSUBSCRIBE for the link's session. Answered by `Unsubscribed`.
    Unsubscribe(Box<Unsubscribe>),
    /// Apply these publishes and settles in order, all or none; their publishes are not numbered one by one.
    /// Answered by `Done { op: Op::Commit }` once all of it is confirmed, or by `Failed`.
    Transaction(Box<Transaction>),
    /// Set and clear policies: all of them, or none. Never a session's: an operator asks for it. Answered by
    /// `Done { op: Op::SetPolicies }` once every queue and exchange has what they say.
    SetPolicies(Box<SetPolicies>),
    /// Check credentials, before the link is attached or later. Handled by the node's directory; answered by
    /// `Authenticated`, `LoginRefused` or `Challenge`. The session reads nothing until then, so that this is the last
    /// command of its call.
    Authenticate(Box<Login>),
    /// Bind the connection to a vhost. Handled by the directory; answered by `Attached` or `AttachRefused`.
    Attach(Box<Attach>),
    /// The connection is going, in good order: do not publish its will.
    DropWill,
    /// The connection is gone: its unsettled deliveries are requeued, its exclusive queues are deleted, its will is
    /// published (unless dropped). The driver sends it exactly once per attached link.
    Detach,
}

impl Command {
    /// The channel the command is about, if it is about one.
    pub(crate) fn channel(&self) -> Option<Channel> {
        match self {
            Command::Publish { channel, .. }
            | Command::Settle { channel, .. }
            | Command::OpenChannel { channel }
            | Command::CloseChannel { channel, .. }
            | Command::Qos { channel, .. }
            | Command::SetMode { channel, .. }
            | Command::Echo { channel, .. }
            | Command::Recover { channel, .. }
            | Command::Cancel { channel, .. } => Some(*channel),
            Command::DeclareExchange(c) => Some(c.channel),
            Command::DeleteExchange(c) => Some(c.channel),
            Command::DeclareQueue(c) => Some(c.channel),
            Command::DeleteQueue(c) => Some(c.channel),
            Command::PurgeQueue(c) => Some(c.channel),
            Command::Bind(c) | Command::Unbind(c) => Some(c.channel),
            Command::Consume(c) => Some(c.channel),
            Command::Get(c) => Some(c.channel),
            Command::Transaction(c) => Some(c.channel),
            Command::SetPolicies(c) => Some(c.channel),
            Command::Received { .. }
            | Command::Stray { .. }
            | Command::Release { .. }
            | Command::OpenSession(_)
            | Command::SessionExpiry(_)
            | Command::Subscribe(_)
            | Command::Unsubscribe(_)
            | Command::Authenticate(_)
            | Command::Attach(_)
            | Command::DropWill
            | Command::Detach => None,
        }
    }
}

/// What is special about a channel, for those who list channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelMode {
    /// Nothing.
    #[default]
    Plain,
    /// Its publishes are confirmed.
    Confirm,
    /// Its publishes and settles wait for a commit.
    Transactional,
}

/// How to publish. A small set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishFlags(pub u8);

impl PublishFlags {
    /// The publish is numbered and confirmed.
    pub const CONFIRM: PublishFlags = PublishFlags(1);
    /// If it reaches no queue, it comes back as `Event::Returned` before its confirm.
    pub const MANDATORY: PublishFlags = PublishFlags(2);
    /// If the exchange does not exist, that is no fault: the message is dropped (and confirmed).
    pub const LENIENT: PublishFlags = PublishFlags(4);
    /// The peer's protocol has no word for a refused publish: rather than be refused, it waits while the disk is full.
    pub const PATIENT: PublishFlags = PublishFlags(8);
    /// Its protocol orders it among publishes that have this flag too, and not among others: it may pass those while they
    /// wait for the log.
    pub const PASSING: PublishFlags = PublishFlags(16);

    /// Whether all bits of `other` are set.
    pub fn contains(self, other: PublishFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for PublishFlags {
    type Output = PublishFlags;
    fn bitor(self, rhs: PublishFlags) -> PublishFlags {
        PublishFlags(self.0 | rhs.0)
    }
}

/// A consumer's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done with it.
    Accept,
    /// Back to its old place in the queue, marked redelivered.
    Requeue,
    /// Refused: dead-lettered where the queue says so, else dropped.
    Reject,
}

/// See [`Command::DeclareExchange`].
#[derive(Clone, Debug)]
pub struct DeclareExchange {
    /// Where the answer goes.
    pub channel: Channel,
    /// Its name.
    pub name: Name,
    /// `direct`, `fanout`, `topic`, `headers`.
    pub kind: Name,
    /// Only check that it exists.
    pub passive: bool,
    /// Survives a restart.
    pub durable: bool,
    /// Deleted when its last binding goes.
    pub auto_delete: bool,
    /// Only other exchanges can publish to it.
    pub internal: bool,
    /// Further arguments.
    pub arguments: Table,
    /// Whether success is answered (faults always are).
    pub reply: bool,
}

/// See [`Command::DeleteExchange`].
#[derive(Clone, Debug)]
pub struct DeleteExchange {
    /// Where the answer goes.
    pub channel: Channel,
    /// Its name.
    pub name: Name,
    /// Refuse if it has bindings.
    pub if_unused: bool,
    /// Whether success is answered.
    pub reply: bool,
}

/// See [`Command::DeclareQueue`].
#[derive(Clone, Debug)]
pub struct DeclareQueue {
    /// Where the answer goes.
    pub channel: Channel,
    /// Its name; empty: the engine makes one up. Either way it becomes the channel's last declared queue.
    pub name: Name,
    /// Only check that it exists.
    pub passive: bool,
    /// Survives a restart.
    pub durable: bool,
    /// Belongs to this link and goes with it.
    pub exclusive: bool,
    /// Deleted when its last consumer goes.
    pub auto_delete: bool,
    /// If it exists, skip the check that its properties are the same (STOMP SEND). With `passive`: it may be another link's
    /// exclusive queue, and is only reported.
    pub lenient: bool,
    /// Further arguments.
    pub arguments: Table,
    /// Whether success is answered.
    pub reply: bool,
}

impl DeclareQueue {
    /// A durable queue of that name, without arguments. Success is answered.
    pub fn durable(channel: Channel, name: impl Into<Name>) -> DeclareQueue {
        DeclareQueue {
            channel,
            name: name.into(),
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            lenient: false,
            arguments: Table::default(),
            reply: true,
        }
    }
}

/// See [`Command::DeleteQueue`].
#[derive(Clone, Debug)]
pub struct DeleteQueue {
    /// Where the answer goes.
    pub channel: Channel,
    /// Its name; empty: the channel's last declared.
    pub name: Name,
    /// Refuse if it has consumers.
    pub if_unused: bool,
    /// Refuse if it has ready messages.
    pub if_empty: bool,
    /// Whether success is answered.
    pub reply: bool,
}

/// See [`Command::PurgeQueue`].
#[derive(Clone, Debug)]
pub struct PurgeQueue {
    /// Where the answer goes.
    pub channel: Channel,
    /// Its name; empty: the channel's last declared.
    pub name: Name,
    /// Whether success is answered.
    pub reply: bool,
}

/// What a binding leads to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BindTarget {
    /// A queue; empty: the channel's last declared (and if the key is empty too, the key is that name).
    Queue(Name),
    /// An exchange.
    Exchange(Name),
}

/// See [`Command::Bind`].
#[derive(Clone, Debug)]
pub struct Bind {
    /// Where the answer goes.
    pub channel: Channel,
    /// The exchange messages come from.
    pub source: Name,
    /// Where they go.
    pub target: BindTarget,
    /// Binding key, in the dot dialect.
    pub key: Name,
    /// Further arguments.
    pub arguments: Table,
    /// Whether success is answered.
    pub reply: bool,
}

/// See [`Command::Consume`].
#[derive(Clone, Debug)]
pub struct Consume {
    /// The channel of its deliveries.
    pub channel: Channel,
    /// The session's number for it, unique among the channel's consumers.
    pub consumer: ConsumerToken,
    /// Queue; empty: the channel's last declared.
    pub queue: Name,
    /// The tag people see (Inspect, logs).
    pub tag: Name,
    /// Deliveries count as settled when taken.
    pub no_ack: bool,
    /// Refuse other consumers on the queue.
    pub exclusive: bool,
    /// Higher is served first.
    pub priority: i32,
    /// Unsettled deliveries at most (0: no limit); `None`: what the channel's last `Qos` said.
    pub prefetch: Option<u32>,
    /// Further arguments.
    pub arguments: Table,
    /// Whether success is answered.
    pub reply: bool,
}

impl Consume {
    /// A consumer of that queue which settles what it gets, with the channel's prefetch. Its start is answered.
    pub fn settling(channel: Channel, consumer: ConsumerToken, queue: impl Into<Name>) -> Consume {
        let queue = queue.into();
        Consume {
            channel,
            consumer,
            tag: queue.clone(),
            queue,
            no_ack: false,
            exclusive: false,
            priority: 0,
            prefetch: None,
            arguments: Table::default(),
            reply: true,
        }
    }
}

/// See [`Command::Get`].
#[derive(Clone, Debug)]
pub struct Get {
    /// Which channel numbers it.
    pub channel: Channel,
    /// Queue; empty: the channel's last declared.
    pub queue: Name,
    /// Settled when taken.
    pub no_ack: bool,
}

/// See [`Command::OpenSession`].
#[derive(Clone, Debug)]
pub struct OpenSession {
    /// Names the session within the vhost. Never empty: the session makes one up with [`crate::session::Cx::random`].
    pub client_id: Name,
    /// Destroy what is there first.
    pub clean_start: bool,
    /// Seconds the session outlives the connection: 0 none; `None` for ever.
    pub expiry: Option<u32>,
    /// QoS 1 and 2 deliveries unsettled at most.
    pub receive_maximum: u16,
    /// Its will, if any.
    pub will: Option<Will>,
}

/// One filter of a SUBSCRIBE. The session has checked its form.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The filter in the slash dialect, without the share prefix.
    pub filter: Name,
    /// `$share` group.
    pub share: Option<Name>,
    /// Maximum QoS.
    pub qos: u8,
    /// Not what this client publishes itself.
    pub no_local: bool,
    /// Keep the retain flag of live messages.
    pub retain_as_published: bool,
    /// When to replay retained messages.
    pub retain_handling: RetainHandling,
}

/// When a subscription is sent the retained messages that match it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetainHandling {
    /// At each SUBSCRIBE.
    #[default]
    Always,
    /// Only if the subscription is new.
    IfNew,
    /// Never.
    Never,
}

/// See [`Command::Subscribe`].
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// Echoed in the answer.
    pub packet_id: u16,
    /// In order. `Err` entries were refused by the session already and keep their place in the answer.
    pub filters: Vec<Result<Subscription, crate::fault::FaultKind>>,
    /// Returned with each matching message.
    pub subscription_id: Option<u32>,
}

/// See [`Command::Unsubscribe`].
#[derive(Clone, Debug)]
pub struct Unsubscribe {
    /// Echoed in the answer.
    pub packet_id: u16,
    /// Filters and their share groups, as subscribed.
    pub filters: Vec<(Name, Option<Name>)>,
}

/// See [`Command::Transaction`].
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Where the answer goes.
    pub channel: Channel,
    /// `Publish`, `Settle` only.
    pub commands: Vec<Command>,
}

/// See [`Command::SetPolicies`].
#[derive(Clone, Debug)]
pub struct SetPolicies {
    /// Where the answer goes.
    pub channel: Channel,
    /// What changes, in this order. The engine takes it out when it is done with that, and then waits until it has taken hold.
    pub changes: Vec<PolicyChange>,
    /// Whether success is answered.
    pub reply: bool,
}

/// One policy that is set or cleared.
#[derive(Clone, Debug)]
pub struct PolicyChange {
    /// Of which kind.
    pub kind: PolicyKind,
    /// Its name.
    pub name: Name,
    /// The policy; `None`: the one of that name is cleared.
    pub policy: Option<PolicyRecord>,
}

/// What a client says beside its name and password, for whoever decides about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The vhost that it wants to use.
    pub vhost: Option<Name>,
    /// Its client id, where its protocol's clients have one.
    pub client_id: Option<Name>,
}

/// Credentials, of whatever form.
#[derive(Clone)]
pub enum Login {
    /// Name and password.
    Password {
        /// User name.
        user: Name,
        /// Never logged.
        password: Box<[u8]>,
        /// What else the client has said of itself.
        said: Said,
    },
    /// A new secret of the user that the link has logged in as, such as a token in place of one that expires. A user whose
    /// login does not expire has nothing to renew: its secret is not checked.
    Renewal {
        /// User name.
        user: Name,
        /// Never logged.
        secret: Box<[u8]>,
    },
    /// The peer's certificate ([`Peer::certificate`]) is to log it in.
    Certificate {
        /// The name that the client gives beside it, if it does: it must be the one that the certificate proves.
        user: Option<Name>,
    },
    /// No credentials given; the node's settings decide whether that is a user.
    Anonymous,
    /// Begins a login by a mechanism that names itself, in rounds if it needs them: each
    /// [`Event::Challenge`](crate::event::Event::Challenge) is answered with a [`Login::Response`].
    Mechanism {
        /// As the peer calls it, such as `SCRAM-SHA-256`. Whether it is spoken here, the node knows.
        name: Name,
        /// What the peer says first; never logged.
        data: Box<[u8]>,
    },
    /// The answer to [`Event::Challenge`](crate::event::Event::Challenge): another round of the login under way.
    Response {
        /// Of the mechanism; never logged.
        data: Box<[u8]>,
    },
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Login::Password { user, .. } => f.debug_struct("Password").field("user", user).finish_non_exhaustive(),
            Login::Renewal { user, .. } => f.debug_struct("Renewal").field("user", user).finish_non_exhaustive(),
            Login::Certificate { user } => f.debug_struct("Certificate").field("user", user).finish(),
            Login::Anonymous => f.write_str("Anonymous"),
            Login::Mechanism { name, .. } => f.debug_struct("Mechanism").field("name", name).finish_non_exhaustive(),
            Login::Response { .. } => f.debug_struct("Response").finish_non_exhaustive(),
        }
    }
}

/// See [`Command::Attach`]. Sent after `Authenticated`.
#[derive(Clone, Debug, Default)]
pub struct Attach {
    /// Name of the vhost.
    pub vhost: Name,
    /// Protocol and version for people and metrics, for example `MQTT 5.0`.
    pub protocol: &'static str,
    /// What the client calls itself, if it does.
    pub client_name: Option<Name>,
    /// Seconds of silence that client and server agreed to tell each other within; 0: none.
    pub heartbeat_s: u16,
    /// What else the handshake settled, in protocols where it settles more.
    pub handshake: Option<Box<Handshake>>,
}

/// What a handshake settled, for those who list connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The SASL mechanism of the login.
    pub mechanism: &'static str,
    /// Channels at most.
    pub channel_max: u16,
    /// Bytes of a frame at most.
    pub frame_max: u32,
    /// What the client says of itself.
    pub client_properties: ClientProperties,
}

/// Texts by which a client describes itself: its product, its version. Kept for as long as the connection lives, so there
/// are no more than [`CLIENT_PROPERTIES_MAX`] bytes of them: what does not fit is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientProperties(
    /// Names and values in turn, a NUL behind each: one allocation, where a table has several for each value.
    Box<str>,
);

/// Bytes of [`ClientProperties`] at most.
pub const CLIENT_PROPERTIES_MAX: usize = 1 << 10;

impl ClientProperties {
    /// Of names and their values.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> ClientProperties {
        let mut texts = String::new();
        for (name, value) in pairs {
            let fits = texts.len() + name.len() + value.len() + 2 <= CLIENT_PROPERTIES_MAX;
            if fits && !name.contains('\0') && !value.contains('\0') {
                texts.extend([name, "\0", value, "\0"]);
            }
        }
        ClientProperties(texts.into())
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut texts = self.0.split_terminator('\0');
        std::iter::from_fn(move || Some((texts.next()?, texts.next()?)))
    }

    /// The value of that name.
    pub fn lookup(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Bytes of memory they occupy beside themselves.
    pub(crate) fn memory(&self) -> usize {
        if self.0.is_empty() {
            0
        } else {
            crate::ledger::allocation(self.0.len())
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its address; `None` where it has none (a Unix socket, a connection inside the process).
    pub address: Option<SocketAddr>,
    /// Our end's address.
    pub local_address: Option<SocketAddr>,
    /// What its certificate has proved.
    pub certificate: Option<Arc<Certificate>>,
    /// It may do what is kept for users of this machine. Said explicitly: a missing address does not make a peer
    /// local.
    pub is_local: bool,
    /// Nobody between it and us can read along.
    pub is_encrypted: bool,
}

/// What a peer's certificate has proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its subject's common name; `None`: it has none, or several.
    pub common_name: Option<Name>,
    /// Its subject's alternative names of the kinds we know, in the certificate's order.
    pub alternative_names: Box<[AlternativeName]>,
}

/// A name that stands in a certificate beside its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlternativeName {
    /// Of a host; may begin with `*.`.
    Dns(Name),
    /// For example `urn:dev:mac:0024befffe804ff1`.
    Uri(Name),
    /// An e-mail address.
    Email(Name),
}

impl Peer {
    /// A peer on the network. It is local if it comes from a loopback address; IPv4-mapped IPv6 addresses count as IPv4.
    pub fn at(address: SocketAddr, local_address: Option<SocketAddr>) -> Peer {
        Peer {
            address: Some(address),
            local_address,
            is_local: address.ip().to_canonical().is_loopback(),
            ..Peer::default()
        }
    }

    /// A peer without an address that is on this machine: whoever may open a Unix socket's file, for one.
    pub fn on_this_machine() -> Peer {
        Peer {
            is_local: true,
            ..Peer::default()
        }
    }
}

const _: () = assert!(std::mem::size_of::<Command>() <= 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_properties_are_kept_as_far_as_they_fit() {
        let long = "x".repeat(CLIENT_PROPERTIES_MAX);
        let pairs = [
            ("product", "pika"),
            ("story", &*long),
            ("nul", "a\0b"),
            ("version", "1.3"),
            ("empty", ""),
        ];
        let kept = ClientProperties::new(pairs);
        let all: Vec<_> = kept.iter().collect();
        assert_eq!(all, [("product", "pika"), ("version", "1.3"), ("empty", "")]);
        assert_eq!((kept.lookup("version"), kept.lookup("story")), (Some("1.3"), None));
        assert_eq!(ClientProperties::default().iter().count(), 0);
    }
}
