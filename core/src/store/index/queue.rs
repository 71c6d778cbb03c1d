//! What is live of one queue: spans of sequences, each in one segment, and what is dead within them.

use super::Segments;
use crate::store::seqset::SeqSet;
use crate::store::spans::{Span, Spans};
use std::collections::BTreeMap;

/// One queue.
#[derive(Debug, Default)]
pub(crate) struct QueueIndex {
    pub(super) spans: Spans,
    /// Dead sequences within the spans.
    pub(super) dead: SeqSet,
    pub(crate) next_seq: u64,
    pub(crate) handed_out: u64,
    pub(crate) incoming_ids: Vec<u16>,
    /// Sequence, packet id, whether it was released; in the order in which the ids were given.
    pub(crate) packet_ids: Vec<(u64, u16, bool)>,
    /// How often live messages came back from consumers, by sequence.
    pub(crate) returned: BTreeMap<u64, u32>,
    /// The segment with the queue's first record. No older segment has any.
    pub(crate) first_segment: u32,
    /// Cold segments with copies of its messages.
    pub(crate) copies: Segments,
}

/// Removes the counts of `lo..=hi`.
pub(crate) fn forget_returned(returned: &mut BTreeMap<u64, u32>, lo: u64, hi: u64) {
    if !returned.is_empty() {
        let settled: Vec<u64> = returned.range(lo..=hi).map(|(seq, _)| *seq).collect();
        for seq in settled {
            returned.remove(&seq);
        }
    }
}

/// A longer hole begins a new span instead of being stored as dead.
const HOLE_MAX: u64 = 4096;

impl QueueIndex {
    pub(crate) fn span_count(&self) -> usize {
        self.spans.len()
    }
    pub(crate) fn spans(&self) -> impl Iterator<Item = Span> {
        self.spans.iter()
    }
    /// The spans that end at or behind `seq`.
    pub(crate) fn spans_from(&self, seq: u64) -> impl Iterator<Item = Span> {
        self.spans.iter_from(seq)
    }
    /// Runs of dead sequences that touch `lo..=hi`, ascending.
    pub(crate) fn dead_within(&self, lo: u64, hi: u64) -> impl Iterator<Item = (u64, u64)> {
        self.dead.runs_within(lo, hi)
    }
    pub(crate) fn dead_runs(&self) -> impl Iterator<Item = (u64, u64)> {
        self.dead.runs()
    }
    /// Rebuilds a queue from a checkpoint. `None` if its content is inconsistent.
    pub(crate) fn from_parts(spans: &[Span], dead: &[(u64, u64)]) -> Option<QueueIndex> {
        let ordered = spans.windows(2).all(|pair| pair[0].last() < pair[1].first);
        let widest: u64 = spans.iter().map(|span| u64::from(span.extent) + 1).sum();
        let width = dead
            .iter()
            .fold(0u64, |sum, (lo, hi)| sum.saturating_add(hi - lo).saturating_add(1));
        if !ordered || width > widest {
            return None;
        }
        let mut queue = QueueIndex {
            spans: Spans::from_sorted(spans),
            ..QueueIndex::default()
        };
        for &(lo, hi) in dead {
            queue.dead.insert(lo, hi);
        }
        Some(queue)
    }
    /// The segment with `seq`, if it is live.
    pub(crate) fn lookup(&self, seq: u64) -> Option<u32> {
        let span = self.spans.iter_from(seq).next().filter(|span| span.first <= seq)?;
        (!self.dead.contains(seq)).then_some(span.segment)
    }
    /// Whether `seq` is known to be dead, provided that a span contains it.
    pub(crate) fn is_dead(&self, seq: u64) -> bool {
        self.dead.contains(seq)
    }
    /// Adds `seq`. Returns `false` if it was live already.
    pub(crate) fn insert(&mut self, seq: u64, segment: u32) -> bool {
        self.next_seq = self.next_seq.max(seq.saturating_add(1));
        let QueueIndex { spans, dead, .. } = self;
        if let Some(last) = spans.last_mut() {
            if last.last() >= seq {
                return spans.change_around(seq, |list| insert_into(list, dead, seq, segment));
            }
            if continues(last, dead, seq, segment) {
                return true;
            }
        }
        spans.push(Span::of(seq, segment));
        true
    }
    /// Removes `lo..=hi`, and reports how many each segment lost.
    pub(super) fn settle(&mut self, lo: u64, hi: u64, mut lost: impl FnMut(u32, u64)) {
        let QueueIndex { spans, dead, .. } = self;
        spans.change_within(lo, hi, |list| settle_in(list, dead, lo, hi, &mut lost));
    }
}

/// Extends a span by `seq`, which follows it, if possible.
fn continues(before: &mut Span, dead: &mut SeqSet, seq: u64, segment: u32) -> bool {
    let gap = seq - before.last() - 1;
    let can = before.segment == segment && gap <= HOLE_MAX && seq - before.first <= u64::from(u32::MAX);
    if can {
        if gap > 0 {
            dead.insert(before.last() + 1, seq - 1);
        }
        before.extent = (seq - before.first) as u32;
        before.live += 1;
    }
    can
}

/// Adds `seq` to a part of a queue. Returns `false` if it was live already.
fn insert_into(list: &mut Vec<Span>, dead: &mut SeqSet, seq: u64, segment: u32) -> bool {
    let mut at = list.partition_point(|span| span.last() < seq);
    if let Some(span) = list.get_mut(at).filter(|span| span.first <= seq) {
        if !dead.contains(seq) {
            return false;
        }
        if span.segment == segment {
            dead.remove(seq, seq);
            span.live += 1;
            return true;
        }
        split(list, dead, at, seq);
        at += 1;
    }
    let mut before = at.checked_sub(1).and_then(|at| list.get_mut(at));
    if !before
        .as_mut()
        .is_some_and(|before| continues(before, dead, seq, segment))
    {
        list.insert(at, Span::of(seq, segment));
    }
    true
}

/// Splits the span at `at` in two around `seq`, which is dead and inside it.
fn split(list: &mut Vec<Span>, dead: &mut SeqSet, at: usize, seq: u64) {
    let Some(span) = list.get(at).copied() else {
        return;
    };
    let left = (seq - span.first) - dead.count(span.first, seq - 1);
    let first = dead.first_missing(seq);
    let mut head = Span {
        extent: (seq - 1 - span.first) as u32,
        live: left as u32,
        ..span
    };
    let tail = Span {
        first,
        extent: (span.last() - first) as u32,
        live: span.live - head.live,
        ..span
    };
    // The first part must also end with a live message.
    while dead.contains(head.last()) {
        dead.remove(head.last(), head.last());
        head.extent -= 1;
    }
    dead.remove(seq, first - 1);
    if let Some(span) = list.get_mut(at) {
        *span = head;
    }
    list.insert(at + 1, tail);
}

/// Removes `lo..=hi` from a part of a queue, and reports how many each segment lost.
fn settle_in(list: &mut Vec<Span>, dead: &mut SeqSet, lo: u64, hi: u64, lost: &mut impl FnMut(u32, u64)) {
    let mut at = list.partition_point(|span| span.last() < lo);
    while let Some(span) = list.get_mut(at) {
        if span.first > hi {
            break;
        }
        let (from, to) = (lo.max(span.first), hi.min(span.last()));
        let newly = (to - from + 1) - dead.count(from, to);
        lost(span.segment, newly);
        span.live -= newly as u32;
        if span.live == 0 {
            dead.remove(span.first, span.last());
            list.remove(at);
            continue;
        }
        // The ends of a span are live, so a queue that is settled in order needs no set at all.
        if from == span.first {
            let first = dead.first_missing(to + 1);
            dead.remove(span.first, first - 1);
            span.extent = (span.last() - first) as u32;
            span.first = first;
        } else if to == span.last() {
            dead.insert(from, to);
            let mut last = to;
            while dead.contains(last) {
                last -= 1;
            }
            dead.remove(last + 1, to);
            span.extent = (last - span.first) as u32;
        } else {
            dead.insert(from, to);
        }
        at += 1;
    }
}
