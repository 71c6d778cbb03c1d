//! Events from the engine to a session. Taken in batches with `Engine::take`, and encoded directly into the connection's output.
//!
//! Order: a channel's answers leave in command order; an answer that awaits the log gates the later ones of its channel.
//! For one publisher, `Returned`, `Unrouted` and `Refused` precede the `Confirmed` that passes them.

use crate::command::{Channel, ConsumerToken};
use crate::fault::{Fault, FaultKind};
use crate::message::Message;
use crate::properties::Name;

/// One thing that a session is told.
#[derive(Debug)]
pub enum Event {
    /// A message for a consumer or an MQTT session.
    Deliver(Delivery),
    /// All publishes of the channel up to number `upto` are as durable as they need to be. A watermark: it never goes
    /// back, and covers refused publishes, too.
    Confirmed {
        /// The publishing channel.
        channel: Channel,
        /// Number of the last publish covered.
        upto: u64,
    },
    /// One publish was refused; none or not all of it was stored.
    Refused {
        /// The publishing channel.
        channel: Channel,
        /// Number of the publish.
        number: u64,
        /// The reason.
        why: FaultKind,
    },
    /// A publish with `PublishFlags::TELL_UNROUTED` had no queue on its route.
    Unrouted {
        /// The publishing channel.
        channel: Channel,
        /// Number of the publish.
        number: u64,
    },
    /// A mandatory message reached no queue.
    Returned {
        /// The publishing channel.
        channel: Channel,
        /// Number of the publish; 0 if it was not to be confirmed.
        number: u64,
        /// The message that is returned.
        message: Message,
    },
    /// A command succeeded, and there is nothing else to report.
    Done {
        /// Its channel.
        channel: Channel,
        /// The command.
        op: Op,
        /// For `Op::Cancel`: the consumer; else 0.
        consumer: ConsumerToken,
    },
    /// A command failed and changed nothing.
    Failed {
        /// Its channel.
        channel: Channel,
        /// The command.
        op: Op,
        /// The reason.
        fault: Box<Fault>,
    },
    /// A queue exists or was created.
    QueueDeclared {
        /// Its channel.
        channel: Channel,
        /// The queue.
        queue: Box<QueueSummary>,
    },
    /// A queue was deleted.
    QueueDeleted {
        /// Its channel.
        channel: Channel,
        /// The number of waiting messages that it had.
        messages: u32,
    },
    /// A queue was purged.
    QueuePurged {
        /// Its channel.
        channel: Channel,
        /// The number of waiting messages dropped.
        messages: u32,
    },
    /// A consumer was started; its deliveries follow.
    Consuming {
        /// Its channel.
        channel: Channel,
        /// The consumer.
        consumer: ConsumerToken,
    },
    /// A consumer was cancelled because its queue was deleted.
    ConsumerGone {
        /// Its channel.
        channel: Channel,
        /// The consumer.
        consumer: ConsumerToken,
    },
    /// The answer to `Get`.
    Got {
        /// The message; its consumer is 0.
        delivery: Delivery,
        /// The number of messages left in the queue.
        remaining: u32,
    },
    /// The answer to `Get` on an empty queue.
    GetEmpty {
        /// Its channel.
        channel: Channel,
    },
    /// The answer to `Echo`.
    Echo {
        /// Its channel.
        channel: Channel,
        /// As in the command.
        token: u64,
    },
    /// The MQTT session is open; its waiting messages follow.
    SessionOpened {
        /// Whether it existed before.
        present: bool,
    },
    /// The answer to SUBSCRIBE: the granted QoS or the reason of a refusal, in order.
    Subscribed {
        /// As in the command.
        packet_id: u16,
        /// One for each filter.
        results: Box<[Result<u8, FaultKind>]>,
    },
    /// The answer to UNSUBSCRIBE: whether each subscription existed.
    Unsubscribed {
        /// As in the command.
        packet_id: u16,
        /// One for each filter.
        existed: Box<[bool]>,
    },
    /// The publisher's QoS 2 packet id was forgotten.
    Released {
        /// As in the command.
        packet_id: u16,
        /// Whether it was known.
        known: bool,
    },
    /// PUBREL is to be sent for the outgoing packet id, after PUBREC or again after a reconnect.
    ReleaseDue {
        /// The engine's packet id.
        packet_id: u16,
        /// Whether the id was known. If not: reason code 0x92.
        known: bool,
    },
    /// Publishers must wait (`Some`: the reason), or may continue (`None`). The pump parks their publishes.
    Flow(Option<Pressure>),
    /// The engine ends the connection. The session tells the peer and closes.
    Closed(CloseReason),
    /// The same, when an operator ends the connection and gives a reason.
    ClosedBecause(Name),
    /// From the directory: the credentials are right.
    Authenticated {
        /// The user.
        user: Name,
        /// What the mechanism still has to send, such as the proof that the node knows the password, too.
        data: Box<[u8]>,
        /// Whether its messages may name another user as their sender. The gateway sets it.
        impersonates: bool,
    },
    /// From the directory: the credentials were refused.
    LoginRefused(Box<LoginRefused>),
    /// From the directory: the login continues with an answer to this challenge, in the mechanism's format.
    Challenge(Box<[u8]>),
    /// From the directory: the connection is attached, and its commands go to the vhost.
    Attached,
    /// From the directory: no such vhost, no access, or a limit was reached.
    AttachRefused(Box<Fault>),
}

/// A message on its way to a consumer.
#[derive(Debug)]
pub struct Delivery {
    /// The consuming channel.
    pub channel: Channel,
    /// QoS it is delivered with (MQTT).
    pub qos: u8,
    /// Flags.
    pub flags: DeliveryFlags,
    /// The session's number for the consumer; 0 for MQTT sessions.
    pub consumer: ConsumerToken,
    /// Delivery number on the channel, from 1; for MQTT sessions the packet id (0 at QoS 0).
    pub number: u64,
    /// The message.
    pub message: Message,
    /// Parts that only some deliveries have.
    pub extra: Option<Box<DeliveryExtra>>,
}

/// Flags of a [`Delivery`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryFlags(pub u8);

impl DeliveryFlags {
    /// It may have been handed out before. MQTT: DUP, but only if the same packet id is sent again.
    pub const REDELIVERED: DeliveryFlags = DeliveryFlags(1);
    /// A retained message, replayed or (retain-as-published) live.
    pub const RETAIN: DeliveryFlags = DeliveryFlags(2);

    /// Whether all bits of `other` are set.
    pub fn contains(self, other: DeliveryFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for DeliveryFlags {
    type Output = DeliveryFlags;
    fn bitor(self, rhs: DeliveryFlags) -> DeliveryFlags {
        DeliveryFlags(self.0 | rhs.0)
    }
}

/// See [`Delivery::extra`].
#[derive(Debug, Default, Clone)]
pub struct DeliveryExtra {
    /// Identifiers of the MQTT subscriptions that it matched.
    pub subscription_ids: Vec<u32>,
    /// How often it came back from consumers, if its queue counts that.
    pub returned: Option<u32>,
}

/// A queue, as the answer to a declaration reports it.
#[derive(Debug)]
pub struct QueueSummary {
    /// Its name.
    pub name: Name,
    /// The number of waiting messages.
    pub messages: u32,
    /// The number of consumers.
    pub consumers: u32,
}

/// The command that an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each names the command it answers")]
pub enum Op {
    OpenChannel,
    Publish,
    Settle,
    Qos,
    Recover,
    Cancel,
    CloseChannel,
    DeclareExchange,
    DeleteExchange,
    DeclareQueue,
    DeleteQueue,
    PurgeQueue,
    Bind,
    Unbind,
    Consume,
    Get,
    OpenSession,
    Subscribe,
    Unsubscribe,
    Commit,
    SetPolicies,
}

/// Why publishers have to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Memory is above its budget.
    Memory,
    /// There is too little free disk space.
    Disk,
    /// Only the reserve for settles is left. Publishes that need disk space are refused if the peer can be told so, and
    /// wait otherwise.
    Full,
    /// The log is slow. Peers are not told, because this happens often and passes quickly.
    Backlog,
}

/// Why the engine ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The gateway is stopping.
    Shutdown,
    /// Another connection opened the same MQTT session.
    TakenOver,
    /// An operator closed it.
    Forced,
    /// Its vhost was deleted.
    VhostDeleted,
    /// Its user was deleted.
    UserDeleted,
    /// The credentials that it logged in with are no longer valid.
    CredentialsExpired,
}

/// Why a login failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRefused {
    /// The user, if one was named.
    pub user: Name,
    /// The reason. The protocol decides how much of it the peer is told.
    pub why: LoginFailure,
}

/// See [`LoginRefused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginFailure {
    /// Unknown user or wrong password. Peers are not told which.
    BadCredentials,
    /// The user may only log in from this machine.
    LoopbackOnly,
    /// Anonymous logins are off, or only permitted from this machine.
    AnonymousRefused,
    /// The limit on connections is reached; a later attempt may succeed.
    Full,
    /// An operator has banned the user.
    Banned,
    /// Too many logins wait to be checked; a later attempt may succeed.
    Busy,
    /// The mechanism is not supported here.
    UnknownMechanism,
}

impl Event {
    /// The credentials of `user` are right, and nothing else is to be sent.
    pub fn authenticated(user: impl Into<Name>) -> Event {
        Event::Authenticated {
            user: user.into(),
            data: Box::default(),
            impersonates: false,
        }
    }
}

const _: () = assert!(std::mem::size_of::<Event>() <= 64);
