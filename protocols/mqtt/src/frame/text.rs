//! The rules for text on the wire: UTF-8, topic names, filters.
//!
//! Stricter than the standard, topics, filters, client ids and user names may not contain control characters or
//! non-characters. The standard allows a server to refuse them (MQTT 5 1.5.4), and Mosquitto does. A single such topic
//! would close the connection of every strict subscriber that it is delivered to.

use crate::error::Error;
use crate::frame::Parsed;
use nom::bytes::complete::take;
use nom::multi::length_data;
use nom::number::complete::{be_u8, be_u16, be_u32};
use nom::{IResult, Parser};

/// Two length bytes, and that many bytes.
pub(crate) fn binary(input: &[u8]) -> Parsed<'_, &[u8]> {
    length_data(be_u16).parse(input)
}

/// Two length bytes, and that much UTF-8 text.
pub(crate) fn string(input: &[u8]) -> Parsed<'_, &str> {
    let (rest, bytes) = binary(input)?;
    Ok((rest, utf8(bytes)?))
}

pub(crate) fn u8(input: &[u8]) -> Parsed<'_, u8> {
    be_u8(input)
}

pub(crate) fn u16(input: &[u8]) -> Parsed<'_, u16> {
    be_u16(input)
}

pub(crate) fn u32(input: &[u8]) -> Parsed<'_, u32> {
    be_u32(input)
}

pub(crate) fn exactly(count: u32, input: &[u8]) -> Parsed<'_, &[u8]> {
    take(count)(input)
}

/// The value of a parser that must consume its whole input.
pub(crate) fn whole<T>(parsed: IResult<&[u8], T, Error>) -> Result<T, Error> {
    match parsed? {
        ([], value) => Ok(value),
        _ => Err(Error::Malformed("bytes are left over")),
    }
}

/// Checks for well-formed UTF-8 (Rust's rules exclude surrogates and overlong forms [MQTT-1.5.4-1]) without U+0000
/// [MQTT-1.5.4-2]. A byte order mark is an ordinary character [MQTT-1.5.4-3].
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::Malformed("text is not UTF-8"))?;
    if !every(bytes, |byte| byte != 0) {
        Err(Error::Malformed("text has a null character"))
    } else {
        Ok(text)
    }
}

/// Whether the text has neither control characters nor Unicode non-characters.
pub fn is_plain(text: &str) -> bool {
    if is_printable::<true>(text.as_bytes()) {
        return true;
    }
    text.chars().all(|c| {
        let code = u32::from(c);
        !c.is_control() && !(0xFDD0..=0xFDEF).contains(&code) && code & 0xFFFE != 0xFFFE
    })
}

/// Whether all octets are `good`. No early exit, so that the compiler can compare many octets at once; nearly all text
/// is good to its end.
fn every(bytes: &[u8], good: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(true, |all, byte| all & good(*byte))
}

/// Whether all octets are printable ASCII and, without `WILDCARDS`, none is `+` or `#`.
///
/// Each topic name is checked here, so eight octets are tested at a time. The tests for an octet that is 0, or below or
/// above a value, are those of "Bit Twiddling Hacks": they tell whether there is such an octet, but not where.
fn is_printable<const WILDCARDS: bool>(bytes: &[u8]) -> bool {
    let Some(last) = bytes.last_chunk::<8>() else {
        return every(bytes, |byte| {
            (0x20..0x7F).contains(&byte) & (WILDCARDS | (byte != b'+') & (byte != b'#'))
        });
    };
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let has_zero = |eight: u64| eight.wrapping_sub(ONES) & !eight;
    let bad = |eight: [u8; 8]| {
        let eight = u64::from_ne_bytes(eight);
        let below_20 = eight.wrapping_sub(ONES * 0x20) & !eight;
        let from_7f = eight.wrapping_add(ONES) | eight;
        let wildcard = if WILDCARDS {
            0
        } else {
            has_zero(eight ^ (ONES * u64::from(b'+'))) | has_zero(eight ^ (ONES * u64::from(b'#')))
        };
        (below_20 | from_7f | wildcard) & (ONES * 0x80)
    };
    // The last chunk may overlap the one before.
    let (chunks, _) = bytes.as_chunks::<8>();
    chunks.iter().fold(bad(*last), |all, eight| all | bad(*eight)) == 0
}

/// Checks a topic name that a message may be published to.
///
/// # Errors
/// Not plain UTF-8, empty [MQTT-4.7.3-1], or with a wildcard [MQTT-3.3.2-2].
pub fn topic_name(bytes: &[u8]) -> Result<&str, Error> {
    if !bytes.is_empty() && is_printable::<false>(bytes) {
        return std::str::from_utf8(bytes).map_err(|_| Error::Malformed("text is not UTF-8"));
    }
    let text = utf8(bytes)?;
    if text.is_empty() {
        return Err(Error::Protocol("the topic is empty"));
    }
    if bytes.iter().any(|b| matches!(b, b'+' | b'#')) {
        return Err(Error::Malformed("a topic name has a wildcard"));
    }
    if is_plain(text) {
        Ok(text)
    } else {
        Err(Error::Malformed("a topic has a control character"))
    }
}

/// Checks a topic filter, with or without `$share` in front.
///
/// # Errors
/// Not plain UTF-8, empty, or with a wildcard that does not fill its level or is not last [MQTT-4.7.1-1].
pub fn filter(bytes: &[u8]) -> Result<&str, Error> {
    let text = utf8(bytes)?;
    if text.is_empty() {
        return Err(Error::Malformed("a topic filter is empty"));
    }
    if !is_plain(text) {
        return Err(Error::Malformed("a topic filter has a control character"));
    }
    let mut after_hash = false;
    for level in text.split('/') {
        if after_hash {
            return Err(Error::Malformed("`#` is not the last level of a filter"));
        }
        after_hash = level == "#";
        if level.len() > 1 && level.bytes().any(|b| matches!(b, b'+' | b'#')) {
            return Err(Error::Malformed("a wildcard does not fill its level"));
        }
    }
    Ok(text)
}

/// Whether a topic or filter has more than `levels_max` levels.
pub fn is_too_deep(text: &str, levels_max: usize) -> bool {
    text.len() >= levels_max && text.bytes().filter(|&b| b == b'/').count() >= levels_max
}

/// Appends the length and the bytes.
pub(crate) fn put(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let len = u16::try_from(bytes.len()).map_err(|_| Error::TooLong)?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surrogates_long_forms_and_nulls_are_not_text() {
        for bad in [&b"\xED\xA0\x80"[..], b"\xC0\xAF", b"\xF4\x90\x80\x80", b"a\0b", b"\xFF"] {
            assert!(matches!(utf8(bad), Err(Error::Malformed(_))), "{bad:?}");
        }
        assert_eq!(utf8(b"\xEF\xBB\xBFa").map(str::len), Ok(4), "U+FEFF stays");
    }

    #[test]
    fn topics_have_a_character_and_no_wildcard_or_control() {
        for good in ["a", "/", "//", "a b/\u{e9}", "$SYS/x", "\u{FEFF}a"] {
            assert!(topic_name(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            "",
            "+",
            "a/#",
            "a+",
            "a\u{1}",
            "\u{7f}",
            "\u{85}",
            "\u{fdd0}",
            "\u{ffff}",
            "\u{1fffe}",
        ] {
            assert!(topic_name(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    /// Octets are tested eight at a time, so each value is tested at each place, in texts of each length.
    #[test]
    fn one_octet_decides_wherever_it_stands() {
        for len in 1..=20 {
            for at in 0..len {
                for octet in 0..=u8::MAX {
                    let mut bytes = vec![b'~'; len];
                    bytes[at] = octet;
                    let printable = (0x20..0x7F).contains(&octet);
                    let wildcard = octet == b'+' || octet == b'#';
                    let found = (is_printable::<true>(&bytes), is_printable::<false>(&bytes));
                    assert_eq!(
                        found,
                        (printable, printable && !wildcard),
                        "{octet:#x} at {at} of {len}"
                    );
                }
            }
        }
    }

    #[test]
    fn wildcards_fill_their_level_and_the_hash_is_last() {
        for good in ["#", "+", "a/#", "+/+", "/+", "a//b", "+/#", "$share/g/a/#", "/"] {
            assert!(filter(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["", "a#", "a/#/b", "a+", "a/b+", "#/", "##", "++", "a/+b/c", "\u{2}"] {
            assert!(filter(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn levels_are_counted_and_not_characters() {
        assert!(!is_too_deep(&"/".repeat(199), 200));
        assert!(is_too_deep(&"/".repeat(200), 200));
        assert!(!is_too_deep(&"a".repeat(1000), 200));
        assert!(!is_too_deep("a", 1) && is_too_deep("/", 1));
    }
}
