//! One file per kind of frame: what a client's frame says, and how a server's frame is written.
//!
//! A [`Frame`] is the decoded form all client frames share: a verb, unescaped headers, a body. The files beside this
//! one turn it into what each verb means, or into the ERROR that says what is wrong with it.

pub(crate) mod ack;
pub(crate) mod connect;
pub(crate) mod error;
pub(crate) mod escape;
pub(crate) mod message;
pub(crate) mod receipt;
pub(crate) mod send;
pub(crate) mod subscribe;
pub(crate) mod transaction;
pub(crate) mod unsubscribe;

use crate::error::Refusal;

/// What both sides agreed to speak. Ordered by age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// No escapes; values are trimmed.
    #[default]
    V1_0,
    /// `\n`, `\c`, `\\`.
    V1_1,
    /// `\r` too.
    V1_2,
}

impl Version {
    /// As CONNECTED says it.
    pub(crate) fn number(self) -> &'static str {
        match self {
            Version::V1_0 => "1.0",
            Version::V1_1 => "1.1",
            Version::V1_2 => "1.2",
        }
    }

    /// As people see it.
    pub(crate) fn protocol(self) -> &'static str {
        match self {
            Version::V1_0 => "STOMP 1.0",
            Version::V1_1 => "STOMP 1.1",
            Version::V1_2 => "STOMP 1.2",
        }
    }
}

/// What a client asks for. Case matters (STOMP 1.2 "STOMP Frames").
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
    /// None of these; [`Headers::command`] has its text.
    #[default]
    Unknown,
}

impl Verb {
    /// The verb a command line names.
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
            // STOMP 1.2 "CONNECT or STOMP Frame": both, with the same meaning.
            "CONNECT" | "STOMP" => Verb::Connect,
            _ => Verb::Unknown,
        }
    }

    /// Whether `content-length` counts. PHP's clients acknowledge with all headers of the MESSAGE, its content-length
    /// included, and without its body: RabbitMQ reads the header on SEND alone. A server's MESSAGE and ERROR are unknown
    /// verbs here, and do have bodies.
    pub(crate) fn has_body(self) -> bool {
        matches!(self, Verb::Send | Verb::Unknown)
    }
}

/// A frame's command and headers, unescaped. Reused from frame to frame, so that a frame costs no allocation.
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

/// Capacity a [`Headers`] keeps between frames.
const TEXT_KEPT_MAX: usize = 16 << 10;

impl Headers {
    /// Forgets everything; a frame with `command` follows.
    pub(crate) fn start(&mut self, command: &str) {
        self.spans.clear();
        self.text.clear();
        self.text.shrink_to(TEXT_KEPT_MAX);
        self.text.push_str(command);
        self.command_len = command.len();
    }

    /// Appends a header whose name and value `write_name` and `write_value` put into a buffer. A repeated name is
    /// dropped: the first wins (STOMP 1.2 "Repeated Header Entries"). Returns whether it was new.
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

    /// Whether `name` is given as a true boolean. RabbitMQ's clients write `true`, Python's `True`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.lookup(name).is_some_and(is_true)
    }

    /// Names and values in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.spans
            .iter()
            .map(|span| (self.slice(span.start, span.value), self.slice(span.value, span.end)))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    fn slice(&self, start: usize, end: usize) -> &str {
        // Spans lie on the boundaries of what was pushed.
        self.text.get(start..end).unwrap_or("")
    }
}

/// Whether a boolean header's value means yes.
pub(crate) fn is_true(value: &str) -> bool {
    matches!(value, "true" | "True")
}

/// One frame from the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    /// What it asks for.
    pub(crate) verb: Verb,
    /// Unescaped.
    pub(crate) headers: &'a Headers,
    /// Without the NUL.
    pub(crate) body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The header that must be there.
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

    /// Headers as a decoder would leave them.
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
