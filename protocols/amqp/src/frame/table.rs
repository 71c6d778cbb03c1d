//! Field tables, with RabbitMQ's type letters, which differ from the specification's (AMQP 0-9-1 4.2.5.5 and RabbitMQ's
//! errata).
//!
//! The core's values match the wire's one to one, so tables decode into them directly. The headers of a publish are not
//! decoded: [`check`] and [`Fields`] walk over a table without building one.

use super::field::{Field, Flaw, Parsed, SHORT_MAX, long, put_long, put_short, short, with_length};
use gatepost_core::properties::{Name, Table, Value};
use nom::Parser;
use nom::bytes::complete::take;
use nom::number::complete::be_u8;

impl<'a> Field<'a> for Table {
    fn decode(input: &'a [u8]) -> Parsed<'a, Table> {
        let (rest, content) = long(input)?;
        let table = decode(content).map_err(nom::Err::Failure)?;
        Ok((rest, table))
    }
    fn encode(&self, out: &mut Vec<u8>) {
        encode(out, self);
    }
}

/// Maximum nesting of tables and arrays. It bounds the recursion of the decoder.
const DEPTH_MAX: usize = 32;

/// A value that is not decoded: its type letter, and its octets without the length in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raw<'a> {
    pub(crate) letter: u8,
    pub(crate) octets: &'a [u8],
}

/// The pairs of a table's content, in order.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(&'a [u8], Raw<'a>), Flaw>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        match (short, raw).parse(self.0) {
            Ok((rest, pair)) => {
                self.0 = rest;
                Some(Ok(pair))
            }
            Err(e) => {
                self.0 = &[];
                Some(Err(e.into()))
            }
        }
    }
}

/// The values of an array's content, in order.
#[derive(Clone, Debug)]
pub(crate) struct Items<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Items<'a> {
    type Item = Result<Raw<'a>, Flaw>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        match raw(self.0) {
            Ok((rest, value)) => {
                self.0 = rest;
                Some(Ok(value))
            }
            Err(e) => {
                self.0 = &[];
                Some(Err(e.into()))
            }
        }
    }
}

fn raw(input: &[u8]) -> Parsed<'_, Raw<'_>> {
    let (rest, letter) = be_u8(input)?;
    let (rest, octets) = match letter {
        b'V' => (rest, rest.get(..0).unwrap_or_default()),
        b't' | b'b' | b'B' => take(1usize).parse(rest)?,
        b's' | b'u' => take(2usize).parse(rest)?,
        b'I' | b'i' | b'f' => take(4usize).parse(rest)?,
        b'D' => take(5usize).parse(rest)?,
        b'l' | b'L' | b'd' | b'T' => take(8usize).parse(rest)?,
        b'S' | b'x' | b'A' | b'F' => long(rest)?,
        _ => return Err(nom::Err::Failure(Flaw::Syntax)),
    };
    Ok((rest, Raw { letter, octets }))
}

/// The name of the type that `letter` stands for, as RabbitMQ's error texts have it.
pub(crate) fn type_name(letter: u8) -> &'static str {
    match letter {
        b'S' => "longstr",
        b'I' => "signedint",
        b'i' => "unsignedint",
        b's' => "short",
        b'u' => "unsignedshort",
        b'b' => "byte",
        b'B' => "unsignedbyte",
        b'l' | b'L' => "long",
        b't' => "bool",
        b'f' => "float",
        b'd' => "double",
        b'F' => "table",
        b'A' => "array",
        b'T' => "timestamp",
        b'D' => "decimal",
        b'x' => "binary",
        _ => "void",
    }
}

/// The type letter that a value is written with.
pub(crate) fn letter(value: &Value) -> u8 {
    match value {
        Value::Void => b'V',
        Value::Bool(_) => b't',
        // A value that does not fit its width cannot come from the wire; it is written with 64 bits.
        Value::Int(i, 8) if i8::try_from(*i).is_ok() => b'b',
        Value::Int(i, 16) if i16::try_from(*i).is_ok() => b's',
        Value::Int(i, 32) if i32::try_from(*i).is_ok() => b'I',
        Value::Int(..) => b'l',
        Value::Uint(u, 8) if u8::try_from(*u).is_ok() => b'B',
        Value::Uint(u, 16) if u16::try_from(*u).is_ok() => b'u',
        Value::Uint(..) => b'i',
        Value::Float(_) => b'f',
        Value::Double(_) => b'd',
        Value::Decimal(..) => b'D',
        Value::Text(_) => b'S',
        Value::Binary(_) => b'x',
        Value::Timestamp(_) => b'T',
        Value::Array(_) => b'A',
        Value::Table(_) => b'F',
    }
}

impl Raw<'_> {
    fn check(self, depth: usize) -> Result<(), Flaw> {
        match self.letter {
            b'A' | b'F' if depth == 0 => Err(Flaw::Syntax),
            b'A' => Items(self.octets).try_for_each(|item| item?.check(depth - 1)),
            b'F' => Fields(self.octets).try_for_each(|field| field?.1.check(depth - 1)),
            _ => Ok(()),
        }
    }

    fn decode(self, depth: usize) -> Result<Value, Flaw> {
        Ok(match self.letter {
            b't' => Value::Bool(u8::from_be_bytes(self.fixed()?) != 0),
            b'b' => Value::Int(i8::from_be_bytes(self.fixed()?).into(), 8),
            b'B' => Value::Uint(u8::from_be_bytes(self.fixed()?).into(), 8),
            b's' => Value::Int(i16::from_be_bytes(self.fixed()?).into(), 16),
            b'u' => Value::Uint(u16::from_be_bytes(self.fixed()?).into(), 16),
            b'I' => Value::Int(i32::from_be_bytes(self.fixed()?).into(), 32),
            b'i' => Value::Uint(u32::from_be_bytes(self.fixed()?), 32),
            b'l' | b'L' => Value::Int(i64::from_be_bytes(self.fixed()?), 64),
            b'f' => Value::Float(f32::from_be_bytes(self.fixed()?)),
            b'd' => Value::Double(f64::from_be_bytes(self.fixed()?)),
            b'D' => {
                let [scale, value @ ..] = self.fixed::<5>()?;
                Value::Decimal(scale, u32::from_be_bytes(value))
            }
            b'T' => Value::Timestamp(u64::from_be_bytes(self.fixed()?)),
            b'S' => Value::Text(self.octets.into()),
            b'x' => Value::Binary(self.octets.into()),
            b'V' => Value::Void,
            b'A' | b'F' if depth == 0 => return Err(Flaw::Syntax),
            b'A' => Value::Array(
                Items(self.octets)
                    .map(|item| item?.decode(depth - 1))
                    .collect::<Result<_, _>>()?,
            ),
            b'F' => Value::Table(decode_at(self.octets, depth - 1)?),
            _ => return Err(Flaw::Syntax),
        })
    }

    fn fixed<const N: usize>(self) -> Result<[u8; N], Flaw> {
        self.octets.try_into().map_err(|_| Flaw::Syntax)
    }
}

/// Whether a table's content (without its length) is well formed, down to the last nested value.
pub(crate) fn check(content: &[u8]) -> Result<(), Flaw> {
    Fields(content).try_for_each(|field| field?.1.check(DEPTH_MAX))
}

/// Decodes a table's content (without its length). Invalid UTF-8 in names is replaced, as RabbitMQ accepts such names.
pub(crate) fn decode(content: &[u8]) -> Result<Table, Flaw> {
    decode_at(content, DEPTH_MAX)
}

fn decode_at(content: &[u8], depth: usize) -> Result<Table, Flaw> {
    let mut table = Table::default();
    for field in Fields(content) {
        let (name, value) = field?;
        let name: Name = String::from_utf8_lossy(name).into();
        table.push(name, value.decode(depth)?);
    }
    Ok(table)
}

/// Writes a table with its length. A pair whose name is too long for a short string is left out.
pub(crate) fn encode(out: &mut Vec<u8>, table: &Table) {
    with_length(out, |out| {
        for (name, value) in &table.0 {
            put_pair(out, name.as_bytes(), value);
        }
    });
}

/// Writes one pair of a table's content, or nothing if the name is too long for a short string.
pub(crate) fn put_pair(out: &mut Vec<u8>, name: &[u8], value: &Value) {
    if name.len() <= SHORT_MAX {
        put_short(out, name);
        put_value(out, value);
    }
}

/// Copies a pair from another table.
pub(crate) fn put_raw_pair(out: &mut Vec<u8>, name: &[u8], value: Raw<'_>) {
    put_short(out, name);
    out.push(value.letter);
    match value.letter {
        b'S' | b'x' | b'A' | b'F' => put_long(out, value.octets),
        _ => out.extend_from_slice(value.octets),
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let letter = letter(value);
    out.push(letter);
    match value {
        Value::Void => {}
        Value::Bool(b) => out.push(u8::from(*b)),
        Value::Int(i, _) => {
            let octets = i.to_be_bytes();
            let width = match letter {
                b'b' => 1,
                b's' => 2,
                b'I' => 4,
                _ => 8,
            };
            out.extend_from_slice(octets.get(8 - width..).unwrap_or(&octets));
        }
        Value::Uint(u, _) => {
            let octets = u.to_be_bytes();
            let width = match letter {
                b'B' => 1,
                b'u' => 2,
                _ => 4,
            };
            out.extend_from_slice(octets.get(4 - width..).unwrap_or(&octets));
        }
        Value::Float(f) => out.extend_from_slice(&f.to_be_bytes()),
        Value::Double(d) => out.extend_from_slice(&d.to_be_bytes()),
        Value::Decimal(scale, value) => {
            out.push(*scale);
            out.extend_from_slice(&value.to_be_bytes());
        }
        Value::Text(octets) | Value::Binary(octets) => put_long(out, octets),
        Value::Timestamp(t) => out.extend_from_slice(&t.to_be_bytes()),
        Value::Array(items) => with_length(out, |out| items.iter().for_each(|item| put_value(out, item))),
        Value::Table(table) => encode(out, table),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Table {
        let mut inner = Table::default();
        inner.push("k", Value::Bool(false));
        let mut table = Table::default();
        table.push("t", Value::Bool(true));
        table.push("b", Value::Int(-1, 8));
        table.push("B", Value::Uint(255, 8));
        table.push("s", Value::Int(-2, 16));
        table.push("u", Value::Uint(65535, 16));
        table.push("I", Value::Int(-3, 32));
        table.push("i", Value::Uint(u32::MAX, 32));
        table.push("l", Value::Int(i64::MIN, 64));
        table.push("f", Value::Float(1.5));
        table.push("d", Value::Double(-2.5));
        table.push("D", Value::Decimal(2, 314));
        table.push("S", Value::Text([0xff, 0].as_slice().into()));
        table.push("x", Value::Binary([1, 2].as_slice().into()));
        table.push("A", Value::Array([Value::Void, Value::text("é")].into()));
        table.push("T", Value::Timestamp(1_700_000_000));
        table.push("F", Value::Table(inner));
        table.push("V", Value::Void);
        table
    }

    #[test]
    fn all_field_types_roundtrip() {
        let mut out = Vec::new();
        encode(&mut out, &everything());
        let (rest, content) = long(&out).unwrap();
        assert!(rest.is_empty());
        assert_eq!(check(content), Ok(()));
        assert_eq!(decode(content), Ok(everything()));
    }

    #[test]
    fn letters_are_rabbitmqs() {
        let mut out = Vec::new();
        let mut table = Table::default();
        table.push("a", Value::Int(1, 16));
        table.push("b", Value::Int(1, 64));
        encode(&mut out, &table);
        assert_eq!(out, b"\0\0\0\x10\x01as\0\x01\x01bl\0\0\0\0\0\0\0\x01");
        assert_eq!(
            decode(b"\x01bL\0\0\0\0\0\0\0\x01").unwrap().lookup("b"),
            Some(&Value::Int(1, 64))
        );
    }

    #[test]
    fn a_repeated_key_is_kept_and_the_first_wins() {
        let table = decode(b"\x01at\x01\x01at\0").unwrap();
        assert_eq!(table.0.len(), 2);
        assert_eq!(table.lookup("a"), Some(&Value::Bool(true)));
    }

    #[test]
    fn unknown_letters_cut_values_and_deep_nesting_are_refused() {
        for bad in [
            b"\x01aZ".as_slice(),
            b"\x01a",
            b"\x05a",
            b"\x01aI\0\0",
            b"\x01aS\xff\xff\xff\xffx",
        ] {
            assert_eq!(check(bad), Err(Flaw::Syntax), "{bad:?}");
            assert_eq!(decode(bad), Err(Flaw::Syntax), "{bad:?}");
        }
        let mut deep = Vec::new();
        for _ in 0..DEPTH_MAX + 1 {
            let mut outer = vec![b'A'];
            put_long(&mut outer, &deep);
            deep = outer;
        }
        let content = [b"\x01a".as_slice(), &deep].concat();
        assert_eq!(check(&content), Err(Flaw::Syntax));
        assert_eq!(decode(&content), Err(Flaw::Syntax));
    }
}
