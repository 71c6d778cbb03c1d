//! Translates between NATS subjects and the engine's routing keys, one to one.

use gatepost_core::message::Message;
use gatepost_core::topic::{LEVELS_MAX, Levels, Spelling};

/// A token is a level. A character that a token cannot contain is escaped, so that no key can break a line of the
/// protocol.
const SUBJECT: Spelling = Spelling::new(b'.', |c| c <= b' ' || matches!(c, b'.' | b'*' | b'>' | 0x7F));

/// The routing key for a published subject. `None` if the subject is not valid for publishing.
pub(crate) fn key(subject: &str) -> Option<String> {
    let is_token = |token: &str| !matches!(token, "" | "*" | ">");
    (is_short(subject) && subject.split('.').all(is_token)).then(|| SUBJECT.respell(subject, Spelling::DOT))
}

/// The binding key for a subscription's subject. `None` if it is not valid, or if the engine cannot match it.
pub(crate) fn binding(subject: &str) -> Option<String> {
    if !is_short(subject) {
        return None;
    }
    let mut binding = String::with_capacity(subject.len() + 2);
    let mut tokens = subject.split('.').peekable();
    while let Some(token) = tokens.next() {
        match token {
            "" => return None,
            "*" => binding.push('*'),
            // `>` matches at least one level.
            ">" if tokens.peek().is_none() => binding.push_str("*.#"),
            ">" => return None,
            _ => {
                let level = SUBJECT.read(token);
                // The engine would read such a token as a wildcard.
                if matches!(&*level, "*" | "#") {
                    return None;
                }
                Spelling::DOT.write(&level, &mut binding);
            }
        }
        if tokens.peek().is_some() {
            binding.push('.');
        }
    }
    Some(binding)
}

/// The subject for a message's topic. `None` if no subject can express it.
pub(crate) fn subject_of(message: &Message) -> Option<String> {
    write(&Levels::new(message.key(), message.envelope().dialect))
}

/// The subject for a key of the dot dialect.
pub(crate) fn subject(key: &str) -> Option<String> {
    write(&Levels::new(key, gatepost_core::message::Dialect::Dot))
}

fn write(levels: &Levels<'_>) -> Option<String> {
    let mut subject = String::new();
    for (index, level) in levels.iter().enumerate() {
        if level.is_empty() {
            return None;
        }
        if index > 0 {
            subject.push('.');
        }
        SUBJECT.write(level, &mut subject);
    }
    (!subject.is_empty()).then_some(subject)
}

fn is_short(subject: &str) -> bool {
    subject.split('.').nth(LEVELS_MAX).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_become_the_engine_s() {
        assert_eq!(binding("a.*.c").as_deref(), Some("a.*.c"));
        assert_eq!(binding("a.>").as_deref(), Some("a.*.#"));
        assert_eq!(binding(">").as_deref(), Some("*.#"));
        for wrong in ["", "a..b", ".a", "a.", "a.>.b", "a.#", "#"] {
            assert_eq!(binding(wrong), None, "{wrong}");
        }
        for wrong in ["", "a..b", "a.*", "a.>"] {
            assert_eq!(key(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_key_that_has_a_subject_comes_back_from_it() {
        for text in ["a.b", "a%2Eb.c", "a b", "a\r\nPUB x 0", "*.>", "100%", "%20", "ü.ß"] {
            let subject = subject(text).expect("a subject");
            assert!(!subject.contains([' ', '\r', '\n']), "{subject}");
            assert_eq!(key(&subject).as_deref(), Some(text), "{subject}");
        }
        assert_eq!(subject("a..b"), None);
        assert_eq!(subject(""), None);
    }
}
