//! Frames (AMQP 0-9-1 4.2.3): the envelope, and one file per class of methods.
//!
//! ```text
//!   type u8 │ channel u16 │ size u32 │ payload (size octets) │ 0xCE
//!   method payload:  class u16 │ method u16 │ fields
//!   header payload:  class u16 │ weight u16 │ body size u64 │ property flags │ properties
//! ```
//!
//! Both directions are here. Encoders of client methods and decoders of server methods exist for the tests.

mod access;
mod basic;
mod channel;
mod confirm;
mod connection;
pub(crate) mod content;
mod exchange;
pub(crate) mod field;
mod queue;
pub(crate) mod table;
mod tx;

pub(crate) use access::Access;
pub(crate) use basic::{Basic, put_deliver};
pub(crate) use channel::Channel;
pub(crate) use confirm::Confirm;
pub(crate) use connection::Connection;
pub(crate) use exchange::Exchange;
pub(crate) use queue::Queue;
pub(crate) use tx::Tx;

use field::Flaw;

/// Frame types.
pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;
pub(crate) const BODY: u8 = 3;
pub(crate) const HEARTBEAT: u8 = 8;

/// The octet after every payload.
pub(crate) const FRAME_END: u8 = 0xCE;
/// Octets of type, channel and size.
pub(crate) const HEAD: usize = 7;
/// Octets of a frame besides its payload. frame-max includes them.
pub(crate) const OVERHEAD: usize = HEAD + 1;

/// A frame found in the input. Its type and payload are not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) channel: u16,
    pub(crate) payload: &'a [u8],
}

/// Writes a frame around what `payload` writes.
pub(crate) fn put_frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    field::with_length(out, payload);
    out.push(FRAME_END);
}

/// Writes a heartbeat (4.2.7).
pub(crate) fn put_heartbeat(out: &mut Vec<u8>) {
    put_frame(out, HEARTBEAT, 0, |_| {});
}

/// Any method.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Method<'a> {
    Connection(Connection<'a>),
    Channel(Channel<'a>),
    Access(Access<'a>),
    Exchange(Exchange<'a>),
    Queue(Queue<'a>),
    Basic(Basic<'a>),
    Confirm(Confirm),
    Tx(Tx),
}

impl<'a> Method<'a> {
    /// Decodes a method frame's payload. An error comes with the class and method ids, zero where they could not be
    /// read.
    pub(crate) fn decode(payload: &'a [u8]) -> Result<Method<'a>, (Flaw, (u16, u16))> {
        let [c0, c1, m0, m1, fields @ ..] = payload else {
            return Err((Flaw::Syntax, (0, 0)));
        };
        let (class, method) = (u16::from_be_bytes([*c0, *c1]), u16::from_be_bytes([*m0, *m1]));
        match class {
            Connection::CLASS => Connection::decode(method, fields).map(Method::Connection),
            Channel::CLASS => Channel::decode(method, fields).map(Method::Channel),
            Access::CLASS => Access::decode(method, fields).map(Method::Access),
            Exchange::CLASS => Exchange::decode(method, fields).map(Method::Exchange),
            Queue::CLASS => Queue::decode(method, fields).map(Method::Queue),
            Basic::CLASS => Basic::decode(method, fields).map(Method::Basic),
            Confirm::CLASS => Confirm::decode(method, fields).map(Method::Confirm),
            Tx::CLASS => Tx::decode(method, fields).map(Method::Tx),
            _ => Err(Flaw::UnknownMethod),
        }
        .map_err(|flaw| (flaw, (class, method)))
    }

    /// Writes the method as a frame on `channel`.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn encode(&self, channel: u16, out: &mut Vec<u8>) {
        match self {
            Method::Connection(m) => m.encode(channel, out),
            Method::Channel(m) => m.encode(channel, out),
            Method::Access(m) => m.encode(channel, out),
            Method::Exchange(m) => m.encode(channel, out),
            Method::Queue(m) => m.encode(channel, out),
            Method::Basic(m) => m.encode(channel, out),
            Method::Confirm(m) => m.encode(channel, out),
            Method::Tx(m) => m.encode(channel, out),
        }
    }

    /// Class and method id.
    pub(crate) fn ids(&self) -> (u16, u16) {
        match self {
            Method::Connection(m) => m.ids(),
            Method::Channel(m) => m.ids(),
            Method::Access(m) => m.ids(),
            Method::Exchange(m) => m.ids(),
            Method::Queue(m) => m.ids(),
            Method::Basic(m) => m.ids(),
            Method::Confirm(m) => m.ids(),
            Method::Tx(m) => m.ids(),
        }
    }
}

/// Defines a class: an enum with one variant per method, its decoder and its encoder. A method is written as in the
/// specification: fields, then bits (they share one octet, the first bit is the lowest), then more fields.
macro_rules! methods {
    (
        $(#[$class_meta:meta])*
        $class:ident $(<$lt:lifetime>)? = $class_id:literal {
            $(
                $(#[$meta:meta])*
                $name:ident = $id:literal {
                    $( $field:ident : $ty:ty ),*
                    $( ; [ $($bit:ident),+ ] $( ; $( $tail:ident : $tail_ty:ty ),+ )? )?
                }
            )+
        }
    ) => {
        $(#[$class_meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) enum $class $(<$lt>)? {
            $(
                $(#[$meta])*
                $name {
                    $( $field: $ty, )*
                    $( $( $bit: bool, )+ $( $( $tail: $tail_ty, )+ )? )?
                },
            )+
        }

        impl $(<$lt>)? $class $(<$lt>)? {
            pub(crate) const CLASS: u16 = $class_id;

            /// Decodes the fields of `method`. `input` must contain nothing else.
            pub(crate) fn decode(method: u16, input: & $($lt)? [u8]) -> Result<Self, $crate::frame::field::Flaw> {
                match method {
                    $(
                        $id => {
                            $( let (input, $field) = <$ty as $crate::frame::field::Field>::decode(input)?; )*
                            $(
                                let (input, octet) = <u8 as $crate::frame::field::Field>::decode(input)?;
                                let mut bits = octet;
                                $(
                                    let $bit = bits & 1 == 1;
                                    bits >>= 1;
                                )+
                                let _ = bits;
                                $( $( let (input, $tail) = <$tail_ty as $crate::frame::field::Field>::decode(input)?; )+ )?
                            )?
                            if !input.is_empty() {
                                return Err($crate::frame::field::Flaw::Syntax);
                            }
                            Ok(Self::$name { $( $field, )* $( $( $bit, )+ $( $( $tail, )+ )? )? })
                        }
                    )+
                    _ => Err($crate::frame::field::Flaw::UnknownMethod),
                }
            }

            /// Class and method id.
            pub(crate) fn ids(&self) -> (u16, u16) {
                match self {
                    $( Self::$name { .. } => (Self::CLASS, $id), )+
                }
            }

            /// Writes the method as a frame on `channel`.
            pub(crate) fn encode(&self, channel: u16, out: &mut Vec<u8>) {
                $crate::frame::put_frame(out, $crate::frame::METHOD, channel, |out| {
                    let (class, method) = self.ids();
                    out.extend_from_slice(&class.to_be_bytes());
                    out.extend_from_slice(&method.to_be_bytes());
                    match self {
                        $(
                            Self::$name { $( $field, )* $( $( $bit, )+ $( $( $tail, )+ )? )? } => {
                                $( $crate::frame::field::Field::encode($field, out); )*
                                $(
                                    let bits = [ $( *$bit, )+ ];
                                    out.push(bits.iter().rev().fold(0, |octet, &bit| octet << 1 | u8::from(bit)));
                                    $( $( $crate::frame::field::Field::encode($tail, out); )+ )?
                                )?
                            }
                        )+
                    }
                });
            }
        }
    };
}
use methods;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_eight_octets() {
        let mut out = Vec::new();
        put_heartbeat(&mut out);
        assert_eq!(out, [8, 0, 0, 0, 0, 0, 0, 0xCE]);
    }

    #[test]
    fn an_unknown_method_is_told_apart_from_a_malformed_one() {
        assert_eq!(Method::decode(&[0, 60, 0, 99]), Err((Flaw::UnknownMethod, (60, 99))));
        assert_eq!(Method::decode(&[0, 61, 0, 10]), Err((Flaw::UnknownMethod, (61, 10))));
        assert_eq!(Method::decode(&[0, 20, 0, 10]), Err((Flaw::Syntax, (20, 10))));
        assert_eq!(Method::decode(&[0, 20, 0, 10, 0, 0]), Err((Flaw::Syntax, (20, 10))));
        assert_eq!(Method::decode(&[0, 20]), Err((Flaw::Syntax, (0, 0))));
    }
}
