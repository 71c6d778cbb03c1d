//! NATS JetStream, client side: one publisher fills a work-queue stream with acknowledged publishes, and one durable
//! pull consumer empties it in batches and acknowledges each message. Text lines as in "Client Protocol" and "JetStream
//! wire API" at docs.nats.io.

use super::confirms::Confirms;
use super::{PublishStyle, Sink, WireError};
use memchr::memmem;
use serde_json::{Value, json};

/// One connection, and texts that it sends repeatedly.
#[derive(Debug)]
pub(crate) struct Nats {
    /// Prefix of the subjects for answers; each request appends a number.
    inbox: String,
    /// `PUB subject inbox.` of a publish; empty for a consumer.
    publish_head: Vec<u8>,
    /// ` length` of a publish and the end of its line.
    publish_length: Vec<u8>,
    confirm: bool,
    published: u64,
    confirms: Confirms,
    pull: Option<Pull>,
}

/// The requests of a pull consumer.
#[derive(Debug)]
struct Pull {
    /// The complete request for one batch.
    request: Vec<u8>,
    batch: u64,
    /// Messages requested that have not come yet.
    outstanding: u64,
}

/// Suffix of requests before the load; publishes are numbered from 1.
const REQUEST: &str = "api";
/// Maximum line length; the server's own limit is 4 KiB.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Maximum size of a requested message, header included.
const MESSAGE_BYTES_MAX: usize = 128 << 20;
/// Deliveries requested at a time, if the consumer has no prefetch.
const BATCH: u64 = 100;
/// Time after which the server delivers an unacknowledged message again.
const ACK_WAIT_NS: u64 = 60_000_000_000;

/// A frame: a line, and for a message what follows its line.
#[derive(Debug, Eq, PartialEq)]
enum Frame<'a> {
    /// MSG and HMSG.
    Message {
        subject: &'a str,
        reply: Option<&'a str>,
        /// The header of an HMSG, otherwise empty.
        header: &'a [u8],
        body: &'a [u8],
    },
    Line(&'a str),
}

impl Nats {
    pub(crate) fn new(client_id: &str) -> Self {
        Self {
            inbox: format!("_INBOX.{client_id}"),
            publish_head: Vec::new(),
            publish_length: Vec::new(),
            confirm: false,
            published: 0,
            confirms: Confirms::default(),
            pull: None,
        }
    }

    /// CONNECT, a SUB for all answers, and a PING whose PONG confirms both.
    pub(crate) fn connect(&self, out: &mut Vec<u8>, user: Option<(&str, &str)>) {
        let mut options = json!({
            "verbose": false, "pedantic": false, "name": "gatepost-bench", "lang": "rust", "version": "0",
            "protocol": 1, "headers": true, "no_responders": true,
        });
        if let Some((user, password)) = user {
            options["user"] = user.into();
            options["pass"] = password.into();
        }
        out.extend_from_slice(format!("CONNECT {options}\r\nSUB {}.> 1\r\nPING\r\n", self.inbox).as_bytes());
    }

    /// Whether a frame ends the login. An error if it refuses the login.
    pub(crate) fn is_pong(frame: &[u8]) -> Result<bool, WireError> {
        match Frame::read(frame)? {
            Some((Frame::Line(line), _)) if line.starts_with("-ERR") => Err(WireError::Refused(line.to_owned())),
            Some((Frame::Line("PONG"), _)) => Ok(true),
            _ => Ok(false),
        }
    }

    /// A request to JetStream's API.
    pub(crate) fn request(&self, out: &mut Vec<u8>, subject: &str, body: &Value) {
        let body = body.to_string();
        let inbox = &self.inbox;
        out.extend_from_slice(
            format!("PUB $JS.API.{subject} {inbox}.{REQUEST} {}\r\n{body}\r\n", body.len()).as_bytes(),
        );
    }

    /// Whether a frame is the answer to a request. An error if it refuses; with `missing_is_fine`, not if something was
    /// not found.
    pub(crate) fn is_answer(frame: &[u8], missing_is_fine: bool) -> Result<bool, WireError> {
        let Some((Frame::Message { subject, body, .. }, _)) = Frame::read(frame)? else {
            return Ok(false);
        };
        if !subject.ends_with(REQUEST) {
            return Ok(false);
        }
        let answer: Value = serde_json::from_slice(body).map_err(|_| WireError::Malformed("JetStream answer"))?;
        match answer.get("error") {
            Some(error) if !(missing_is_fine && error["code"] == 404) => Err(WireError::Refused(error.to_string())),
            _ => Ok(true),
        }
    }

    /// A stream that keeps each message until it is acknowledged.
    pub(crate) fn stream(name: &str, subject: &str, durable: bool) -> (String, Value) {
        let config = json!({
            "name": name, "subjects": [subject], "retention": "workqueue", "discard": "new",
            "storage": if durable { "file" } else { "memory" }, "num_replicas": 1,
        });
        (format!("STREAM.CREATE.{name}"), config)
    }

    /// The consumer of that stream, which is kept when its connection ends.
    pub(crate) fn durable(stream: &str, prefetch: u16) -> (String, Value) {
        let config = json!({
            "durable_name": stream, "ack_policy": "explicit", "deliver_policy": "all", "ack_wait": ACK_WAIT_NS,
            "max_ack_pending": 2 * batch(prefetch),
        });
        (
            format!("CONSUMER.DURABLE.CREATE.{stream}.{stream}"),
            json!({"stream_name": stream, "config": config}),
        )
    }

    /// Prepares to publish bodies of `body_bytes` bytes.
    pub(crate) fn prepare(&mut self, style: &PublishStyle, body_bytes: usize) {
        let subject = style.address.nats();
        self.confirm = style.confirm;
        self.publish_head = format!("PUB {subject}").into_bytes();
        if self.confirm {
            self.publish_head
                .extend_from_slice(format!(" {}.", self.inbox).as_bytes());
        }
        self.publish_length = format!(" {body_bytes}\r\n").into_bytes();
    }

    /// PUB.
    #[inline]
    pub(crate) fn publish(&mut self, out: &mut Vec<u8>, body: &[u8]) {
        out.extend_from_slice(&self.publish_head);
        if self.confirm {
            self.published += 1;
            self.confirms.published();
            put_number(out, self.published);
        }
        out.extend_from_slice(&self.publish_length);
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    }

    /// Requests the first batch.
    pub(crate) fn consume(&mut self, out: &mut Vec<u8>, stream: &str, prefetch: u16) {
        let batch = batch(prefetch);
        let body = json!({ "batch": batch }).to_string();
        let request = format!(
            "PUB $JS.API.CONSUMER.MSG.NEXT.{stream}.{stream} {}.next {}\r\n{body}\r\n",
            self.inbox,
            body.len()
        );
        out.extend_from_slice(request.as_bytes());
        self.pull = Some(Pull {
            request: request.into_bytes(),
            batch,
            outstanding: batch,
        });
    }

    /// Parses all complete frames, passes messages and confirms to `sink`, acknowledges, and requests more. Returns the
    /// bytes consumed.
    pub(crate) fn parse(&mut self, input: &[u8], out: &mut Vec<u8>, sink: &mut impl Sink) -> Result<usize, WireError> {
        let mut at = 0;
        while let Some((frame, len)) = Frame::read(&input[at..])? {
            at += len;
            match frame {
                Frame::Line("PING") => out.extend_from_slice(b"PONG\r\n"),
                Frame::Line(line) if line.starts_with("-ERR") => return Err(WireError::Refused(line.to_owned())),
                // +OK, PONG, or an INFO about other servers.
                Frame::Line(_) => {}
                Frame::Message { header, .. } if !header.is_empty() => self.status(header)?,
                Frame::Message {
                    subject, reply, body, ..
                } => {
                    if let Some(pull) = &mut self.pull {
                        pull.outstanding = pull.outstanding.saturating_sub(1);
                        sink.message(body);
                        let reply = reply.ok_or(WireError::Malformed("a delivery without a place to acknowledge"))?;
                        out.extend_from_slice(b"PUB ");
                        out.extend_from_slice(reply.as_bytes());
                        out.extend_from_slice(b" 0\r\n\r\n");
                    } else {
                        self.confirmed(subject, body, sink);
                    }
                }
            }
        }
        if let Some(pull) = &mut self.pull
            && pull.outstanding <= pull.batch / 2
        {
            out.extend_from_slice(&pull.request);
            pull.outstanding += pull.batch;
        }
        Ok(at)
    }

    /// PubAck: `{"stream":"…","seq":1}`, or an `error`.
    fn confirmed(&mut self, subject: &str, body: &[u8], sink: &mut impl Sink) {
        let number = subject.rsplit_once('.').and_then(|(_, number)| number.parse().ok());
        let count = number.map_or(0, |number| self.confirms.settle(number));
        if memmem::find(body, b"\"error\"").is_some() {
            sink.refused(count);
        } else {
            sink.confirmed(count);
        }
    }

    /// `NATS/1.0 408 Request Timeout`: a message with a status does not come from the stream.
    fn status(&mut self, header: &[u8]) -> Result<(), WireError> {
        let line = String::from_utf8_lossy(header.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
        let code = line.split_ascii_whitespace().nth(1);
        match (&mut self.pull, code) {
            // No messages, a time-out, or too many waiting: the request has ended.
            (Some(pull), Some("404" | "408" | "409")) => pull.outstanding = 0,
            // An idle heartbeat.
            (_, Some("100")) => {}
            _ => return Err(WireError::Refused(line)),
        }
        Ok(())
    }
}

impl<'a> Frame<'a> {
    /// The first frame of `input` and its length; `None` while it is not complete.
    fn read(input: &'a [u8]) -> Result<Option<(Self, usize)>, WireError> {
        let Some(end) = memmem::find(input, b"\r\n") else {
            return if input.len() > LINE_BYTES_MAX {
                Err(WireError::Malformed("a line without end"))
            } else {
                Ok(None)
            };
        };
        let line = std::str::from_utf8(&input[..end]).map_err(|_| WireError::Malformed("a line that is no text"))?;
        let after = end + 2;
        let (has_header, arguments) = match line.split_once(' ') {
            Some(("MSG", arguments)) => (false, arguments),
            Some(("HMSG", arguments)) => (true, arguments),
            _ => return Ok(Some((Self::Line(line), after))),
        };
        let wrong = || WireError::Malformed("MSG");
        let words: Vec<&str> = arguments.split_ascii_whitespace().collect();
        let lengths = 1 + usize::from(has_header);
        let (subject, reply, numbers) = match words.split_at_checked(words.len().saturating_sub(lengths)) {
            Some(([subject, _], numbers)) => (*subject, None, numbers),
            Some(([subject, _, reply], numbers)) => (*subject, Some(*reply), numbers),
            _ => return Err(wrong()),
        };
        let number = |text: &&str| text.parse::<usize>().ok().filter(|number| *number <= MESSAGE_BYTES_MAX);
        let bytes = numbers.last().and_then(number).ok_or_else(wrong)?;
        let header_bytes = match numbers {
            [header, _] => number(header).filter(|header| *header <= bytes).ok_or_else(wrong)?,
            _ => 0,
        };
        let Some(content) = input.get(after..after + bytes + 2) else {
            return Ok(None);
        };
        if !content.ends_with(b"\r\n") {
            return Err(WireError::Malformed("the end of a message"));
        }
        let (header, body) = content[..bytes].split_at(header_bytes);
        let message = Self::Message {
            subject,
            reply,
            header,
            body,
        };
        Ok(Some((message, after + bytes + 2)))
    }
}

/// The length of the first frame of `input`; `None` while it is not complete.
pub(crate) fn frame_len(input: &[u8]) -> Result<Option<usize>, WireError> {
    Ok(Frame::read(input)?.map(|(_, len)| len))
}

fn batch(prefetch: u16) -> u64 {
    if prefetch == 0 { BATCH } else { u64::from(prefetch) }
}

/// Appends decimal digits without an allocation, since every publish needs it.
#[inline]
fn put_number(out: &mut Vec<u8>, mut number: u64) {
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

#[cfg(test)]
mod tests {
    use super::super::{Address, Heard};
    use super::*;

    fn publisher() -> Nats {
        let mut nats = Nats::new("me");
        let style = PublishStyle {
            address: Address::Queue("work".into()),
            further: Vec::new(),
            qos: 0,
            retain: false,
            durable: true,
            confirm: true,
        };
        nats.prepare(&style, 3);
        nats
    }

    fn hear(nats: &mut Nats, input: &[u8]) -> (Heard, String, usize) {
        let (mut heard, mut out) = (Heard::default(), Vec::new());
        let used = nats.parse(input, &mut out, &mut heard).unwrap();
        (heard, String::from_utf8(out).unwrap(), used)
    }

    #[test]
    fn each_publish_asks_for_an_answer_of_its_own() {
        let (mut nats, mut out) = (publisher(), Vec::new());
        nats.publish(&mut out, b"abc");
        nats.publish(&mut out, b"def");
        assert_eq!(
            out,
            b"PUB work _INBOX.me.1 3\r\nabc\r\nPUB work _INBOX.me.2 3\r\ndef\r\n"
        );
    }

    #[test]
    fn only_what_was_published_is_confirmed_and_an_error_is_a_refusal() {
        let mut nats = publisher();
        for _ in 0..3 {
            nats.publish(&mut Vec::new(), b"abc");
        }
        let ack = "MSG _INBOX.me.1 1 27\r\n{\"stream\":\"work\", \"seq\": 1}\r\n";
        let (heard, ..) = hear(
            &mut nats,
            format!("{ack}{ack}MSG _INBOX.me.9 1 2\r\n{{}}\r\n").as_bytes(),
        );
        assert_eq!((heard.confirmed, heard.refused), (1, 0));
        let full = "MSG _INBOX.me.2 1 26\r\n{\"error\":{\"code\": 10077} }\r\n";
        assert_eq!(hear(&mut nats, full.as_bytes()).0.refused, 1);
    }

    #[test]
    fn a_delivery_is_acknowledged_where_it_says_and_half_a_batch_later_more_is_asked_for() {
        let mut nats = Nats::new("me");
        let mut out = Vec::new();
        nats.consume(&mut out, "work", 2);
        let pull = "PUB $JS.API.CONSUMER.MSG.NEXT.work.work _INBOX.me.next 11\r\n{\"batch\":2}\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), pull);
        let first = "MSG work 1 $JS.ACK.work.work.1.1.1.0.0 3\r\nabc\r\n";
        let (heard, out, used) = hear(&mut nats, first.as_bytes());
        assert_eq!((heard.bodies, used), (vec![b"abc".to_vec()], first.len()));
        assert_eq!(out, format!("PUB $JS.ACK.work.work.1.1.1.0.0 0\r\n\r\n{pull}"));
    }

    #[test]
    fn a_request_that_timed_out_is_made_again_and_a_missing_stream_is_an_error() {
        let mut nats = Nats::new("me");
        nats.consume(&mut Vec::new(), "work", 2);
        let timeout = b"HMSG _INBOX.me.next 1 31 31\r\nNATS/1.0 408 Request Timeou\r\n\r\n\r\n";
        assert!(hear(&mut nats, timeout).1.starts_with("PUB $JS.API.CONSUMER.MSG.NEXT"));
        let nobody = b"HMSG _INBOX.me.next 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n";
        let heard = nats.parse(nobody, &mut Vec::new(), &mut Heard::default());
        assert!(matches!(heard, Err(WireError::Refused(line)) if line == "NATS/1.0 503"));
    }

    #[test]
    fn a_ping_is_answered_and_an_error_ends_the_load() {
        let mut nats = publisher();
        assert_eq!(hear(&mut nats, b"+OK\r\nPING\r\nPONG\r\n").1, "PONG\r\n");
        let error = nats.parse(b"-ERR 'Slow Consumer'\r\n", &mut Vec::new(), &mut Heard::default());
        assert!(error.is_err());
    }

    #[test]
    fn answers_of_the_api_tell_what_was_refused() {
        let frame = |body: &str| format!("MSG _INBOX.me.api 1 {}\r\n{body}\r\n", body.len()).into_bytes();
        let missing = frame(r#"{"error":{"code":404,"description":"stream not found"}}"#);
        assert!(Nats::is_answer(&missing, false).is_err());
        assert!(Nats::is_answer(&missing, true).unwrap());
        assert!(Nats::is_answer(&frame(r#"{"type":"x"}"#), false).unwrap());
        assert!(!Nats::is_answer(b"PING\r\n", false).unwrap());
        assert!(Nats::is_answer(&frame("no JSON"), false).is_err());
    }

    #[test]
    fn a_frame_in_pieces_waits_and_a_wrong_one_is_an_error() {
        let whole = b"HMSG work 1 $JS.ACK.x 12 15\r\nNATS/1.0\r\n\r\nabc\r\n";
        for len in 0..whole.len() {
            assert_eq!(frame_len(&whole[..len]).unwrap(), None, "{len}");
        }
        assert_eq!(frame_len(whole).unwrap(), Some(whole.len()));
        for wrong in [
            b"MSG work\r\n".as_slice(),
            b"MSG work 1 x\r\n",
            b"MSG work 1 99999999999999999999\r\n",
            b"MSG work 1 1\r\nabcd",
            b"HMSG work 1 5 4\r\nabcdef\r\n",
            b"\xFF\r\n",
        ] {
            assert!(frame_len(wrong).is_err(), "{wrong:?}");
        }
    }
}
