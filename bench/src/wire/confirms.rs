//! Publishes that wait for the broker's confirm.

use std::collections::VecDeque;

/// Publishes are numbered from 1 in the order they leave.
#[derive(Debug, Default)]
pub(crate) struct Confirms {
    /// The number before that of the first of `waiting`.
    settled_upto: u64,
    /// True while the publish waits. The first always does.
    waiting: VecDeque<bool>,
}

impl Confirms {
    /// Records that the next publish was sent.
    #[inline]
    pub(crate) fn published(&mut self) {
        self.waiting.push_back(true);
    }

    /// Settles one publish. Returns how many of them were unsettled: one or none.
    pub(crate) fn settle(&mut self, number: u64) -> u64 {
        self.settle_from(number, number)
    }

    /// Settles all publishes up to one. Returns how many of them were unsettled.
    pub(crate) fn settle_upto(&mut self, number: u64) -> u64 {
        // AMQP 0-9-1 1.8.3.13: tag zero with `multiple` means all that are outstanding.
        let last = if number == 0 {
            self.settled_upto + self.waiting.len() as u64
        } else {
            number
        };
        self.settle_from(self.settled_upto + 1, last)
    }

    fn settle_from(&mut self, first: u64, last: u64) -> u64 {
        let index = |number: u64| number.checked_sub(self.settled_upto + 1).map(|index| index as usize);
        let (Some(first), Some(last)) = (index(first), index(last)) else {
            return 0;
        };
        if last >= self.waiting.len() {
            return 0;
        }
        let mut count = 0;
        for waiting in self.waiting.range_mut(first..=last) {
            count += u64::from(std::mem::take(waiting));
        }
        while self.waiting.front() == Some(&false) {
            self.waiting.pop_front();
            self.settled_upto += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_are_counted_once_whether_single_or_multiple() {
        let mut confirms = Confirms::default();
        for _ in 0..6 {
            confirms.published();
        }
        assert_eq!(confirms.settle(2), 1);
        assert_eq!(confirms.settle(2), 0);
        assert_eq!(confirms.settle(0), 0);
        assert_eq!(confirms.settle_upto(3), 2);
        assert_eq!(confirms.settle_upto(3), 0);
        assert_eq!(confirms.settle_upto(9), 0);
        assert_eq!(confirms.settle_upto(0), 3);
        assert!(confirms.waiting.is_empty());
    }
}
