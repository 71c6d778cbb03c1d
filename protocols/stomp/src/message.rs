//! MESSAGE: a delivery. This is the hot path; a message that came in by STOMP is written without allocation.

use crate::destination::push_destination;
use crate::frame::escape::{escape, has_special};
use crate::frame::{Version, push_decimal, push_end};
use crate::map::{Context, push_foreign};
use crate::properties::{ORIGIN, push_lines};
use gatepost_core::event::{Delivery, DeliveryFlags};
use gatepost_core::message::{Dialect, Message};
use gatepost_core::topic;

/// The beginning of all MESSAGE frames of a subscription, built once.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    /// `MESSAGE`, `subscription:…` if it has an id, `destination:`.
    frame: Box<[u8]>,
    /// The ack id without its number.
    ack_id: Box<[u8]>,
    /// Whether MESSAGE frames get an `ack` header.
    explicit_ack: bool,
}

impl Opening {
    /// For a subscription that the client calls `id`; `ack_id` is the part of the ack id before the delivery's number.
    pub(crate) fn new(version: Version, id: Option<&str>, ack_id: &[u8], client_acks: bool) -> Opening {
        let mut frame = b"MESSAGE\n".to_vec();
        if let Some(id) = id {
            frame.extend_from_slice(b"subscription:");
            escape(id.as_bytes(), version, &mut frame);
            frame.push(b'\n');
        }
        frame.extend_from_slice(b"destination:");
        // STOMP 1.2 MESSAGE: `ack` is sent only if the client must answer. In older versions the `message-id` has its
        // role.
        let explicit_ack = client_acks && version == Version::V1_2;
        Opening {
            frame: frame.into(),
            ack_id: ack_id.into(),
            explicit_ack,
        }
    }
}

/// Appends the MESSAGE frame for `delivery`. The server's own headers come first and are removed from the sender's. So
/// a sender cannot forge them, whether a client uses the first or the last of repeated headers.
pub(crate) fn push_message(out: &mut Vec<u8>, context: &Context<'_>, opening: &Opening, delivery: &Delivery) {
    let message = &delivery.message;
    out.reserve(opening.frame.len() + 2 * opening.ack_id.len() + message.payload().len() + 160);
    out.extend_from_slice(&opening.frame);
    push_address(out, context, message);
    out.extend_from_slice(b"\nmessage-id:");
    out.extend_from_slice(&opening.ack_id);
    push_decimal(out, delivery.number);
    if opening.explicit_ack {
        out.extend_from_slice(b"\nack:");
        out.extend_from_slice(&opening.ack_id);
        push_decimal(out, delivery.number);
    }
    let redelivered = delivery.flags.contains(DeliveryFlags::REDELIVERED);
    out.extend_from_slice(if redelivered {
        b"\nredelivered:true\n"
    } else {
        b"\nredelivered:false\n"
    });
    if delivery.flags.contains(DeliveryFlags::RETAIN) {
        out.extend_from_slice(b"x-mqtt-retain:true\n");
    }
    if let Some(returned) = delivery.extra.as_ref().and_then(|extra| extra.returned) {
        // Before the sender's lines, because the first of repeated headers counts.
        out.extend_from_slice(b"x-delivery-count:");
        push_decimal(out, returned.into());
        out.push(b'\n');
    }
    if message.envelope().origin == ORIGIN {
        push_lines(message.properties_raw(), context.version, out);
    } else {
        push_foreign(out, context, message, &message.properties(context.codecs));
    }
    let body = message.body();
    if !body.is_empty() {
        out.extend_from_slice(b"content-length:");
        push_decimal(out, body.len() as u64);
        out.push(b'\n');
    }
    out.push(b'\n');
    out.extend_from_slice(body);
    push_end(out);
}

fn push_address(out: &mut Vec<u8>, context: &Context<'_>, message: &Message) {
    let start = out.len();
    let exchange = message.exchange_bytes();
    match message.envelope().dialect {
        Dialect::Dot => push_destination(out, exchange, message.key_bytes(), context.topic_exchange),
        Dialect::Slash => {
            let key = topic::translate(message.key(), Dialect::Slash, Dialect::Dot);
            // A key that the dot dialect cannot express is shown as it is, although a client cannot send to it.
            let key = key.as_ref().map_or(message.key_bytes(), |key| key.as_bytes());
            push_destination(out, exchange, key, context.topic_exchange);
        }
    }
    if context.version != Version::V1_0 && out.get(start..).is_some_and(has_special) {
        let plain = out.split_off(start);
        escape(&plain, context.version, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepost_core::interop::Drops;
    use gatepost_core::message::Envelope;
    use gatepost_core::properties::Codecs;
    use gatepost_core::time::Wall;

    fn delivery(message: Message, flags: DeliveryFlags) -> Delivery {
        Delivery {
            channel: 1,
            qos: 0,
            flags,
            consumer: 1,
            number: 42,
            message,
            extra: None,
        }
    }

    fn pushed(version: Version, id: Option<&str>, client_acks: bool, delivery: &Delivery) -> String {
        let (codecs, drops) = (Codecs::default(), Drops::default());
        let context = Context {
            version,
            topic_exchange: "amq.topic",
            drops: &drops,
            codecs: &codecs,
            now: Wall(0),
        };
        let mut out = Vec::new();
        push_message(
            &mut out,
            &context,
            &Opening::new(version, id, b"T_s@1@", client_acks),
            delivery,
        );
        String::from_utf8(out).expect("these are UTF-8")
    }

    fn stomp(exchange: &str, key: &str, properties: &[u8], body: &[u8]) -> Message {
        Message::new(
            Envelope {
                origin: ORIGIN,
                ..Envelope::default()
            },
            exchange,
            key,
            properties,
            body,
        )
    }

    #[test]
    fn the_servers_headers_precede_the_senders() {
        let delivery = delivery(stomp("", "q/1:2", b"\0foo:bar\n", b"hello"), DeliveryFlags::REDELIVERED);
        assert_eq!(
            pushed(Version::V1_2, Some("s:1"), true, &delivery),
            "MESSAGE\nsubscription:s\\c1\ndestination:/queue/q%2F1\\c2\nmessage-id:T_s@1@42\nack:T_s@1@42\n\
             redelivered:true\nfoo:bar\ncontent-length:5\n\nhello\0\n"
        );
        assert_eq!(
            pushed(Version::V1_0, None, true, &delivery),
            "MESSAGE\ndestination:/queue/q%2F1:2\nmessage-id:T_s@1@42\nredelivered:true\nfoo:bar\n\
             content-length:5\n\nhello\0\n"
        );
    }

    #[test]
    fn the_delivery_count_is_sent_where_the_queue_counts() {
        let mut delivery = delivery(stomp("", "q", b"", b""), DeliveryFlags::REDELIVERED);
        delivery.extra = Some(Box::new(gatepost_core::event::DeliveryExtra {
            returned: Some(2),
            ..Default::default()
        }));
        let pushed = pushed(Version::V1_2, Some("s"), false, &delivery);
        assert!(pushed.contains("\nredelivered:true\nx-delivery-count:2\n"), "{pushed}");
    }

    #[test]
    fn a_replayed_retained_message_is_marked() {
        let delivery = delivery(stomp("amq.topic", "a.b", b"", b""), DeliveryFlags::RETAIN);
        assert_eq!(
            pushed(Version::V1_2, Some("s"), false, &delivery),
            "MESSAGE\nsubscription:s\ndestination:/topic/a.b\nmessage-id:T_s@1@42\nredelivered:false\n\
             x-mqtt-retain:true\n\n\0\n"
        );
    }

    #[test]
    fn other_exchanges_are_named() {
        let delivery = delivery(stomp("amq.direct", "k", b"", b""), DeliveryFlags::default());
        assert!(pushed(Version::V1_1, None, false, &delivery).contains("\ndestination:/exchange/amq.direct/k\n"));
    }
}
