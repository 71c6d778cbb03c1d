//! Splits the input into frames. Decoding resumes at any octet without scanning an octet twice, and every limit is
//! checked before more input is waited for.
//!
//! The caller offers unconsumed octets again, with more after them. The decoder remembers its position:
//!
//! ```text
//!              ┌─────LF, CRLF, NUL─────┐
//!              ▼                       │
//!   ──► Between ──other──► Command ──LF──► Header ──empty line──► Body ──NUL──► frame
//!                                          ▲  │
//!                                          └LF┘
//! ```

use crate::error::Refusal;
use crate::frame::escape::unescape;
use crate::frame::{Headers, Verb, Version};
use crate::settings::Settings;
use std::ops::Range;

/// Maximum length of a command line, in octets.
const COMMAND_BYTES_MAX: usize = 32;

/// Maximum length of the name of a receipt, a subscription or a transaction, in octets. A session may keep thousands of
/// them for as long as the client likes.
const IDENTIFIER_BYTES_MAX: usize = 1024;

/// Maximum header lines of a frame, repeated names included. Each new name is compared with all before it, so this
/// bounds the work.
const HEADER_LINES_MAX: usize = 10_000;

/// The position of the decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Between frames.
    #[default]
    Between,
    /// In the command line.
    Command,
    /// In header line number `lines` (from 0).
    Header { lines: usize },
    /// After the empty line; `length` as announced.
    Body { start: usize, length: Option<usize> },
}

/// The result of offering octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The frame is not complete. The first `consumed` octets need not be offered again.
    Partial { consumed: usize },
    /// A frame: its headers are in [`Decoder::headers`], its body at `body`, its end at `consumed`.
    Frame {
        verb: Verb,
        body: Range<usize>,
        consumed: usize,
    },
}

/// Splits a connection's octets into frames.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// Headers of the frame being read, and then of that frame until the next one begins.
    pub(crate) headers: Headers,
    /// Negotiated at login. `None` before: nothing is unescaped then, and frames must be small.
    version: Option<Version>,
    phase: Phase,
    verb: Verb,
    /// Start of the line being read, counted from the frame's first octet.
    line: usize,
    /// From the line's start to here there is no line feed (in the body: no NUL).
    scanned: usize,
}

impl Decoder {
    /// The login is finished: `version` applies to the following frames.
    pub(crate) fn set_version(&mut self, version: Version) {
        self.version = Some(version);
    }

    /// The frame just returned will be offered again from its start.
    pub(crate) fn rewind(&mut self) {
        self.phase = Phase::Between;
    }

    /// Whether no frame has begun.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.phase == Phase::Between
    }

    /// Continues with `input`, which begins where the last step's `consumed` ended.
    pub(crate) fn next(&mut self, input: &[u8], settings: &Settings) -> Result<Step, Refusal> {
        let mut skipped = 0;
        if self.phase == Phase::Between {
            skipped = between_frames_len(input)?;
            if input.get(skipped..).is_none_or(|rest| rest.is_empty() || rest == b"\r") {
                return Ok(Step::Partial { consumed: skipped });
            }
            self.headers.start("");
            self.phase = Phase::Command;
            self.line = 0;
            self.scanned = 0;
        }
        let frame = input.get(skipped..).unwrap_or(&[]);
        loop {
            let done = match self.phase {
                Phase::Body { start, length } => self.body(frame, start, length, settings)?,
                _ => match self.next_line(frame, settings)? {
                    Some(line) => {
                        self.accept_line(&frame[line], settings)?;
                        continue;
                    }
                    None => None,
                },
            };
            let Some(body) = done else {
                if self.version.is_none() && frame.len() > settings.login_frame_bytes_max {
                    return Err(Refusal::malformed("Frame too large before login\n"));
                }
                return Ok(Step::Partial { consumed: skipped });
            };
            self.phase = Phase::Between;
            return Ok(Step::Frame {
                verb: self.verb,
                consumed: skipped + body.end + 1,
                body: skipped + body.start..skipped + body.end,
            });
        }
    }

    /// The next complete line, without its end.
    fn next_line(&mut self, frame: &[u8], settings: &Settings) -> Result<Option<Range<usize>>, Refusal> {
        let found = memchr::memchr(b'\n', frame.get(self.scanned..).unwrap_or(&[]));
        let end = found.map_or(frame.len(), |at| self.scanned + at);
        let length = end.saturating_sub(self.line);
        match self.phase {
            // One octet more, for a carriage return.
            Phase::Command if length > COMMAND_BYTES_MAX + 1 => return Err(Refusal::malformed("Command too long\n")),
            Phase::Header { .. } if length > 2 * settings.header_part_bytes_max + 2 => {
                return Err(Refusal::malformed("Header too long\n"));
            }
            _ if end > settings.header_bytes_max => return Err(Refusal::malformed("Headers too long\n")),
            _ => {}
        }
        if found.is_none() {
            self.scanned = end;
            return Ok(None);
        }
        let start = self.line;
        self.line = end + 1;
        self.scanned = end + 1;
        // STOMP 1.2 "STOMP Frames": EOL is a line feed, with or without a carriage return before it. Clients of 1.0 and
        // 1.1 on Windows send one too.
        let end = if end > start && frame[end - 1] == b'\r' {
            end - 1
        } else {
            end
        };
        Ok(Some(start..end))
    }

    fn accept_line(&mut self, line: &[u8], settings: &Settings) -> Result<(), Refusal> {
        // No early exit, so that the compiler can compare many octets at once.
        let (returns, escaped) = line.iter().fold((false, false), |(returns, escaped), octet| {
            (returns | (*octet == b'\r'), escaped | (*octet == b'\\'))
        });
        if returns {
            return Err(Refusal::malformed("Carriage return without line feed\n"));
        }
        let Ok(line) = std::str::from_utf8(line) else {
            return Err(Refusal::malformed("Header is not UTF-8\n"));
        };
        let lines = match self.phase {
            Phase::Header { lines } => lines,
            _ => return self.accept_command(line),
        };
        if line.is_empty() {
            return self.end_headers(settings);
        }
        self.accept_header(line, escaped, settings)?;
        if lines >= HEADER_LINES_MAX || self.headers.len() > settings.headers_max {
            return Err(Refusal::malformed("Too many headers\n"));
        }
        self.phase = Phase::Header { lines: lines + 1 };
        Ok(())
    }

    fn accept_command(&mut self, line: &str) -> Result<(), Refusal> {
        if line.len() > COMMAND_BYTES_MAX {
            return Err(Refusal::malformed("Command too long\n"));
        }
        self.headers.start(line);
        self.verb = Verb::parse(line);
        // Before login any other command is refused at once. An HTTP request, for example, would otherwise wait for the
        // login timeout.
        if self.version.is_none() && self.verb != Verb::Connect {
            return Err(Refusal::illegal_command());
        }
        self.phase = Phase::Header { lines: 0 };
        Ok(())
    }

    /// `escaped`: the line contains a backslash.
    fn accept_header(&mut self, line: &str, escaped: bool, settings: &Settings) -> Result<(), Refusal> {
        // Names are short, so a plain loop finds the colon fastest.
        let colon = line.bytes().position(|octet| octet == b':');
        let Some((name, value)) = colon.and_then(|at| Some((line.get(..at)?, line.get(at + 1..)?))) else {
            return Err(Refusal::malformed("Header without colon\n"));
        };
        if name.is_empty() {
            return Err(Refusal::malformed("Header without name\n"));
        }
        if name.len() > settings.header_part_bytes_max || value.len() > settings.header_part_bytes_max {
            return Err(Refusal::malformed("Header too long\n"));
        }
        if value.len() > IDENTIFIER_BYTES_MAX
            && (matches!(name, "receipt" | "transaction") || (name == "id" && self.verb == Verb::Subscribe))
        {
            return Err(Refusal::malformed("Identifier too long\n"));
        }
        // STOMP 1.2 "Value Encoding": CONNECT is not escaped, for compatibility with 1.0.
        let escapes = if self.verb == Verb::Connect || !escaped {
            Version::V1_0
        } else {
            self.version.unwrap_or_default()
        };
        // STOMP 1.0 clients pad values with blanks; 1.1 and 1.2 forbid trimming.
        let value = if self.version == Some(Version::V1_0) {
            value.trim_matches([' ', '\t'])
        } else {
            value
        };
        self.headers
            .push(
                |text| unescape(name, escapes, text),
                |text| unescape(value, escapes, text),
            )
            .map_err(|_| Refusal::malformed("Undefined escape in header\n"))?;
        Ok(())
    }

    fn end_headers(&mut self, settings: &Settings) -> Result<(), Refusal> {
        let announced = self.headers.lookup("content-length").filter(|_| self.verb.has_body());
        let length = announced.map(parse_content_length).transpose()?;
        let start = self.line;
        if let Some(length) = length {
            self.check_body(start, length, settings)?;
        }
        self.scanned = start;
        self.phase = Phase::Body { start, length };
        Ok(())
    }

    /// The body's range, once the body and its NUL are complete.
    fn body(
        &mut self,
        frame: &[u8],
        start: usize,
        length: Option<usize>,
        settings: &Settings,
    ) -> Result<Option<Range<usize>>, Refusal> {
        if let Some(length) = length {
            return match frame.get(start + length) {
                None => Ok(None),
                Some(0) => Ok(Some(start..start + length)),
                Some(_) => Err(Refusal::malformed("Body longer than its content-length\n")),
            };
        }
        let found = memchr::memchr(0, frame.get(self.scanned..).unwrap_or(&[]));
        let end = found.map_or(frame.len(), |at| self.scanned + at);
        self.check_body(start, end.saturating_sub(start), settings)?;
        self.scanned = end;
        Ok(found.map(|_| start..end))
    }

    fn check_body(&self, start: usize, length: usize, settings: &Settings) -> Result<(), Refusal> {
        if length > settings.max_message_size {
            return Err(Refusal::malformed("Body too large\n"));
        }
        if self.version.is_none() && start + length >= settings.login_frame_bytes_max {
            return Err(Refusal::malformed("Frame too large before login\n"));
        }
        Ok(())
    }
}

/// Octets between frames: line ends (STOMP 1.2 "STOMP Frames": `*( EOL )`, heart-beats) and stray NULs.
fn between_frames_len(input: &[u8]) -> Result<usize, Refusal> {
    let mut at = 0;
    loop {
        match input.get(at..).unwrap_or(&[]) {
            [b'\n' | 0, ..] => at += 1,
            [b'\r', b'\n', ..] => at += 2,
            [b'\r', _, ..] => return Err(Refusal::malformed("Carriage return without line feed\n")),
            _ => return Ok(at),
        }
    }
}

fn parse_content_length(value: &str) -> Result<usize, Refusal> {
    let value = value.trim_matches([' ', '\t']);
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refusal::malformed("Invalid content-length\n"));
    }
    // A number with too many digits exceeds every limit.
    Ok(value.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes all of `input`: `VERB name=value … |body|` per frame, and the refusal's body at the end, if any.
    fn read(version: Option<Version>, input: &[u8], chunk: usize) -> Vec<String> {
        let settings = Settings {
            max_message_size: 1000,
            ..Settings::default()
        };
        let mut decoder = Decoder {
            version,
            ..Decoder::default()
        };
        let (mut from, mut to, mut seen) = (0, 0, Vec::new());
        loop {
            match decoder.next(&input[from..to], &settings) {
                Ok(Step::Partial { consumed }) => {
                    from += consumed;
                    if to == input.len() {
                        return seen;
                    }
                    to = (to + chunk).min(input.len());
                }
                Ok(Step::Frame { body, consumed, .. }) => {
                    let mut line = decoder.headers.command().to_owned();
                    for (name, value) in decoder.headers.iter() {
                        line += &format!(" {name}={value}");
                    }
                    line += &format!(" |{}|", input[from..][body].escape_ascii());
                    seen.push(line);
                    from += consumed;
                }
                Err(refusal) => {
                    seen.push(format!("! {}", refusal.body.trim_end()));
                    return seen;
                }
            }
        }
    }

    fn read_1_2(input: &[u8]) -> Vec<String> {
        read(Some(Version::V1_2), input, usize::MAX / 2)
    }

    const TWO_FRAMES: &[u8] =
        b"\n\r\n\0SEND\r\ndestination:/queue/a\ncontent-length:3\r\n\r\na\0b\0\n\nACK\nid:x\\cy\n\n\0\r\n";

    #[test]
    fn frames_split_anywhere_are_the_same_frames() {
        let whole = read_1_2(TWO_FRAMES);
        assert_eq!(
            whole,
            ["SEND destination=/queue/a content-length=3 |a\\x00b|", "ACK id=x:y ||"]
        );
        for chunk in 1..TWO_FRAMES.len() {
            assert_eq!(
                read(Some(Version::V1_2), TWO_FRAMES, chunk),
                whole,
                "in chunks of {chunk}"
            );
        }
    }

    #[test]
    fn octets_offered_again_are_not_scanned_again() {
        let settings = Settings::default();
        let mut decoder = Decoder {
            version: Some(Version::V1_2),
            ..Decoder::default()
        };
        let mut input = b"SEND\ndestination:/queue/a\n\n".to_vec();
        input.resize(5000, b'x');
        assert_eq!(decoder.next(&input, &settings), Ok(Step::Partial { consumed: 0 }));
        assert_eq!(decoder.scanned, 5000);
        input.push(0);
        assert!(matches!(
            decoder.next(&input, &settings),
            Ok(Step::Frame { consumed: 5001, .. })
        ));
    }

    #[test]
    fn a_lone_carriage_return_is_fatal() {
        for input in [
            &b"SEND\na:b\rc\n\n\0"[..],
            b"SE\rND\n\n\0",
            b"\rSEND\n\n\0",
            b"SEND\r\r\n\n\0",
        ] {
            assert_eq!(read_1_2(input), ["! Carriage return without line feed"]);
        }
    }

    #[test]
    fn colonless_and_nameless_headers_are_fatal() {
        assert_eq!(read_1_2(b"SEND\nfoo\n\n\0"), ["! Header without colon"]);
        assert_eq!(read_1_2(b"SEND\n:foo\n\n\0"), ["! Header without name"]);
        assert_eq!(read_1_2(b"SEND\nfoo:\n\n\0"), ["SEND foo= ||"]);
        assert_eq!(read_1_2(b"SEND\nf\xff:\n\n\0"), ["! Header is not UTF-8"]);
    }

    #[test]
    fn values_keep_their_padding_from_1_1_on() {
        let input = b"SEND\nfoo : b:ar \n\n\0";
        assert_eq!(read(Some(Version::V1_1), input, 100), ["SEND foo = b:ar  ||"]);
        assert_eq!(read(Some(Version::V1_0), input, 100), ["SEND foo =b:ar ||"]);
    }

    #[test]
    fn an_undefined_escape_is_fatal_but_not_in_1_0() {
        let input = b"SEND\nfoo:a\\tb\n\n\0";
        assert_eq!(read(Some(Version::V1_2), input, 100), ["! Undefined escape in header"]);
        assert_eq!(read(Some(Version::V1_0), input, 100), ["SEND foo=a\\tb ||"]);
        assert_eq!(
            read(Some(Version::V1_1), b"SEND\nfoo:\\r\n\n\0", 100),
            ["! Undefined escape in header"]
        );
    }

    #[test]
    fn repeated_names_are_compared_unescaped_and_not_counted() {
        assert_eq!(read_1_2(b"SEND\na\\cb:1\na\\cb:2\n\n\0"), ["SEND a:b=1 ||"]);
        let mut input = b"SEND\n".to_vec();
        for _ in 0..500 {
            input.extend_from_slice(b"same:x\n");
        }
        input.extend_from_slice(b"\n\0");
        assert_eq!(read_1_2(&input), ["SEND same=x ||"]);
    }

    #[test]
    fn headers_are_limited_in_number_and_length() {
        let with = |n: usize| {
            let mut input = b"SEND\n".to_vec();
            for i in 0..n {
                input.extend_from_slice(format!("h{i}:x\n").as_bytes());
            }
            input.extend_from_slice(b"\n\0");
            read_1_2(&input)
        };
        assert!(with(100)[0].starts_with("SEND h0=x"));
        assert_eq!(with(101), ["! Too many headers"]);

        let long = |n: usize| [b"SEND\nfoo:", &vec![b'x'; n][..], b"\n\n\0"].concat();
        assert!(read_1_2(&long(100 << 10))[0].starts_with("SEND"));
        assert_eq!(read_1_2(&long((100 << 10) + 1)), ["! Header too long"]);
        // Also when no line feed has come yet.
        assert_eq!(
            read_1_2(&[b"SEND\nfoo:", &vec![b'x'; 300_000][..]].concat()),
            ["! Header too long"]
        );
        assert_eq!(read_1_2(&[b'A'; 34]), ["! Command too long"]);
        assert_eq!(read_1_2(&[&[b'A'; 33][..], b"\n"].concat()), ["! Command too long"]);
    }

    #[test]
    fn a_body_ends_where_its_content_length_says_or_at_the_first_nul() {
        assert_eq!(read_1_2(b"SEND\n\nab\0cd"), ["SEND |ab|"]);
        assert_eq!(
            read_1_2(b"SEND\ncontent-length: 2 \n\nab\0"),
            ["SEND content-length= 2  |ab|"]
        );
        assert_eq!(
            read_1_2(b"SEND\ncontent-length:1\n\nab\0"),
            ["! Body longer than its content-length"]
        );
        for bad in ["-1", "x", "", "1x"] {
            let input = format!("SEND\ncontent-length:{bad}\n\nab\0");
            assert_eq!(read_1_2(input.as_bytes()), ["! Invalid content-length"]);
        }
    }

    /// PHP's clients copy the headers of a MESSAGE into its ACK, `content-length` included. The server waited for a
    /// body that never came.
    #[test]
    fn a_frame_without_a_body_ends_at_its_nul_whatever_its_content_length_says() {
        for verb in [
            "SUBSCRIBE",
            "UNSUBSCRIBE",
            "ACK",
            "NACK",
            "BEGIN",
            "COMMIT",
            "ABORT",
            "DISCONNECT",
        ] {
            for length in ["0", "5", "-1", "x", "99999999999999999999999"] {
                let input = format!("{verb}\ncontent-length:{length}\n\n\0SEND\n\nab\0");
                let expected = [format!("{verb} content-length={length} ||"), "SEND |ab|".to_owned()];
                assert_eq!(read_1_2(input.as_bytes()), expected);
            }
        }
        // A body is read up to its NUL and ignored.
        assert_eq!(
            read_1_2(b"ACK\ncontent-length:3\n\nab\0SEND\n\n\0"),
            ["ACK content-length=3 |ab|", "SEND ||"]
        );
        assert_eq!(
            read(None, b"CONNECT\ncontent-length:70000\n\n\0", 100),
            ["CONNECT content-length=70000 ||"]
        );
    }

    #[test]
    fn a_body_is_limited_before_it_arrives() {
        assert_eq!(read_1_2(b"SEND\ncontent-length:1001\n\n"), ["! Body too large"]);
        assert_eq!(
            read_1_2(b"SEND\ncontent-length:99999999999999999999999\n\n"),
            ["! Body too large"]
        );
        assert_eq!(
            read_1_2(&[b"SEND\n\n", &[b'x'; 1001][..]].concat()),
            ["! Body too large"]
        );
    }

    #[test]
    fn before_login_frames_are_small_and_only_connect_is_accepted() {
        assert_eq!(
            read(None, b"GET / HTTP/1.1\r\n", 100),
            ["! You must log in using CONNECT first"]
        );
        assert_eq!(
            read(None, b"STOMP\npasscode:a\\b:c \n\n\0", 100),
            ["STOMP passcode=a\\b:c  ||"]
        );
        let mut input = b"CONNECT\n".to_vec();
        for i in 0..50 {
            input.extend_from_slice(format!("h{i}:{}\n", "x".repeat(1500)).as_bytes());
        }
        assert_eq!(read(None, &input, 5000), ["! Frame too large before login"]);
        let body = [b"CONNECT\n\n", &[b'x'; 70_000][..]].concat();
        assert_eq!(read(None, &body, 5000), ["! Body too large"]);
    }
}
