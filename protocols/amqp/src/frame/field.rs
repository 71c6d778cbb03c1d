//! Primitive fields: integers, short and long strings, tables; their decoding and encoding (AMQP 0-9-1 4.2.5).

use nom::bytes::complete::take;
use nom::error::{ErrorKind, ParseError};
use nom::number::complete::{be_u8, be_u16, be_u32, be_u64};
use nom::{IResult, Parser};

/// Why octets could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Too short, too long, or an unknown letter.
    Syntax,
    /// A method's short string is not UTF-8.
    Utf8,
    /// No such class or method.
    UnknownMethod,
}

impl<'a> ParseError<&'a [u8]> for Flaw {
    fn from_error_kind(_: &'a [u8], _: ErrorKind) -> Flaw {
        Flaw::Syntax
    }
    fn append(_: &'a [u8], _: ErrorKind, other: Flaw) -> Flaw {
        other
    }
}

impl From<nom::Err<Flaw>> for Flaw {
    fn from(err: nom::Err<Flaw>) -> Flaw {
        match err {
            nom::Err::Incomplete(_) => Flaw::Syntax,
            nom::Err::Error(flaw) | nom::Err::Failure(flaw) => flaw,
        }
    }
}

/// The result of a parser over complete input: the remaining octets, and the value.
pub(crate) type Parsed<'a, T> = IResult<&'a [u8], T, Flaw>;

/// A type that a method's field can have.
pub(crate) trait Field<'a>: Sized {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self>;
    fn encode(&self, out: &mut Vec<u8>);
}

impl<'a> Field<'a> for u8 {
    fn decode(input: &'a [u8]) -> Parsed<'a, u8> {
        be_u8(input)
    }
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }
}

impl<'a> Field<'a> for u16 {
    fn decode(input: &'a [u8]) -> Parsed<'a, u16> {
        be_u16(input)
    }
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }
}

impl<'a> Field<'a> for u32 {
    fn decode(input: &'a [u8]) -> Parsed<'a, u32> {
        be_u32(input)
    }
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }
}

impl<'a> Field<'a> for u64 {
    fn decode(input: &'a [u8]) -> Parsed<'a, u64> {
        be_u64(input)
    }
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }
}

/// A short string. It must be UTF-8: RabbitMQ answers anything else with 501, and clients rely on that.
impl<'a> Field<'a> for &'a str {
    fn decode(input: &'a [u8]) -> Parsed<'a, &'a str> {
        let (rest, octets) = short(input)?;
        match std::str::from_utf8(octets) {
            Ok(text) => Ok((rest, text)),
            Err(_) => Err(nom::Err::Failure(Flaw::Utf8)),
        }
    }
    fn encode(&self, out: &mut Vec<u8>) {
        put_short(out, self.as_bytes());
    }
}

/// A long string.
impl<'a> Field<'a> for &'a [u8] {
    fn decode(input: &'a [u8]) -> Parsed<'a, &'a [u8]> {
        long(input)
    }
    fn encode(&self, out: &mut Vec<u8>) {
        put_long(out, self);
    }
}

/// The octets of a short string.
pub(crate) fn short(input: &[u8]) -> Parsed<'_, &[u8]> {
    let (rest, length) = be_u8(input)?;
    take(length).parse(rest)
}

/// The octets of a long string.
pub(crate) fn long(input: &[u8]) -> Parsed<'_, &[u8]> {
    let (rest, length) = be_u32(input)?;
    take(length).parse(rest)
}

/// Maximum length of a short string, in octets.
pub(crate) const SHORT_MAX: usize = 255;

/// Writes a short string. A longer one is cut at a UTF-8 boundary; only texts for people (the reason of a close) may be
/// that long. The caller makes sure that a name or a key fits: cut, it would be another name.
pub(crate) fn put_short(out: &mut Vec<u8>, octets: &[u8]) {
    let octets = cut(octets, SHORT_MAX);
    out.push(octets.len() as u8);
    out.extend_from_slice(octets);
}

/// Writes a long string.
pub(crate) fn put_long(out: &mut Vec<u8>, octets: &[u8]) {
    debug_assert!(
        u32::try_from(octets.len()).is_ok(),
        "no string that this server writes is that long"
    );
    out.extend_from_slice(&(octets.len() as u32).to_be_bytes());
    out.extend_from_slice(octets);
}

/// At most `max` octets, without cutting a UTF-8 character.
fn cut(octets: &[u8], max: usize) -> &[u8] {
    if octets.len() <= max {
        return octets;
    }
    let is_boundary = |&at: &usize| octets.get(at).is_some_and(|b| b & 0xC0 != 0x80);
    let end = (max.saturating_sub(3)..=max).rev().find(is_boundary).unwrap_or(max);
    octets.get(..end).unwrap_or(octets)
}

/// Writes a length of four octets in front of what `content` writes.
pub(crate) fn with_length(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    content(out);
    let length = (out.len() - at - 4) as u32;
    if let Some(slot) = out.get_mut(at..at + 4) {
        slot.copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_between_characters() {
        let text = format!("{}é", "a".repeat(254));
        let mut out = Vec::new();
        put_short(&mut out, text.as_bytes());
        assert_eq!(out, [[254].as_slice(), "a".repeat(254).as_bytes()].concat());
    }

    #[test]
    fn a_short_string_that_is_not_utf8_is_told_apart() {
        assert_eq!(<&str>::decode(&[1, 0xff]).map_err(Flaw::from), Err(Flaw::Utf8));
        assert_eq!(<&str>::decode(&[2, b'a']).map_err(Flaw::from), Err(Flaw::Syntax));
    }
}
