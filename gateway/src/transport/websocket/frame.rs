//! WebSocket frames (RFC 6455 section 5) without I/O.
//!
//! The payloads of all messages form one stream of bytes, in which MQTT, AMQP and STOMP sessions find their own frames. So
//! messages are not collected. A payload is unmasked in the read buffer and moved over its header; only an unfinished
//! header and a control frame's payload (125 bytes at most) are kept between two reads.

use super::utf8::Utf8;

/// Decodes frames from a client.
pub(crate) struct Decoder {
    /// Whether text messages are allowed. Binary ones always are.
    text: bool,
    /// Maximum payload of one message over all its frames, in bytes.
    message_max: u64,
    head: Head,
    /// Remaining payload of the current frame.
    left: u64,
    /// The mask, rotated so that the next payload byte is unmasked with its first byte.
    mask: [u8; 4],
    frame: Frame,
    /// The data message that is not complete yet, if there is one.
    message: Option<Message>,
    control: Control,
    /// The last unanswered ping.
    ping: Option<Control>,
    end: Option<End>,
    /// The client has sent a binary message.
    saw_binary: bool,
}

/// The incomplete header of a frame, at most 14 bytes.
#[derive(Default)]
struct Head {
    bytes: [u8; HEAD_MAX],
    len: u8,
}

const HEAD_MAX: usize = 14;

/// The frame that is being read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    /// Part of a message, the last one or not.
    Data {
        last: bool,
    },
    Close,
    Ping,
    Pong,
}

struct Message {
    bytes: u64,
    /// For a text message: the state of the UTF-8 check.
    text: Option<Utf8>,
}

/// Payload of a control frame.
#[derive(Clone, Copy)]
pub(crate) struct Control {
    bytes: [u8; CONTROL_MAX],
    len: u8,
}

/// Maximum payload of a control frame in bytes (RFC 6455 5.5).
const CONTROL_MAX: usize = 125;

impl Control {
    const EMPTY: Control = Control {
        bytes: [0; CONTROL_MAX],
        len: 0,
    };

    fn payload(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(slot) = self.bytes.get_mut(usize::from(self.len)) {
                *slot = *byte;
                self.len += 1;
            }
        }
    }
}

/// Why no more frames are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client closes; this is its code, if it gave one.
    Closed(Option<u16>),
    /// The client broke the rules.
    Fault(Fault),
}

/// A client's mistake: the close code, and a text for our log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// RFC 6455 7.4.1.
    pub code: u16,
    /// For people.
    pub text: &'static str,
}

/// RFC 6455 7.4.1: normal closure.
pub(crate) const NORMAL: u16 = 1000;
/// Rules of the framing were broken.
const PROTOCOL: u16 = 1002;
/// The type of message is not accepted.
const UNSUPPORTED: u16 = 1003;
/// Text that is not UTF-8.
pub(crate) const INVALID: u16 = 1007;
/// The session ended because of something the client did.
pub(crate) const POLICY: u16 = 1008;
/// A message over the limit.
const TOO_BIG: u16 = 1009;

const fn protocol(text: &'static str) -> Fault {
    Fault { code: PROTOCOL, text }
}

impl Decoder {
    /// A decoder. `text`: the client may send text messages. `message_max`: maximum bytes of a message.
    pub(crate) fn new(text: bool, message_max: u64) -> Decoder {
        Decoder {
            text,
            message_max,
            head: Head::default(),
            left: 0,
            mask: [0; 4],
            frame: Frame::Data { last: true },
            message: None,
            control: Control::EMPTY,
            ping: None,
            end: None,
            saw_binary: false,
        }
    }

    /// Decodes `bytes` in place and moves the payload to their front. Returns the payload's length.
    pub(crate) fn decode(&mut self, bytes: &mut [u8]) -> usize {
        let (mut at, mut out) = (0, 0);
        while at < bytes.len() && self.end.is_none() {
            if self.left == 0 {
                at += self.read_head(bytes.get(at..).unwrap_or_default());
                continue;
            }
            let left = usize::try_from(self.left).unwrap_or(usize::MAX);
            let end = at.saturating_add(left).min(bytes.len());
            let part = bytes.get_mut(at..end).unwrap_or_default();
            let size = part.len();
            unmask(part, &mut self.mask);
            self.left -= size as u64;
            match self.frame {
                Frame::Data { .. } => {
                    let taken = match self.check_text(part) {
                        Ok(()) => size,
                        Err(fault) => {
                            self.end = Some(End::Fault(fault));
                            0
                        }
                    };
                    bytes.copy_within(at..at + taken, out);
                    out += taken;
                }
                Frame::Close | Frame::Ping | Frame::Pong => self.control.push(part),
            }
            at = end;
            if self.left == 0 && self.end.is_none() {
                self.end_frame();
            }
        }
        out
    }

    /// Why no more frames are decoded, if decoding has ended.
    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }

    /// Whether the client has sent a binary message.
    pub(crate) fn saw_binary(&self) -> bool {
        self.saw_binary
    }

    /// Appends the answer to the last ping to `out`, once. RFC 6455 5.5.3: earlier ones need none.
    pub(crate) fn answer_ping(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(ping) = self.ping.take() else { return false };
        push_control(Opcode::PONG, ping.payload(), out);
        true
    }

    /// Reads header bytes. Returns how many were used.
    fn read_head(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        for byte in bytes {
            used += 1;
            let done = self.head.push(*byte);
            if self.head.len == 2
                && let Err(fault) = self.check_head()
            {
                self.end = Some(End::Fault(fault));
                break;
            }
            if done {
                let head = std::mem::take(&mut self.head);
                if let Err(fault) = self.begin_frame(&head) {
                    self.end = Some(End::Fault(fault));
                }
                break;
            }
        }
        used
    }

    /// Checks the first two bytes of a header.
    fn check_head(&self) -> Result<(), Fault> {
        let [first, second, ..] = self.head.bytes;
        let (last, opcode, length) = (first & 0x80 != 0, first & 0x0F, second & 0x7F);
        // RFC 6455 5.2: no extension was agreed on.
        if first & 0x70 != 0 {
            return Err(protocol("a reserved bit is set"));
        }
        // RFC 6455 5.1: the server must close the connection.
        if second & 0x80 == 0 {
            return Err(protocol("a frame is not masked"));
        }
        match opcode {
            Opcode::CONTINUATION if self.message.is_none() => Err(protocol("a continuation of no message")),
            Opcode::CONTINUATION => Ok(()),
            Opcode::TEXT | Opcode::BINARY if self.message.is_some() => {
                Err(protocol("a message within an unfinished message"))
            }
            Opcode::TEXT if !self.text => Err(Fault {
                code: UNSUPPORTED,
                text: "a text message, where only binary ones are spoken",
            }),
            Opcode::TEXT | Opcode::BINARY => Ok(()),
            Opcode::CLOSE | Opcode::PING | Opcode::PONG if !last => Err(protocol("a control frame in parts")),
            Opcode::CLOSE | Opcode::PING | Opcode::PONG if usize::from(length) > CONTROL_MAX => {
                Err(protocol("a control frame of more than 125 bytes"))
            }
            Opcode::CLOSE | Opcode::PING | Opcode::PONG => Ok(()),
            _ => Err(protocol("an unknown opcode")),
        }
    }

    fn begin_frame(&mut self, head: &Head) -> Result<(), Fault> {
        let [first, ..] = head.bytes;
        let (last, opcode) = (first & 0x80 != 0, first & 0x0F);
        let length = head.length()?;
        self.mask = head.mask();
        self.left = length;
        self.frame = match opcode {
            Opcode::CLOSE => Frame::Close,
            Opcode::PING => Frame::Ping,
            Opcode::PONG => Frame::Pong,
            _ => Frame::Data { last },
        };
        if let Frame::Data { .. } = self.frame {
            self.saw_binary |= opcode == Opcode::BINARY;
            let message = self.message.get_or_insert_with(|| Message {
                bytes: 0,
                text: (opcode == Opcode::TEXT).then(Utf8::default),
            });
            // No overflow: both are under 2^63.
            message.bytes += length;
            if message.bytes > self.message_max {
                return Err(Fault {
                    code: TOO_BIG,
                    text: "a message over limits.websocket_message_max",
                });
            }
        } else {
            self.control = Control::EMPTY;
        }
        if length == 0 {
            self.end_frame();
        }
        Ok(())
    }

    fn check_text(&mut self, part: &[u8]) -> Result<(), Fault> {
        let text = self.message.as_mut().and_then(|message| message.text.as_mut());
        if text.is_none_or(|text| text.push(part)) {
            Ok(())
        } else {
            Err(NOT_UTF8)
        }
    }

    fn end_frame(&mut self) {
        match self.frame {
            Frame::Data { last: false } | Frame::Pong => {}
            Frame::Data { last: true } => {
                let whole = self
                    .message
                    .take()
                    .is_none_or(|m| m.text.is_none_or(|text| text.is_whole()));
                if !whole {
                    self.end = Some(End::Fault(NOT_UTF8));
                }
            }
            Frame::Ping => self.ping = Some(self.control),
            Frame::Close => {
                self.end = Some(match close_code(self.control.payload()) {
                    Ok(code) => End::Closed(code),
                    Err(fault) => End::Fault(fault),
                });
            }
        }
    }
}

/// RFC 6455 8.1.
const NOT_UTF8: Fault = Fault {
    code: INVALID,
    text: "a text message that is not UTF-8",
};

/// RFC 6455 5.5.1 and 7.4: nothing, or a code that may be sent and a reason in UTF-8.
fn close_code(payload: &[u8]) -> Result<Option<u16>, Fault> {
    match payload {
        [] => Ok(None),
        [a, b, reason @ ..] => match u16::from_be_bytes([*a, *b]) {
            _ if std::str::from_utf8(reason).is_err() => Err(Fault {
                code: INVALID,
                text: "a close reason that is not UTF-8",
            }),
            code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => Ok(Some(code)),
            _ => Err(protocol("a close code that is not for sending")),
        },
        _ => Err(protocol("half a close code")),
    }
}

impl Head {
    /// Returns whether the header is complete.
    fn push(&mut self, byte: u8) -> bool {
        if let Some(slot) = self.bytes.get_mut(usize::from(self.len)) {
            *slot = byte;
            self.len += 1;
        }
        self.len >= 2 && usize::from(self.len) == self.size()
    }

    /// The header's length, which follows from its second byte. Includes the mask.
    fn size(&self) -> usize {
        let [_, second, ..] = self.bytes;
        match second & 0x7F {
            126 => 8,
            127 => HEAD_MAX,
            _ => 6,
        }
    }

    /// RFC 6455 5.2: the payload's length, in the shortest of three forms.
    fn length(&self) -> Result<u64, Fault> {
        let [_, second, a, b, c, d, e, f, g, h, ..] = self.bytes;
        let (length, min) = match second & 0x7F {
            126 => (u64::from(u16::from_be_bytes([a, b])), 126),
            127 => (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 1 << 16),
            short => (u64::from(short), 0),
        };
        if length < min {
            return Err(protocol("a length in a longer form than it needs"));
        }
        if length >= 1 << 63 {
            return Err(protocol("a length of 64 bits"));
        }
        Ok(length)
    }

    fn mask(&self) -> [u8; 4] {
        let end = self.size();
        let mask = self.bytes.get(end - 4..end).and_then(|mask| mask.try_into().ok());
        mask.unwrap_or_default()
    }
}

/// Unmasks `bytes`, and rotates `mask` for the bytes that follow.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let [a, b, c, d] = *mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let value = chunk.first_chunk_mut::<8>().map(|chunk| {
            *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
        });
        debug_assert!(value.is_some(), "the chunk has eight bytes");
    }
    let rest = chunks.into_remainder();
    let size = rest.len();
    for (byte, mask) in rest.iter_mut().zip([a, b, c, d, a, b, c, d]) {
        *byte ^= mask;
    }
    mask.rotate_left(size % 4);
}

/// RFC 6455 5.2.
pub(crate) struct Opcode;

impl Opcode {
    pub(crate) const CONTINUATION: u8 = 0x0;
    pub(crate) const TEXT: u8 = 0x1;
    pub(crate) const BINARY: u8 = 0x2;
    pub(crate) const CLOSE: u8 = 0x8;
    pub(crate) const PING: u8 = 0x9;
    pub(crate) const PONG: u8 = 0xA;
}

/// The header of an unmasked frame that is a whole message.
pub(crate) fn head(opcode: u8, length: usize) -> ([u8; 10], usize) {
    let first = 0x80 | opcode;
    let mut head = [0; 10];
    let [one, two, rest @ ..] = &mut head;
    *one = first;
    if let Some(short) = u8::try_from(length).ok().filter(|length| *length < 126) {
        *two = short;
        return (head, 2);
    }
    if let Ok(length) = u16::try_from(length) {
        *two = 126;
        let [a, b, ..] = rest;
        [*a, *b] = length.to_be_bytes();
        return (head, 4);
    }
    *two = 127;
    *rest = (length as u64).to_be_bytes();
    (head, 10)
}

/// Appends a control frame. `payload` has at most 125 bytes.
pub(crate) fn push_control(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    let (head, size) = head(opcode, payload.len());
    out.extend_from_slice(head.get(..size).unwrap_or_default());
    out.extend_from_slice(payload);
}
