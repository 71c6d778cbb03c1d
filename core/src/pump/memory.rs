//! Accounts a connection's buffers in the node's memory.

use super::{Broker, Pump, Stream};
use crate::buffers::PROGRESS_BYTES;
use crate::time::Now;
use std::io;

impl<V> Pump<V> {
    /// Closes a peer that has stopped in the middle of a large packet, if memory is short.
    pub(super) fn check_part<S: Stream>(&mut self, now: Now, stream: &mut S) -> io::Result<()> {
        let Some(part) = self.part.as_mut().filter(|part| now.monotonic >= part.due()) else {
            return Ok(());
        };
        let is_unread = self.output.len() > PROGRESS_BYTES;
        let waits_for_us = !is_unread && (!self.unfinished || self.held_back || stream.has_more()?);
        if part.has_stalled(now.monotonic, waits_for_us) {
            let text = match is_unread {
                true => "the peer does not read a large packet, and others need the memory",
                false => "the peer has stopped in the middle of a large packet, and others need the memory",
            };
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

    /// Whether a large message may be taken although memory is short. If not, the connection is woken when it should ask again.
    pub(super) fn may_send_large<B: Broker<Vhost = V>>(&mut self, now: Now, broker: &mut B) -> bool {
        if self.part.is_none() {
            self.part = broker.buffers().map(|buffers| Box::new(buffers.part(now.monotonic)));
        }
        let Some(part) = &mut self.part else { return true };
        part.may_send(|| broker.waker())
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
        if self.output.is_empty()
            && !self.wants_large
            && let Some(part) = &mut self.part
        {
            part.sent();
        }
        if bytes <= free && !self.wants_large {
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
