//! The one property of a NATS message besides subject and body: the reply subject.

use gatepost_core::properties::{Origin, Properties, PropertyCodec, ReplyTo};

/// The on-disk code of this encoding: the reply's routing key in the dot dialect. It never changes.
pub const ORIGIN: Origin = Origin(32);

/// Decodes the properties of messages that NATS clients publish.
#[derive(Clone, Copy, Debug)]
pub struct NatsProperties;

impl PropertyCodec for NatsProperties {
    fn origin(&self) -> Origin {
        ORIGIN
    }

    fn decode(&self, raw: &[u8]) -> Properties {
        let reply = std::str::from_utf8(raw).ok().filter(|key| !key.is_empty());
        Properties {
            reply_to: reply.map(|key| ReplyTo::Topic(key.into())),
            ..Properties::default()
        }
    }
}
