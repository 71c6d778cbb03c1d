//! Replies across protocols: publishing to the reply address of a request from another protocol.

use crate::message::{Dialect, EXCHANGE_NAME_MAX, Message};

/// Keys of the default exchange that stand for a topic or an exchange of the other dialect.
const REPLY_TO_TOPIC: &str = "amq.gatepost.topic.";
const REPLY_TO_EXCHANGE: &str = "amq.gatepost.x.";
/// Topics that stand for a queue or an exchange.
const REPLY_TO_QUEUE: &str = "$queue/";
const REPLY_VIA_EXCHANGE: &str = "$exchange/";

/// Readdresses a reply that is published to a name of this form, to where a publisher of the other dialect would have
/// sent it.
///
/// The reply address of a request is passed to other protocols as one of these names. So an ordinary client of the
/// other protocol can answer by publishing to it as usual.
#[inline]
pub(super) fn reply_addressed(message: &Message, topic_exchange: &str) -> Option<Message> {
    // One octet tells it of most messages.
    match (message.envelope().dialect, message.key_bytes().first()?) {
        (Dialect::Dot, b'a') | (Dialect::Slash, b'$') => readdressed(message, topic_exchange),
        _ => None,
    }
}

#[inline(never)]
fn readdressed(message: &Message, topic_exchange: &str) -> Option<Message> {
    let key = message.key_bytes();
    let (exchange, key) = match (message.envelope().dialect, key.first()?) {
        (Dialect::Dot, b'a') if message.exchange_bytes().is_empty() => {
            let key = message.key();
            match key.strip_prefix(REPLY_TO_TOPIC) {
                Some(topic) => (topic_exchange, topic),
                None => key.strip_prefix(REPLY_TO_EXCHANGE)?.split_once('/')?,
            }
        }
        (Dialect::Slash, b'$') => {
            let key = message.key();
            match key.strip_prefix(REPLY_TO_QUEUE) {
                Some(queue) => ("", queue),
                None => key.strip_prefix(REPLY_VIA_EXCHANGE)?.split_once('/')?,
            }
        }
        _ => return None,
    };
    // No exchange can have so long a name. The message keeps its address, which leads nowhere.
    if exchange.len() > EXCHANGE_NAME_MAX {
        return None;
    }
    let mut envelope = *message.envelope();
    envelope.dialect = Dialect::Dot;
    envelope.retain = false;
    Some(message.readdressed(envelope, exchange, key, message.properties_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Envelope;

    /// A peer that published to `$exchange/` and 300 more bytes ended the process: a message cannot store such a name.
    #[test]
    fn a_reply_to_an_exchange_no_name_can_have_stays_where_it_is_addressed() {
        let slash = Envelope {
            dialect: Dialect::Slash,
            ..Envelope::default()
        };
        let addressed = |name: usize| {
            let topic = format!("$exchange/{}/k", "x".repeat(name));
            reply_addressed(&Message::new(slash, "amq.topic", &topic, b"", b""), "amq.topic")
        };
        assert_eq!(addressed(255).map(|m| m.key().to_owned()).as_deref(), Some("k"));
        assert!(addressed(256).is_none());
        let key = format!("amq.gatepost.x.{}/k", "x".repeat(300));
        let reply = Message::new(Envelope::default(), "", &key, b"", b"");
        assert!(reply_addressed(&reply, "amq.topic").is_none());
    }
}
