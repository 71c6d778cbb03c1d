//! From `basic.publish` and its content to a message (AMQP 0-9-1 4.2.6, 1.8.3.7).
//!
//! Usually a publish is complete in the input: method, header and one body frame. It becomes a message without being
//! assembled first. Anything else, cut by the end of the input or split into more frames, goes through [`Content`].

use super::channel::{Channel, Mode};
use super::content::{Address, Content};
use super::env::Env;
use super::known::{KnownProperties, KnownPublish};
use crate::codec;
use crate::error::{Code, ErlangOctets, Error, Reply};
use crate::frame::content::{BasicProperties, ContentHeader};
use crate::frame::table::{Fields, type_name};
use crate::frame::{BODY, HEADER};
use crate::map::REPLY_TO;
use crate::properties::{self, BCC, CC, ORIGIN, X_RETAIN};
use gatepost_core::command::{Command, PublishFlags, TryPublish};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::message::{self, Dialect, Envelope, Message};
use std::time::Duration;

const PUBLISH: (u16, u16) = (60, 40);

/// Maximum content size, whatever the settings allow. RabbitMQ's limit.
const ANNOUNCED_MAX: u64 = 536_870_912;

/// What is known of an address that was published to before, and of properties.
type Known<'a> = (&'a message::Address, &'a mut KnownProperties);

impl Channel {
    /// `basic.publish`, whose payload is `method`. `rest` is the input after the method's frame; returns how many octets of
    /// it were used.
    pub(super) fn publish(
        &mut self,
        env: &mut Env<'_, '_>,
        address: Address<&str>,
        method: &[u8],
        rest: &[u8],
    ) -> Result<usize, Error> {
        let used = self.publish_content(env, address, rest, None)?;
        let Address {
            exchange,
            key,
            mandatory,
            immediate,
        } = address;
        if !immediate {
            match &mut env.client.known {
                Some(known) => known.miss(method, exchange, key, mandatory),
                none => *none = KnownPublish::new(method, exchange, key, mandatory),
            }
        }
        Ok(used)
    }

    /// The same method once more.
    pub(super) fn publish_again(
        &mut self,
        env: &mut Env<'_, '_>,
        known: &mut KnownPublish,
        rest: &[u8],
    ) -> Result<usize, Error> {
        let address = Address {
            exchange: known.address.exchange(),
            key: known.address.key(),
            mandatory: known.mandatory,
            immediate: false,
        };
        self.publish_content(env, address, rest, Some((&known.address, &mut known.properties)))
    }

    fn publish_content(
        &mut self,
        env: &mut Env<'_, '_>,
        address: Address<&str>,
        rest: &[u8],
        known: Option<Known<'_>>,
    ) -> Result<usize, Error> {
        env.client.publishes = true;
        env.client.tell_blocked(env.cx.out);
        if let Some((header, body, used)) = whole_content(rest, env.number, env.frame_max)
            && body.len() <= env.settings.max_message_size
        {
            self.complete(env, address, header.properties, body, known)?;
            return Ok(used);
        }
        let address = Address {
            exchange: address.exchange.into(),
            key: address.key.into(),
            mandatory: address.mandatory,
            immediate: address.immediate,
        };
        self.content = Some(Box::new(Content {
            address,
            header: None,
            received: 0,
            body: Vec::new(),
        }));
        Ok(0)
    }

    /// Checks that a method frame may come now: inside a content it may not.
    pub(super) fn no_content_due(&self) -> Result<(), Error> {
        match self.content.as_deref() {
            None => Ok(()),
            Some(Content { header: None, .. }) => Err(header_due()),
            Some(_) => Err(body_due()),
        }
    }

    pub(super) fn content_header(&mut self, env: &mut Env<'_, '_>, payload: &[u8]) -> Result<(), Error> {
        let content = self.content.as_deref_mut().ok_or_else(not_a_method)?;
        if content.header.is_some() {
            return Err(body_due());
        }
        let header = ContentHeader::decode(payload).map_err(|_| undecodable(payload))?;
        if header.class != PUBLISH.0 {
            let detail = format!(
                "expected content header for class 60, got one for class {} instead",
                header.class
            );
            return Err(Error::new(Code::UnexpectedFrame, detail, PUBLISH));
        }
        if header.weight != 0 {
            return Err(header_due());
        }
        if header.size > ANNOUNCED_MAX {
            let size = header.size;
            let detail = format!("content body size {size} exceeds maximum allowed size {ANNOUNCED_MAX}");
            return Err(Error::new(Code::FrameError, detail, PUBLISH));
        }
        // Reported now and not when the body is complete: a client that encodes properties wrongly may never send the
        // body.
        BasicProperties::decode(header.properties).map_err(|_| undecodable(header.properties))?;
        content.header = Some((header.properties.into(), header.size));
        self.complete_if_all_there(env)
    }

    pub(super) fn content_body(&mut self, env: &mut Env<'_, '_>, payload: &[u8]) -> Result<(), Error> {
        let content = self.content.as_deref_mut().ok_or_else(not_a_method)?;
        let Some((_, size)) = content.header else {
            return Err(header_due());
        };
        content.received += payload.len() as u64;
        if content.received > size {
            let detail = "content body frame exceeds remaining content size";
            return Err(Error::new(Code::FrameError, detail, PUBLISH));
        }
        // A body that is too large is read to its end but not kept. So the error closes the channel alone, and the next
        // frame is found.
        if size <= env.settings.max_message_size as u64 {
            content.body.extend_from_slice(payload);
            env.count_unfinished(payload.len(), PUBLISH)?;
        }
        self.complete_if_all_there(env)
    }

    fn complete_if_all_there(&mut self, env: &mut Env<'_, '_>) -> Result<(), Error> {
        let complete = |c: &mut Box<Content>| c.header.as_ref().is_some_and(|(_, size)| *size == c.received);
        let Some(content) = self.content.take_if(complete) else {
            return Ok(());
        };
        *env.unfinished_bytes -= content.unfinished_bytes();
        let Content {
            address,
            header,
            received,
            body,
        } = *content;
        let max = env.settings.max_message_size;
        if received > max as u64 {
            let detail = format!("message size {received} is larger than configured max size {max}");
            return Err(Error::new(Code::PreconditionFailed, detail, PUBLISH));
        }
        let (properties, _) = header.unwrap_or_default();
        let Address {
            exchange,
            key,
            mandatory,
            immediate,
        } = &address;
        let address = Address {
            exchange: &**exchange,
            key: &**key,
            mandatory: *mandatory,
            immediate: *immediate,
        };
        self.complete(env, address, &properties, &body, None)
    }

    /// The content is complete: checks the properties and publishes.
    fn complete(
        &mut self,
        env: &mut Env<'_, '_>,
        address: Address<&str>,
        raw: &[u8],
        body: &[u8],
        known: Option<Known<'_>>,
    ) -> Result<(), Error> {
        if address.immediate {
            return Err(Error::new(Code::NotImplemented, "immediate=true", PUBLISH));
        }
        let message = match self.message(env, address, raw, body, known)? {
            Ok(message) => message,
            Err(detail) => return refuse(env, address, detail),
        };
        let payload = message.memory();
        let mut flags = PublishFlags::default();
        if address.mandatory {
            flags = flags | PublishFlags::MANDATORY;
        }
        if let Mode::Confirm = self.mode {
            flags = flags | PublishFlags::CONFIRM;
        }
        if let Mode::Transaction(_) = self.mode {
            // The exchange existed when the message was published. If it is deleted before the commit, the message is
            // unroutable, and the rest of the transaction is committed, as in RabbitMQ.
            flags = flags | PublishFlags::LENIENT;
        }
        let command = Command::Publish {
            channel: env.number,
            flags,
            packet_id: 0,
            message,
        };
        match &mut self.mode {
            Mode::Transaction(transaction) => {
                // Its faults are told now, and not at the commit.
                if let Command::Publish { channel, message, .. } = &command {
                    let (channel, message) = (*channel, message.clone());
                    let tried = TryPublish {
                        channel,
                        message,
                        refused: None,
                    };
                    env.cx.commands.push(Command::TryPublish(Box::new(tried)));
                }
                transaction.push(env, command, payload, PUBLISH)
            }
            _ => {
                env.cx.commands.push(command);
                Ok(())
            }
        }
    }

    /// Checks the properties and makes the message, or says why it is refused.
    fn message(
        &self,
        env: &mut Env<'_, '_>,
        address: Address<&str>,
        raw: &[u8],
        body: &[u8],
        known: Option<Known<'_>>,
    ) -> Result<Result<Message, String>, Error> {
        if let Some((to, properties)) = known {
            if let Some(envelope) = properties.envelope_of(raw) {
                let received = env.cx.now.wall;
                return Ok(Ok(Message::to(to, Envelope { received, ..envelope }, raw, body)));
            }
            let list = BasicProperties::decode(raw).map_err(|_| undecodable(raw))?;
            if list.reply_to != Some(REPLY_TO.as_bytes()) {
                return Ok(envelope(&list, env).map(|envelope| {
                    properties.miss(raw, &list, envelope);
                    Message::to(to, envelope, raw, body)
                }));
            }
        }
        let list = BasicProperties::decode(raw).map_err(|_| undecodable(raw))?;
        let envelope = match envelope(&list, env) {
            Ok(envelope) => envelope,
            Err(detail) => return Ok(Err(detail)),
        };
        if list.reply_to != Some(REPLY_TO.as_bytes()) {
            return Ok(Ok(Message::new(envelope, address.exchange, address.key, raw, body)));
        }
        let Some((queue, _)) = &self.replies else {
            return Ok(Err("fast reply consumer does not exist".into()));
        };
        let mut rewritten = Vec::with_capacity(raw.len() + queue.len());
        BasicProperties {
            reply_to: Some(queue.as_bytes()),
            ..list
        }
        .encode(&mut rewritten);
        Ok(Ok(Message::new(
            envelope,
            address.exchange,
            address.key,
            &rewritten,
            body,
        )))
    }
}

/// The header and at most one body frame at the start of `rest`. `None` if they are not complete or not valid.
fn whole_content(rest: &[u8], channel: u16, frame_max: u32) -> Option<(ContentHeader<'_>, &[u8], usize)> {
    let (frame, used) = codec::split(rest, frame_max).ok()??;
    if frame.kind != HEADER || frame.channel != channel {
        return None;
    }
    let header = ContentHeader::decode(frame.payload).ok()?;
    if header.class != PUBLISH.0 || header.weight != 0 {
        return None;
    }
    if header.size == 0 {
        return Some((header, &[], used));
    }
    let (frame, body_used) = codec::split(rest.get(used..)?, frame_max).ok()??;
    if frame.kind != BODY || frame.channel != channel || frame.payload.len() as u64 != header.size {
        return None;
    }
    Some((header, frame.payload, used + body_used))
}

/// Refuses a message for what it says. Only the engine knows whether its exchange exists and the user may publish to it,
/// and clients expect to be told that first.
fn refuse(env: &mut Env<'_, '_>, address: Address<&str>, detail: String) -> Result<(), Error> {
    let envelope = Envelope {
        origin: ORIGIN,
        dialect: Dialect::Dot,
        received: env.cx.now.wall,
        ..Envelope::default()
    };
    env.cx.commands.push(Command::TryPublish(Box::new(TryPublish {
        channel: env.number,
        message: Message::new(envelope, address.exchange, address.key, &[], &[]),
        refused: Some(Fault::new(FaultKind::PreconditionFailed, detail)),
    })));
    Ok(())
}

/// The parts of the properties that the engine needs, or why the message is refused. The checks run in RabbitMQ's order.
fn envelope(list: &BasicProperties<'_>, env: &Env<'_, '_>) -> Result<Envelope, String> {
    let deadline = match list.expiration {
        None => None,
        Some(octets) => {
            let ms = properties::expiration(octets)
                .map_err(|why| format!("invalid expiration '{}': {why}", String::from_utf8_lossy(octets)))?;
            Some(env.cx.now.wall + Duration::from_millis(ms))
        }
    };
    let mut extra_keys = false;
    let mut retain = false;
    for (name, value) in Fields(list.headers.unwrap_or_default()).flatten() {
        if name == CC.as_bytes() || name == BCC.as_bytes() {
            if value.letter != b'A' {
                let (name, kind) = (String::from_utf8_lossy(name), type_name(value.letter));
                return Err(format!(
                    "invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}"
                ));
            }
            extra_keys = true;
        } else if name == X_RETAIN.as_bytes() {
            retain = properties::is_true(value);
        }
    }
    if let Some(user) = list.user_id
        && user != env.client.user.as_bytes()
        && !env.client.impersonates
    {
        let user = String::from_utf8_lossy(user);
        let login = &env.client.user;
        return Err(format!(
            "user_id property set to '{user}' but authenticated user was '{login}'"
        ));
    }
    let durable = list.delivery_mode == Some(2);
    Ok(Envelope {
        origin: ORIGIN,
        dialect: Dialect::Dot,
        durable,
        qos: u8::from(durable),
        retain,
        extra_keys,
        priority: list.priority,
        deadline,
        received: env.cx.now.wall,
    })
}

fn header_due() -> Error {
    let detail = "expected content header for class 60, got non content header frame instead";
    Error::new(Code::UnexpectedFrame, detail, PUBLISH)
}

fn body_due() -> Error {
    Error::new(
        Code::UnexpectedFrame,
        "expected content body, got non content body frame instead",
        PUBLISH,
    )
}

fn undecodable(octets: &[u8]) -> Error {
    Reply::new(
        Code::FrameError,
        format!("cannot decode {}", ErlangOctets(octets)),
        PUBLISH,
    )
    .into()
}

pub(super) fn not_a_method() -> Error {
    Reply::frame(
        Code::UnexpectedFrame,
        "expected method frame, got non method frame instead",
    )
    .into()
}
