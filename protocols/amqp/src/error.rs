//! Errors that a client is told of: reply codes, and whether an error closes the channel or the connection.

use gatepost_core::session::Close;
use std::borrow::Cow;
use std::fmt;

/// The reply codes of AMQP 0-9-1 1.2 that this server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Code {
    ConnectionForced = 320,
    AccessRefused = 403,
    NotFound = 404,
    ResourceLocked = 405,
    PreconditionFailed = 406,
    FrameError = 501,
    CommandInvalid = 503,
    ChannelError = 504,
    UnexpectedFrame = 505,
    ResourceError = 506,
    NotAllowed = 530,
    NotImplemented = 540,
    InternalError = 541,
}

impl Code {
    /// The code's name, which begins each reply text.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Code::ConnectionForced => "CONNECTION_FORCED",
            Code::AccessRefused => "ACCESS_REFUSED",
            Code::NotFound => "NOT_FOUND",
            Code::ResourceLocked => "RESOURCE_LOCKED",
            Code::PreconditionFailed => "PRECONDITION_FAILED",
            Code::FrameError => "FRAME_ERROR",
            Code::CommandInvalid => "COMMAND_INVALID",
            Code::ChannelError => "CHANNEL_ERROR",
            Code::UnexpectedFrame => "UNEXPECTED_FRAME",
            Code::ResourceError => "RESOURCE_ERROR",
            Code::NotAllowed => "NOT_ALLOWED",
            Code::NotImplemented => "NOT_IMPLEMENTED",
            Code::InternalError => "INTERNAL_ERROR",
        }
    }

    /// Whether an error of this code closes only its channel, not the connection.
    pub(crate) fn is_soft(self) -> bool {
        matches!(
            self,
            Code::AccessRefused | Code::NotFound | Code::ResourceLocked | Code::PreconditionFailed
        )
    }
}

/// Content of a `channel.close` or `connection.close`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: Code,
    /// The text without the code's name. The encoder cuts it to what a short string can hold.
    pub(crate) detail: Cow<'static, str>,
    /// Class and method that failed; zeros for errors below the level of methods.
    pub(crate) method: (u16, u16),
}

impl Reply {
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>, method: (u16, u16)) -> Reply {
        Reply {
            code,
            detail: detail.into(),
            method,
        }
    }

    /// An error of framing. It belongs to no method: class and method are 0.
    pub(crate) fn frame(code: Code, detail: impl Into<Cow<'static, str>>) -> Reply {
        Reply::new(code, detail, (0, 0))
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} - {}", self.code.name(), self.detail)
    }
}

/// What an error does to the channel or the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The channel is closed with this reply; the connection goes on.
    #[error("channel closed: {0}")]
    Channel(Reply),
    /// The connection is closed with this reply.
    #[error("connection closed: {0}")]
    Connection(Reply),
    /// The connection is closed with this reply. Where the next frame starts is unknown, so nothing more is parsed.
    #[error("framing lost: {0}")]
    FramingLost(Reply),
    /// Nothing more is sent: the socket is closed.
    #[error("{}", .0.why)]
    Closed(Close),
}

impl Error {
    /// An error of `method`. Its code decides whether it closes the channel or the connection.
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>, method: (u16, u16)) -> Error {
        Error::from(Reply::new(code, detail, method))
    }
}

impl From<Reply> for Error {
    fn from(reply: Reply) -> Error {
        if reply.code.is_soft() {
            Error::Channel(reply)
        } else {
            Error::Connection(reply)
        }
    }
}

/// Octets as Erlang prints a binary: `<<"abc">>` if all are printable, else `<<1,2,3>>`. RabbitMQ's error texts contain
/// them, and clients compare those texts.
pub(crate) struct ErlangBinary<'a>(pub(crate) &'a [u8]);

impl fmt::Display for ErlangBinary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && self.0.iter().all(|b| (0x20..0x7f).contains(b)) {
            f.write_str("<<\"")?;
            for &b in self.0 {
                if b == b'"' || b == b'\\' {
                    f.write_str("\\")?;
                }
                write!(f, "{}", char::from(b))?;
            }
            return f.write_str("\">>");
        }
        write!(f, "{}", ErlangOctets(self.0))
    }
}

/// Octets as numbers, `<<1,2,3>>`, printable or not. At most 64 are shown: more does not fit into a reply text.
pub(crate) struct ErlangOctets<'a>(pub(crate) &'a [u8]);

impl fmt::Display for ErlangOctets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<<")?;
        for (i, b) in self.0.iter().take(64).enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{b}")?;
        }
        f.write_str(if self.0.len() > 64 { ",...>>" } else { ">>" })
    }
}

/// `all octets = <<"abc">>`, or `first 16 octets = …` of a longer payload.
pub(crate) struct Snippet<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Snippet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get(..16) {
            Some(first) if self.0.len() > 16 => write!(f, "first 16 octets = {}", ErlangBinary(first)),
            _ => write!(f, "all octets = {}", ErlangBinary(self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_print_as_erlang_does() {
        assert_eq!(Snippet(b"abc").to_string(), "all octets = <<\"abc\">>");
        assert_eq!(Snippet(&[0, 0]).to_string(), "all octets = <<0,0>>");
        assert_eq!(Snippet(b"").to_string(), "all octets = <<>>");
        assert_eq!(
            Snippet(b"abcdefghijklmnopq").to_string(),
            "first 16 octets = <<\"abcdefghijklmnop\">>"
        );
    }
}
