//! How a dialect spells the levels of a name, one to one.
//!
//! A level is any text. A dialect has special characters, which it cannot write as they are within a level: its
//! separator and, in MQTT, the wildcards. Such a character is written as an escape: `%` and its two upper-case hex
//! digits. To write text that looks like one of the dialect's escapes, `%(25)*XX`, another `25` goes behind the `%`.
//! Every other `%` stays as it is. Reading is the inverse. So each level has exactly one spelling, two levels never
//! share one, and no name is ever normalised (MQTT 5 4.7.3).

use crate::message::Dialect;
use std::borrow::Cow;

/// The special characters of a dialect.
#[derive(Clone, Copy, Debug)]
pub struct Spelling {
    /// The character between levels. It is one of the special characters.
    separator: u8,
    /// Whether an ASCII character must be escaped within a level. `%` and the digits of escapes never are.
    special: fn(u8) -> bool,
}

impl Spelling {
    /// The dot dialect: a dot within a level is written `%2E`.
    pub const DOT: Spelling = Spelling::new(b'.', |c| c == b'.');
    /// The slash dialect: `/`, `+` and `#` within a level are written `%2F`, `%2B` and `%23`.
    pub const SLASH: Spelling = Spelling::new(b'/', |c| matches!(c, b'/' | b'+' | b'#'));

    /// A dialect with this `separator`. `special` returns true for the separator and for other characters to be
    /// escaped. These must be ASCII, and neither `%` nor letters nor digits.
    pub const fn new(separator: u8, special: fn(u8) -> bool) -> Spelling {
        Spelling { separator, special }
    }

    pub(crate) fn of(dialect: Dialect) -> Spelling {
        match dialect {
            Dialect::Dot => Spelling::DOT,
            Dialect::Slash => Spelling::SLASH,
        }
    }

    /// Decodes the spelling of a level.
    pub fn read(self, text: &str) -> Cow<'_, str> {
        let mut read = String::new();
        let mut rest = text;
        let mut at = 0;
        while let Some(percent) = rest[at..].find('%').map(|found| at + found) {
            match self.escape(&rest.as_bytes()[percent + 1..]) {
                Some(escape) => {
                    read.push_str(&rest[..percent]);
                    if escape.quotes == 0 {
                        read.push(char::from(escape.octet));
                        rest = &rest[percent + 3..];
                        at = 0;
                    } else {
                        // Remove one `25`. The rest is plain text.
                        read.push('%');
                        rest = &rest[percent + 3..];
                        at = 2 * (escape.quotes - 1) + 2;
                    }
                }
                None => at = percent + 1,
            }
        }
        if read.is_empty() && rest.len() == text.len() {
            return Cow::Borrowed(text);
        }
        read.push_str(rest);
        Cow::Owned(read)
    }

    /// Appends the spelling of `level`.
    pub fn write(self, level: &str, out: &mut String) {
        for (at, c) in level.char_indices() {
            match u8::try_from(c) {
                Ok(octet) if c.is_ascii() && (self.special)(octet) => self.push_escape(octet, out),
                Ok(b'%') if self.escape(&level.as_bytes()[at + 1..]).is_some() => out.push_str("%25"),
                _ => out.push(c),
            }
        }
    }

    /// Respells a whole name in the dialect `to`.
    pub fn respell(self, name: &str, to: Spelling) -> String {
        let mut text = String::with_capacity(name.len() + 8);
        for (index, level) in name.split(char::from(self.separator)).enumerate() {
            if index > 0 {
                text.push(char::from(to.separator));
            }
            to.write(&self.read(level), &mut text);
        }
        text
    }

    fn push_escape(self, octet: u8, out: &mut String) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
        out.extend(['%', digit(octet >> 4), digit(octet)]);
    }

    /// Parses the bytes after a `%`. `None` if the two are no escape.
    fn escape(self, behind: &[u8]) -> Option<Escape> {
        let quotes = behind.chunks_exact(2).take_while(|pair| *pair == b"25").count();
        let octet = hex(behind.get(2 * quotes..2 * quotes + 2)?)?;
        (self.special)(octet).then_some(Escape { quotes, octet })
    }
}

/// An escape: `%`, any number of `25`, and the digits of a special character.
struct Escape {
    quotes: usize,
    octet: u8,
}

fn hex(pair: &[u8]) -> Option<u8> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    };
    match *pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?).filter(u8::is_ascii),
        _ => None,
    }
}
