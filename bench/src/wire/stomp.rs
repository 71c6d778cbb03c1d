//! STOMP 1.2, client side.

use super::confirms::Confirms;
use super::{AckMode, PublishStyle, Sink, WireError};

/// One connection.
#[derive(Debug)]
pub(crate) struct Stomp {
    ack: AckMode,
    /// Whether each SEND asks for a receipt.
    confirm: bool,
    /// The part of a SEND before its receipt header or its blank line; empty for a consumer.
    publish_head: Vec<u8>,
    /// Number of SENDs so far. A receipt's name is the number of its SEND.
    sent: u64,
    receipts: Confirms,
}

/// A complete frame in a buffer.
#[derive(Debug)]
struct Frame<'a> {
    command: &'a [u8],
    /// Header lines with their line ends.
    headers: &'a [u8],
    body: &'a [u8],
    /// Length of the frame with its NUL and with the line ends before it.
    len: usize,
}

/// Maximum size of a broker's headers; more is an error.
const HEADERS_BYTES_MAX: usize = 64 * 1024;

impl Stomp {
    pub(crate) fn new(ack: AckMode) -> Self {
        Self {
            ack,
            confirm: false,
            publish_head: Vec::new(),
            sent: 0,
            receipts: Confirms::default(),
        }
    }

    /// CONNECT.
    pub(crate) fn connect(out: &mut Vec<u8>, user: &str, password: &str, vhost: &str) {
        out.extend_from_slice(
            format!("CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:{user}\npasscode:{password}\n\n\0").as_bytes(),
        );
    }

    /// Checks for CONNECTED, or for the RECEIPT with this name.
    pub(crate) fn expect(frame: &[u8], command: &str, receipt: Option<&str>) -> Result<(), WireError> {
        let frame = Frame::parse(frame)?.ok_or(WireError::Malformed("frame"))?;
        let named = receipt.is_none_or(|receipt| frame.header(b"receipt-id") == Some(receipt.as_bytes()));
        if frame.command == command.as_bytes() && named {
            Ok(())
        } else {
            Err(frame.refusal())
        }
    }

    /// SUBSCRIBE, with the receipt `sub`.
    pub(crate) fn subscribe(&self, out: &mut Vec<u8>, destination: &str, prefetch: u16) {
        let ack = match self.ack {
            AckMode::None => "auto",
            AckMode::Each => "client-individual",
            AckMode::Multiple => "client",
        };
        let prefetch = match prefetch {
            0 => String::new(),
            count => format!("prefetch-count:{count}\n"),
        };
        let text = format!("SUBSCRIBE\nid:0\ndestination:{destination}\nack:{ack}\n{prefetch}receipt:sub\n\n\0");
        out.extend_from_slice(text.as_bytes());
    }

    /// Prepares to publish bodies of `body_bytes` bytes.
    pub(crate) fn prepare(&mut self, style: &PublishStyle, body_bytes: usize) {
        let persistent = if style.durable { "persistent:true\n" } else { "" };
        let destination = style.address.stomp();
        self.confirm = style.confirm;
        self.publish_head =
            format!("SEND\ndestination:{destination}\ncontent-length:{body_bytes}\n{persistent}").into_bytes();
    }

    /// SEND.
    #[inline]
    pub(crate) fn publish(&mut self, out: &mut Vec<u8>, body: &[u8]) {
        out.extend_from_slice(&self.publish_head);
        self.sent += 1;
        if self.confirm {
            out.extend_from_slice(b"receipt:");
            put_decimal(out, self.sent);
            out.push(b'\n');
            self.receipts.published();
        }
        out.push(b'\n');
        out.extend_from_slice(body);
        out.push(0);
    }

    /// Parses all complete frames, passes messages and confirms to `sink`, and writes the acknowledgements. Returns the
    /// bytes consumed.
    pub(crate) fn parse(&mut self, input: &[u8], out: &mut Vec<u8>, sink: &mut impl Sink) -> Result<usize, WireError> {
        let mut at = 0;
        let mut unacked: Option<&[u8]> = None;
        while let Some(frame) = Frame::parse(&input[at..])? {
            at += frame.len;
            match frame.command {
                b"MESSAGE" => {
                    sink.message(frame.body);
                    if self.ack != AckMode::None {
                        let id = frame
                            .header(b"ack")
                            .ok_or(WireError::Malformed("MESSAGE without an ack header"))?;
                        match self.ack {
                            AckMode::Multiple => unacked = Some(id),
                            _ => put_ack(out, id),
                        }
                    }
                }
                b"RECEIPT" => {
                    // STOMP 1.2 RECEIPT: earlier frames were received then, but perhaps not processed. So a receipt
                    // confirms only its own SEND.
                    let receipt = frame.header(b"receipt-id").and_then(decimal).unwrap_or_default();
                    sink.confirmed(self.receipts.settle(receipt));
                }
                _ => return Err(frame.refusal()),
            }
        }
        if let Some(id) = unacked {
            put_ack(out, id);
        }
        Ok(at)
    }

    /// DISCONNECT.
    pub(crate) fn disconnect(out: &mut Vec<u8>) {
        out.extend_from_slice(b"DISCONNECT\nreceipt:bye\n\n\0");
    }
}

/// The length of the first frame of `input` with the line ends before it; `None` while it is not complete.
pub(crate) fn frame_len(input: &[u8]) -> Result<Option<usize>, WireError> {
    Ok(Frame::parse(input)?.map(|frame| frame.len))
}

impl<'a> Frame<'a> {
    fn parse(input: &'a [u8]) -> Result<Option<Self>, WireError> {
        let start = input.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
        let frame = &input[start..];
        let Some(command_end) = memchr::memchr(b'\n', frame) else {
            return if frame.len() > HEADERS_BYTES_MAX {
                Err(WireError::Malformed("command"))
            } else {
                Ok(None)
            };
        };
        let command = frame[..command_end].trim_ascii_end();
        let (headers_start, mut at, mut length) = (command_end + 1, command_end + 1, None);
        loop {
            let rest = &frame[at..];
            let Some(end) = memchr::memchr(b'\n', rest) else {
                let long = frame.len() > HEADERS_BYTES_MAX;
                return if long {
                    Err(WireError::Malformed("headers"))
                } else {
                    Ok(None)
                };
            };
            let line = &rest[..end];
            if matches!(line, b"" | b"\r") {
                break;
            }
            if let Some(value) = line.strip_prefix(b"content-length:") {
                length = Some(decimal(value.trim_ascii()).ok_or(WireError::Malformed("content-length"))? as usize);
            }
            at += end + 1;
        }
        let headers = &frame[headers_start..at];
        let body_start = at + if frame[at] == b'\r' { 2 } else { 1 };
        let rest = &frame[body_start..];
        let body = match length {
            Some(length) => match rest.get(length) {
                Some(0) => &rest[..length],
                Some(_) => return Err(WireError::Malformed("no NUL behind the body")),
                None => return Ok(None),
            },
            None => match memchr::memchr(0, rest) {
                Some(length) => &rest[..length],
                None => return Ok(None),
            },
        };
        Ok(Some(Self {
            command,
            headers,
            body,
            len: start + body_start + body.len() + 1,
        }))
    }

    fn header(&self, name: &[u8]) -> Option<&'a [u8]> {
        let mut rest = self.headers;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            if let Some(value) = line.strip_prefix(name).and_then(|line| line.strip_prefix(b":")) {
                return Some(value.strip_suffix(b"\r").unwrap_or(value));
            }
        }
        None
    }

    fn refusal(&self) -> WireError {
        let message = self.header(b"message").unwrap_or_default();
        let (command, message) = (String::from_utf8_lossy(self.command), String::from_utf8_lossy(message));
        let body: String = String::from_utf8_lossy(self.body).chars().take(200).collect();
        WireError::Refused(format!("{command} {message} {}", body.trim()))
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn put_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn put_ack(out: &mut Vec<u8>, id: &[u8]) {
    // The id is sent back unchanged, still escaped.
    out.extend_from_slice(b"ACK\nid:");
    out.extend_from_slice(id);
    out.extend_from_slice(b"\n\n\0");
}

#[cfg(test)]
mod tests {
    use super::super::{Address, Heard};
    use super::*;

    const MESSAGE: &[u8] =
        b"\nMESSAGE\ndestination:/queue/q\nack:a-1\nmessage-id:m\nsubscription:0\ncontent-length:3\n\nx\0z\0";

    fn hear(stomp: &mut Stomp, input: &[u8]) -> (Heard, Vec<u8>, usize) {
        let (mut heard, mut out) = (Heard::default(), Vec::new());
        let used = stomp.parse(input, &mut out, &mut heard).unwrap();
        (heard, out, used)
    }

    #[test]
    fn send_is_as_the_specification_draws_it() {
        let mut stomp = Stomp::new(AckMode::None);
        let style = PublishStyle {
            address: Address::Queue("q".into()),
            further: Vec::new(),
            qos: 0,
            retain: false,
            durable: true,
            confirm: true,
        };
        stomp.prepare(&style, 3);
        let mut out = Vec::new();
        stomp.publish(&mut out, b"xyz");
        assert_eq!(
            out,
            b"SEND\ndestination:/queue/q\ncontent-length:3\npersistent:true\nreceipt:1\n\nxyz\0"
        );
        out.clear();
        stomp.prepare(
            &PublishStyle {
                durable: false,
                confirm: false,
                ..style
            },
            3,
        );
        stomp.publish(&mut out, b"xyz");
        assert_eq!(out, b"SEND\ndestination:/queue/q\ncontent-length:3\n\nxyz\0");
    }

    #[test]
    fn a_message_is_heard_and_acknowledged_as_asked() {
        let input = [MESSAGE, MESSAGE, b"\n"].concat();
        let ack = b"ACK\nid:a-1\n\n\0".as_slice();
        for (mode, acks) in [(AckMode::None, 0), (AckMode::Each, 2), (AckMode::Multiple, 1)] {
            let (heard, out, used) = hear(&mut Stomp::new(mode), &input);
            assert_eq!(heard.bodies, [b"x\0z", b"x\0z"]);
            assert_eq!(out, ack.repeat(acks));
            assert_eq!(used, input.len() - 1);
        }
    }

    #[test]
    fn carriage_returns_and_a_missing_length_are_understood() {
        let (heard, ..) = hear(&mut Stomp::new(AckMode::None), b"\r\nMESSAGE\r\na:b\r\n\r\nxyz\0");
        assert_eq!(heard.bodies, [b"xyz"]);
    }

    #[test]
    fn a_receipt_confirms_its_own_send_once() {
        let mut stomp = Stomp::new(AckMode::None);
        let style = PublishStyle {
            address: Address::Queue("q".into()),
            further: Vec::new(),
            qos: 0,
            retain: false,
            durable: false,
            confirm: true,
        };
        stomp.prepare(&style, 3);
        for _ in 0..3 {
            stomp.publish(&mut Vec::new(), b"xyz");
        }
        let input = [1, 3, 3, 9]
            .map(|number| format!("RECEIPT\nreceipt-id:{number}\n\n\0\n"))
            .concat();
        assert_eq!(hear(&mut stomp, input.as_bytes()).0.confirmed, 2);
    }

    #[test]
    fn a_frame_in_pieces_waits_and_a_wrong_length_is_an_error() {
        for len in 0..MESSAGE.len() {
            assert_eq!(
                hear(&mut Stomp::new(AckMode::None), &MESSAGE[..len]).2,
                0,
                "length {len}"
            );
        }
        let wrong = b"MESSAGE\ncontent-length:2\n\nxyz\0";
        assert!(
            Stomp::new(AckMode::None)
                .parse(wrong, &mut Vec::new(), &mut Heard::default())
                .is_err()
        );
    }

    #[test]
    fn an_error_frame_carries_the_brokers_words() {
        let error = b"ERROR\nmessage:not found\n\nno such thing\n\0";
        let error = Stomp::new(AckMode::None)
            .parse(error, &mut Vec::new(), &mut Heard::default())
            .unwrap_err();
        assert_eq!(error.to_string(), "the broker refused: ERROR not found no such thing");
        assert!(Stomp::expect(b"CONNECTED\nversion:1.2\n\n\0", "CONNECTED", None).is_ok());
        assert!(Stomp::expect(b"RECEIPT\nreceipt-id:x\n\n\0", "RECEIPT", Some("sub")).is_err());
    }
}
