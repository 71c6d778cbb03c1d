//! What a session asks of the engine. Commands never return values: they cause [`Event`](crate::event::Event)s, which
//! the session takes when it can send.
//!
//! Frequent verbs are inline, rare ones boxed: a command is at most 64 bytes.

use crate::fault::Fault;
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
    /// Publishes a message. With [`PublishFlags::CONFIRM`] it takes the channel's next publish number (from 1) and is
    /// covered by a later `Confirmed` or `Refused`.
    Publish {
        /// The publishing channel.
        channel: Channel,
        /// How to publish.
        flags: PublishFlags,
        /// MQTT QoS 2 only: the publisher's packet id, remembered until `Release`; a duplicate is confirmed and not
        /// routed again. 0 otherwise.
        packet_id: u16,
        /// The message.
        message: Message,
    },
    /// Fails as `Publish` would if the message would be refused now, and else does nothing. For a publish that waits for a
    /// commit, and for one that its session refuses: other faults of it are to be told first.
    TryPublish(Box<TryPublish>),
    /// Settles deliveries of `channel`: the one with `number`, or all up to it if `multiple` (0: all there are).
    Settle {
        /// The consuming channel.
        channel: Channel,
        /// Delivery number; for a link with an MQTT session the packet id (`multiple` is then false).
        number: u64,
        /// All outstanding up to and including `number`.
        multiple: bool,
        /// What the consumer says.
        outcome: Outcome,
    },
    /// Settles deliveries, like `Settle`, when the next `Transaction` of the channel is applied. It fails at once if `Settle`
    /// would, or if the delivery is held already. With number 0, deliveries that come after it are not settled.
    HoldSettle {
        /// The consuming channel.
        channel: Channel,
        /// As in `Settle`.
        number: u64,
        /// As in `Settle`.
        multiple: bool,
        /// What the consumer says.
        outcome: Outcome,
    },
    /// Forgets what `HoldSettle` said since the last `Transaction`: the deliveries are unsettled as before.
    ForgetHeld {
        /// The consuming channel.
        channel: Channel,
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
    /// Other channels are opened by the first command that needs them, and stay open after a failure.
    OpenChannel {
        /// The channel.
        channel: Channel,
    },
    /// Requeues the channel's unsettled deliveries, cancels its consumers, and closes it. Answered by `Done` if
    /// `reply`.
    CloseChannel {
        /// The channel.
        channel: Channel,
        /// Whether `Done { op: Op::CloseChannel }` is wanted.
        reply: bool,
    },
    /// Sets a prefetch limit: of each later consumer of the channel (`global` false), or of the channel as a whole
    /// (`global` true). 0: no limit. Answered by `Done { op: Op::Qos }`.
    Qos {
        /// The channel.
        channel: Channel,
        /// The most unsettled deliveries; 0: no limit.
        count: u32,
        /// For the channel as a whole.
        global: bool,
    },
    /// Answered by `Event::Echo`, after the answers to all earlier commands of this channel.
    Echo {
        /// The channel.
        channel: Channel,
        /// Returned unchanged.
        token: u64,
    },
    /// Requeues everything unsettled on the channel. Answered by `Done { op: Op::Recover }` if `reply`.
    Recover {
        /// The channel.
        channel: Channel,
        /// Whether an answer is wanted.
        reply: bool,
    },
    /// Cancels a consumer. Its unsettled deliveries stay unsettled. Answered by `Done { op: Op::Cancel, .. }` if
    /// `reply`; nothing is delivered to it after the answer. Unknown tokens are answered, too.
    Cancel {
        /// The channel.
        channel: Channel,
        /// The consumer.
        consumer: ConsumerToken,
        /// Whether an answer is wanted.
        reply: bool,
    },
    /// Creates an exchange, or checks the existing one. Answered by `Done { op: Op::DeclareExchange }`.
    DeclareExchange(Box<DeclareExchange>),
    /// Deletes an exchange. Answered by `Done { op: Op::DeleteExchange }`.
    DeleteExchange(Box<DeleteExchange>),
    /// Creates a queue, or checks the existing one. Answered by `QueueDeclared`.
    DeclareQueue(Box<DeclareQueue>),
    /// Deletes a queue. Answered by `QueueDeleted`.
    DeleteQueue(Box<DeleteQueue>),
    /// Drops all waiting messages of a queue. Answered by `QueuePurged`.
    PurgeQueue(Box<PurgeQueue>),
    /// Adds a binding. Answered by `Done { op: Op::Bind }`.
    Bind(Box<Bind>),
    /// Removes a binding. Answered by `Done { op: Op::Unbind }`.
    Unbind(Box<Bind>),
    /// Sets the mode that listings show for a channel. Not answered.
    SetMode {
        /// The channel.
        channel: Channel,
        /// The mode.
        mode: ChannelMode,
    },
    /// Starts a consumer on a queue. Answered by `Consuming`, which precedes its first delivery.
    Consume(Box<Consume>),
    /// Takes one message. Answered by `Event::Got` or `Event::GetEmpty`.
    Get(Box<Get>),
    /// Opens an MQTT session for this link, and takes it over if another link has it. Answered by `SessionOpened`.
    OpenSession(Box<OpenSession>),
    /// Changes the expiry of the open MQTT session (seconds; `None`: never), as DISCONNECT may.
    SessionExpiry(Option<u32>),
    /// MQTT SUBSCRIBE for the link's session. Answered by `Subscribed`.
    Subscribe(Box<Subscribe>),
    /// MQTT UNSUBSCRIBE for the link's session. Answered by `Unsubscribed`.
    Unsubscribe(Box<Unsubscribe>),
    /// Applies these publishes and settles in order, and then the channel's held settles, all or none. Their publishes
    /// are not numbered one by one. Answered by `Done { op: Op::Commit }` once everything is confirmed, or by `Failed`.
    Transaction(Box<Transaction>),
    /// Sets and clears policies: all of them, or none. No session sends it; an operator asks for it. Answered by `Done
    /// { op: Op::SetPolicies }` once they are applied to every queue and exchange.
    SetPolicies(Box<SetPolicies>),
    /// Checks credentials, before the link is attached or later. Handled by the node's directory. Answered by
    /// `Authenticated`, `LoginRefused` or `Challenge`. The session reads nothing until then, so this is the last
    /// command of its call.
    Authenticate(Box<Login>),
    /// Attaches the connection to a vhost. Handled by the directory. Answered by `Attached` or `AttachRefused`.
    Attach(Box<Attach>),
    /// The connection ends in good order, so its will is not published.
    DropWill,
    /// The connection has ended: its unsettled deliveries are requeued, its exclusive queues deleted, and its will
    /// published (unless dropped). The driver sends this exactly once for each attached link.
    Detach,
}

impl Command {
    /// The channel that the command is about, if any.
    pub(crate) fn channel(&self) -> Option<Channel> {
        match self {
            Command::Publish { channel, .. }
            | Command::Settle { channel, .. }
            | Command::HoldSettle { channel, .. }
            | Command::ForgetHeld { channel }
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
            Command::TryPublish(c) => Some(c.channel),
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

/// The mode of a channel, for listings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelMode {
    /// Neither of the others.
    #[default]
    Plain,
    /// Its publishes are confirmed.
    Confirm,
    /// Its publishes and settles wait for a commit.
    Transactional,
}

/// See [`Command::TryPublish`].
#[derive(Clone, Debug)]
pub struct TryPublish {
    /// The publishing channel. It fails as `Op::Publish` if the publish would be refused.
    pub channel: Channel,
    /// What would be published. Where `refused` is set, only its addresses count.
    pub message: Message,
    /// Why its session refuses it, if it does. The user's rights and the exchange are looked at first.
    pub refused: Option<Fault>,
}

/// How to publish. A small set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishFlags(pub u8);

impl PublishFlags {
    /// The publish is numbered and confirmed.
    pub const CONFIRM: PublishFlags = PublishFlags(1);
    /// If it reaches no queue, it comes back as `Event::Returned` before its confirm.
    pub const MANDATORY: PublishFlags = PublishFlags(2);
    /// If the exchange does not exist, the message is dropped (and confirmed) without a fault.
    pub const LENIENT: PublishFlags = PublishFlags(4);
    /// The protocol cannot report a refused publish. So while the disk is full, the publish waits instead of being
    /// refused.
    pub const PATIENT: PublishFlags = PublishFlags(8);
    /// The protocol only orders it among publishes with this flag. It may overtake others while they wait for the log.
    pub const PASSING: PublishFlags = PublishFlags(16);
    /// If there is no queue on its route, `Event::Unrouted` says so before its confirm.
    pub const TELL_UNROUTED: PublishFlags = PublishFlags(32);

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

/// What a consumer says about a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Accepted: the message is done.
    Accept,
    /// Returned to its former place in the queue, marked as redelivered.
    Requeue,
    /// Rejected: dead-lettered if the queue has a dead-letter exchange, else dropped.
    Reject,
}

/// See [`Command::DeclareExchange`].
#[derive(Clone, Debug)]
pub struct DeclareExchange {
    /// The channel for the answer.
    pub channel: Channel,
    /// Its name.
    pub name: Name,
    /// `direct`, `fanout`, `topic`, `headers`.
    pub kind: Name,
    /// Only check that it exists.
    pub passive: bool,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it is deleted when its last binding is removed.
    pub auto_delete: bool,
    /// Whether only other exchanges can publish to it.
    pub internal: bool,
    /// Further arguments.
    pub arguments: Table,
    /// Whether success is answered. Faults always are.
    pub reply: bool,
}

/// See [`Command::DeleteExchange`].
#[derive(Clone, Debug)]
pub struct DeleteExchange {
    /// The channel for the answer.
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
    /// The channel for the answer.
    pub channel: Channel,
    /// Its name; empty: the engine generates one. Either way it becomes the channel's last declared queue.
    pub name: Name,
    /// Only check that it exists.
    pub passive: bool,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it belongs to this link, and is deleted when the link ends.
    pub exclusive: bool,
    /// Whether it is deleted when its last consumer is cancelled.
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
    /// A durable queue with that name and without arguments. Success is answered.
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
    /// The channel for the answer.
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
    /// The channel for the answer.
    pub channel: Channel,
    /// Its name; empty: the channel's last declared.
    pub name: Name,
    /// Whether success is answered.
    pub reply: bool,
}

/// The destination of a binding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BindTarget {
    /// A queue. If it is empty: the channel's last declared queue (and if the key is empty as well, the key is that
    /// queue's name).
    Queue(Name),
    /// An exchange.
    Exchange(Name),
}

/// See [`Command::Bind`].
#[derive(Clone, Debug)]
pub struct Bind {
    /// The channel for the answer.
    pub channel: Channel,
    /// The source exchange.
    pub source: Name,
    /// The destination.
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
    /// The tag that listings and logs show.
    pub tag: Name,
    /// Deliveries count as settled when taken.
    pub no_ack: bool,
    /// Refuse other consumers on the queue.
    pub exclusive: bool,
    /// Consumers of higher priority are served first.
    pub priority: i32,
    /// The most unsettled deliveries (0: no limit); `None`: as set by the channel's last `Qos`.
    pub prefetch: Option<u32>,
    /// Further arguments.
    pub arguments: Table,
    /// Whether success is answered.
    pub reply: bool,
}

impl Consume {
    /// A consumer of that queue which settles its deliveries, with the channel's prefetch. Its start is answered.
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
    /// The channel that numbers the delivery.
    pub channel: Channel,
    /// Queue; empty: the channel's last declared.
    pub queue: Name,
    /// Whether the message counts as settled when it is taken.
    pub no_ack: bool,
}

/// See [`Command::OpenSession`].
#[derive(Clone, Debug)]
pub struct OpenSession {
    /// Identifies the session within the vhost. Never empty: the protocol generates one with
    /// [`crate::session::Cx::random`].
    pub client_id: Name,
    /// Whether to delete an existing session first.
    pub clean_start: bool,
    /// Seconds for which the session outlives the connection. 0: it ends with it; `None`: without limit.
    pub expiry: Option<u32>,
    /// The most unsettled deliveries of QoS 1 and 2.
    pub receive_maximum: u16,
    /// Its will, if any.
    pub will: Option<Will>,
}

/// One filter of a SUBSCRIBE. The protocol has checked its form.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The filter in the slash dialect, without the share prefix.
    pub filter: Name,
    /// `$share` group.
    pub share: Option<Name>,
    /// Maximum QoS.
    pub qos: u8,
    /// Whether to exclude messages that this client publishes itself.
    pub no_local: bool,
    /// Whether live messages keep their retain flag.
    pub retain_as_published: bool,
    /// When to replay retained messages.
    pub retain_handling: RetainHandling,
}

/// When a subscription gets the retained messages that match it.
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
    /// In order. `Err`: the protocol has refused the filter already; the entry keeps its place in the answer.
    pub filters: Vec<Result<Subscription, crate::fault::FaultKind>>,
    /// The subscription identifier, returned with each matching message.
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
    /// The channel for the answer.
    pub channel: Channel,
    /// Only `Publish` and `Settle`.
    pub commands: Vec<Command>,
}

impl Transaction {
    /// Whether it publishes anything.
    pub(crate) fn publishes(&self) -> bool {
        self.commands.iter().any(|c| matches!(c, Command::Publish { .. }))
    }
}

/// See [`Command::SetPolicies`].
#[derive(Clone, Debug)]
pub struct SetPolicies {
    /// The channel for the answer.
    pub channel: Channel,
    /// The changes, in this order. The engine removes them when they are made, and then waits until they are applied
    /// everywhere.
    pub changes: Vec<PolicyChange>,
    /// Whether success is answered.
    pub reply: bool,
}

/// One policy that is set or cleared.
#[derive(Clone, Debug)]
pub struct PolicyChange {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its name.
    pub name: Name,
    /// The policy; `None`: the one with that name is deleted.
    pub policy: Option<PolicyRecord>,
}

/// What a client sends besides its name and password, which an authentication backend may need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The vhost that it asks for.
    pub vhost: Option<Name>,
    /// Its client id, if the protocol has one.
    pub client_id: Option<Name>,
}

/// Credentials of any form.
#[derive(Clone)]
pub enum Login {
    /// Name and password.
    Password {
        /// User name.
        user: Name,
        /// Never logged.
        password: Box<[u8]>,
        /// What else the client has sent.
        said: Said,
    },
    /// A new secret of the user that the link is logged in as, such as a token that replaces one that expires. If the
    /// user's login does not expire, nothing has to be renewed, and the secret is not checked.
    Renewal {
        /// User name.
        user: Name,
        /// Never logged.
        secret: Box<[u8]>,
    },
    /// Log in by the peer's certificate ([`Peer::certificate`]).
    Certificate {
        /// The name that the client sends in addition, if any. It must be the one in the certificate.
        user: Option<Name>,
    },
    /// No credentials. The node's settings decide whether that is permitted.
    Anonymous,
    /// Begins a login by a named SASL mechanism, in rounds if necessary: each
    /// [`Event::Challenge`](crate::event::Event::Challenge) is answered with a [`Login::Response`].
    Mechanism {
        /// The mechanism's name, such as `SCRAM-SHA-256`. The node knows whether it supports it.
        name: Name,
        /// The peer's first message; never logged.
        data: Box<[u8]>,
    },
    /// The answer to [`Event::Challenge`](crate::event::Event::Challenge): another round of the login in progress.
    Response {
        /// In the mechanism's format; never logged.
        data: Box<[u8]>,
    },
}

impl Login {
    /// The user that it names; empty: none.
    pub fn user(&self) -> Name {
        match self {
            Login::Password { user, .. } | Login::Renewal { user, .. } => user.clone(),
            Login::Certificate { user } => user.clone().unwrap_or_default(),
            Login::Anonymous | Login::Mechanism { .. } | Login::Response { .. } => Name::default(),
        }
    }
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
    /// Protocol and version, for listings and metrics: for example `MQTT 5.0`.
    pub protocol: &'static str,
    /// The name that the client gives itself, if any.
    pub client_name: Option<Name>,
    /// The agreed seconds of silence after which a side counts as gone; 0: none.
    pub heartbeat_s: u16,
    /// Further results of the handshake, in protocols that have some.
    pub handshake: Option<Box<Handshake>>,
}

/// Results of a handshake, for listings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The SASL mechanism of the login.
    pub mechanism: &'static str,
    /// The most channels.
    pub channel_max: u16,
    /// The most bytes of a frame.
    pub frame_max: u32,
    /// Properties that the client sent about itself.
    pub client_properties: ClientProperties,
}

/// Texts with which a client describes itself: its product, its version. They are kept as long as the connection, so at
/// most [`CLIENT_PROPERTIES_MAX`] bytes are stored; the rest is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientProperties(
    /// Names and values in turn, each followed by a NUL. That is one allocation, where a table would need several for
    /// each value.
    Box<str>,
);

/// The most bytes of [`ClientProperties`].
pub const CLIENT_PROPERTIES_MAX: usize = 1 << 10;

impl ClientProperties {
    /// From names and values.
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

    /// The value with that name.
    pub fn lookup(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Bytes of memory on the heap.
    pub(crate) fn memory(&self) -> usize {
        if self.0.is_empty() {
            0
        } else {
            crate::ledger::allocation(self.0.len())
        }
    }
}

/// The other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its address; `None` for a Unix socket or a connection inside the process.
    pub address: Option<SocketAddr>,
    /// The address of our end.
    pub local_address: Option<SocketAddr>,
    /// What its certificate proves.
    pub certificate: Option<Arc<Certificate>>,
    /// Whether it may do what is reserved for users of this machine. This is set explicitly: a missing address does not
    /// make a peer local.
    pub is_local: bool,
    /// Whether the connection is encrypted, or nobody else can read it.
    pub is_encrypted: bool,
}

/// What a peer's certificate proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of its subject; `None`: there is none, or more than one.
    pub common_name: Option<Name>,
    /// The alternative names of its subject, of the kinds known here, in the certificate's order.
    pub alternative_names: Box<[AlternativeName]>,
}

/// An alternative name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlternativeName {
    /// A host name. It may begin with `*.`.
    Dns(Name),
    /// For example `urn:dev:mac:0024befffe804ff1`.
    Uri(Name),
    /// An e-mail address.
    Email(Name),
}

impl Peer {
    /// A peer on the network. It is local if it comes from a loopback address. IPv4-mapped IPv6 addresses count as
    /// IPv4.
    pub fn at(address: SocketAddr, local_address: Option<SocketAddr>) -> Peer {
        Peer {
            address: Some(address),
            local_address,
            is_local: address.ip().to_canonical().is_loopback(),
            ..Peer::default()
        }
    }

    /// A peer on this machine without an address, such as one that could open a Unix socket's file.
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
