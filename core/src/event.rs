//! Events from the engine to a session. Taken in batches with `Engine::take`, and encoded directly into the connection's output.
//!
//! Order: a channel's answers leave in command order; an answer that awaits the log gates the later ones of its channel.
//! For one publisher, `Returned` and `Refused` precede the `Confirmed` that passes them.

use crate::command::{Channel, ConsumerToken};
use crate::fault::{Fault, FaultKind};
use crate::message::Message;
use crate::properties::Name;

/// One thing to tell the peer.
#[derive(Debug)]
pub enum Event {
    /// A message for a consumer or an MQTT session.
    Deliver(Delivery),
    /// All publishes of the channel up to number `upto` are taken care of, as durable as they asked for. A watermark:
    /// it never goes back, and covers refused ones too.
    Confirmed {
        /// The publishing channel.
        channel: Channel,
        /// Number of the last publish covered.
        upto: u64,
    },
    /// One publish was refused; nothing, or not everything, was kept of it.
    Refused {
        /// The publishing channel.
        channel: Channel,
        /// Number of the publish.
        number: u64,
        /// Why.
        why: FaultKind,
    },
    /// A mandatory message reached no queue.
    Returned {
        /// The publishing channel.
        channel: Channel,
        /// Number of the publish; 0 if it was not to be confirmed.
        number: u64,
        /// What comes back.
        message: Message,
    },
    /// A command succeeded that has no more to say.
    Done {
        /// Its channel.
        channel: Channel,
        /// Which verb.
        op: Op,
        /// For `Op::Cancel`: the consumer; else 0.
        consumer: ConsumerToken,
    },
    /// A command failed; nothing of it was done.
    Failed {
        /// Its channel.
        channel: Channel,
        /// Which verb.
        op: Op,
        /// Why.
        fault: Box<Fault>,
    },
    /// A queue exists (now).
    QueueDeclared {
        /// Its channel.
        channel: Channel,
        /// The queue.
        queue: Box<QueueSummary>,
    },
    /// A queue is gone.
    QueueDeleted {
        /// Its channel.
        channel: Channel,
        /// Ready messages it had.
        messages: u32,
    },
    /// A queue is empty now.
    QueuePurged {
        /// Its channel.
        channel: Channel,
        /// Ready messages dropped.
        messages: u32,
    },
    /// A consumer is in place; its deliveries follow.
    Consuming {
        /// Its channel.
        channel: Channel,
        /// Which.
        consumer: ConsumerToken,
    },
    /// The queue under a consumer is gone, and so is the consumer.
    ConsumerGone {
        /// Its channel.
        channel: Channel,
        /// Which.
        consumer: ConsumerToken,
    },
    /// The answer to `Get`.
    Got {
        /// The message; its consumer is 0.
        delivery: Delivery,
        /// Ready messages left in the queue.
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
        /// As sent.
        token: u64,
    },
    /// The MQTT session is open; its backlog follows.
    SessionOpened {
        /// Whether it existed before.
        present: bool,
    },
    /// The answer to SUBSCRIBE: granted QoS or why not, in order.
    Subscribed {
        /// As sent.
        packet_id: u16,
        /// One per filter.
        results: Box<[Result<u8, FaultKind>]>,
    },
    /// The answer to UNSUBSCRIBE: whether each subscription existed.
    Unsubscribed {
        /// As sent.
        packet_id: u16,
        /// One per filter.
        existed: Box<[bool]>,
    },
    /// The publisher's QoS 2 packet id is forgotten.
    Released {
        /// As sent.
        packet_id: u16,
        /// Whether it was known.
        known: bool,
    },
    /// Send PUBREL for the outgoing packet id (after PUBREC, or again after a reconnect).
    ReleaseDue {
        /// The engine's packet id.
        packet_id: u16,
        /// Whether the id was known (if not: reason 0x92).
        known: bool,
    },
    /// Publishers must wait (`Some`: why), or may go on (`None`). The pump parks their publishes.
    Flow(Option<Pressure>),
    /// The engine ends the connection: say so to the peer and close.
    Closed(CloseReason),
    /// The same: an operator ends the connection, and says why.
    ClosedBecause(Name),
    /// From the directory: the credentials are good.
    Authenticated {
        /// Who it is.
        user: Name,
        /// What the mechanism still has to say to the peer, such as the proof that the node knows the password too.
        data: Box<[u8]>,
    },
    /// From the directory: they are not.
    LoginRefused(Box<LoginRefused>),
    /// From the directory: the login goes on, with an answer to this (of its mechanism).
    Challenge(Box<[u8]>),
    /// From the directory: commands reach the vhost from here on.
    Attached,
    /// From the directory: no such vhost, no access, or a limit.
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
    /// What.
    pub message: Message,
    /// What only some deliveries have.
    pub extra: Option<Box<DeliveryExtra>>,
}

/// Flags of a [`Delivery`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryFlags(pub u8);

impl DeliveryFlags {
    /// May have been handed out before. MQTT: DUP, only where the same packet id is sent again.
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
    /// MQTT subscription identifiers of the subscriptions it matched.
    pub subscription_ids: Vec<u32>,
    /// How often it came back from consumers, where its queue counts that.
    pub returned: Option<u32>,
}

/// A queue as a declare reports it.
#[derive(Debug)]
pub struct QueueSummary {
    /// Its name.
    pub name: Name,
    /// Ready messages.
    pub messages: u32,
    /// Consumers.
    pub consumers: u32,
}

/// Which verb an answer belongs to.
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

/// Why publishers wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Memory over its budget.
    Memory,
    /// Too little free disk.
    Disk,
    /// Only the reserve for settling is left: publishes that need disk are refused if the peer can be told so, and otherwise
    /// wait.
    Full,
    /// The log is behind. Peers are not told, because this happens often and passes soon.
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
    /// What it logged in with is not valid any more.
    CredentialsExpired,
}

/// Why a login failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRefused {
    /// The user named, if any.
    pub user: Name,
    /// Why; the peer is told no more than its protocol wants.
    pub why: LoginFailure,
}

/// See [`LoginRefused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginFailure {
    /// Unknown user or wrong password; peers are not told which.
    BadCredentials,
    /// The user may only log in from this machine.
    LoopbackOnly,
    /// Anonymous logins are off, or only for this machine.
    AnonymousRefused,
    /// There are as many connections as there may be: a later try may work.
    Full,
    /// An operator has banned the user.
    Banned,
    /// Too many logins wait to be checked: a later try may work.
    Busy,
    /// The mechanism is not spoken here.
    UnknownMechanism,
}

impl Event {
    /// The credentials of `user` are good, and there is nothing to add.
    pub fn authenticated(user: impl Into<Name>) -> Event {
        Event::Authenticated {
            user: user.into(),
            data: Box::default(),
        }
    }
}

const _: () = assert!(std::mem::size_of::<Event>() <= 64);
