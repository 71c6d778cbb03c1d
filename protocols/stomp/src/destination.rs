//! Destinations: parses `/queue/N` and its kin, and writes an exchange and a key as a destination.
//!
//! Two encodings meet in a destination. The name of a queue or an exchange is plain text in which every `%XX` stands
//! for an octet; `/`, `%` and control characters are written so. A topic's key has levels, which follow the rule of all
//! dialects ([`gatepost_core::topic::Spelling`]): a dot or a slash within a level is `%2E` or `%2F`, a control
//! character likewise, and nothing else is an escape. So `a%b` and `a%25b` are two topics.

use crate::error::Refusal;
use gatepost_core::message::{EXCHANGE_NAME_MAX, KEY_MAX};
use gatepost_core::properties::ReplyTo;
use gatepost_core::topic::Spelling;
use std::borrow::Cow;

/// Maximum length of a queue's name, in octets (AMQP 0-9-1 `shortstr`).
const QUEUE_NAME_MAX: usize = 255;

/// A parsed destination header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination<'a> {
    /// `/queue/N`, or a bare `N`: a queue, created if it does not exist.
    Queue(Cow<'a, str>),
    /// `/amq/queue/N`, `/reply-queue/Q`: a queue that must exist.
    ExistingQueue(Cow<'a, str>),
    /// `/topic/K`: a key of the topic exchange, in the dot dialect.
    Topic(Cow<'a, str>),
    /// `/exchange/E/K`: an exchange, and a key in the dot dialect.
    Exchange(Cow<'a, str>, Cow<'a, str>),
    /// `/temp-queue/N`: valid only in a `reply-to`.
    TempQueue(&'a str),
}

impl<'a> Destination<'a> {
    /// Parses `text`.
    pub(crate) fn parse(text: &'a str) -> Result<Destination<'a>, Refusal> {
        if text.is_empty() {
            return Err(Refusal::blank_destination());
        }
        if !text.starts_with('/') {
            // A name without slashes is a queue. A path with an unknown prefix is refused.
            if text.contains('/') {
                return Err(Refusal::unknown_destination(text));
            }
            return bounded_queue(decode(text), text, "queue").map(Destination::Queue);
        }
        if let Some(rest) = under(text, "/queue") {
            return bounded_queue(decode(one_segment(rest, "queue")?), rest, "queue").map(Destination::Queue);
        }
        if let Some(rest) = under(text, "/topic") {
            return bounded_key(key_from_stomp(one_segment(rest, "topic")?), rest, "topic").map(Destination::Topic);
        }
        if let Some(rest) = under(text, "/exchange") {
            return exchange(rest);
        }
        if let Some(rest) = under(text, "/amq/queue") {
            return bounded_queue(decode(one_segment(rest, "amqqueue")?), rest, "amqqueue")
                .map(Destination::ExistingQueue);
        }
        if let Some(rest) = under(text, "/reply-queue") {
            // Kept as it is, slashes included: this server generated the name.
            let name = rest.strip_prefix('/').filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| Refusal::invalid_destination(rest, "reply-queue"))?;
            return bounded_queue(Cow::Borrowed(name), rest, "reply-queue").map(Destination::ExistingQueue);
        }
        if under(text, "/temp-queue").is_some() {
            return Ok(Destination::TempQueue(text));
        }
        Err(Refusal::unknown_destination(text))
    }

    /// The address that a `reply-to` header means for the other protocols. Text that is not a destination is taken for
    /// a queue's name, since AMQP clients write it so.
    pub(crate) fn parse_reply_to(text: &str) -> ReplyTo {
        match Destination::parse(text) {
            Ok(Destination::Queue(name) | Destination::ExistingQueue(name)) => ReplyTo::Queue(name.as_ref().into()),
            Ok(Destination::Topic(key)) => ReplyTo::Topic(key.as_ref().into()),
            Ok(Destination::Exchange(exchange, key)) => {
                ReplyTo::Exchange(exchange.as_ref().into(), key.as_ref().into())
            }
            Ok(Destination::TempQueue(_)) | Err(_) => ReplyTo::Queue(text.into()),
        }
    }
}

/// Appends the destination of `exchange` and `key` (dot dialect). It contains no control characters, but a header's
/// value may need further escapes.
pub(crate) fn push_destination(out: &mut Vec<u8>, exchange: &[u8], key: &[u8], topic_exchange: &str) {
    if exchange.is_empty() {
        out.extend_from_slice(b"/queue/");
        push_encoded(out, key);
    } else if exchange == topic_exchange.as_bytes() {
        out.extend_from_slice(b"/topic/");
        push_key(out, key);
    } else {
        out.extend_from_slice(b"/exchange/");
        push_encoded(out, exchange);
        // As in RabbitMQ 4: an exchange without a key has no slash after it.
        if !key.is_empty() {
            out.push(b'/');
            push_key(out, key);
        }
    }
}

/// Appends a reply address as a destination that the client can SEND to.
pub(crate) fn push_reply_to(out: &mut Vec<u8>, reply_to: &ReplyTo, topic_exchange: &str) {
    match reply_to {
        ReplyTo::Queue(name) => {
            out.extend_from_slice(b"/reply-queue/");
            out.extend_from_slice(name.as_bytes());
        }
        ReplyTo::Topic(key) => push_destination(out, topic_exchange.as_bytes(), key.as_bytes(), topic_exchange),
        // In the default exchange, a key is a queue's name.
        ReplyTo::Exchange(exchange, key) => {
            push_destination(out, exchange.as_bytes(), key.as_bytes(), topic_exchange);
        }
    }
}

/// The text after `prefix`, if `prefix` ends at a slash or at the end of the text.
fn under<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.strip_prefix(prefix)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Checks that `rest`, which begins with a slash, is a single segment, and returns it.
fn one_segment<'a>(rest: &'a str, kind: &str) -> Result<&'a str, Refusal> {
    match rest.strip_prefix('/') {
        Some(segment) if !segment.is_empty() && !segment.contains('/') => Ok(segment),
        _ => Err(Refusal::invalid_destination(rest, kind)),
    }
}

fn exchange(rest: &str) -> Result<Destination<'_>, Refusal> {
    let invalid = || Refusal::invalid_destination(rest, "exchange");
    let path = rest.strip_prefix('/').ok_or_else(invalid)?;
    let (exchange, key) = path.split_once('/').unwrap_or((path, ""));
    let exchange = decode(exchange);
    if exchange.is_empty() || exchange.len() > EXCHANGE_NAME_MAX || key.contains('/') {
        return Err(invalid());
    }
    Ok(Destination::Exchange(
        exchange,
        bounded_key(key_from_stomp(key), rest, "exchange")?,
    ))
}

fn bounded_queue<'a>(name: Cow<'a, str>, rest: &str, kind: &str) -> Result<Cow<'a, str>, Refusal> {
    if name.len() > QUEUE_NAME_MAX {
        Err(Refusal::invalid_destination(rest, kind))
    } else {
        Ok(name)
    }
}

fn bounded_key<'a>(key: Cow<'a, str>, rest: &str, kind: &str) -> Result<Cow<'a, str>, Refusal> {
    if key.len() > KEY_MAX {
        Err(Refusal::invalid_destination(rest, kind))
    } else {
        Ok(key)
    }
}

/// How the levels of a key are written in a destination.
const LEVELS: Spelling = Spelling::new(b'.', is_special);

/// Whether the octet must be escaped within a level of a key.
fn is_special(octet: u8) -> bool {
    matches!(octet, b'.' | b'/' | 0x7f | ..0x20)
}

/// A key written in a destination, in the dot dialect.
fn key_from_stomp(text: &str) -> Cow<'_, str> {
    if text.contains('%') {
        Cow::Owned(LEVELS.respell(text, Spelling::DOT))
    } else {
        Cow::Borrowed(text)
    }
}

/// Decodes every `%XX` in the name of a queue or an exchange. Invalid escapes, and those that would not give UTF-8,
/// stay as written.
fn decode(text: &str) -> Cow<'_, str> {
    let octets = text.as_bytes();
    if !octets.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(octets.len());
    let mut at = 0;
    while let Some(&octet) = octets.get(at) {
        let decoded = octets.get(at + 1..at + 3).and_then(hex_pair);
        match decoded.filter(|_| octet == b'%') {
            Some(decoded) => {
                at += 3;
                out.push(decoded);
            }
            None => {
                at += 1;
                out.push(octet);
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(text), Cow::Owned)
}

fn hex_pair(pair: &[u8]) -> Option<u8> {
    match pair {
        [high, low] => {
            let digit = |c: &u8| char::from(*c).to_digit(16);
            u8::try_from(digit(high)? * 16 + digit(low)?).ok()
        }
        _ => None,
    }
}

/// Appends plain text as one segment.
fn push_encoded(out: &mut Vec<u8>, text: &[u8]) {
    let plain = |octet: u8| (octet != b'%') & (octet != b'/') & (octet != 0x7f) & (octet >= 0x20);
    if text.iter().fold(true, |all, octet| all & plain(*octet)) {
        return out.extend_from_slice(text);
    }
    for &octet in text {
        if octet == b'%' {
            push_escape(out, octet)
        } else {
            push_octet(out, octet)
        }
    }
}

/// Appends a key of the dot dialect as one segment.
fn push_key(out: &mut Vec<u8>, key: &[u8]) {
    match std::str::from_utf8(key) {
        Ok(text) if text.contains('%') => {
            out.extend_from_slice(Spelling::DOT.respell(text, LEVELS).as_bytes());
        }
        _ => push_encoded(out, key),
    }
}

fn push_octet(out: &mut Vec<u8>, octet: u8) {
    if matches!(octet, b'/' | 0x7f | ..0x20) {
        push_escape(out, octet)
    } else {
        out.push(octet)
    }
}

fn push_escape(out: &mut Vec<u8>, octet: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[b'%', DIGITS[usize::from(octet >> 4)], DIGITS[usize::from(octet & 15)]]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(exchange: &str, key: &str) -> String {
        let mut out = Vec::new();
        push_destination(&mut out, exchange.as_bytes(), key.as_bytes(), "amq.topic");
        String::from_utf8(out).expect("destinations are UTF-8")
    }

    fn refused(text: &str) -> String {
        Destination::parse(text).expect_err("no destination").body.into_owned()
    }

    #[test]
    fn each_prefix_has_its_meaning() {
        use Destination::*;
        for (text, meaning) in [
            ("/queue/a.b", Queue("a.b".into())),
            ("a.b", Queue("a.b".into())),
            ("/topic/a.*.#", Topic("a.*.#".into())),
            ("/exchange/e", Exchange("e".into(), "".into())),
            ("/exchange/e/", Exchange("e".into(), "".into())),
            ("/exchange/e%2Ff/k.l", Exchange("e/f".into(), "k.l".into())),
            ("/amq/queue/q", ExistingQueue("q".into())),
            ("/reply-queue/a/b%2F", ExistingQueue("a/b%2F".into())),
            ("/temp-queue/x", TempQueue("/temp-queue/x")),
        ] {
            assert_eq!(Destination::parse(text), Ok(meaning), "{text}");
        }
    }

    #[test]
    fn an_invalid_destination_is_named_in_the_error() {
        assert_eq!(
            refused("/queue/bah/baz"),
            "'/bah/baz' is not a valid queue destination\n"
        );
        assert_eq!(refused("/queue/"), "'/' is not a valid queue destination\n");
        assert_eq!(refused("/topic/a/b"), "'/a/b' is not a valid topic destination\n");
        assert_eq!(refused("/exchange/"), "'/' is not a valid exchange destination\n");
        assert_eq!(
            refused("/exchange/e/a/b"),
            "'/e/a/b' is not a valid exchange destination\n"
        );
        assert!(refused("/queuex").starts_with("'/queuex' is not a valid destination.\nValid"));
        assert!(refused("a/b").starts_with("'a/b' is not a valid destination.\n"));
        assert_eq!(refused(""), "Destination cannot be blank");
        assert!(Destination::parse(&format!("/queue/{}", "x".repeat(256))).is_err());
        assert!(Destination::parse(&format!("/topic/{}", "x".repeat(65_536))).is_err());
        assert!(Destination::parse(&format!("/exchange/{}/k", "x".repeat(256))).is_err());
    }

    #[test]
    fn queue_names_are_percent_decoded_and_come_back() {
        for (text, name) in [
            ("/queue/a%2Fb%20c", "a/b c"),
            ("/queue/100%", "100%"),
            ("/queue/%zz", "%zz"),
            ("/queue/%ff", "%ff"),
        ] {
            assert_eq!(Destination::parse(text), Ok(Destination::Queue(name.into())), "{text}");
        }
        assert_eq!(written("", "a/b c%ü\n"), "/queue/a%2Fb c%25ü%0A");
        assert_eq!(written("", "amq.gen-x:y"), "/queue/amq.gen-x:y");
    }

    #[test]
    fn a_dot_within_a_level_keeps_its_escape() {
        assert_eq!(
            Destination::parse("/topic/v1%2E5.s"),
            Ok(Destination::Topic("v1%2E5.s".into()))
        );
        assert_eq!(written("amq.topic", "v1%2E5.s"), "/topic/v1%2E5.s");
        assert_eq!(
            Destination::parse("/topic/x%2Fy.z"),
            Ok(Destination::Topic("x/y.z".into()))
        );
        assert_eq!(written("amq.topic", "x/y.z"), "/topic/x%2Fy.z");
    }

    #[test]
    fn an_exchange_without_a_key_has_no_slash_behind_it() {
        assert_eq!(written("amq.fanout", ""), "/exchange/amq.fanout");
        assert_eq!(written("amq.fanout", "k"), "/exchange/amq.fanout/k");
    }

    #[test]
    fn keys_survive_the_way_out_and_back() {
        for key in [
            "a.b", "a/b", "50%", "%2E", "%25", "%252E", "%41", "a%2", ".lead..", "", "é:\\",
        ] {
            let text = written("amq.direct", key);
            let back = Destination::parse(&text);
            let expected = Destination::Exchange("amq.direct".into(), key.into());
            assert_eq!(back, Ok(expected), "{key} as {text}");
        }
    }

    #[test]
    fn every_key_comes_back_and_no_two_have_one_destination() {
        let pieces = [
            "%", "25", "2E", "2F", "%25", "%2E", "%2F", "%2B", "%01", ".", "/", "+", "#", "*", "\u{1}", "a",
        ];
        let mut destinations = std::collections::BTreeSet::new();
        let mut keys = std::collections::BTreeSet::new();
        for first in pieces {
            for second in pieces {
                for third in pieces {
                    keys.insert(format!("{first}{second}{third}"));
                }
            }
        }
        for key in &keys {
            let text = written("amq.topic", key);
            assert!(!text["/topic/".len()..].contains(['/', '\u{1}']), "{key:?} as {text:?}");
            let expected = Destination::Topic(key.into());
            assert_eq!(Destination::parse(&text), Ok(expected), "{key:?} as {text:?}");
            destinations.insert(text);
        }
        assert_eq!(destinations.len(), keys.len());
        // The other way: two destinations are two keys, and each key gives its destination back.
        for text in keys.iter().filter(|text| !text.contains(['/', '\u{1}'])) {
            let text = format!("/topic/{text}");
            let Ok(Destination::Topic(key)) = Destination::parse(&text) else {
                panic!("{text:?} is a topic");
            };
            assert_eq!(written("amq.topic", &key), text);
        }
    }

    #[test]
    fn only_escapes_of_special_characters_are_undone_in_keys() {
        for (text, key) in [
            ("/topic/%252E", "%252E"),
            ("/topic/100%25", "100%25"),
            ("/topic/a%41", "a%41"),
            ("/topic/a%252Fb", "a%2Fb"),
        ] {
            assert_eq!(Destination::parse(text), Ok(Destination::Topic(key.into())), "{text}");
        }
    }

    #[test]
    fn reply_addresses_are_typed() {
        use ReplyTo::*;
        for (text, reply_to) in [
            ("/queue/a", Queue("a".into())),
            ("/reply-queue/amq.gen-1", Queue("amq.gen-1".into())),
            ("amq.gen-1", Queue("amq.gen-1".into())),
            ("/topic/a.b", Topic("a.b".into())),
            ("/exchange/e/k", Exchange("e".into(), "k".into())),
        ] {
            assert_eq!(Destination::parse_reply_to(text), reply_to, "{text}");
        }
    }
}
