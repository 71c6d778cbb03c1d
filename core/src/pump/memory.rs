//! Accounts a connection's buffers in the node's memory.

use super::{Broker, Pump, Stream};
use crate::time::Now;
use std::io;

impl<V> Pump<V> {
    /// Closes a peer that has stopped in the middle of a large packet, if memory is short.
    pub(super) fn check_part<S: Stream>(&mut self, now: Now, stream: &mut S) -> io::Result<()> {
        let Some(part) = self.part.as_mut().filter(|part| now.monotonic >= part.due()) else {
            return Ok(());
        };
        let waits_for_us = !self.unfinished || self.held_back || stream.has_more()?;
        if part.has_stalled(now.monotonic, waits_for_us) {
            let text = "the peer has stopped in the middle of a large packet, and others need the memory";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(())
    }

    /// Whether there is memory for a read. Only reads in the middle of a large packet may be held back.
    pub(super) fn may_read<B, S>(&mut self, broker: &mut B, stream: &mut S) -> io::Result<bool>
    where
        B: Broker<Vhost = V>,
        S: Stream,
    {
        let Some(part) = self.part.as_mut().filter(|_| self.unfinished) else {
            return Ok(true);
        };
        if !part.is_short() {
            return Ok(true);
        }
        if !stream.has_more()? {
            part.pass();
            return Ok(false);
        }
        self.held_back = !part.may_grow(|| broker.waker());
        Ok(!self.held_back)
    }

    /// Counts the connection's buffers.
    pub(super) fn account<B: Broker<Vhost = V>>(&mut self, now: Now, broker: &mut B, stream_bytes: usize) {
        let Some(buffers) = broker.buffers() else { return };
        if self.ended {
            self.part = None;
            buffers.count_small(self.small as usize, 0);
            self.small = 0;
            return;
        }
        let packets = self.input.capacity() + self.session.buffered();
        let bytes = packets + self.session.kept() + self.output.memory() + self.parking.bytes() + stream_bytes;
        let free = buffers.free_bytes();
        self.unfinished = packets > free && !self.declined;
        let small = if bytes <= free { bytes } else { 0 };
        if small != self.small as usize {
            buffers.count_small(self.small as usize, small);
            self.small = small as u32;
        }
        if bytes <= free {
            self.part = None;
            return;
        }
        if self.part.is_none() {
            self.part = broker.buffers().map(|buffers| Box::new(buffers.part(now.monotonic)));
        }
        if let Some(part) = &mut self.part {
            part.set(bytes);
        }
    }
}
