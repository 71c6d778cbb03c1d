//! Which segments should be there and are not.
//!
//! Two things tell: a checkpoint that has something live in one, and the gaps between those that are there, because
//! segments are given consecutive places in the log and none goes before two checkpoints cover it. So a gap is a missing
//! segment if it lies behind what the checkpoint covers, or if there is no checkpoint at all: then either a segment or the
//! checkpoints that let it go are missing. Not noticed are the newest segments of all, and, without a checkpoint, the last
//! segments before a restart, where a start may have removed one that never got a record.

use super::checkpoint::{Checkpoint, Marks};
use super::index::{Index, Live};
use super::segment::{SegmentHeader, path};
use std::collections::BTreeMap;

/// What a checkpoint has live, by segment.
pub(crate) type Expected = BTreeMap<u32, Live>;

/// A segment that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) id: u32,
    /// Its path, as far as that is known.
    pub(crate) path: String,
    /// What is known to have been in it.
    pub(crate) why: String,
}

/// What an index that was read from a checkpoint has live.
pub(crate) fn expected(index: &Index) -> Expected {
    let mut expected = Expected::new();
    for span in index.queues.values().flat_map(|queue| queue.spans()) {
        expected.entry(span.segment).or_default().routes += u64::from(span.live);
    }
    // A segment with nothing but deletions goes, without another checkpoint, when what they deleted is gone.
    for entry in index.keys.values().filter(|entry| !entry.deleted) {
        expected.entry(entry.at.segment).or_default().keys += 1;
    }
    expected
}

/// The segments that are not among those with the headers `there`. `expected` is what `checkpoint` has live. Files
/// that are there, though they may say nothing, are `known`.
pub(crate) fn find(
    checkpoint: Option<&Checkpoint>,
    expected: &Expected,
    there: &[SegmentHeader],
    known: impl Fn(u32) -> bool,
) -> Vec<Missing> {
    // What no checkpoint covers begins with the first segment of the first epoch.
    let none = Checkpoint {
        marks: Marks {
            epoch: 1,
            ..Marks::default()
        },
        ..Checkpoint::default()
    };
    let no_word = if checkpoint.is_none() {
        ", and no checkpoint is left to say what was in it"
    } else {
        ""
    };
    let checkpoint = checkpoint.unwrap_or(&none);
    let mut found = Vec::new();
    for (&id, live) in expected {
        if there.iter().any(|header| header.id == id) || known(id) {
            continue;
        }
        let covered = checkpoint.segments.iter().find(|covered| covered.header.id == id);
        let dir = covered.map_or("log", |covered| covered.header.kind.dir());
        found.push(Missing {
            id,
            path: path(dir, id),
            why: format!(
                "is missing, and with it up to {} messages and {} keyed records",
                live.routes, live.keys
            ),
        });
    }
    let behind = |header: &&SegmentHeader| header.base >= checkpoint.marks.next_base;
    let mut later: Vec<&SegmentHeader> = there.iter().filter(behind).collect();
    later.sort_unstable_by_key(|header| header.base);
    let marks = &checkpoint.marks;
    let mut before = (marks.next_id.saturating_sub(1), marks.epoch, marks.next_base);
    for header in later {
        let (id, epoch, next_base) = before;
        before = (header.id, header.epoch, header.base + u64::from(header.size) * 2);
        // What another epoch left without a record in it is removed without a word.
        if header.epoch != epoch || header.base <= next_base || (id + 1..header.id).any(&known) {
            continue;
        }
        found.push(Missing {
            id: id + 1,
            path: path(header.kind.dir(), id + 1),
            why: format!(
                "or one close to it is missing: nothing lies between {id} and {}{no_word}",
                header.id
            ),
        });
    }
    found
}
