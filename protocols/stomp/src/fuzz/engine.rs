//! A tiny engine for [`fuzz_session`](super::fuzz_session): it remembers consumers, answers in order, fails on demand,
//! and asserts that each command is possible in its state.

use gatepost_core::command::{Channel, Command, Consume, ConsumerToken, PublishFlags, Transaction};
use gatepost_core::event::{Delivery, DeliveryFlags, Event, LoginFailure, LoginRefused, Op, QueueSummary};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::Name;
use std::collections::{BTreeMap, VecDeque};

struct Consumer {
    channel: Channel,
    token: ConsumerToken,
    queue: Name,
}

#[derive(Default)]
pub(super) struct Engine {
    pending: VecDeque<Command>,
    consumers: Vec<Consumer>,
    /// Deliveries made, by channel. Their numbers start again when a channel is closed.
    delivered: BTreeMap<Channel, u64>,
    /// The directory has bound the connection to a vhost. Before that, only the login is allowed.
    attached: bool,
    published: u64,
    /// A message to deliver: the last one published.
    last: Option<Message>,
}

impl Engine {
    /// Accepts the session's commands.
    pub(super) fn accept(&mut self, commands: impl Iterator<Item = Command>) {
        for command in commands {
            let login = matches!(command, Command::Authenticate(_) | Command::Attach(_));
            assert!(self.attached != login, "{command:?} at the wrong time");
            self.pending.push_back(command);
        }
    }

    /// Applies the oldest command and returns its answer.
    pub(super) fn answer(&mut self, failing: bool) -> Vec<Event> {
        let Some(command) = self.pending.pop_front() else {
            return Vec::new();
        };
        match command {
            Command::Authenticate(_) | Command::Attach(_) => vec![self.log_in(&command, failing)],
            Command::Publish {
                channel,
                flags,
                message,
                ..
            } => {
                assert_eq!(channel, 0);
                self.publish(flags, message, failing)
            }
            Command::Settle { channel, number, .. } => {
                self.check_settle(channel, number);
                if failing {
                    fault(channel, Op::Settle, FaultKind::PreconditionFailed)
                } else {
                    Vec::new()
                }
            }
            Command::Echo { channel, token } => vec![Event::Echo { channel, token }],
            Command::Cancel {
                channel,
                consumer,
                reply,
            } => {
                assert!(reply);
                self.consumers.retain(|c| c.token != consumer);
                done(channel, Op::Cancel, consumer)
            }
            Command::CloseChannel { channel, reply } => {
                assert!(reply && channel != 0);
                assert!(
                    self.consumers.iter().all(|c| c.channel != channel),
                    "closed under a consumer"
                );
                self.delivered.remove(&channel);
                done(channel, Op::CloseChannel, 0)
            }
            Command::DeclareQueue(declare) if failing => {
                fault(declare.channel, Op::DeclareQueue, FaultKind::PreconditionFailed)
            }
            Command::DeclareQueue(declare) if declare.reply => {
                let queue = QueueSummary {
                    name: "amq.gen-x".into(),
                    messages: 0,
                    consumers: 0,
                };
                vec![Event::QueueDeclared {
                    channel: declare.channel,
                    queue: Box::new(queue),
                }]
            }
            Command::DeclareQueue(_) => Vec::new(),
            Command::DeleteQueue(delete) => self.delete(&delete.name),
            Command::Bind(bind) if failing => fault(bind.channel, Op::Bind, FaultKind::NotFound),
            Command::Bind(_) => Vec::new(),
            Command::Consume(consume) if failing => fault(consume.channel, Op::Consume, FaultKind::NotFound),
            Command::Consume(consume) => self.consume(*consume),
            Command::Transaction(transaction) => self.commit(&transaction, failing),
            other => panic!("{other:?} is nothing a STOMP session asks"),
        }
    }

    fn log_in(&mut self, command: &Command, failing: bool) -> Event {
        let user: Name = "me".into();
        match command {
            Command::Attach(attach) if failing || attach.vhost.contains('.') => {
                Event::AttachRefused(Box::new(Fault::new(FaultKind::NotFound, "no vhost")))
            }
            Command::Attach(_) => {
                self.attached = true;
                Event::Attached
            }
            _ if failing => {
                let why = LoginFailure::BadCredentials;
                Event::LoginRefused(Box::new(LoginRefused { user, why }))
            }
            _ => Event::authenticated(user),
        }
    }

    fn publish(&mut self, flags: PublishFlags, message: Message, failing: bool) -> Vec<Event> {
        let channel = 0;
        self.last = Some(message);
        if !flags.contains(PublishFlags::CONFIRM) {
            return if failing {
                fault(channel, Op::Publish, FaultKind::NotFound)
            } else {
                Vec::new()
            };
        }
        self.published += 1;
        let number = self.published;
        let confirmed = Event::Confirmed { channel, upto: number };
        let refused = Event::Refused {
            channel,
            number,
            why: FaultKind::QuotaExceeded,
        };
        if failing {
            vec![refused, confirmed]
        } else {
            vec![confirmed]
        }
    }

    fn consume(&mut self, consume: Consume) -> Vec<Event> {
        let (channel, consumer) = (consume.channel, consume.consumer);
        assert!(
            self.consumers
                .iter()
                .all(|c| c.channel != channel && c.token != consumer),
            "a channel each"
        );
        assert_eq!(self.delivered.insert(channel, 0), None, "the channel is in use");
        self.consumers.push(Consumer {
            channel,
            token: consumer,
            queue: consume.queue,
        });
        vec![Event::Consuming { channel, consumer }]
    }

    fn commit(&mut self, transaction: &Transaction, failing: bool) -> Vec<Event> {
        for command in &transaction.commands {
            match command {
                Command::Settle { channel, number, .. } => self.check_settle(*channel, *number),
                Command::Publish { flags, .. } => assert!(!flags.contains(PublishFlags::CONFIRM)),
                other => panic!("{other:?} in a transaction"),
            }
        }
        let channel = transaction.channel;
        if failing {
            fault(channel, Op::Commit, FaultKind::NotFound)
        } else {
            done(channel, Op::Commit, 0)
        }
    }

    /// A delivery to some consumer, or (rarely) the end of its queue.
    pub(super) fn deliver(&mut self, detail: u8) -> Option<Event> {
        let index = usize::from(detail) % self.consumers.len().max(1);
        let Consumer {
            channel,
            token: consumer,
            ..
        } = *self.consumers.get(index)?;
        if detail == 0xff {
            self.consumers.remove(index);
            return Some(Event::ConsumerGone { channel, consumer });
        }
        let number = self.delivered.get_mut(&channel)?;
        *number += 1;
        let foreign = Envelope {
            dialect: Dialect::Slash,
            ..Envelope::default()
        };
        let message = match &self.last {
            Some(message) if detail & 0x40 == 0 => message.clone(),
            _ => Message::new(foreign, "amq.topic", "a.b/c%/\u{1}:\\", b"", b"\0\n"),
        };
        let flags = DeliveryFlags(detail & 3);
        Some(Event::Deliver(Delivery {
            channel,
            qos: 0,
            flags,
            consumer,
            number: *number,
            message,
            extra: None,
        }))
    }

    fn delete(&mut self, queue: &str) -> Vec<Event> {
        let gone = |c: &Consumer| Event::ConsumerGone {
            channel: c.channel,
            consumer: c.token,
        };
        let events = self.consumers.iter().filter(|c| *c.queue == *queue).map(gone).collect();
        self.consumers.retain(|c| *c.queue != *queue);
        events
    }

    fn check_settle(&self, channel: Channel, number: u64) {
        let delivered = self.delivered.get(&channel).copied().unwrap_or(0);
        assert!(
            (1..=delivered).contains(&number),
            "settles {number} of {delivered} on channel {channel}"
        );
    }
}

fn fault(channel: Channel, op: Op, kind: FaultKind) -> Vec<Event> {
    let fault = Box::new(Fault::new(kind, "as the fuzzer wants"));
    vec![Event::Failed { channel, op, fault }]
}

fn done(channel: Channel, op: Op, consumer: ConsumerToken) -> Vec<Event> {
    vec![Event::Done { channel, op, consumer }]
}
