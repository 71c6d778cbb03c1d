//! Output that the stream has not taken yet.

use crate::time::Time;

/// Waiting output, in order. Empty except for slow peers, and then it is only one word in size.
#[derive(Default)]
pub(super) struct Output(Option<Box<Backlog>>);

struct Backlog {
    bytes: Vec<u8>,
    /// Bytes of `bytes` that are written already; never all.
    written: usize,
    /// When the stream last had taken another [`PROGRESS`] bytes, or when output began to wait.
    progress: Time,
    /// Bytes taken since then.
    taken: usize,
}

/// Fewer bytes do not count as progress. Otherwise a peer that reads a byte now and then would hold its memory for ever.
const PROGRESS: usize = 1 << 10;

/// Written bytes are removed from the buffer when there are this many.
const COMPACT: usize = 64 << 10;

impl Output {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting().len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Memory of what waits.
    pub(super) fn memory(&self) -> usize {
        self.0.as_ref().map_or(0, |backlog| backlog.bytes.capacity())
    }

    /// Since when there has been no progress; `None` if nothing waits.
    pub(super) fn stalled_since(&self) -> Option<Time> {
        self.0.as_ref().map(|backlog| backlog.progress)
    }

    /// The bytes to write next.
    pub(super) fn waiting(&self) -> &[u8] {
        self.0
            .as_ref()
            .and_then(|backlog| backlog.bytes.get(backlog.written..))
            .unwrap_or_default()
    }

    /// Notes that the stream took `taken` of the waiting bytes.
    pub(super) fn took(&mut self, taken: usize, now: Time) {
        let Some(backlog) = &mut self.0 else { return };
        if taken == 0 {
            return;
        }
        backlog.taken += taken;
        if backlog.taken >= PROGRESS {
            backlog.taken = 0;
            backlog.progress = now;
        }
        backlog.written += taken;
        if backlog.written >= backlog.bytes.len() {
            // Freed, so that a peer that was slow once does not keep its buffer.
            self.0 = None;
        } else if backlog.written >= COMPACT {
            backlog.bytes.drain(..backlog.written);
            backlog.written = 0;
        }
    }

    /// Appends `fresh` without its first `taken` bytes, which are written already. Leaves `fresh` empty.
    pub(super) fn keep(&mut self, fresh: &mut Vec<u8>, taken: usize, now: Time) {
        match &mut self.0 {
            Some(backlog) => backlog.bytes.append(fresh),
            None => {
                if let Some(rest) = fresh.get(taken..).filter(|rest| !rest.is_empty()) {
                    self.0 = Some(Box::new(Backlog {
                        bytes: rest.to_vec(),
                        written: 0,
                        progress: now,
                        taken: 0,
                    }));
                }
                fresh.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_no_progress() {
        let mut output = Output::default();
        output.keep(&mut vec![0; 3 * PROGRESS], 0, Time(1));
        for at in 2..PROGRESS as u64 + 1 {
            output.took(1, Time(at));
            assert_eq!(output.stalled_since(), Some(Time(1)));
        }
        let at = Time(PROGRESS as u64 + 1);
        output.took(1, at);
        assert_eq!(output.stalled_since(), Some(at));
    }

    #[test]
    fn bytes_leave_in_order_through_a_narrow_stream() {
        let mut output = Output::default();
        output.keep(&mut b"abcdef".to_vec(), 4, Time(1));
        assert_eq!((output.waiting(), output.stalled_since()), (&b"ef"[..], Some(Time(1))));
        output.keep(&mut b"ghi".to_vec(), 0, Time(2));
        assert_eq!((output.len(), output.stalled_since()), (5, Some(Time(1))));
        output.took(0, Time(3));
        assert_eq!(output.stalled_since(), Some(Time(1)), "nothing moved");
        output.took(1, Time(3));
        assert_eq!(
            (output.waiting(), output.stalled_since()),
            (&b"fghi"[..], Some(Time(1)))
        );
        output.took(4, Time(4));
        assert!(output.is_empty() && output.stalled_since().is_none());
    }
}
