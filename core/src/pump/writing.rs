//! Writing output, as far as the peer takes it.

use super::{Pump, Stream};
use crate::time::Now;
use std::io;

/// The peer does not read its output.
#[derive(Debug, thiserror::Error)]
#[error("the peer takes no output")]
pub(super) struct Stalled;

impl<V> Pump<V> {
    /// Writes waiting output, as far as the stream takes it.
    ///
    /// # Errors
    /// The stream is broken.
    pub fn flush<S: Stream>(&mut self, now: Now, stream: &mut S) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let taken = stream.write(self.output.waiting())?;
        self.note_written(taken);
        self.output.took(taken, now.monotonic);
        Ok(())
    }

    pub(super) fn write<S: Stream>(&mut self, now: Now, fresh: &mut Vec<u8>, stream: &mut S) -> io::Result<()> {
        if self.broken.is_some() {
            fresh.clear();
        }
        if fresh.is_empty() {
            return Ok(());
        }
        // Older output may still be waiting, and new output must not overtake it.
        let taken = if self.output.is_empty() {
            stream.write(fresh)?
        } else {
            0
        };
        self.note_written(taken);
        self.output.keep(fresh, taken, now.monotonic);
        Ok(())
    }

    fn note_written(&mut self, bytes: usize) {
        self.carried.bytes_out += bytes as u64;
        self.carried.writes += u64::from(bytes > 0);
        if let Some(part) = &mut self.part {
            part.note_read(bytes);
        }
    }

    pub(super) fn check_stall(&self, now: Now) -> io::Result<()> {
        if self
            .output
            .stalled_since()
            .is_some_and(|since| now.monotonic >= since + self.stall)
        {
            return Err(io::Error::new(io::ErrorKind::TimedOut, Stalled));
        }
        Ok(())
    }
}
