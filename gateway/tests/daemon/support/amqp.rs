//! AMQP 0-9-1 written by hand on a socket: fast enough to keep a daemon busy from one thread, and without a library
//! that retries, reorders or drops anything.

use super::raw::try_tcp;
use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::net::TcpStream;

/// One connection as guest, with channel 1 open.
pub(crate) struct Amqp {
    pub(crate) stream: TcpStream,
    input: Vec<u8>,
    read: usize,
    output: Vec<u8>,
}

/// A frame as received.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) payload: Vec<u8>,
}

/// What a client that publishes and consumes receives.
#[derive(Debug)]
pub(crate) enum Incoming {
    Ack { tag: u64, multiple: bool },
    Deliver(Delivery),
    Method(u16, u16, Vec<u8>),
}

#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) tag: u64,
    pub(crate) redelivered: bool,
    pub(crate) body: Vec<u8>,
}

/// Method arguments under construction.
#[derive(Default)]
pub(crate) struct Args(Vec<u8>);

impl Args {
    pub(crate) fn new() -> Self {
        Args::default()
    }
    pub(crate) fn octet(mut self, n: u8) -> Self {
        self.0.push(n);
        self
    }
    pub(crate) fn short(mut self, n: u16) -> Self {
        self.0.extend(n.to_be_bytes());
        self
    }
    pub(crate) fn long(mut self, n: u32) -> Self {
        self.0.extend(n.to_be_bytes());
        self
    }
    pub(crate) fn longlong(mut self, n: u64) -> Self {
        self.0.extend(n.to_be_bytes());
        self
    }
    pub(crate) fn text(mut self, text: &str) -> Self {
        self.0.push(u8::try_from(text.len()).expect("a short string"));
        self.0.extend(text.as_bytes());
        self
    }
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self = self.long(u32::try_from(bytes.len()).expect("a long string"));
        self.0.extend(bytes);
        self
    }
}

impl Amqp {
    pub(crate) fn open(port: u16) -> Self {
        Amqp::try_open(port).unwrap_or_else(|e| panic!("AMQP on port {port}: {e}"))
    }

    pub(crate) fn try_open(port: u16) -> Result<Self> {
        let mut amqp = Amqp::logged_in(port)?;
        amqp.call(1, (20, 10), Args::new().text(""), (20, 11))?;
        Ok(amqp)
    }

    /// A connection without a channel.
    pub(crate) fn logged_in(port: u16) -> Result<Self> {
        let mut amqp = Amqp {
            stream: try_tcp(port)?,
            input: Vec::new(),
            read: 0,
            output: Vec::new(),
        };
        amqp.output.extend(HEADER);
        amqp.expect((10, 10))?;
        let start_ok = Args::new()
            .bytes(b"")
            .text("PLAIN")
            .bytes(b"\0guest\0guest")
            .text("en_US");
        amqp.call(0, (10, 11), start_ok, (10, 30))?;
        amqp.method(0, (10, 31), Args::new().short(2047).long(131_072).short(0));
        amqp.call(0, (10, 40), Args::new().text("/").text("").octet(0), (10, 41))?;
        Ok(amqp)
    }

    pub(crate) fn method(&mut self, channel: u16, (class, method): (u16, u16), args: Args) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), &args.0].concat();
        self.frame(1, channel, &payload);
    }

    pub(crate) fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        self.output.push(kind);
        self.output.extend(channel.to_be_bytes());
        self.output
            .extend(u32::try_from(payload.len()).expect("a frame").to_be_bytes());
        self.output.extend(payload);
        self.output.push(0xCE);
    }

    /// Sends a method and waits for its answer, whose arguments it returns.
    pub(crate) fn call(&mut self, channel: u16, id: (u16, u16), args: Args, answer: (u16, u16)) -> Result<Vec<u8>> {
        self.method(channel, id, args);
        self.expect(answer)
    }

    /// Reads the next method, which must be this one.
    pub(crate) fn expect(&mut self, (class, method): (u16, u16)) -> Result<Vec<u8>> {
        match self.next()? {
            Incoming::Method(c, m, args) if (c, m) == (class, method) => Ok(args),
            other => Err(Error::other(format!("expected {class},{method} and got {other:?}"))),
        }
    }

    pub(crate) fn declare_queue(&mut self, name: &str, durable: bool) -> Result<u32> {
        let flags = if durable { 2 } else { 8 };
        let args = Args::new().short(0).text(name).octet(flags).bytes(b"");
        Ok(messages(&self.call(1, (50, 10), args, (50, 11))?))
    }

    /// Declares passively. Returns how many messages are ready.
    pub(crate) fn depth(&mut self, name: &str) -> Result<u32> {
        let args = Args::new().short(0).text(name).octet(1).bytes(b"");
        Ok(messages(&self.call(1, (50, 10), args, (50, 11))?))
    }

    pub(crate) fn delete_queue(&mut self, name: &str) -> Result<()> {
        self.call(1, (50, 40), Args::new().short(0).text(name).octet(0), (50, 41))
            .map(drop)
    }

    pub(crate) fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<()> {
        let args = Args::new()
            .short(0)
            .text(queue)
            .text(exchange)
            .text(key)
            .octet(0)
            .bytes(b"");
        self.call(1, (50, 20), args, (50, 21)).map(drop)
    }

    pub(crate) fn confirm_select(&mut self) -> Result<()> {
        self.call(1, (85, 10), Args::new().octet(0), (85, 11)).map(drop)
    }

    /// Consumes with the queue's name as tag. Prefetch 0 is none.
    pub(crate) fn consume(&mut self, queue: &str, prefetch: u16, no_ack: bool) -> Result<()> {
        self.call(1, (60, 10), Args::new().long(0).short(prefetch).octet(0), (60, 11))?;
        let args = Args::new()
            .short(0)
            .text(queue)
            .text(queue)
            .octet(u8::from(no_ack) << 1)
            .bytes(b"");
        self.call(1, (60, 20), args, (60, 21)).map(drop)
    }

    /// Buffers a publish; [`Amqp::flush`] sends it.
    pub(crate) fn publish(&mut self, exchange: &str, key: &str, persistent: bool, body: &[u8]) {
        self.method(1, (60, 40), Args::new().short(0).text(exchange).text(key).octet(0));
        let head = Args::new().short(60).short(0).longlong(body.len() as u64);
        let head = if persistent {
            head.short(0x1000).octet(2)
        } else {
            head.short(0)
        };
        self.frame(2, 1, &head.0);
        if !body.is_empty() {
            self.frame(3, 1, body);
        }
    }

    /// Buffers an acknowledgement.
    pub(crate) fn ack(&mut self, tag: u64, multiple: bool) {
        self.method(1, (60, 80), Args::new().longlong(tag).octet(u8::from(multiple)));
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    /// Sends what is buffered. Returns the next method or delivery; heartbeats are skipped.
    pub(crate) fn next(&mut self) -> Result<Incoming> {
        let payload = loop {
            let frame = self.next_frame()?;
            if frame.kind == 1 {
                break frame.payload;
            }
            assert_eq!(frame.kind, 8, "a frame out of place: {frame:?}");
        };
        let number = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
        let longlong = |at: usize| u64::from_be_bytes(payload[at..at + 8].try_into().expect("eight bytes"));
        Ok(match (number(0), number(2)) {
            (60, 80) => Incoming::Ack {
                tag: longlong(4),
                multiple: payload[12] & 1 != 0,
            },
            (60, 60) => {
                // After the consumer tag.
                let at = 5 + usize::from(payload[4]);
                let (tag, redelivered) = (longlong(at), payload[at + 8] & 1 != 0);
                Incoming::Deliver(Delivery {
                    tag,
                    redelivered,
                    body: self.content()?,
                })
            }
            (class, method) => Incoming::Method(class, method, payload[4..].to_vec()),
        })
    }

    fn content(&mut self) -> Result<Vec<u8>> {
        let head = self.next_frame()?;
        assert_eq!(head.kind, 2, "no content header: {head:?}");
        let size = u64::from_be_bytes(head.payload[4..12].try_into().expect("eight bytes"));
        let mut body = Vec::new();
        while (body.len() as u64) < size {
            let frame = self.next_frame()?;
            assert_eq!(frame.kind, 3, "no content body: {frame:?}");
            body.extend(frame.payload);
        }
        Ok(body)
    }

    pub(crate) fn next_frame(&mut self) -> Result<Frame> {
        self.flush()?;
        loop {
            let input = &self.input[self.read..];
            if let Some(size) = input.get(3..7) {
                let size = u32::from_be_bytes(size.try_into().expect("four bytes")) as usize;
                if let Some(&end) = input.get(7 + size) {
                    assert_eq!(end, 0xCE, "no frame end: {:?}", &input[..7]);
                    let frame = Frame {
                        kind: input[0],
                        payload: input[7..7 + size].to_vec(),
                    };
                    self.read += size + 8;
                    return Ok(frame);
                }
            }
            self.input.drain(..self.read);
            self.read = 0;
            let old = self.input.len();
            self.input.resize(old + 65_536, 0);
            let got = self.stream.read(&mut self.input[old..]);
            self.input.truncate(old + *got.as_ref().unwrap_or(&0));
            if got? == 0 {
                return Err(Error::new(ErrorKind::UnexpectedEof, "the other side closed"));
            }
        }
    }
}

/// Reply code and text of a `close` method's arguments.
pub(crate) fn close_reason(args: &[u8]) -> (u16, String) {
    let code = u16::from_be_bytes([args[0], args[1]]);
    (
        code,
        String::from_utf8_lossy(&args[3..3 + usize::from(args[2])]).into_owned(),
    )
}

fn messages(declare_ok: &[u8]) -> u32 {
    let at = 1 + usize::from(declare_ok[0]);
    u32::from_be_bytes(declare_ok[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) const HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
