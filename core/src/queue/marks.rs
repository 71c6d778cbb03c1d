//! Hand-out marks of a queue: how the log remembers which messages may have been delivered.

/// The hand-out marks of a queue. After a crash, messages below the last mark are delivered as redelivered, because a
/// consumer may have had them. So a message must not be handed out before the log has a mark above it.
///
/// A mark is staged ahead, for 1,024 messages at a time. An entry may be handed out when a mark above it is written, or
/// when that mark is in the same batch as the entry's own record or in an earlier one: if the entry survives a crash,
/// so does the mark.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HandOutMarks {
    /// A written mark covers entries below this sequence: they may be handed out.
    written: u64,
    /// The staged mark covers entries below this sequence. They may be handed out once batch `ticket` is written;
    /// entries from `staged_at` on at once.
    staged: u64,
    /// The first sequence whose record is not in an earlier batch than the mark.
    staged_at: u64,
    /// The batch that the staged mark is in.
    ticket: u64,
    /// The last batch that the queue is registered to wait for.
    awaited: u64,
}

/// The number of messages that a mark is ahead.
const HAND_OUT_AHEAD: u64 = 1024;

impl HandOutMarks {
    /// The marks after a start. Entries below `handed_out` may have been handed out before.
    pub(super) fn restored(handed_out: u64) -> HandOutMarks {
        HandOutMarks {
            written: handed_out,
            staged: handed_out,
            ..HandOutMarks::default()
        }
    }
    /// The staged mark: entries below it may have been handed out.
    pub(super) fn upto(&self) -> u64 {
        self.staged
    }
    /// The batch with the mark that covers the entry, if one is staged.
    pub(super) fn staged_for(&self, seq: u64) -> Option<u64> {
        (seq < self.staged).then_some(self.ticket)
    }
    /// The batch to register for, unless the queue is registered for it already.
    pub(super) fn await_batch(&mut self) -> Option<u64> {
        let is_news = self.awaited != self.ticket;
        self.awaited = self.ticket;
        is_news.then_some(self.ticket)
    }
    /// Whether an entry that is published with this sequence, and can be handed out at once, should be staged with a
    /// mark.
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
    /// Notes that the staged mark is written, if its batch is. To be called before another mark replaces it.
    fn written_if(&mut self, upto: u64) {
        if self.ticket <= upto {
            self.written = self.written.max(self.staged);
        }
    }
    /// Stages a mark that covers `seq`, which is being published, and the messages that follow.
    pub(super) fn stage_at_publish(&mut self, seq: u64, ticket: u64, upto: u64) {
        self.written_if(upto);
        // If the former mark is not written yet, it covers the entries between the two, which need not wait for the new
        // one.
        if self.ticket <= upto || seq > self.staged {
            self.staged_at = seq;
        }
        self.staged = seq + HAND_OUT_AHEAD;
        self.ticket = ticket;
    }
    /// Stages a mark that covers `seq`, which waits in the queue, and the messages that follow.
    pub(super) fn stage_ahead(&mut self, seq: u64, next_seq: u64, ticket: u64, upto: u64) {
        self.written_if(upto);
        self.staged = self.staged.max(seq) + HAND_OUT_AHEAD;
        self.staged_at = next_seq;
        self.ticket = ticket;
    }
    /// Whether a new mark should be staged before `seq`, or one of the next, is handed out.
    pub(super) fn due(&self, seq: u64, upto: u64) -> bool {
        seq >= self.staged || (seq + HAND_OUT_AHEAD / 2 >= self.staged && self.ticket <= upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_published_with_its_mark_is_handed_out_at_once_and_an_older_one_waits() {
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
