//! Outgoing messages: `basic.deliver`, `basic.get-ok`, `basic.return`, and their content.

use super::channel::Channel;
use super::env::Env;
use crate::frame::content::put_header;
use crate::frame::field::SHORT_MAX;
use crate::frame::{BODY, Basic, HEAD, OVERHEAD, put_deliver, put_frame};
use crate::properties::{self, Notes, ORIGIN};
use gatepost_core::command::{Command, Outcome};
use gatepost_core::event::{Delivery, DeliveryFlags};
use gatepost_core::interop::Field;
use gatepost_core::message::{Dialect, Message};
use gatepost_core::topic;
use std::borrow::Cow;

impl Channel {
    pub(super) fn deliver(&self, env: &mut Env<'_, '_>, delivery: &Delivery) {
        // The consumer is gone. The engine knows, and requeues the message.
        let Some(consumer) = self.consumer(delivery.consumer) else {
            return;
        };
        let message = &delivery.message;
        let Some(key) = key(message) else {
            return skip(env, delivery);
        };
        env.cx.out.reserve(message.payload().len() + HEADROOM);
        put_deliver(
            env.cx.out,
            env.number,
            &consumer.tag,
            delivery.number,
            delivery.flags.contains(DeliveryFlags::REDELIVERED),
            message.exchange_bytes(),
            &key,
        );
        put_content(env, message, notes(delivery));
    }

    pub(super) fn got(&self, env: &mut Env<'_, '_>, delivery: &Delivery, remaining: u32) {
        let message = &delivery.message;
        let Some(key) = key(message) else {
            // More messages may be ready, but this answer cannot carry another one.
            Basic::GetEmpty { reserved: "" }.encode(env.number, env.cx.out);
            return skip(env, delivery);
        };
        let get_ok = Basic::GetOk {
            number: delivery.number,
            redelivered: delivery.flags.contains(DeliveryFlags::REDELIVERED),
            exchange: message.exchange(),
            key: &String::from_utf8_lossy(&key),
            remaining,
        };
        get_ok.encode(env.number, env.cx.out);
        put_content(env, message, notes(delivery));
    }

    /// 1.8.3.8. The text is `NO_ROUTE` alone, because clients compare it.
    pub(super) fn returned(&self, env: &mut Env<'_, '_>, message: &Message) {
        let Some(key) = key(message) else {
            debug_assert!(false, "its publisher said the key");
            return;
        };
        let returned = Basic::Return {
            code: 312,
            text: "NO_ROUTE",
            exchange: message.exchange(),
            key: &String::from_utf8_lossy(&key),
        };
        returned.encode(env.number, env.cx.out);
        put_content(env, message, Notes::default());
    }
}

/// Usual size of method and header frames without the payload. Reserved at once, so the buffer grows once and not in
/// steps.
const HEADROOM: usize = 128;

/// The routing key in the dot dialect. `None` if it does not fit into a short string; cut, it would be another key.
fn key(message: &Message) -> Option<Cow<'_, [u8]>> {
    let key = if message.envelope().dialect == Dialect::Dot {
        Cow::Borrowed(message.key_bytes())
    } else {
        match topic::translate(message.key(), Dialect::Slash, Dialect::Dot) {
            Some(Cow::Owned(key)) => Cow::Owned(key.into_bytes()),
            Some(Cow::Borrowed(key)) => Cow::Borrowed(key.as_bytes()),
            None => Cow::Borrowed(message.key_bytes()),
        }
    };
    (key.len() <= SHORT_MAX).then_some(key)
}

/// Drops a message whose key AMQP cannot express. It is settled, so that it is not delivered again and again.
fn skip(env: &mut Env<'_, '_>, delivery: &Delivery) {
    env.drops.count(delivery.message.envelope().origin, Field::Topic);
    tracing::debug!(
        key_bytes = delivery.message.key_bytes().len(),
        "dropped: the routing key is too long for AMQP"
    );
    if delivery.qos > 0 {
        env.cx.commands.push(Command::Settle {
            channel: env.number,
            number: delivery.number,
            multiple: false,
            outcome: Outcome::Accept,
        });
    }
}

fn notes(delivery: &Delivery) -> Notes {
    Notes {
        retained: delivery.flags.contains(DeliveryFlags::RETAIN),
        returned: delivery.extra.as_ref().and_then(|extra| extra.returned),
    }
}

/// Writes header and body frames.
fn put_content(env: &mut Env<'_, '_>, message: &Message, notes: Notes) {
    let body = message.body();
    let envelope = message.envelope();
    let raw = message.properties_raw();
    let out = &mut *env.cx.out;
    put_header(out, env.number, body.len() as u64, |out| {
        if envelope.origin != ORIGIN {
            let drops = env.drops;
            properties::put_foreign(out, message, env.cx.codecs, env.cx.now.wall, notes, drops);
        } else if envelope.extra_keys || notes.returned.is_some() {
            properties::put_own(out, raw, notes.returned);
        } else {
            out.extend_from_slice(raw);
        }
    });
    let chunk = (env.frame_max as usize).saturating_sub(OVERHEAD).max(HEAD);
    for part in body.chunks(chunk) {
        put_frame(out, BODY, env.number, |out| out.extend_from_slice(part));
    }
}
