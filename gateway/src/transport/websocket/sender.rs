//! The writing side of a WebSocket, without I/O: sends a session's output as messages, with control frames in between.

use super::frame::{self, Decoder, End, Opcode};
use std::io;

/// Maximum bytes of a binary message. Some clients refuse larger ones.
const BINARY_MAX: usize = 64 << 10;

/// The state of the writing side.
pub(super) struct Sender {
    /// The protocol is text, so output that is UTF-8 is sent in text messages.
    text: bool,
    /// The unwritten part of the current message's header.
    head: [u8; 10],
    head_at: usize,
    head_end: usize,
    /// Unwritten payload bytes of the current message.
    owed: usize,
    /// Unwritten control frames: at most a pong, a ping and a close frame.
    control: Vec<u8>,
    control_at: usize,
    abnormal: bool,
    closed: bool,
}

impl Sender {
    pub(super) fn new(text: bool) -> Sender {
        Sender {
            text,
            head: [0; 10],
            head_at: 0,
            head_end: 0,
            owed: 0,
            control: Vec::new(),
            control_at: 0,
            abnormal: false,
            closed: false,
        }
    }

    /// Writes `bytes`, the session's next output. Returns how many of them `sink` took. The caller passes the rest again at
    /// the beginning of the next output.
    pub(super) fn write(
        &mut self,
        decoder: &mut Decoder,
        bytes: &[u8],
        mut sink: impl FnMut(&[u8], &[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            let rest = bytes.get(taken..).unwrap_or_default();
            if self.is_between_messages() {
                if !self.write_control(decoder, |control| sink(control, &[]))? || rest.is_empty() || self.closed {
                    return Ok(taken);
                }
                self.begin(decoder, rest);
            }
            let head = self.head.get(self.head_at..self.head_end).unwrap_or_default();
            let part = rest.get(..self.owed.min(rest.len())).unwrap_or_default();
            let (head_size, offered) = (head.len(), head.len() + part.len());
            let written = sink(head, part)?;
            self.head_at += written.min(head_size);
            let payload = written.saturating_sub(head_size);
            self.owed -= payload;
            taken += payload;
            if written < offered || (offered == 0 && !self.is_between_messages()) {
                return Ok(taken);
            }
        }
    }

    /// Writes the waiting control frames, unless a message is being written. Returns whether the next message may be
    /// written.
    pub(super) fn write_control(
        &mut self,
        decoder: &mut Decoder,
        mut sink: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<bool> {
        if !self.is_between_messages() {
            return Ok(false);
        }
        if self.control.is_empty() && !self.closed {
            decoder.answer_ping(&mut self.control);
        }
        if self.control.is_empty() {
            return Ok(true);
        }
        self.control_at += sink(self.control.get(self.control_at..).unwrap_or_default())?;
        if self.control_at < self.control.len() {
            return Ok(false);
        }
        self.control = Vec::new();
        self.control_at = 0;
        Ok(true)
    }

    /// Queues a ping.
    pub(super) fn ping(&mut self) {
        if !self.closed {
            frame::push_control(Opcode::PING, b"", &mut self.control);
        }
    }

    /// Notes that the session ended because of an error.
    pub(super) fn ends_abnormally(&mut self) {
        self.abnormal = true;
    }

    /// Queues a close frame, once. `end`: why decoding ended, if the peer is the cause.
    pub(super) fn close(&mut self, end: Option<End>) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let code = match end {
            // RFC 6455 5.5.1: the answer typically echoes the code.
            Some(End::Closed(code)) => code,
            Some(End::Fault(fault)) => Some(fault.code),
            None if self.abnormal => Some(frame::POLICY),
            None => Some(frame::NORMAL),
        };
        let code = code.map(u16::to_be_bytes);
        let payload = code.as_ref().map_or(&[][..], |code| &code[..]);
        frame::push_control(Opcode::CLOSE, payload, &mut self.control);
    }

    pub(super) fn has_closed(&self) -> bool {
        self.closed
    }

    fn is_between_messages(&self) -> bool {
        self.owed == 0 && self.head_at == self.head_end
    }

    /// Begins a message of `bytes`, which must not be empty and end where a frame of the session ends.
    fn begin(&mut self, decoder: &Decoder, bytes: &[u8]) {
        // A browser closes the connection on text that is not UTF-8. A client that has sent binary messages accepts them.
        let as_text = self.text && !decoder.saw_binary() && std::str::from_utf8(bytes).is_ok();
        let (opcode, size) = if as_text {
            (Opcode::TEXT, bytes.len())
        } else if self.text {
            (Opcode::BINARY, bytes.len())
        } else {
            (Opcode::BINARY, bytes.len().min(BINARY_MAX))
        };
        (self.head, self.head_end) = frame::head(opcode, size);
        self.head_at = 0;
        self.owed = size;
    }
}
