//! One file per kind of frame: how a client's frame is parsed, and how a server's frame is written.
//!
//! A [`Frame`] is the decoded form that all client frames share: a verb, unescaped headers, a body. The other files of
//! this folder turn it into a request, or into the ERROR that says what is wrong with it.

pub(crate) mod ack;
pub(crate) mod connect;
pub(crate) mod error;
pub(crate) mod escape;
pub(crate) mod receipt;
pub(crate) mod send;
pub(crate) mod subscribe;
pub(crate) mod transaction;
pub(crate) mod unsubscribe;

use crate::error::Refusal;

/// The negotiated version of the protocol. Ordered by age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// No escapes; values are trimmed.
    #[default]
    V1_0,
    /// Escapes `\n`, `\c` and `\\`.
    V1_1,
    /// Escape `\r` too.
    V1_2,
}

impl Version {
    /// As the header `version` has it.
    pub(crate) fn number(self) -> &'static str {
        match self {
            Version::V1_0 => "1.0",
            Version::V1_1 => "1.1",
            Version::V1_2 => "1.2",
        }
    }

    /// As lists of connections show it.
    pub(crate) fn protocol(self) -> &'static str {
        match self {
            Version::V1_0 => "STOMP 1.0",
            Version::V1_1 => "STOMP 1.1",
            Version::V1_2 => "STOMP 1.2",
        }
    }
}

/// The command of a client's frame. Case matters (STOMP 1.2 "STOMP Frames").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verb {
    /// CONNECT, or its synonym STOMP.
    Connect,
    Send,
    Subscribe,
    Unsubscribe,
    Ack,
    Nack,
    Begin,
    Commit,
    Abort,
    Disconnect,
    /// Another command; [`Headers::command`] has its text.
    #[default]
    Unknown,
}

impl Verb {
    /// The verb for the text of a command line.
    pub(crate) fn parse(command: &str) -> Verb {
        match command {
            "SEND" => Verb::Send,
            "ACK" => Verb::Ack,
            "NACK" => Verb::Nack,
            "BEGIN" => Verb::Begin,
            "COMMIT" => Verb::Commit,
            "ABORT" => Verb::Abort,
            "SUBSCRIBE" => Verb::Subscribe,
            "UNSUBSCRIBE" => Verb::Unsubscribe,
            "DISCONNECT" => Verb::Disconnect,
            // STOMP 1.2 "CONNECT or STOMP Frame": both commands mean the same.
            "CONNECT" | "STOMP" => Verb::Connect,
            _ => Verb::Unknown,
        }
    }

    /// Whether `content-length` counts. PHP's clients copy all headers of the MESSAGE into an ACK, its content-length
    /// included, and send no body; RabbitMQ reads the header on SEND alone, and so does this. A server's MESSAGE and
    /// ERROR are unknown verbs here, and do have bodies.
    pub(crate) fn has_body(self) -> bool {
        matches!(self, Verb::Send | Verb::Unknown)
    }
}

/// A frame's command and headers, unescaped. Reused for each frame, so that a frame costs no allocation.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    /// The command, then names and values, back to back.
    text: String,
    command_len: usize,
    spans: Vec<Span>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    value: usize,
    end: usize,
}

/// Capacity that a [`Headers`] keeps between frames, in bytes. A single large frame must not keep its memory.
const TEXT_KEPT_MAX: usize = 16 << 10;

impl Headers {
    /// Clears everything, for a frame with this `command`.
    pub(crate) fn start(&mut self, command: &str) {
        self.spans.clear();
        self.text.clear();
        self.text.shrink_to(TEXT_KEPT_MAX);
        self.text.push_str(command);
        self.command_len = command.len();
    }

    /// Appends a header. `write_name` and `write_value` write its name and value into the buffer. A repeated name is
    /// dropped, because the first one counts (STOMP 1.2 "Repeated Header Entries"). Returns whether the name was new.
    pub(crate) fn push<E>(
        &mut self,
        write_name: impl FnOnce(&mut String) -> Result<(), E>,
        write_value: impl FnOnce(&mut String) -> Result<(), E>,
    ) -> Result<bool, E> {
        let start = self.text.len();
        write_name(&mut self.text)?;
        let value = self.text.len();
        let name = self.slice(start, value);
        if self.iter().any(|(known, _)| known == name) {
            self.text.truncate(start);
            return Ok(false);
        }
        write_value(&mut self.text)?;
        self.spans.push(Span {
            start,
            value,
            end: self.text.len(),
        });
        Ok(true)
    }

    /// The command line.
    pub(crate) fn command(&self) -> &str {
        self.slice(0, self.command_len)
    }

    /// The value under `name`.
    pub(crate) fn lookup(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Whether `name` is a true boolean. RabbitMQ's clients write `true`, Python's `True`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.lookup(name).is_some_and(is_true)
    }

    /// Names and values in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.spans
            .iter()
            .map(|span| (self.slice(span.start, span.value), self.slice(span.value, span.end)))
    }

    /// The number of headers.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    fn slice(&self, start: usize, end: usize) -> &str {
        // All spans lie on character boundaries, since only whole texts were pushed.
        self.text.get(start..end).unwrap_or("")
    }
}

/// Whether the value of a boolean header means true.
pub(crate) fn is_true(value: &str) -> bool {
    matches!(value, "true" | "True")
}

/// One frame from the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    /// The command.
    pub(crate) verb: Verb,
    /// Unescaped headers.
    pub(crate) headers: &'a Headers,
    /// Body without the NUL.
    pub(crate) body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The value of a header that must be present.
    pub(crate) fn require(&self, name: &str, missing: impl FnOnce() -> Refusal) -> Result<&'a str, Refusal> {
        self.headers.lookup(name).ok_or_else(missing)
    }
}

/// Appends `n` in decimal.
pub(crate) fn push_decimal(out: &mut Vec<u8>, n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = n;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends the end of a frame. RabbitMQ sends a line feed after each NUL, and line-oriented clients wait for it.
pub(crate) fn push_end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\0\n");
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Headers in the form in which the decoder leaves them.
    pub(crate) fn headers(command: &str, pairs: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::default();
        headers.start(command);
        for (name, value) in pairs {
            let _ = headers.push::<()>(
                |text| {
                    text.push_str(name);
                    Ok(())
                },
                |text| {
                    text.push_str(value);
                    Ok(())
                },
            );
        }
        headers
    }

    #[test]
    fn the_first_of_repeated_headers_wins() {
        let headers = headers("SEND", &[("a", "1"), ("b", "2"), ("a", "3")]);
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "2")]);
        assert_eq!(headers.lookup("a"), Some("1"));
        assert_eq!(headers.command(), "SEND");
    }

    #[test]
    fn decimals_are_written_without_leading_zeros() {
        for n in [0, 7, 10, 1234, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, n);
            assert_eq!(out, n.to_string().as_bytes());
        }
    }
}
