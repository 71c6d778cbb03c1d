//! The ledger of one consumer: which messages came, how often, and in which order. It is exact and does not sample.

use crate::body::Stamp;

/// All messages that a consumer got, by publisher.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    run: u16,
    tracks: Vec<Track>,
    verdict: Verdict,
}

/// Counts of good and bad messages. In a clean run all but `received` are zero.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Verdict {
    /// Good messages, each counted once.
    pub(crate) received: u64,
    /// Messages that came again.
    pub(crate) duplicated: u64,
    /// Messages that came after a later message of the same publisher.
    pub(crate) reordered: u64,
    /// Messages whose checksum is wrong, or that are too short for one.
    pub(crate) corrupted: u64,
    /// Intact messages of another run, or of a publisher that does not exist.
    pub(crate) foreign: u64,
    /// Messages that were sent and never came.
    pub(crate) lost: u64,
    /// Lost messages after which nothing came: perhaps stuck rather than lost.
    pub(crate) lost_at_end: u64,
}

/// One publisher's messages at one consumer.
#[derive(Debug, Default)]
struct Track {
    /// One bit per sequence number seen.
    seen: Vec<u64>,
    /// One more than the highest sequence number seen.
    next: u64,
}

/// Sequence numbers from here on count as damage: a ledger for them would not fit into memory.
const SEQUENCE_END: u64 = 1 << 33;

impl Ledger {
    pub(crate) fn new(run: u16, publishers: usize) -> Self {
        Self {
            run,
            tracks: (0..publishers).map(|_| Track::default()).collect(),
            verdict: Verdict::default(),
        }
    }

    /// Records a body. Returns its stamp if it is a message of this run.
    #[inline]
    pub(crate) fn enter(&mut self, body: &[u8]) -> Option<Stamp> {
        let Some(stamp) = Stamp::read(body) else {
            self.verdict.corrupted += 1;
            return None;
        };
        let track = self
            .tracks
            .get_mut(usize::from(stamp.publisher))
            .filter(|_| stamp.run == self.run);
        let Some(track) = track.filter(|_| stamp.sequence < SEQUENCE_END) else {
            self.verdict.foreign += 1;
            return None;
        };
        if !track.mark(stamp.sequence) {
            self.verdict.duplicated += 1;
        } else {
            self.verdict.received += 1;
            if stamp.sequence < track.next {
                self.verdict.reordered += 1;
            } else {
                track.next = stamp.sequence + 1;
            }
        }
        Some(stamp)
    }

    /// Good messages so far, each counted once.
    pub(crate) fn received(&self) -> u64 {
        self.verdict.received
    }

    /// Merges the ledger of a consumer that shared the same messages: a message in both is a duplicate.
    pub(crate) fn merge(&mut self, other: &Self) {
        let (mine, theirs) = (&mut self.verdict, &other.verdict);
        mine.received += theirs.received;
        mine.duplicated += theirs.duplicated;
        mine.reordered += theirs.reordered;
        mine.corrupted += theirs.corrupted;
        mine.foreign += theirs.foreign;
        for (track, other) in self.tracks.iter_mut().zip(&other.tracks) {
            if track.seen.len() < other.seen.len() {
                track.seen.resize(other.seen.len(), 0);
            }
            for (word, other) in track.seen.iter_mut().zip(&other.seen) {
                let both = u64::from((*word & other).count_ones());
                self.verdict.received -= both;
                self.verdict.duplicated += both;
                *word |= other;
            }
            track.next = track.next.max(other.next);
        }
    }

    /// Compares the ledger with the number of messages that each publisher sent.
    pub(crate) fn close(mut self, sent: &[u64]) -> Verdict {
        for (track, &sent) in self.tracks.iter().zip(sent) {
            self.verdict.lost += sent.saturating_sub(track.seen_below(sent));
            self.verdict.lost_at_end += sent.saturating_sub(track.next);
        }
        self.verdict
    }
}

impl Verdict {
    /// Whether each message came once, in order and whole.
    pub(crate) fn is_clean(&self) -> bool {
        *self
            == Self {
                received: self.received,
                ..Self::default()
            }
    }

    /// Adds the verdict of a further consumer that got all messages too.
    pub(crate) fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.foreign += other.foreign;
        self.lost += other.lost;
        self.lost_at_end += other.lost_at_end;
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_clean() {
            return write!(f, "all {} messages once, in order and whole", self.received);
        }
        write!(f, "{} good", self.received)?;
        for (count, what) in [
            (self.lost, "LOST"),
            (self.lost_at_end, "of these at the end"),
            (self.duplicated, "DUPLICATED"),
            (self.reordered, "REORDERED"),
            (self.corrupted, "CORRUPTED"),
            (self.foreign, "of another run"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

impl Track {
    /// Marks a sequence number. Returns false if it was marked before.
    #[inline]
    fn mark(&mut self, sequence: u64) -> bool {
        let (word, bit) = ((sequence / 64) as usize, 1_u64 << (sequence % 64));
        if word >= self.seen.len() {
            self.seen.resize((word + 1).next_power_of_two(), 0);
        }
        let fresh = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        fresh
    }

    fn seen_below(&self, end: u64) -> u64 {
        let whole = (end / 64) as usize;
        let mut count: u64 = self
            .seen
            .iter()
            .take(whole)
            .map(|word| u64::from(word.count_ones()))
            .sum();
        if let Some(word) = self.seen.get(whole) {
            count += u64::from((word & ((1 << (end % 64)) - 1)).count_ones());
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::blank;

    fn message(run: u16, publisher: u16, sequence: u64) -> Vec<u8> {
        let mut body = blank(64);
        Stamp {
            run,
            publisher,
            sequence,
            sent_ns: 1,
        }
        .write(&mut body);
        body
    }

    fn book(messages: &[(u16, u64)]) -> Ledger {
        let mut ledger = Ledger::new(1, 2);
        for &(publisher, sequence) in messages {
            ledger.enter(&message(1, publisher, sequence));
        }
        ledger
    }

    #[test]
    fn interleaved_publishers_in_order_are_clean() {
        let verdict = book(&[(0, 0), (1, 0), (1, 1), (0, 1), (0, 2)]).close(&[3, 2]);
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!(verdict.received, 5);
    }

    #[test]
    fn a_lost_message_is_counted_in_the_middle_and_at_the_end() {
        assert_eq!(book(&[(0, 0), (0, 2)]).close(&[3, 0]).lost, 1);
        let verdict = book(&[(0, 0), (0, 2), (0, 3)]).close(&[5, 2]);
        assert_eq!((verdict.lost, verdict.lost_at_end), (4, 3));
        assert_eq!(book(&[]).close(&[64, 65]).lost, 129);
    }

    #[test]
    fn a_duplicate_is_not_taken_for_another_message() {
        let verdict = book(&[(0, 0), (0, 0), (0, 2)]).close(&[3, 0]);
        assert_eq!((verdict.received, verdict.duplicated, verdict.lost), (2, 1, 1));
    }

    #[test]
    fn a_message_behind_a_later_one_is_reordered_but_not_lost() {
        let verdict = book(&[(0, 1), (0, 0), (0, 2)]).close(&[3, 0]);
        assert_eq!((verdict.reordered, verdict.lost, verdict.duplicated), (1, 0, 0));
    }

    #[test]
    fn a_damaged_message_counts_as_corrupted_and_as_lost() {
        let mut ledger = book(&[(0, 0)]);
        let mut body = message(1, 0, 1);
        body[40] ^= 4;
        assert_eq!(ledger.enter(&body), None);
        let verdict = ledger.close(&[2, 0]);
        assert_eq!((verdict.corrupted, verdict.lost), (1, 1));
    }

    #[test]
    fn leftovers_of_another_run_and_unknown_publishers_are_foreign() {
        let mut ledger = book(&[(0, 0)]);
        ledger.enter(&message(2, 0, 1));
        ledger.enter(&message(1, 9, 1));
        ledger.enter(&message(1, 0, u64::MAX));
        let verdict = ledger.close(&[1, 0]);
        assert_eq!((verdict.foreign, verdict.lost, verdict.received), (3, 0, 1));
    }

    #[test]
    fn what_two_competing_consumers_both_got_is_a_duplicate() {
        let mut one = book(&[(0, 0), (0, 2), (1, 0)]);
        one.merge(&book(&[(0, 1), (0, 2), (1, 200)]));
        let verdict = one.close(&[3, 1]);
        assert_eq!(
            (verdict.received, verdict.duplicated, verdict.lost, verdict.reordered),
            (5, 1, 0, 0)
        );
    }
}
