//! Parses a client's input: lines, and the body that follows a PUB.

use memchr::memchr;
use serde::Deserialize;

/// Maximum length of a line in bytes, its end included.
pub(crate) const LINE_MAX: usize = 4096;

/// One operation.
#[derive(Debug, PartialEq)]
pub(crate) enum Operation<'a> {
    /// Login and options.
    Connect(Box<Connect>),
    Ping,
    Pong,
    Publish {
        subject: &'a str,
        reply: Option<&'a str>,
        body: &'a [u8],
    },
    Subscribe {
        subject: &'a str,
        group: Option<&'a str>,
        sid: &'a str,
    },
    Unsubscribe {
        sid: &'a str,
        /// The subscription ends after this many messages; 0: at once.
        max: u64,
    },
}

/// The JSON argument of CONNECT. Fields that this crate does not use are left out.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Connect {
    pub(crate) user: Option<String>,
    pub(crate) pass: Option<String>,
    pub(crate) name: Option<String>,
    /// nats-server's default is true, for clients that leave it out.
    #[serde(default = "yes")]
    pub(crate) verbose: bool,
    #[serde(default = "yes")]
    pub(crate) echo: bool,
}

fn yes() -> bool {
    true
}

/// Why an operation is refused. The texts are those of nats-server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    Unknown,
    Arguments,
    LineTooLong,
    PayloadTooLarge,
}

impl Wrong {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Wrong::Unknown => "Unknown Protocol Operation",
            Wrong::Arguments => "Parser Error",
            Wrong::LineTooLong => "Maximum Control Line Exceeded",
            Wrong::PayloadTooLarge => "Maximum Payload Violation",
        }
    }
}

/// Parses the first operation of `input`. Returns it with its length, or `None` if it is not complete yet. It never
/// waits for more than a line and `payload_max` bytes.
pub(crate) fn parse(input: &[u8], payload_max: usize) -> Result<Option<(Operation<'_>, usize)>, Wrong> {
    let window = input.get(..LINE_MAX).unwrap_or(input);
    let Some(end) = memchr(b'\n', window) else {
        return if window.len() < LINE_MAX {
            Ok(None)
        } else {
            Err(Wrong::LineTooLong)
        };
    };
    let (line, mut used) = (input.get(..end).unwrap_or_default(), end + 1);
    let line = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)).map_err(|_| Wrong::Arguments)?;
    let (verb, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let mut parts = rest.split_ascii_whitespace();
    let arguments = [parts.next(), parts.next(), parts.next(), parts.next()];
    let operation = match (verb.to_ascii_uppercase().as_str(), arguments) {
        ("CONNECT", _) => {
            let connect = serde_json::from_str(rest).map_err(|_| Wrong::Arguments)?;
            Operation::Connect(Box::new(connect))
        }
        ("PING", _) => Operation::Ping,
        ("PONG", _) => Operation::Pong,
        ("PUB", [Some(subject), length, None, None]) => {
            return publish(input, used, (subject, None), length, payload_max);
        }
        ("PUB", [Some(subject), reply, length, None]) => {
            return publish(input, used, (subject, reply), length, payload_max);
        }
        ("SUB", [Some(subject), Some(sid), None, None]) => Operation::Subscribe {
            subject,
            group: None,
            sid,
        },
        ("SUB", [Some(subject), group, Some(sid), None]) => Operation::Subscribe { subject, group, sid },
        ("UNSUB", [Some(sid), max, None, None]) => Operation::Unsubscribe {
            sid,
            max: max.unwrap_or("0").parse().map_err(|_| Wrong::Arguments)?,
        },
        ("PUB" | "SUB" | "UNSUB", _) => return Err(Wrong::Arguments),
        _ => return Err(Wrong::Unknown),
    };
    // A person at a terminal sends blank lines. The protocol does not have them; they are skipped.
    while input.get(used) == Some(&b'\n') {
        used += 1;
    }
    Ok(Some((operation, used)))
}

fn publish<'a>(
    input: &'a [u8],
    line: usize,
    (subject, reply): (&'a str, Option<&'a str>),
    length: Option<&str>,
    payload_max: usize,
) -> Result<Option<(Operation<'a>, usize)>, Wrong> {
    let length: usize = length.and_then(|text| text.parse().ok()).ok_or(Wrong::Arguments)?;
    if length > payload_max {
        return Err(Wrong::PayloadTooLarge);
    }
    let Some(body) = input.get(line..line + length) else {
        return Ok(None);
    };
    let end = match input.get(line + length..).unwrap_or_default() {
        [b'\r', b'\n', ..] => 2,
        [b'\n', ..] => 1,
        [] | [b'\r'] => return Ok(None),
        _ => return Err(Wrong::Arguments),
    };
    Ok(Some((Operation::Publish { subject, reply, body }, line + length + end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_in_pieces_is_waited_for() {
        let input = b"PUB a.b reply 5\r\nhe\nlo\r\nPING\r\n";
        for len in 0..24 {
            assert_eq!(parse(&input[..len], 10), Ok(None), "{len}");
        }
        let (operation, used) = parse(input, 10).expect("right").expect("whole");
        let expected = Operation::Publish {
            subject: "a.b",
            reply: Some("reply"),
            body: b"he\nlo",
        };
        assert_eq!((operation, used), (expected, 24));
        assert_eq!(parse(&input[24..], 10), Ok(Some((Operation::Ping, 6))));
    }

    #[test]
    fn nothing_too_long_is_waited_for() {
        assert_eq!(parse(b"PUB a 11\r\n", 10), Err(Wrong::PayloadTooLarge));
        assert_eq!(parse(&[b'a'; LINE_MAX], 10), Err(Wrong::LineTooLong));
        assert_eq!(parse(b"PUB a 99999999999999999999\r\n", 10), Err(Wrong::Arguments));
        assert_eq!(parse(b"PUB a 1\r\nxyz\r\n", 10), Err(Wrong::Arguments));
        assert_eq!(parse(b"GET / HTTP/1.1\r\n", 10), Err(Wrong::Unknown));
        assert_eq!(parse(b"CONNECT {\"user\":\r\n", 10), Err(Wrong::Arguments));
    }

    #[test]
    fn options_that_a_client_leaves_out_have_nats_s_defaults() {
        let (operation, _) = parse(b"CONNECT {\"user\":\"u\",\"lang\":\"x\"}\r\n", 10)
            .expect("right")
            .expect("whole");
        let Operation::Connect(connect) = operation else {
            panic!("{operation:?}")
        };
        assert!(connect.verbose && connect.echo && connect.pass.is_none());
        assert_eq!(connect.user.as_deref(), Some("u"));
    }
}
