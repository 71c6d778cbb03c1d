//! Which messages of a queue the log has, from a sequence on: the index says in which segments, their directories say
//! where. A queue whose middle is not in memory is read back page by page through this.
//!
//! ```text
//!   index (shared, a look-up)      parts: (segment, first, last), what is dead between
//!        │
//!        ▼
//!   directory of each segment      the footer, or what will be one; if neither holds, the records themselves
//! ```
//!
//! A compaction may move messages between the two steps; then the directory lacks them, the index names another
//! segment, and the page is looked up again.

use super::directory::{Cursor, Directory, Entries, Listed};
use super::disk::Disk;
use super::files::{Pinned, Shared};
use super::index::{Index, Move, Root};
use super::record::{Kind, MessageHead};
use super::scan::{Scanned, Scanner};
use super::segment::{Trailer, read_directory};
use super::{LogEntry, Page, PageRead, QueueId};
use crate::message::Position;
use hashbrown::HashMap;
use std::sync::Arc;

/// Directories kept, in bytes.
const CACHE_BYTES: usize = 2 << 20;
/// How often a page is looked up again before what is missing counts as lost. Each time, a compaction has overtaken it.
const TRIES: usize = 8;

/// Directories of segments that were asked for lately, the last one first.
#[derive(Default)]
pub(super) struct DirectoryCache {
    kept: Vec<Cached>,
}

struct Cached {
    segment: u32,
    directory: Arc<[u8]>,
    /// Where the last page ended, of which queue: the next one most likely begins there.
    resume: Option<(QueueId, Cursor)>,
}

/// A directory, and where the last page of it ended, of which queue.
type Found = (Arc<[u8]>, Option<(QueueId, Cursor)>);

/// Where a page's messages should be.
#[derive(Debug, Default)]
struct Plan {
    parts: Vec<Part>,
    /// What is not live in the parts: ascending runs.
    dead: Vec<(u64, u64)>,
    /// Messages that are in the queue because a later record said so.
    moves: HashMap<Root, Vec<(u64, u8)>>,
    /// The last sequence the plan speaks for.
    upto: u64,
}

/// Neighbouring messages in one segment.
#[derive(Debug)]
struct Part {
    segment: u32,
    first: u64,
    last: u64,
    live: usize,
}

impl Plan {
    fn new(index: &Index, asked: &PageRead) -> Plan {
        let mut plan = Plan {
            upto: asked.upto,
            ..Plan::default()
        };
        let Some(queue) = index.queues.get(&asked.queue) else {
            return plan;
        };
        let mut wanted = asked.count.max(1);
        for span in queue.spans_from(asked.from) {
            if span.first > asked.upto {
                break;
            }
            let (first, last) = (span.first.max(asked.from), span.last().min(asked.upto));
            let mut part = Part {
                segment: span.segment,
                first,
                last,
                live: 0,
            };
            let mut next = first;
            while next <= last && wanted > 0 {
                let hi = last.min(next + (wanted as u64).max(64) - 1);
                let live = (hi - next + 1 - queue.count_dead(next, hi)) as usize;
                part.live += live;
                wanted = wanted.saturating_sub(live);
                (part.last, next) = (hi, hi + 1);
            }
            if part.live > 0 {
                plan.dead.extend(queue.dead_within(part.first, part.last));
                plan.parts.push(part);
            }
            if wanted == 0 {
                plan.upto = next - 1;
                break;
            }
        }
        if !index.moves.is_empty() {
            for part in &plan.parts {
                let range = (asked.queue, part.first)..=(asked.queue, part.last);
                for (&(_, seq), &Move { root, flags }) in index.moves.range(range) {
                    plan.moves.entry(root).or_default().push((seq, flags));
                }
            }
        }
        plan
    }
    fn is_dead(&self, seq: u64) -> bool {
        let at = self.dead.partition_point(|(_, hi)| *hi < seq);
        self.dead.get(at).is_some_and(|(lo, _)| *lo <= seq)
    }
}

/// Looks a page up.
pub(super) fn read<D: Disk>(shared: &Shared<D>, cache: &mut DirectoryCache, asked: &PageRead) -> Page {
    let mut entries: Vec<LogEntry> = Vec::new();
    let mut upto = asked.upto;
    for _ in 0..TRIES {
        let plan = Plan::new(&shared.index.lock(), asked);
        upto = plan.upto;
        entries.clear();
        for part in &plan.parts {
            list_part(shared, cache, asked.queue, part, &plan, &mut entries);
        }
        entries.sort_unstable_by_key(|entry| entry.seq);
        entries.dedup_by_key(|entry| entry.seq);
        let expected: usize = plan.parts.iter().map(|part| part.live).sum();
        if entries.len() >= expected || !has_changed(shared, asked.queue, &plan, &entries) {
            break;
        }
    }
    Page {
        queue: asked.queue,
        from: asked.from,
        upto,
        entries,
    }
}

/// Whether something the plan expected and nobody found is somewhere else by now, or settled.
fn has_changed<D: Disk>(shared: &Shared<D>, queue: QueueId, plan: &Plan, found: &[LogEntry]) -> bool {
    let index = shared.index.lock();
    let missing = |seq: &u64| !plan.is_dead(*seq) && found.binary_search_by_key(seq, |entry| entry.seq).is_err();
    plan.parts.iter().any(|part| {
        (part.first..=part.last)
            .filter(missing)
            .any(|seq| index.lookup(queue, seq) != Some(part.segment))
    })
}

/// Finds the messages of one part in its segment's directory.
fn list_part<D: Disk>(
    shared: &Shared<D>,
    cache: &mut DirectoryCache,
    queue: QueueId,
    part: &Part,
    plan: &Plan,
    into: &mut Vec<LogEntry>,
) {
    let Some((directory, resume)) = cache.directory(shared, part.segment) else {
        return;
    };
    let before = into.len();
    // What was found behind the last page's end is all there is, in a queue that was logged in order.
    let starts = [
        resume.filter(|(of, _)| *of == queue).map(|(_, cursor)| cursor),
        Some(Cursor::default()),
    ];
    let starts = if plan.moves.is_empty() {
        starts
    } else {
        [None, starts[1]]
    };
    for start in starts.into_iter().flatten() {
        into.truncate(before);
        let mut entries = Entries::resume(&directory, start);
        while into.len() - before < part.live
            && let Some(listed) = entries.next()
        {
            let Listed::Message {
                offset,
                body_len,
                routes,
            } = listed
            else {
                continue;
            };
            let at = Position {
                segment: part.segment,
                offset,
            };
            let mut found = |seq: u64, flags: u8| {
                if (part.first..=part.last).contains(&seq) && !plan.is_dead(seq) {
                    into.push(LogEntry {
                        seq,
                        at,
                        body_len,
                        flags,
                    });
                }
            };
            for route in routes.iter().filter(|route| route.queue == queue) {
                found(route.seq, route.flags);
            }
            if !plan.moves.is_empty() {
                let roots = routes.iter().map(|route| Root::Route(route.queue, route.seq));
                for (seq, flags) in roots
                    .chain([Root::At(at)])
                    .filter_map(|root| plan.moves.get(&root))
                    .flatten()
                {
                    found(*seq, *flags);
                }
            }
        }
        if into.len() - before >= part.live {
            cache.resume_at(part.segment, queue, entries.cursor());
            return;
        }
    }
}

impl DirectoryCache {
    /// The directory of a segment, and where the last page of it ended. `None` if the segment is gone or unreadable.
    fn directory<D: Disk>(&mut self, shared: &Shared<D>, segment: u32) -> Option<Found> {
        if let Some(at) = self.kept.iter().position(|cached| cached.segment == segment) {
            let cached = self.kept.remove(at);
            let found = (cached.directory.clone(), cached.resume);
            self.kept.insert(0, cached);
            return Some(found);
        }
        let pinned = match shared.pin(segment) {
            Ok(pinned) => pinned?,
            Err(error) => {
                tracing::error!(segment, %error, "a segment cannot be opened");
                return None;
            }
        };
        if let Some(open) = &pinned.directory {
            // It grows: what is kept of it would soon be stale.
            return Some((open.lock().bytes.as_slice().into(), None));
        }
        let directory: Arc<[u8]> = match read_directory(&*pinned.file, &pinned.header) {
            Some((_, directory)) => directory.into(),
            None => {
                // Without a trailer it is one that a start could not seal.
                if Trailer::read(&*pinned.file).is_some() {
                    shared.damaged(&pinned.header, 0, &[], "the footer does not hold; the records are read");
                }
                scan(&pinned).into()
            }
        };
        self.kept.insert(
            0,
            Cached {
                segment,
                directory: directory.clone(),
                resume: None,
            },
        );
        let mut bytes = 0;
        self.kept.retain(|cached| {
            bytes += cached.directory.len();
            bytes <= CACHE_BYTES || cached.segment == segment
        });
        Some((directory, None))
    }
    fn resume_at(&mut self, segment: u32, queue: QueueId, cursor: Cursor) {
        if let Some(cached) = self.kept.first_mut().filter(|cached| cached.segment == segment) {
            cached.resume = Some((queue, cursor));
        }
    }
}

/// A directory made from the records.
fn scan<F: super::disk::DiskFile>(pinned: &Pinned<F>) -> Vec<u8> {
    let mut directory = Directory::default();
    let mut scanner = Scanner::new(&*pinned.file, pinned.header.base, pinned.header.seed());
    while let Some(scanned) = scanner.next() {
        if let Scanned::Record { offset, raw, .. } = scanned
            && raw.kind == Kind::Message
            && let Some(head) = MessageHead::parse(raw.head)
        {
            directory.message(offset, head.body_len(raw.payload.len()), &head.routes);
        }
    }
    directory.bytes
}
