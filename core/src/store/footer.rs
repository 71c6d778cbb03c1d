//! How a segment ended: the head of its FOOTER.
//!
//! ```text
//!   end of the records │ ending 1 │ log continues to  │ holes: count, (from - end of the one before, length)*
//! ```
//!
//! A segment is sealed after the next one was created. Its footer says so, by the place behind all segments created by
//! then. So it is noticed when the newest segments are missing, as long as the one before them is there. 0: no other
//! was created.
//!
//! Holes are listed that existed when the segment was sealed, because they were judged then. A hole that is not listed
//! came later, and is damage.

use super::disk::BLOCK;
use super::varint::{Input, put_varint};

/// Who sealed a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Ending {
    /// The process that wrote it, because it was full. All of it was synced.
    Full = 0,
    /// A start after a crash. Torn records are gone, and incomplete groups do not count.
    Cut = 1,
    /// A repair of one that was full. The rest of a damaged group counts.
    Mended = 2,
}

impl Ending {
    pub(crate) fn from_u32(value: u32) -> Option<Ending> {
        Some(match value {
            0 => Ending::Full,
            1 => Ending::Cut,
            2 => Ending::Mended,
            _ => return None,
        })
    }
}

/// The head of a FOOTER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// The end of the records.
    pub(crate) end: u32,
    pub(crate) ending: Ending,
    /// The place in the log behind all segments that existed when this one was sealed; 0 if unknown.
    pub(crate) log_upto: u64,
    /// Ascending and disjoint.
    pub(crate) holes: Vec<(u32, u32)>,
}

/// If there are more holes than this, they are listed as one.
const HOLES_MAX: usize = 1024;

impl Footer {
    pub(crate) fn new(end: u32, ending: Ending, log_upto: u64, mut holes: Vec<(u32, u32)>) -> Footer {
        holes.sort_unstable();
        if holes.len() > HOLES_MAX
            && let (Some(first), Some(last)) = (holes.first(), holes.iter().map(|(_, to)| *to).max())
        {
            holes = vec![(first.0, last)];
        }
        Footer {
            end,
            ending,
            log_upto,
            holes,
        }
    }
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(self.end));
        out.push(self.ending as u8);
        put_varint(out, self.log_upto);
        put_varint(out, self.holes.len() as u64);
        let mut at = 0;
        for &(from, to) in &self.holes {
            put_varint(out, u64::from(from.saturating_sub(at)));
            put_varint(out, u64::from(to.saturating_sub(from.max(at))));
            at = to.max(at);
        }
    }
    pub(crate) fn parse(head: &[u8]) -> Option<Footer> {
        let mut input = Input(head);
        let end = input.number()?;
        let ending = Ending::from_u32(u32::from(input.u8()?))?;
        let log_upto = input.varint()?;
        let count = input.count(2)?.min(HOLES_MAX);
        let mut holes = Vec::with_capacity(count);
        let mut at = 0u32;
        for _ in 0..count {
            let from = at.checked_add(input.number()?)?;
            at = from.checked_add(input.number()?)?;
            holes.push((from, at));
        }
        Some(Footer {
            end,
            ending,
            log_upto,
            holes,
        })
    }
    /// Whether a hole existed when the segment was sealed. The last hole is found again with its end at the footer,
    /// which begins a block.
    pub(crate) fn has_judged(&self, from: u32, to: u32) -> bool {
        let tail = |hi: u32| {
            if hi == self.end { hi.next_multiple_of(BLOCK) } else { hi }
        };
        self.holes.iter().any(|&(lo, hi)| lo <= from && to <= tail(hi))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_listed_and_too_many_become_one() {
        let footer = Footer::new(9000, Ending::Cut, 70_000, vec![(8192, 9000), (4608, 4700)]);
        let mut out = Vec::new();
        footer.put(&mut out);
        assert_eq!(Footer::parse(&out), Some(footer.clone()));
        assert!(footer.has_judged(4608, 4700) && footer.has_judged(8192, 12_288));
        assert!(!footer.has_judged(4600, 4700) && !footer.has_judged(4608, 8200) && !footer.has_judged(8192, 12_296));
        let many = Footer::new(
            90_000,
            Ending::Cut,
            0,
            (0..5000).map(|n| (n * 16, n * 16 + 8)).collect(),
        );
        assert_eq!(many.holes, [(0, 4999 * 16 + 8)]);
    }
}
