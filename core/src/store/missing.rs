//! Finds out which segments are missing.
//!
//! There are three sources:
//! - The newest checkpoint: segments in which it has something live, or that were being written, must exist.
//! - Gaps between existing segments. Segments have consecutive places in the log, and none is removed before two
//!   checkpoints cover it. So a gap is a missing segment if it lies behind what the checkpoint covers, or if there is
//!   no checkpoint at all: then either a segment or the checkpoints that permitted its removal are missing.
//! - The footers: a segment is sealed after the next one was created, and says how far the log went by then. So it is
//!   noticed when the newest segments are missing, as long as the one before them exists.
//!
//! Not noticed: that all segments since a start are missing, if no checkpoint was written since the first of them,
//! because what the former process left says nothing about them. Nor, without a checkpoint, that everything is missing.

use super::checkpoint::Checkpoint;
use super::index::Live;
use super::segment::{LOG_DIR, SegmentHeader, path};
use std::collections::BTreeMap;

/// Segments that must exist according to a checkpoint, and what is live in them.
pub(crate) type Expected = BTreeMap<u32, Live>;

/// A segment that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) id: u32,
    /// Its path, if it is known.
    pub(crate) path: String,
    /// What is known to have been in it.
    pub(crate) why: String,
}

/// The segments that exist.
pub(crate) struct Found<'a> {
    pub(crate) headers: &'a [SegmentHeader],
    /// How far the log went, according to the footers.
    pub(crate) log_upto: u64,
}

/// The segments that must exist according to the newest checkpoint.
pub(crate) fn expected(newest: &Checkpoint) -> Expected {
    let index = &newest.index;
    // A segment that was being written is only removed after it was sealed, and a later checkpoint says so first.
    let written = newest.segments.iter().filter(|covered| !covered.sealed);
    let mut expected: Expected = written.map(|covered| (covered.header.id, Live::default())).collect();
    for span in index.queues.values().flat_map(|queue| queue.spans()) {
        expected.entry(span.segment).or_default().routes += u64::from(span.live);
    }
    // A segment with only deletions is removed, without another checkpoint, when what they deleted no longer exists.
    for entry in index.keys.values().filter(|entry| !entry.deleted) {
        expected.entry(entry.at.segment).or_default().keys += 1;
    }
    expected
}

/// The segments that are missing among those found. `expected` must exist according to `checkpoint`. `known`: files
/// that exist, even if nothing in them is readable.
pub(crate) fn find(
    checkpoint: Option<&Checkpoint>,
    expected: &Expected,
    there: &Found<'_>,
    known: impl Fn(u32) -> bool,
) -> Vec<Missing> {
    // Without a checkpoint, the log begins with the first segment.
    let none = Checkpoint::default();
    let no_word = if checkpoint.is_none() {
        ", and no checkpoint is left to say what was in it"
    } else {
        ""
    };
    let checkpoint = checkpoint.unwrap_or(&none);
    let mut found = Vec::new();
    for (&id, live) in expected {
        if there.headers.iter().any(|header| header.id == id) || known(id) {
            continue;
        }
        let covered = checkpoint.segments.iter().find(|covered| covered.header.id == id);
        let dir = covered.map_or("log", |covered| covered.header.kind.dir());
        found.push(Missing {
            id,
            path: path(dir, id),
            why: match (live.routes, live.keys) {
                (0, 0) => "is missing, and with it what was written to it last".to_owned(),
                (routes, keys) => format!("is missing, and with it up to {routes} messages and {keys} keyed records"),
            },
        });
    }
    let behind = |header: &&SegmentHeader| header.base >= checkpoint.marks.next_base;
    let mut later: Vec<&SegmentHeader> = there.headers.iter().filter(behind).collect();
    later.sort_unstable_by_key(|header| header.base);
    let marks = &checkpoint.marks;
    let mut before = (marks.next_id.saturating_sub(1), marks.next_base);
    for header in later {
        let (id, next_base) = before;
        before = (header.id, header.base + u64::from(header.size) * 2);
        if header.base <= next_base || (id + 1..header.id).any(&known) {
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
    let (last, next_base) = before;
    let is_known = || (last + 1..last + 8).any(&known);
    if there.log_upto > next_base && !is_known() {
        found.push(Missing {
            id: last + 1,
            path: path(LOG_DIR, last + 1),
            why: format!("or one close to it is missing: the log went on behind {last}{no_word}"),
        });
    }
    found
}
