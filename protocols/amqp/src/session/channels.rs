//! The channels of a connection by number. A number that is used again may still have answers pending for the channel
//! before.

use super::channel::{Channel, Phase};
use super::content::Address;
use super::publishing::not_a_method;
use super::{AmqpSession, decode};
use crate::error::{Code, Error, Reply};
use crate::frame::{self, BODY, Basic, Frame, HEADER, METHOD, Method};
use crate::map;
use gatepost_core::command::Command;
use gatepost_core::event::{Event, Op};
use gatepost_core::session::Cx;

/// Channels in ascending order of their numbers: most connections have one or two. `last` makes runs of frames for one
/// channel cheap.
#[derive(Default)]
pub(super) struct Channels {
    slots: Vec<Slot>,
    /// Index of the slot last found.
    last: usize,
    /// Slots that hold a channel.
    open: usize,
    /// How many of `open` the engine has not answered yet.
    opening: usize,
}

struct Slot {
    number: u16,
    /// Unanswered `CloseChannel` commands of earlier channels of this number, which ended with an error. Until they are
    /// answered, events belong to those earlier channels.
    stale: u32,
    /// The channel is closed with its connection. The client did not close it, so no `close-ok` is sent.
    unasked: bool,
    channel: Option<Box<Channel>>,
}

impl Channels {
    fn position(&mut self, number: u16) -> Result<usize, usize> {
        if self.slots.get(self.last).is_some_and(|slot| slot.number == number) {
            return Ok(self.last);
        }
        let found = self.slots.binary_search_by_key(&number, |slot| slot.number);
        if let Ok(at) = found {
            self.last = at;
        }
        found
    }

    fn slot(&mut self, number: u16) -> Option<&mut Slot> {
        let at = self.position(number).ok()?;
        self.slots.get_mut(at)
    }

    fn find(&mut self, number: u16) -> Option<&mut Channel> {
        self.slot(number)?.channel.as_deref_mut()
    }

    fn open(&mut self, number: u16) {
        let channel = Some(Box::default());
        self.open += 1;
        self.opening += 1;
        match self.position(number) {
            Ok(at) => {
                if let Some(slot) = self.slots.get_mut(at) {
                    slot.channel = channel;
                }
            }
            Err(at) => self.slots.insert(
                at,
                Slot {
                    number,
                    stale: 0,
                    unasked: false,
                    channel,
                },
            ),
        }
    }

    /// Whether a client waits for an `open-ok`.
    pub(super) fn are_opening(&self) -> bool {
        self.opening > 0
    }

    /// Removes the channel. The slot stays as long as answers are pending.
    fn remove(&mut self, number: u16) {
        let Ok(at) = self.position(number) else {
            return;
        };
        let Some(slot) = self.slots.get_mut(at) else {
            return;
        };
        if slot.channel.take().is_some() {
            self.open -= 1;
        }
        if slot.stale == 0 {
            self.slots.remove(at);
        }
    }

    /// Closes a channel because of an error: tells the client, releases what the channel has, and discards frames until
    /// the client's `close-ok` (AMQP 0-9-1 1.5.2.5).
    pub(super) fn fail(&mut self, cx: &mut Cx<'_>, number: u16, reply: &Reply, unfinished_bytes: &mut usize) {
        let Some(slot) = self.slot(number) else {
            return;
        };
        let Some(channel) = slot.channel.as_deref_mut() else {
            return;
        };
        let text = reply.to_string();
        let (class, method) = reply.method;
        let close = frame::Channel::Close {
            code: reply.code as u16,
            text: &text,
            class,
            method,
        };
        match channel.phase {
            Phase::Open => {
                cx.commands.push(Command::CloseChannel {
                    channel: number,
                    reply: true,
                });
                close.encode(number, cx.out);
            }
            // A command before the client's own close failed. Both sides have closed, and each answers the other.
            Phase::Closing => {
                close.encode(number, cx.out);
                frame::Channel::CloseOk {}.encode(number, cx.out);
            }
            Phase::Discarding => return,
        }
        channel.discard(unfinished_bytes);
        slot.stale += 1;
    }

    /// Closes all channels, since the client closes the connection.
    pub(super) fn close_all(&mut self, cx: &mut Cx<'_>, unfinished_bytes: &mut usize) {
        for slot in &mut self.slots {
            if let Some(channel) = slot
                .channel
                .as_deref_mut()
                .filter(|channel| channel.phase == Phase::Open)
            {
                channel.close(cx, slot.number, unfinished_bytes);
                slot.unasked = true;
            }
        }
    }

    /// Whether a channel that the client closed still waits for the engine.
    pub(super) fn are_closing(&self) -> bool {
        let closing = |slot: &Slot| {
            slot.channel
                .as_ref()
                .is_some_and(|channel| channel.phase == Phase::Closing)
        };
        self.slots.iter().any(closing)
    }

    /// The engine has closed a channel. Returns whether the client waits for `close-ok`.
    fn closed(&mut self, number: u16) -> bool {
        let Some(slot) = self.slot(number) else {
            return false;
        };
        if slot.stale > 0 {
            slot.stale -= 1;
            if slot.channel.is_none() {
                self.remove(number);
            }
            return false;
        }
        let awaited = slot
            .channel
            .as_ref()
            .is_some_and(|channel| channel.phase == Phase::Closing);
        let unasked = slot.unasked;
        if awaited {
            self.remove(number);
        }
        awaited && !unasked
    }

    /// The channel that an event belongs to. `None` if it belongs to an earlier channel of that number, or to one that
    /// we closed.
    fn addressed(&mut self, number: u16) -> Option<&mut Channel> {
        let slot = self.slot(number).filter(|slot| slot.stale == 0)?;
        slot.channel
            .as_deref_mut()
            .filter(|channel| channel.phase != Phase::Discarding)
    }
}

impl AmqpSession {
    /// Whether `frame` is a valid `channel.open` for one more channel.
    pub(super) fn opens_another(&mut self, frame: Frame<'_>) -> bool {
        frame.kind == METHOD
            && frame.channel != 0
            && self.channels.open < usize::from(self.channel_max)
            && self.channels.find(frame.channel).is_none()
            && matches!(
                Method::decode(frame.payload),
                Ok(Method::Channel(frame::Channel::Open { .. }))
            )
    }

    /// Handles a frame of a channel other than 0. `rest` is the input after it; returns how many octets of `rest` were
    /// used too.
    pub(super) fn channel_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>, rest: &[u8]) -> Result<usize, Error> {
        let number = frame.channel;
        let channel_max = self.channel_max;
        let (channels, mut env) = self.split(cx, number);
        let Some(channel) = channels.find(number) else {
            if frame.kind != METHOD {
                return Err(not_a_method());
            }
            let method = decode(frame.payload)?;
            let Method::Channel(frame::Channel::Open { .. }) = method else {
                return Err(Error::new(Code::ChannelError, "expected 'channel.open'", method.ids()));
            };
            // The limit is on the count of channels, not on their numbers.
            if channels.open >= usize::from(channel_max) {
                let detail = format!(
                    "number of channels opened ({}) has reached the negotiated channel_max ({channel_max})",
                    channels.open
                );
                return Err(Error::new(Code::NotAllowed, detail, method.ids()));
            }
            channels.open(number);
            // The engine decides whether the user may have one more.
            env.cx.commands.push(Command::OpenChannel { channel: number });
            return Ok(0);
        };
        match (channel.phase, frame.kind, frame.payload) {
            (Phase::Discarding, METHOD, [0, 20, 0, 40, ..]) => {
                // Both sides closed at once. The client still owes the answer to our close.
                frame::Channel::CloseOk {}.encode(number, env.cx.out);
                Ok(0)
            }
            (Phase::Discarding, METHOD, [0, 20, 0, 41, ..]) => {
                channels.remove(number);
                Ok(0)
            }
            (Phase::Discarding | Phase::Closing, ..) => Ok(0),
            (Phase::Open, HEADER, payload) => channel.content_header(&mut env, payload).map(|()| 0),
            (Phase::Open, BODY, payload) => channel.content_body(&mut env, payload).map(|()| 0),
            (Phase::Open, _, payload) => {
                channel.no_content_due()?;
                // Taken out meanwhile: the channel is given the rest of what its connection knows.
                if let Some(mut known) = env.client.known.take_if(|known| known.is(payload)) {
                    let used = channel.publish_again(&mut env, &mut known, rest);
                    env.client.known = Some(known);
                    return used;
                }
                match decode(payload)? {
                    Method::Basic(Basic::Publish {
                        exchange,
                        key,
                        mandatory,
                        immediate,
                        ..
                    }) => {
                        let address = Address {
                            exchange,
                            key,
                            mandatory,
                            immediate,
                        };
                        channel.publish(&mut env, address, payload, rest)
                    }
                    method => channel.method(&mut env, method).map(|()| 0),
                }
            }
        }
    }

    /// Handles an event of the engine while the connection runs.
    pub(super) fn channel_event(&mut self, cx: &mut Cx<'_>, event: Event) -> Result<(), (u16, Error)> {
        let number = match &event {
            Event::Deliver(delivery) | Event::Got { delivery, .. } => delivery.channel,
            Event::Confirmed { channel, .. }
            | Event::Refused { channel, .. }
            | Event::Returned { channel, .. }
            | Event::Done { channel, .. }
            | Event::Failed { channel, .. }
            | Event::QueueDeclared { channel, .. }
            | Event::QueueDeleted { channel, .. }
            | Event::QueuePurged { channel, .. }
            | Event::Consuming { channel, .. }
            | Event::ConsumerGone { channel, .. }
            | Event::GetEmpty { channel }
            | Event::Echo { channel, .. } => *channel,
            // Events for other protocols, and answers of the directory to nothing we asked.
            _ => return Ok(()),
        };
        if let Event::Done {
            op: Op::CloseChannel, ..
        } = event
        {
            if self.channels.closed(number) {
                frame::Channel::CloseOk {}.encode(number, cx.out);
            }
            return Ok(());
        }
        if number == 0 {
            // Channel 0 is used by the session itself, for the queues of direct reply-to.
            return match event {
                Event::Failed { op, fault, .. } => Err((0, Error::Connection(map::reply(&fault, map::method(op))))),
                _ => Ok(()),
            };
        }
        if let Event::Done {
            op: Op::OpenChannel, ..
        }
        | Event::Failed {
            op: Op::OpenChannel, ..
        } = event
        {
            self.channels.opening = self.channels.opening.saturating_sub(1);
        }
        let (channels, mut env) = self.split(cx, number);
        match channels.addressed(number) {
            Some(channel) => channel.event(&mut env, event).map_err(|error| (number, error)),
            None => Ok(()),
        }
    }
}
