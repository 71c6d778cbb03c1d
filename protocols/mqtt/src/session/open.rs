//! An open session: handling of each packet and event, the keep-alive, and the end.

use crate::Shared;
use crate::codec::Frame;
use crate::error::{Error, Reason};
use crate::frame::{Ack, Disconnect, Kind, Property, PropertyBuf, Publish, Sender, Version};
use crate::map;
use crate::session::authenticating::{Authentication, refusal};
use crate::session::delivering::Delivering;
use crate::session::publishing::{KnownTopic, Publishing};
use crate::session::terms::{Terms, capped};
use crate::session::{closed, subscribing};
use crate::settings::Settings;
use gatepost_core::command::Command;
use gatepost_core::event::{CloseReason, Event, Op};
use gatepost_core::session::{Close, Cx};
use gatepost_core::time::{Now, Time};
use std::time::Duration;

/// An open session.
pub(super) struct Open {
    version: Version,
    bridge: bool,
    may_extend: bool,
    /// The driver does not read.
    paused: bool,
    /// One and a half times the keep-alive [MQTT-3.1.2-22].
    silence_max: Option<Duration>,
    /// When the client last sent a complete packet, or `PARTIAL_BYTES` of one.
    heard: Time,
    /// Bytes of an unfinished packet at `heard`.
    partial: usize,
    publishing: Publishing,
    delivering: Delivering,
    /// Present if CONNECT named a method.
    authentication: Option<Box<Authentication>>,
}

/// Why a packet ends the connection.
pub(super) enum End {
    Error(Error),
    Disconnect(Close),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        End::Error(error)
    }
}

/// An idle client costs this, its socket's task, and its session in the engine. Together they must stay within 1 KiB.
const _: () = assert!(size_of::<Open>() <= 288);

/// This many bytes of an unfinished packet reset the keep-alive. Otherwise a large message on a slow link would time
/// out. Mosquitto does the same.
const PARTIAL_BYTES: usize = 1000;

/// Work units for parsing one filter.
const FILTER_WORK: usize = 4;

impl Open {
    pub(super) fn new(
        settings: &Settings,
        terms: Terms,
        authentication: Option<Box<Authentication>>,
        now: Now,
    ) -> Open {
        Open {
            version: terms.version,
            bridge: terms.bridge,
            may_extend: terms.may_extend,
            paused: false,
            silence_max: (terms.keep_alive > 0).then(|| Duration::from_millis(u64::from(terms.keep_alive) * 1500)),
            heard: now.monotonic,
            partial: 0,
            publishing: Publishing::new(settings, &terms),
            delivering: Delivering::new(&terms),
            authentication,
        }
    }

    pub(super) fn bytes(&mut self, shared: &Shared, cx: &mut Cx<'_>, input: &[u8]) -> Result<usize, Close> {
        let limits = shared.settings.limits();
        let mut scratch = Vec::new();
        let mut used = 0;
        while self.reads() && !cx.is_full() {
            cx.work += 1;
            let rest = input.get(used..).unwrap_or_default();
            let frame = match Frame::cut(rest, self.version, &limits) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return Err(self.fail(cx, &error)),
            };
            match self.packet(shared, cx, &frame, &mut scratch) {
                Ok(()) => used += frame.size(),
                Err(End::Error(error)) => return Err(self.fail(cx, &error)),
                Err(End::Disconnect(close)) => return Err(close),
            }
        }
        let partial = input.len() - used;
        if used > 0 || partial >= self.partial.saturating_add(PARTIAL_BYTES) {
            self.heard = cx.now.monotonic;
            self.partial = partial;
        }
        Ok(used)
    }

    fn packet(
        &mut self,
        shared: &Shared,
        cx: &mut Cx<'_>,
        frame: &Frame<'_>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), End> {
        let Frame { header, body } = *frame;
        match header.kind {
            Kind::Publish => {
                // Taken out while the packet borrows from it.
                let known = self.publishing.take_known();
                let topic = known.as_deref().map_or("", KnownTopic::text);
                let packet = Publish::decode_with(header.flags, body, self.version, Sender::Client, topic)?;
                self.publishing
                    .publish(shared, cx, &packet, known.as_deref(), scratch)?;
                self.publishing.keep_known(known);
            }
            Kind::PubAck => self
                .delivering
                .acknowledged(cx, &Ack::decode(header.kind, body, self.version)?)?,
            Kind::PubRec => self
                .delivering
                .received(cx, &Ack::decode(header.kind, body, self.version)?)?,
            Kind::PubComp => self
                .delivering
                .completed(cx, &Ack::decode(header.kind, body, self.version)?)?,
            Kind::PubRel => {
                let Ack { packet_id, .. } = Ack::decode(header.kind, body, self.version)?;
                cx.commands.push(Command::Release { packet_id });
            }
            Kind::Subscribe => {
                let command = subscribing::subscribe(shared, self.version, self.bridge, body)?;
                cx.work += FILTER_WORK * command.filters.len();
                cx.commands.push(Command::Subscribe(Box::new(command)));
            }
            Kind::Unsubscribe => {
                let command = subscribing::unsubscribe(self.version, body)?;
                cx.work += FILTER_WORK * command.filters.len();
                cx.commands.push(Command::Unsubscribe(Box::new(command)));
            }
            // [MQTT-3.12.4-1]
            Kind::PingReq => cx.out.extend_from_slice(&[Kind::PingResp.first_byte(), 0]),
            Kind::Disconnect => return Err(self.client_disconnect(&shared.settings, cx, body)?),
            // [MQTT-3.1.0-2]
            Kind::Connect => return Err(Error::Protocol("a second CONNECT").into()),
            Kind::Auth => match &mut self.authentication {
                Some(authentication) => authentication.packet(cx, body)?,
                // [MQTT-4.12.0-7]
                None => return Err(Error::Protocol("AUTH without an authentication method").into()),
            },
            Kind::ConnAck | Kind::SubAck | Kind::UnsubAck | Kind::PingResp => {
                return Err(Error::Protocol("a packet that only servers send").into());
            }
        }
        Ok(())
    }

    fn client_disconnect(&self, settings: &Settings, cx: &mut Cx<'_>, body: &[u8]) -> Result<End, Error> {
        let packet = Disconnect::decode(body, self.version, Sender::Client)?;
        for property in packet.properties.iter() {
            if let Property::SessionExpiry(seconds) = property {
                if seconds != 0 && !self.may_extend {
                    // MQTT 5 3.14.2.2.2
                    return Err(Error::Protocol("a session expiry that CONNECT ruled out"));
                }
                cx.commands
                    .push(Command::SessionExpiry(capped(seconds, settings.session_expiry_max)));
            }
        }
        if packet.reason == Reason::SUCCESS {
            cx.commands.push(Command::DropWill); // [MQTT-3.14.4-3]
        }
        Ok(End::Disconnect(Close::normal(format!(
            "DISCONNECT {:?}",
            packet.reason
        ))))
    }

    pub(super) fn event(&mut self, shared: &Shared, cx: &mut Cx<'_>, event: Event) -> Result<(), Close> {
        match event {
            Event::Deliver(delivery) => self.delivering.deliver(shared, cx, delivery),
            Event::Confirmed { upto, .. } => {
                let read = self.reads();
                self.publishing.confirmed(upto, cx.out);
                if !read && self.reads() {
                    // We did not read, so silence of the client proves nothing.
                    self.heard = cx.now.monotonic;
                }
            }
            Event::Refused { number, why, .. } => {
                self.publishing.refused(&shared.settings, number, why)?;
                cx.complain(|| format!("a message was refused: {why:?}"));
            }
            Event::Unrouted { number, .. } => self.publishing.unrouted(number),
            Event::Released { packet_id, known } => self.publishing.released(packet_id, known, cx.out),
            Event::ReleaseDue { packet_id, known } => self.delivering.release(packet_id, known, cx.out),
            Event::Subscribed { packet_id, results } => {
                let bytes_max = self.delivering.packet_bytes_max();
                let refused = results.iter().filter_map(|result| result.as_ref().err());
                if let Some(why) = refused.clone().next() {
                    let (refused, all) = (refused.count(), results.len());
                    cx.complain(|| format!("{refused} of {all} subscriptions refused: {why:?}"));
                }
                if !subscribing::subscribed(&shared.settings, self.version, packet_id, &results, bytes_max, cx.out)? {
                    return Err(self.answer_too_large(cx));
                }
            }
            Event::Unsubscribed { packet_id, existed } => {
                let bytes_max = self.delivering.packet_bytes_max();
                if !subscribing::unsubscribed(self.version, packet_id, &existed, bytes_max, cx.out) {
                    return Err(self.answer_too_large(cx));
                }
            }
            Event::Failed {
                op: Op::Subscribe | Op::Unsubscribe | Op::OpenSession,
                fault,
                ..
            } => {
                return Err(self.send_disconnect(cx, map::reason(fault.kind), &fault.text));
            }
            Event::Failed { op: Op::Settle, .. } => {
                return Err(self.fail(
                    cx,
                    &Error::Protocol("an acknowledgement of QoS 2 for a message of QoS 1"),
                ));
            }
            Event::Challenge(_) | Event::Authenticated { .. } | Event::LoginRefused(_) => {
                return self.authenticated(cx, &event);
            }
            Event::Closed(why) => {
                let reason = match why {
                    CloseReason::Shutdown => Reason::SHUTTING_DOWN,
                    CloseReason::TakenOver => Reason::TAKEN_OVER, // [MQTT-3.1.4-3]
                    CloseReason::Forced | CloseReason::VhostDeleted | CloseReason::UserDeleted => {
                        Reason::ADMINISTRATIVE_ACTION
                    }
                    CloseReason::CredentialsExpired => Reason::NOT_AUTHORIZED,
                };
                self.send_disconnect(cx, reason, closed(why));
                return Err(Close::normal(closed(why)));
            }
            // MQTT has no answer to a refused QoS 0 message, but the operator should know.
            Event::Failed { fault, .. } => cx.complain(|| format!("a message at QoS 0 was refused: {fault}")),
            Event::ClosedBecause(why) => {
                self.send_disconnect(cx, Reason::ADMINISTRATIVE_ACTION, &why);
                return Err(Close::normal(closed(CloseReason::Forced)));
            }
            // Pressure (the driver withholds publishes), and answers for other protocols.
            _ => {}
        }
        Ok(())
    }

    /// The client authenticates again. It keeps its rights until that fails.
    fn authenticated(&mut self, cx: &mut Cx<'_>, event: &Event) -> Result<(), Close> {
        let bytes_max = self.delivering.packet_bytes_max();
        let Some(authentication) = self.authentication.as_mut().filter(|a| a.is_asked()) else {
            return Ok(());
        };
        // We did not read, so silence of the client proves nothing.
        self.heard = cx.now.monotonic;
        let fits = match event {
            Event::Challenge(data) => authentication.challenge(data, bytes_max, cx.out),
            Event::Authenticated { data, .. } => authentication.accept(data, bytes_max, cx.out),
            Event::LoginRefused(refused) => {
                let (reason, text) = refusal(refused.why, true);
                // DISCONNECT has no code for these (MQTT 5 3.14.2.1).
                let has_none = matches!(reason, Reason::BANNED | Reason::BAD_AUTHENTICATION_METHOD);
                let reason = if has_none { Reason::NOT_AUTHORIZED } else { reason };
                return Err(self.send_disconnect(cx, reason, text)); // [MQTT-4.12.1-2]
            }
            _ => true,
        };
        if fits { Ok(()) } else { Err(self.answer_too_large(cx)) }
    }

    /// The client asked for more in one packet than one answer can hold. Without the answer it would wait for ever, so
    /// it is disconnected.
    fn answer_too_large(&self, cx: &mut Cx<'_>) -> Close {
        let text = "the answer is larger than the client's Maximum Packet Size";
        self.send_disconnect(cx, Reason::PACKET_TOO_LARGE, text)
    }

    /// Ends the connection of a client that broke the protocol.
    fn fail(&self, cx: &mut Cx<'_>, error: &Error) -> Close {
        self.send_disconnect(cx, error.reason(), error.text());
        Close::abnormal(error.to_string())
    }

    /// Sends DISCONNECT, which MQTT 3 does not have.
    fn send_disconnect(&self, cx: &mut Cx<'_>, reason: Reason, text: &str) -> Close {
        if self.version == Version::V5 {
            let start = cx.out.len();
            let text_too = PropertyBuf::from_iter([Property::ReasonString(text)]);
            let packet = Disconnect {
                reason,
                properties: text_too.as_properties(),
            };
            let written = packet.encode(Version::V5, cx.out).is_ok();
            if !written || cx.out.len() - start > self.delivering.packet_bytes_max() {
                cx.out.truncate(start); // [MQTT-3.14.2-3]
                cx.out.extend_from_slice(&[Kind::Disconnect.first_byte(), 1, reason.0]);
            }
        }
        Close::abnormal(text)
    }

    /// Whether more packets may be parsed now.
    pub(super) fn reads(&self) -> bool {
        self.publishing.has_room() && self.authentication.as_ref().is_none_or(|a| !a.is_asked())
    }

    /// Approximate memory of topic aliases, in bytes.
    pub(super) fn alias_bytes(&self) -> usize {
        self.publishing.alias_bytes() + self.delivering.alias_bytes()
    }

    /// When the keep-alive ends. While we do not read, it does not run.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.silence_max
            .filter(|_| !self.paused && self.reads())
            .map(|most| self.heard + most)
    }

    /// The keep-alive has ended.
    pub(super) fn silent(&self, cx: &mut Cx<'_>) -> Close {
        self.send_disconnect(
            cx,
            Reason::KEEP_ALIVE_TIMEOUT,
            "nothing was heard within the keep-alive",
        )
    }

    pub(super) fn set_paused(&mut self, now: Now, paused: bool) {
        if self.paused && !paused {
            self.heard = now.monotonic;
        }
        self.paused = paused;
    }
}
