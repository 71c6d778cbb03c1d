//! Errors of a client and the reason codes that report them.
//!
//! An MQTT 5 client is told the code: in CONNACK before the session is open, in DISCONNECT after. MQTT 3 has only the
//! five return codes of CONNACK; for any other error its connection is closed without an answer.

use std::fmt;

/// A reason code of MQTT 5 (2.4). Below 0x80 success, otherwise failure.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reason(pub u8);

#[expect(missing_docs, reason = "each is named as in MQTT 5 2.4")]
impl Reason {
    pub const SUCCESS: Reason = Reason(0x00);
    pub const DISCONNECT_WITH_WILL: Reason = Reason(0x04);
    pub const NO_MATCHING_SUBSCRIBERS: Reason = Reason(0x10);
    pub const NO_SUBSCRIPTION_EXISTED: Reason = Reason(0x11);
    pub const CONTINUE_AUTHENTICATION: Reason = Reason(0x18);
    pub const REAUTHENTICATE: Reason = Reason(0x19);
    pub const UNSPECIFIED: Reason = Reason(0x80);
    pub const MALFORMED_PACKET: Reason = Reason(0x81);
    pub const PROTOCOL_ERROR: Reason = Reason(0x82);
    pub const IMPLEMENTATION_SPECIFIC: Reason = Reason(0x83);
    pub const UNSUPPORTED_VERSION: Reason = Reason(0x84);
    pub const CLIENT_ID_NOT_VALID: Reason = Reason(0x85);
    pub const BAD_CREDENTIALS: Reason = Reason(0x86);
    pub const NOT_AUTHORIZED: Reason = Reason(0x87);
    pub const SERVER_UNAVAILABLE: Reason = Reason(0x88);
    pub const SERVER_BUSY: Reason = Reason(0x89);
    pub const BANNED: Reason = Reason(0x8A);
    pub const SHUTTING_DOWN: Reason = Reason(0x8B);
    pub const BAD_AUTHENTICATION_METHOD: Reason = Reason(0x8C);
    pub const KEEP_ALIVE_TIMEOUT: Reason = Reason(0x8D);
    pub const TAKEN_OVER: Reason = Reason(0x8E);
    pub const FILTER_INVALID: Reason = Reason(0x8F);
    pub const TOPIC_INVALID: Reason = Reason(0x90);
    pub const PACKET_ID_NOT_FOUND: Reason = Reason(0x92);
    pub const RECEIVE_MAXIMUM_EXCEEDED: Reason = Reason(0x93);
    pub const TOPIC_ALIAS_INVALID: Reason = Reason(0x94);
    pub const PACKET_TOO_LARGE: Reason = Reason(0x95);
    pub const QUOTA_EXCEEDED: Reason = Reason(0x97);
    pub const ADMINISTRATIVE_ACTION: Reason = Reason(0x98);
    pub const RETAIN_NOT_SUPPORTED: Reason = Reason(0x9A);
    pub const QOS_NOT_SUPPORTED: Reason = Reason(0x9B);
}

impl Reason {
    /// Whether it reports a failure.
    pub fn is_failure(self) -> bool {
        self.0 >= 0x80
    }

    /// The nearest return code of an MQTT 3 CONNACK; `None` where MQTT 3 only closes.
    pub fn return_code(self) -> Option<u8> {
        match self {
            Reason::SUCCESS => Some(0),
            Reason::UNSUPPORTED_VERSION => Some(1),
            Reason::CLIENT_ID_NOT_VALID => Some(2),
            Reason::SERVER_UNAVAILABLE | Reason::SERVER_BUSY | Reason::QUOTA_EXCEEDED | Reason::UNSPECIFIED => Some(3),
            Reason::BAD_CREDENTIALS => Some(4),
            Reason::NOT_AUTHORIZED | Reason::BANNED | Reason::TOPIC_INVALID => Some(5),
            _ => None,
        }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x}", self.0)
    }
}

/// Why a packet was not accepted, or could not be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It cannot be parsed.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// It can be parsed but is not allowed.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// Another error that has its own reason code.
    #[error("{1} ({0:?})")]
    Reason(Reason, &'static str),
    /// A CONNECT with another protocol's name. It is not answered.
    #[error("the protocol name is not MQTT's")]
    NotMqtt,
    /// A CONNECT of a version that this server does not support.
    #[error("protocol level {level} is not supported")]
    Version {
        /// The level it announced.
        level: u8,
        /// Whether the client understands a CONNACK of MQTT 3 rather than one of MQTT 5.
        old: bool,
    },
    /// Cannot be encoded: a text is longer than 65,535 bytes, or the packet is longer than 256 MiB.
    #[error("too long for the wire")]
    TooLong,
}

impl Error {
    /// The reason code for an MQTT 5 client.
    pub fn reason(&self) -> Reason {
        match *self {
            Error::Malformed(_) => Reason::MALFORMED_PACKET,
            Error::Protocol(_) => Reason::PROTOCOL_ERROR,
            Error::Reason(reason, _) => reason,
            Error::NotMqtt | Error::Version { .. } => Reason::UNSUPPORTED_VERSION,
            Error::TooLong => Reason::PACKET_TOO_LARGE,
        }
    }

    /// A description, sent to the client as reason string.
    pub fn text(&self) -> &'static str {
        match *self {
            Error::Malformed(text) | Error::Protocol(text) | Error::Reason(_, text) => text,
            Error::NotMqtt => "not MQTT",
            Error::Version { .. } => "unsupported protocol version",
            Error::TooLong => "too long for the wire",
        }
    }
}

impl<'a> nom::error::ParseError<&'a [u8]> for Error {
    fn from_error_kind(_: &'a [u8], _: nom::error::ErrorKind) -> Self {
        // The only primitive parser that fails by itself is one that runs out of input.
        Error::Malformed("a field is cut off")
    }
    fn append(_: &'a [u8], _: nom::error::ErrorKind, other: Self) -> Self {
        other
    }
}

impl From<Error> for nom::Err<Error> {
    fn from(error: Error) -> Self {
        nom::Err::Failure(error)
    }
}

impl From<nom::Err<Error>> for Error {
    fn from(error: nom::Err<Error>) -> Self {
        match error {
            nom::Err::Error(e) | nom::Err::Failure(e) => e,
            nom::Err::Incomplete(_) => Error::Malformed("a field is cut off"),
        }
    }
}
