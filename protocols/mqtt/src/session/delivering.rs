//! Outgoing messages: sends PUBLISH and PUBREL; handles PUBACK, PUBREC and PUBCOMP.
//!
//! The engine owns packet ids and the window. Kept here is which ids belong to QoS 2 messages and whether they were
//! released. An acknowledgement of the wrong type is a protocol error and must not settle anything.

use crate::Shared;
use crate::error::{Error, Reason};
use crate::frame::{Ack, Kind, Version, is_plain, publish_first_byte, varint, write_publish};
use crate::map::{self, ORIGIN};
use crate::session::terms::Terms;
use gatepost_core::command::{Command, Outcome};
use gatepost_core::event::{Delivery, DeliveryFlags};
use gatepost_core::interop::Field;
use gatepost_core::message::{Dialect, Message};
use gatepost_core::packet_ids::ByPacketId;
use gatepost_core::properties::Origin;
use gatepost_core::session::Cx;
use gatepost_core::time::Wall;
use gatepost_core::topic::translate;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::collections::HashMap;
use tracing::debug;

pub(super) struct Delivering {
    version: Version,
    packet_bytes_max: usize,
    topic_alias_maximum: u16,
    /// Topics that have an alias, in order of first use, up to the client's maximum. Most clients allow none.
    aliases: Option<Box<Aliases>>,
    /// QoS 2 packet ids in flight on this connection, each with whether PUBREL was sent.
    exactly_once: ByPacketId<bool>,
}

/// Aliases by topic.
#[derive(Default)]
struct Aliases {
    by_topic: HashMap<Box<[u8]>, u16>,
    /// Approximate memory, in bytes.
    bytes: usize,
}

/// Properties that a delivery adds after the message's own: expiry and subscription ids.
type Tail = SmallVec<[u8; 32]>;

impl Delivering {
    pub(super) fn new(terms: &Terms) -> Delivering {
        Delivering {
            version: terms.version,
            packet_bytes_max: terms.packet_bytes_max,
            topic_alias_maximum: terms.topic_alias_maximum_out,
            aliases: None,
            exactly_once: ByPacketId::default(),
        }
    }

    /// Approximate memory of the topics with aliases, in bytes.
    pub(super) fn alias_bytes(&self) -> usize {
        self.aliases.as_ref().map_or(0, |aliases| aliases.bytes)
    }

    /// The largest packet that the client accepts, in bytes.
    pub(super) fn packet_bytes_max(&self) -> usize {
        self.packet_bytes_max
    }

    pub(super) fn deliver(&mut self, shared: &Shared, cx: &mut Cx<'_>, delivery: Delivery) {
        let message = &delivery.message;
        // Packet ids have 16 bits; the engine's number is one.
        let packet_id = if delivery.qos > 0 { delivery.number as u16 } else { 0 };
        let Some(topic) = topic(message) else {
            shared.drops.count(message.envelope().origin, Field::Topic);
            debug!(
                key_bytes = message.key_bytes().len(),
                "dropped: the key is no topic name"
            );
            return skip(cx, &delivery);
        };
        let dup = delivery.qos > 0 && delivery.flags.contains(DeliveryFlags::REDELIVERED);
        let first = publish_first_byte(dup, delivery.qos, delivery.flags.contains(DeliveryFlags::RETAIN));
        let written = if self.version == Version::V5 {
            self.put_v5(shared, cx, &delivery, first, &topic, packet_id)
        } else {
            // MQTT 3 has no properties.
            if message.envelope().origin != Origin::NONE && !message.properties_raw().is_empty() {
                shared.drops.count(message.envelope().origin, Field::Properties);
            }
            write_publish(
                cx.out,
                self.packet_bytes_max,
                first,
                &topic,
                packet_id,
                None,
                message.body(),
            )
        };
        if written != Ok(true) {
            // [MQTT-3.1.2-25]
            shared.count_oversize();
            debug!(
                body_bytes = message.body().len(),
                "dropped: larger than the client's maximum packet size"
            );
            return skip(cx, &delivery);
        }
        if delivery.qos == 2 {
            self.exactly_once.insert(packet_id, false);
        }
    }

    fn put_v5(
        &mut self,
        shared: &Shared,
        cx: &mut Cx<'_>,
        delivery: &Delivery,
        first: u8,
        topic: &[u8],
        packet_id: u16,
    ) -> Result<bool, Error> {
        let message = &delivery.message;
        let foreign;
        let raw = match message.envelope().origin {
            Origin::NONE => &[],
            ORIGIN => message.properties_raw(),
            origin => {
                let dropped = |field| shared.drops.count(origin, field);
                foreign = map::publish_properties(&message.properties(cx.codecs), dropped);
                foreign.as_properties().raw()
            }
        };
        let tail = tail(cx.now.wall, delivery);
        let mut put = |topic: &[u8], alias: Option<u16>| {
            let alias = alias.map(|alias| {
                let [high, low] = alias.to_be_bytes();
                [0x23, high, low]
            });
            let alias = alias.as_ref().map_or(&[][..], |bytes| bytes);
            let parts = Some([alias, raw, &tail[..]]);
            write_publish(
                cx.out,
                self.packet_bytes_max,
                first,
                topic,
                packet_id,
                parts,
                message.body(),
            )
        };
        if self.topic_alias_maximum == 0 {
            return put(topic, None);
        }
        let aliases = &mut **self.aliases.get_or_insert_default();
        if let Some(&alias) = aliases.by_topic.get(topic) {
            return put(b"", Some(alias));
        }
        // [MQTT-3.1.2-26]: aliases are 1 to the maximum.
        let next = u16::try_from(aliases.by_topic.len() + 1)
            .ok()
            .filter(|&next| next <= self.topic_alias_maximum);
        if let Some(alias) = next
            && put(topic, Some(alias))?
        {
            aliases.bytes += topic.len() + size_of::<(Box<[u8]>, u16)>();
            aliases.by_topic.insert(topic.into(), alias);
            return Ok(true);
        }
        put(topic, None)
    }

    /// PUBACK.
    pub(super) fn acknowledged(&mut self, cx: &mut Cx<'_>, ack: &Ack<'_>) -> Result<(), Error> {
        if self.exactly_once.contains_key(&ack.packet_id) {
            return Err(Error::Protocol("PUBACK for a message of quality of service 2"));
        }
        // Whatever its reason code, the message is not sent again [MQTT-4.4.0-2].
        settle(cx, ack.packet_id);
        Ok(())
    }

    /// PUBREC.
    pub(super) fn received(&mut self, cx: &mut Cx<'_>, ack: &Ack<'_>) -> Result<(), Error> {
        if !ack.reason.is_failure() {
            // Also for unknown ids: the engine reports them, and PUBREL tells the client.
            cx.commands.push(Command::Received {
                packet_id: ack.packet_id,
            });
        } else if self.exactly_once.remove(&ack.packet_id).is_some() {
            settle(cx, ack.packet_id); // [MQTT-4.3.3-4]
        } else {
            stray(cx, ack.packet_id);
        }
        Ok(())
    }

    /// The engine wants PUBREL sent for an id: after PUBREC, or when a session resumes.
    pub(super) fn release(&mut self, packet_id: u16, known: bool, out: &mut Vec<u8>) {
        if known {
            self.exactly_once.insert(packet_id, true);
        }
        let reason = if known {
            Reason::SUCCESS
        } else {
            Reason::PACKET_ID_NOT_FOUND
        };
        Ack::write(Kind::PubRel, packet_id, reason, self.version, out);
    }

    /// PUBCOMP.
    pub(super) fn completed(&mut self, cx: &mut Cx<'_>, ack: &Ack<'_>) -> Result<(), Error> {
        match self.exactly_once.remove(&ack.packet_id) {
            Some(true) => {
                settle(cx, ack.packet_id);
                Ok(())
            }
            Some(false) => Err(Error::Protocol("PUBCOMP before PUBREL")),
            // The answer to a PUBREL that said "unknown", or an answer to a message of QoS 1.
            None => {
                stray(cx, ack.packet_id);
                Ok(())
            }
        }
    }
}

/// A message's key as a topic name, if it can be one. A key that came from MQTT goes out unchanged.
fn topic(message: &Message) -> Option<Cow<'_, [u8]>> {
    if message.envelope().dialect == Dialect::Slash {
        return Some(Cow::Borrowed(message.key_bytes()));
    }
    let topic = translate(message.key(), Dialect::Dot, Dialect::Slash)?;
    if !is_plain(&topic) {
        // The standard allows it, but strict clients close the connection when they read it.
        return None;
    }
    Some(match topic {
        Cow::Borrowed(topic) => Cow::Borrowed(topic.as_bytes()),
        Cow::Owned(topic) => Cow::Owned(topic.into_bytes()),
    })
}

/// Frees the delivery's window and packet id. MQTT can only accept a message.
fn settle(cx: &mut Cx<'_>, packet_id: u16) {
    let number = u64::from(packet_id);
    cx.commands.push(Command::Settle {
        channel: 0,
        number,
        multiple: false,
        outcome: Outcome::Accept,
    });
}

/// An acknowledgement of QoS 2 for an id that is not of a QoS 2 message. Only the engine knows the ids of QoS 1:
/// keeping them here too would cost a hash per message.
fn stray(cx: &mut Cx<'_>, packet_id: u16) {
    cx.commands.push(Command::Stray { packet_id });
}

/// Settles a delivery that is not sent.
fn skip(cx: &mut Cx<'_>, delivery: &Delivery) {
    if delivery.qos > 0 {
        settle(cx, delivery.number as u16);
    }
}

fn tail(now: Wall, delivery: &Delivery) -> Tail {
    let mut tail = Tail::new();
    if let Some(seconds) = expiry_left(now, &delivery.message) {
        tail.push(0x02);
        tail.extend_from_slice(&seconds.to_be_bytes()); // [MQTT-3.3.2-6]
    }
    for &id in delivery.extra.iter().flat_map(|extra| &extra.subscription_ids) {
        tail.push(0x0B);
        varint::write(id, &mut tail); // [MQTT-3.3.4-3]
    }
    tail
}

/// Remaining seconds to live, rounded up: 0 would mean expired, and only the engine decides that.
fn expiry_left(now: Wall, message: &Message) -> Option<u32> {
    let left = message.envelope().deadline? - now;
    Some(
        u32::try_from(left.as_millis().div_ceil(1000))
            .unwrap_or(u32::MAX)
            .max(1),
    )
}
