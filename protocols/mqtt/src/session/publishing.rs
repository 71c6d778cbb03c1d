//! Incoming messages: handles PUBLISH; sends PUBACK, PUBREC and PUBCOMP.
//!
//! The engine confirms by watermark, and acknowledgements are sent in the order of the messages [MQTT-4.6.0-2]. So the
//! pending acknowledgements are a queue of packet ids, each with the number of the publish that must be confirmed
//! first.

use crate::Shared;
use crate::error::{Error, Reason};
use crate::frame::{Ack, Kind, Properties, Property, Publish, Version};
use crate::map::{self, ORIGIN};
use crate::session::terms::Terms;
use crate::settings::Settings;
use gatepost_core::command::{Command, PublishFlags};
use gatepost_core::fault::FaultKind;
use gatepost_core::message::{Address, Dialect, Envelope, Message};
use gatepost_core::packet_ids::PacketIds;
use gatepost_core::properties::Origin;
use gatepost_core::session::{Close, Cx};
use std::collections::VecDeque;
use std::time::Duration;

/// MQTT has one publisher per connection.
const CHANNEL: u16 = 0;

pub(super) struct Publishing {
    version: Version,
    /// The receive maximum that we announced.
    receive_maximum: u16,
    /// Whether exceeding it is an error. If not, reading stops at it.
    enforce: bool,
    topic_alias_maximum: u16,
    /// `aliases[n - 1]` is the topic of alias n. Grows to the highest alias used.
    aliases: Vec<Option<Box<str>>>,
    /// Number of the last publish that the engine is to confirm.
    last: u64,
    /// All publishes up to this number are confirmed.
    confirmed: u64,
    /// Pending acknowledgements, in order of arrival. Their numbers never decrease.
    owed: VecDeque<Owed>,
    /// How many of `owed` are of QoS 1.
    owed_qos1: usize,
    /// Packet ids of QoS 2 messages from PUBLISH to PUBCOMP on this connection. Kept only if `enforce` is set.
    unreleased: PacketIds,
    /// The topic that the client probably publishes to next.
    known: Option<Box<KnownTopic>>,
    /// Messages to other topics since it was remembered.
    missed: u8,
}

/// A topic that was published to. Most clients publish to few, and checking and hashing a topic is a tenth of what a message
/// costs in all.
pub(super) struct KnownTopic(Address);

/// A longer topic is not remembered.
const KNOWN_BYTES_MAX: usize = 256;
/// After so many messages to others, another topic is remembered: a client that publishes to many in turn need not pay for each.
const MISSES: u8 = 16;

impl KnownTopic {
    /// The topic. It is not empty.
    #[inline]
    pub(super) fn text(&self) -> &str {
        self.0.key()
    }
}

struct Owed {
    /// The publish that must be confirmed first.
    number: u64,
    packet_id: u16,
    qos: u8,
    /// What the acknowledgement says.
    reason: Reason,
}

/// What happens to a client's message on a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    /// It is published.
    Allowed,
    /// It is dropped, because the topic belongs to the broker. MQTT 5 clients are told so. MQTT 3 clients get an
    /// acknowledgement: bridges and monitors publish there, and a refusal would end their connection for a message that nobody
    /// needs.
    Discarded,
    /// It is refused: the topic is a prefix for subscriptions only.
    Refused,
}

impl Writing {
    pub(super) fn to(topic: &str) -> Writing {
        if !topic.starts_with('$') {
            return Writing::Allowed;
        }
        let below = |prefix| {
            topic
                .strip_prefix(prefix)
                .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if let Some(rest) = below("$SYS") {
            // A Mosquitto bridge publishes here whether it is connected, as retained message and as retained will.
            let bridge = rest
                .strip_prefix("/broker/connection/")
                .and_then(|rest| rest.strip_suffix("/state"));
            return match bridge {
                Some(id) if !id.is_empty() => Writing::Allowed,
                _ => Writing::Discarded,
            };
        }
        match below("$share") {
            Some(_) => Writing::Refused,
            None => Writing::Allowed,
        }
    }
}

/// A message's properties without those that belong to the hop or to the envelope.
pub(super) struct Normalised<'a> {
    pub(super) raw: &'a [u8],
    pub(super) alias: Option<u16>,
    pub(super) expiry: Option<u32>,
    pub(super) will_delay: Option<u32>,
}

impl<'a> Normalised<'a> {
    /// Copies the remaining properties into `scratch`, unless all remain.
    pub(super) fn of(properties: Properties<'a>, scratch: &'a mut Vec<u8>) -> Normalised<'a> {
        let mut to = Normalised {
            raw: properties.raw(),
            alias: None,
            expiry: None,
            will_delay: None,
        };
        if properties.is_empty() {
            return to;
        }
        for property in properties.iter() {
            match property {
                Property::TopicAlias(alias) => to.alias = Some(alias),
                Property::MessageExpiry(seconds) => to.expiry = Some(seconds),
                Property::WillDelay(seconds) => to.will_delay = Some(seconds),
                _ => {}
            }
        }
        if to.alias.is_some() || to.expiry.is_some() || to.will_delay.is_some() {
            scratch.clear();
            for (property, span) in properties.spans() {
                if !matches!(
                    property,
                    Property::TopicAlias(_) | Property::MessageExpiry(_) | Property::WillDelay(_)
                ) {
                    scratch.extend_from_slice(span);
                }
            }
            to.raw = scratch;
        }
        to
    }
}

impl Publishing {
    pub(super) fn new(settings: &Settings, terms: &Terms) -> Publishing {
        Publishing {
            version: terms.version,
            receive_maximum: settings.receive_maximum.max(1),
            enforce: terms.version == Version::V5 && settings.enforce_receive_maximum,
            topic_alias_maximum: terms.topic_alias_maximum_in,
            aliases: Vec::new(),
            last: 0,
            confirmed: 0,
            owed: VecDeque::new(),
            owed_qos1: 0,
            unreleased: PacketIds::default(),
            known: None,
            missed: 0,
        }
    }

    /// Takes the known topic out, for [`Publish::decode_with`].
    #[inline]
    pub(super) fn take_known(&mut self) -> Option<Box<KnownTopic>> {
        self.known.take()
    }

    /// Puts it back, unless another was remembered meanwhile.
    #[inline]
    pub(super) fn keep_known(&mut self, known: Option<Box<KnownTopic>>) {
        if self.known.is_none() {
            self.known = known;
        }
    }

    /// Remembers a topic that was published to. `is_first`: none is known.
    #[inline(never)]
    fn learn(&mut self, exchange: &str, topic: &str, is_first: bool) {
        self.missed += 1;
        if topic.len() <= KNOWN_BYTES_MAX && (is_first || self.missed >= MISSES) {
            self.missed = 0;
            let address = Address::new(exchange, topic, Dialect::Slash);
            self.known = Some(Box::new(KnownTopic(address)));
        }
        self.missed = self.missed.min(MISSES);
    }

    /// Whether the client may send another message. If the limit is enforced it always may: exceeding it ends the
    /// connection.
    pub(super) fn has_room(&self) -> bool {
        self.enforce || self.owed.len() < usize::from(self.receive_maximum)
    }

    /// A message. `known`: what [`Publishing::take_known`] has given.
    pub(super) fn publish(
        &mut self,
        shared: &Shared,
        cx: &mut Cx<'_>,
        packet: &Publish<'_>,
        known: Option<&KnownTopic>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let settings = &shared.settings;
        if packet.qos > settings.maximum_qos {
            return Err(Error::Reason(
                Reason::QOS_NOT_SUPPORTED,
                "the quality of service is not supported",
            ));
        }
        if packet.retain && !settings.retain_available {
            return Err(Error::Reason(
                Reason::RETAIN_NOT_SUPPORTED,
                "retained messages are not supported",
            ));
        }
        if packet.payload.len() > settings.max_message_size {
            return Err(Error::Reason(Reason::PACKET_TOO_LARGE, "the message is too large"));
        }
        if self.enforce && packet.qos > 0 {
            self.count(packet)?;
        }
        let Normalised { raw, alias, expiry, .. } = Normalised::of(packet.properties, scratch);
        let topic = match alias {
            None if packet.topic.is_empty() => return Err(Error::Protocol("neither topic nor alias")),
            None => packet.topic,
            Some(alias) => resolve(&mut self.aliases, self.topic_alias_maximum, alias, packet.topic)?,
        };
        let same = known.filter(|known| std::ptr::eq(known.text(), topic));
        let writing = match same {
            Some(_) => Writing::Allowed,
            None => Writing::to(topic),
        };
        let refusal = if writing == Writing::Refused {
            Some((Reason::NOT_AUTHORIZED, "the topic only names shared subscriptions"))
        } else if writing == Writing::Discarded && self.version == Version::V5 {
            // A PUBACK that says yes means that the message is stored.
            Some((Reason::NOT_AUTHORIZED, "the topic is the broker's own"))
        } else if same.is_none() && shared.refuses_levels(topic) {
            Some((Reason::TOPIC_INVALID, "the topic has too many levels"))
        } else {
            None
        };
        if let Some((reason, text)) = refusal {
            return self.refuse(settings, cx, packet, reason, text);
        }
        let numbered = writing == Writing::Allowed;
        if numbered {
            let envelope = Envelope {
                origin: if raw.is_empty() { Origin::NONE } else { ORIGIN },
                dialect: Dialect::Slash,
                durable: packet.qos > 0,
                qos: packet.qos,
                retain: packet.retain,
                deadline: expiry.map(|seconds| cx.now.wall + Duration::from_secs(seconds.into())),
                received: cx.now.wall,
                ..Envelope::default()
            };
            cx.commands.push(Command::Publish {
                channel: CHANNEL,
                flags: match self.version {
                    // MQTT 5 4.6 [MQTT-4.6.0-5]: messages are ordered within a topic and a QoS, so a QoS 0 message may
                    // pass others.
                    _ if packet.qos == 0 => PublishFlags::PASSING,
                    Version::V5 => PublishFlags::CONFIRM | PublishFlags::TELL_UNROUTED,
                    // Their PUBACK and PUBREC cannot refuse.
                    Version::V31 | Version::V311 => PublishFlags::CONFIRM | PublishFlags::PATIENT,
                },
                packet_id: if packet.qos == 2 { packet.packet_id } else { 0 },
                message: match same {
                    Some(KnownTopic(address)) => Message::to(address, envelope, raw, packet.payload),
                    None => Message::new(envelope, &settings.exchange, topic, raw, packet.payload),
                },
            });
            if same.is_none() && alias.is_none() {
                self.learn(&settings.exchange, packet.topic, known.is_none());
            }
        }
        if packet.qos > 0 {
            self.owe(cx, packet, numbered, Reason::SUCCESS);
        }
        Ok(())
    }

    /// Refuses a message that the engine has not seen.
    ///
    /// # Errors
    /// There is no acknowledgement that can refuse: in MQTT 3, and at QoS 0 if the topic itself is wrong.
    fn refuse(
        &mut self,
        settings: &Settings,
        cx: &mut Cx<'_>,
        packet: &Publish<'_>,
        reason: Reason,
        text: &'static str,
    ) -> Result<(), Error> {
        match packet.qos {
            // A QoS 0 message has no acknowledgement; it is dropped.
            0 if reason == Reason::NOT_AUTHORIZED => Ok(()),
            1.. if self.version == Version::V5 => {
                self.owe(cx, packet, false, settings.disclosed(reason));
                Ok(())
            }
            _ => Err(Error::Reason(reason, text)),
        }
    }

    /// Adds a pending acknowledgement. `numbered`: the engine will confirm the message. Others wait for the one before
    /// them.
    fn owe(&mut self, cx: &mut Cx<'_>, packet: &Publish<'_>, numbered: bool, reason: Reason) {
        self.last += u64::from(numbered);
        self.owed_qos1 += usize::from(packet.qos == 1);
        self.owed.push_back(Owed {
            number: self.last,
            packet_id: packet.packet_id,
            qos: packet.qos,
            reason,
        });
        if !numbered {
            self.acknowledge(cx.out);
        }
    }

    /// Counts a message against the receive maximum; a repeated one counts once.
    fn count(&mut self, packet: &Publish<'_>) -> Result<(), Error> {
        let most = usize::from(self.receive_maximum);
        let counted = packet.qos == 2 && self.unreleased.contains(&packet.packet_id);
        let in_flight = self.owed_qos1 + self.unreleased.len();
        // The second condition bounds the acknowledgements for a client that repeats one QoS 2 message without end.
        if (!counted && in_flight >= most) || self.owed.len() >= most {
            // [MQTT-3.3.4-7]
            return Err(Error::Reason(
                Reason::RECEIVE_MAXIMUM_EXCEEDED,
                "more messages in flight than allowed",
            ));
        }
        if packet.qos == 2 {
            self.unreleased.insert(packet.packet_id);
        }
        Ok(())
    }

    /// The engine has confirmed all publishes up to number `upto`.
    pub(super) fn confirmed(&mut self, upto: u64, out: &mut Vec<u8>) {
        self.confirmed = self.confirmed.max(upto);
        self.acknowledge(out);
    }

    fn acknowledge(&mut self, out: &mut Vec<u8>) {
        while let Some(owed) = self.owed.front() {
            if owed.number > self.confirmed {
                break;
            }
            let (packet_id, reason) = (owed.packet_id, owed.reason);
            let kind = if owed.qos == 1 {
                self.owed_qos1 -= 1;
                Kind::PubAck
            } else {
                if reason.is_failure() {
                    // [MQTT-4.3.3-9]: no PUBREL will come.
                    self.unreleased.remove(&packet_id);
                }
                Kind::PubRec
            };
            Ack::write(kind, packet_id, reason, self.version, out);
            self.owed.pop_front();
        }
    }

    /// The engine refused a publish; its acknowledgement will report it.
    ///
    /// # Errors
    /// An MQTT 3 client can only be told that the message is safe, which would be wrong. Unacknowledged, it sends the
    /// message again when it reconnects.
    pub(super) fn refused(&mut self, settings: &Settings, number: u64, why: FaultKind) -> Result<(), Close> {
        if self.version != Version::V5 {
            return Err(Close::abnormal(format!("a message was refused ({why:?})")));
        }
        self.note_reason(number, settings.disclosed(map::reason(why)));
        Ok(())
    }

    /// The engine found no subscription for a publish; its acknowledgement will say so.
    // MQTT 5 3.4.2.1, 3.5.2.1
    pub(super) fn unrouted(&mut self, number: u64) {
        self.note_reason(number, Reason::NO_MATCHING_SUBSCRIBERS);
    }

    fn note_reason(&mut self, number: u64, reason: Reason) {
        // The first with that number is the publish. Further ones are refusals of this session that wait for it.
        let at = self.owed.partition_point(|owed| owed.number < number);
        if let Some(owed) = self.owed.get_mut(at).filter(|owed| owed.number == number) {
            owed.reason = reason;
        }
    }

    /// Approximate memory of the topics with aliases and of the known topic, in bytes.
    pub(super) fn alias_bytes(&self) -> usize {
        let named = self.aliases.iter().flatten();
        let aliases: usize = named.map(|topic| topic.len() + size_of::<Box<str>>()).sum();
        let known = self.known.as_deref();
        aliases + known.map_or(0, |KnownTopic(address)| size_of::<KnownTopic>() + address.memory())
    }

    /// The engine has released a QoS 2 message's packet id.
    pub(super) fn released(&mut self, packet_id: u16, known: bool, out: &mut Vec<u8>) {
        self.unreleased.remove(&packet_id);
        let reason = if known {
            Reason::SUCCESS
        } else {
            Reason::PACKET_ID_NOT_FOUND
        };
        Ack::write(Kind::PubComp, packet_id, reason, self.version, out);
    }
}

/// The topic that an alias stands for. If `topic` is not empty, it becomes the alias's topic.
fn resolve<'a>(
    aliases: &'a mut Vec<Option<Box<str>>>,
    most: u16,
    alias: u16,
    topic: &'a str,
) -> Result<&'a str, Error> {
    if alias == 0 || alias > most {
        // [MQTT-3.3.2-8], [MQTT-3.2.2-17]
        return Err(Error::Reason(
            Reason::TOPIC_ALIAS_INVALID,
            "a topic alias is out of range",
        ));
    }
    let index = usize::from(alias) - 1;
    if topic.is_empty() {
        let known = aliases.get(index).and_then(Option::as_deref);
        return known.ok_or(Error::Protocol("a topic alias that stands for nothing"));
    }
    if aliases.len() <= index {
        aliases.resize(index + 1, None);
    }
    if let Some(slot) = aliases.get_mut(index)
        && slot.as_deref() != Some(topic)
    {
        *slot = Some(topic.into());
    }
    Ok(topic)
}
