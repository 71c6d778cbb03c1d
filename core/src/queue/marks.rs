//! Hand-out marks of a queue.

/// Hand-out marks: before a crash can hide that a message was handed out, the log says that it may have been.
///
/// A mark is staged ahead, 1,024 messages at a time. An entry may be handed out when a mark above it is in the log, or
/// stands in the same batch as the entry's own record or in an earlier one: if the entry survives, so does the mark.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HandOutMarks {
    /// Entries below it may go: their mark is written.
    written: u64,
    /// Entries below it may go once `ticket` is written, or at once if they are not older than `staged_at`.
    staged: u64,
    /// `next_seq` when the mark was staged.
    staged_at: u64,
    /// The batch the staged mark is in.
    ticket: u64,
    /// The batch whose report the queue is on the list for.
    awaited: u64,
}

/// Messages a mark is ahead.
const HAND_OUT_AHEAD: u64 = 1024;

impl HandOutMarks {
    /// After a start: what lies below `handed_out` may have been handed out before.
    pub(super) fn restored(handed_out: u64) -> HandOutMarks {
        HandOutMarks {
            written: handed_out,
            staged: handed_out,
            ..HandOutMarks::default()
        }
    }
    /// Where the staged mark stands: entries below it may have been handed out.
    pub(super) fn upto(&self) -> u64 {
        self.staged
    }
    /// The batch that has the mark of the entry, if one is staged for it.
    pub(super) fn staged_for(&self, seq: u64) -> Option<u64> {
        (seq < self.staged).then_some(self.ticket)
    }
    /// The batch to wait for, if nobody does yet.
    pub(super) fn await_batch(&mut self) -> Option<u64> {
        let is_news = self.awaited != self.ticket;
        self.awaited = self.ticket;
        is_news.then_some(self.ticket)
    }
    /// Whether an entry that is published with this sequence, and may be handed out at once, should have a mark with it.
    #[inline]
    pub(super) fn is_near(&self, seq: u64) -> bool {
        seq + HAND_OUT_AHEAD / 2 >= self.staged
    }
    /// Whether the entry may be handed out, given that all batches up to `upto` are written.
    pub(super) fn allow(&mut self, seq: u64, upto: u64) -> bool {
        if seq < self.written {
            return true;
        }
        self.written_if(upto);
        seq < self.written || (seq < self.staged && seq >= self.staged_at)
    }
    /// Takes note of the staged mark if its batch is written, before another one takes its place.
    fn written_if(&mut self, upto: u64) {
        if self.ticket <= upto {
            self.written = self.written.max(self.staged);
        }
    }
    /// A mark for `seq`, which is published now, and those after it.
    pub(super) fn stage_at_publish(&mut self, seq: u64, ticket: u64, upto: u64) {
        self.written_if(upto);
        // An unwritten mark before this one covers what lies between the two: its entries need not wait for this one.
        if self.ticket <= upto || seq > self.staged {
            self.staged_at = seq;
        }
        self.staged = seq + HAND_OUT_AHEAD;
        self.ticket = ticket;
    }
    /// A mark for `seq`, which waits in the queue, and those after it.
    pub(super) fn stage_ahead(&mut self, seq: u64, next_seq: u64, ticket: u64, upto: u64) {
        self.written_if(upto);
        self.staged = self.staged.max(seq) + HAND_OUT_AHEAD;
        self.staged_at = next_seq;
        self.ticket = ticket;
    }
    /// Whether a new mark should be staged before `seq` is handed out, or soon.
    pub(super) fn due(&self, seq: u64, upto: u64) -> bool {
        seq >= self.staged || (seq + HAND_OUT_AHEAD / 2 >= self.staged && self.ticket <= upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_published_with_its_mark_may_go_at_once_an_older_one_waits() {
        let mut m = HandOutMarks {
            staged: 1124,
            staged_at: 100,
            ticket: 7,
            ..HandOutMarks::default()
        };
        assert!(m.allow(100, 6));
        assert!(!m.allow(99, 6));
        assert!(m.allow(99, 7));
        assert!(!m.allow(1124, 7));
    }
}
