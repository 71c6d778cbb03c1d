//! Reading bytes and having the session parse them.

use super::ending::End;
use super::{COPY_MAX, OUTPUT_HIGH_WATER, Pump, READ_MAX, Scratch, Stream};
use crate::properties::Codecs;
use crate::session::ReadInterest;
use crate::time::Now;
use std::io;

impl<V> Pump<V> {
    pub(super) fn has_room_for_input(&self) -> bool {
        self.output.len() < OUTPUT_HIGH_WATER && !self.parking.is_full() && self.meter.until().is_none()
    }

    /// Reads once, and has the session parse the bytes together with the unfinished frame before them.
    pub(super) fn read<S: Stream>(
        &mut self,
        now: Now,
        s: &mut Scratch,
        codecs: &Codecs,
        stream: &mut S,
        portion: usize,
    ) -> Result<(), End> {
        if self.input.len() > COPY_MAX {
            // Read onto the buffer: copying a large frame for each read would take quadratic time.
            self.input.reserve(READ_MAX);
            let read = stream.read_onto(&mut self.input, READ_MAX)?;
            if self.note_read(read)?.is_some() {
                self.offer(now, s, codecs)?;
            }
            return Ok(());
        }
        let kept = self.input.len();
        let Some((head, space)) = s.input.split_at_mut_checked(kept) else {
            return Ok(());
        };
        head.copy_from_slice(&self.input);
        let space = space.get_mut(..portion).unwrap_or_default();
        let Some(read) = self.note_read(stream.read(space)?)? else {
            return Ok(());
        };
        let before = s.commands.len();
        let (mut cx, bytes) = s.cx(now, codecs);
        let bytes = bytes.get(..kept + read).unwrap_or_default();
        let used = self.session.handle_bytes(&mut cx, bytes)?;
        let work = cx.work;
        let rest = bytes.get(used..).unwrap_or_default();
        if rest.is_empty() {
            // Freed, so that an idle connection keeps no buffer.
            self.input = Vec::new();
        } else {
            self.input.clear();
            self.input.extend_from_slice(rest);
        }
        s.work = work;
        self.meter.count(s.commands.get(before..).unwrap_or_default());
        self.note_declined(s);
        Ok(())
    }

    fn note_read(&mut self, read: Option<usize>) -> io::Result<Option<usize>> {
        self.read_dry = read.is_none();
        match read {
            Some(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the peer closed the connection",
            )),
            read => {
                if let Some(part) = &mut self.part {
                    part.note_read(read.unwrap_or(0));
                }
                self.carried.bytes_in += read.unwrap_or(0) as u64;
                self.carried.reads += u64::from(read.is_some());
                Ok(read)
            }
        }
    }

    /// Makes the session parse the kept bytes.
    pub(super) fn offer(&mut self, now: Now, s: &mut Scratch, codecs: &Codecs) -> Result<(), End> {
        let before = s.commands.len();
        let (mut cx, _) = s.cx(now, codecs);
        let used = self.session.handle_bytes(&mut cx, &self.input)?;
        s.work = cx.work;
        self.meter.count(s.commands.get(before..).unwrap_or_default());
        if used >= self.input.len() {
            self.input = Vec::new();
        } else if used > 0 {
            self.input.drain(..used);
            if self.input.capacity() > 4 * self.input.len().max(COPY_MAX) {
                self.input.shrink_to_fit();
            }
        }
        self.note_declined(s);
        Ok(())
    }

    fn note_declined(&mut self, s: &Scratch) {
        let declines = s.is_full() || self.session.read_interest() == ReadInterest::Nothing;
        self.declined = declines && !self.input.is_empty();
    }
}
