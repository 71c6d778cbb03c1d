//! Which messages of a queue the log has, from a sequence on. The index says in which segments they are, the segments'
//! directories say where. A queue whose middle is not in memory is read back page by page this way.
//!
//! ```text
//!   index (shared, a look-up)      parts: (segment, first, last), what is dead between
//!        │
//!        ▼
//!   directory of each segment      the footer, or what will be one; if neither holds, the records themselves
//! ```
//!
//! Compaction may move messages between the two steps. Then the directory lacks them, the index names another segment,
//! and the page is looked up again.

use super::directory::{Cursor, Directory, Entries, Listed};
use super::disk::{Disk, DiskFile};
use super::files::{Pinned, Shared};
use super::index::{Index, Move, Root};
use super::record::{Kind, MessageHead};
use super::scan::{Scanned, Scanner};
use super::segment::{Trailer, read_directory};
use super::varint::{Input, put_varint};
use super::{LogEntry, Page, PageRead, QueueId, Route};
use crate::message::Position;
use hashbrown::HashMap;
use std::io;

/// Bytes of directories that are kept, sorted by queue.
const CACHE_BYTES: usize = 4 << 20;
/// Bytes of a queue in a kept directory, without its entries.
const QUEUE_BYTES: usize = 128;
/// The most segments of a page. Where the log has much else between a queue's messages, each may lie in another segment, whose
/// directory has to be read for it: 128 of them took a second, in which nothing else was read.
const PARTS_MAX: usize = 16;
/// The most runs of dead messages looked at for a page: the committer waits meanwhile.
const RUNS_MAX: usize = 4096;
/// How often a page is looked up again before missing messages count as lost. Each time, compaction has moved some.
const TRIES: usize = 8;

/// Where a page's messages should be.
#[derive(Debug, Default)]
struct Plan {
    parts: Vec<Part>,
    /// What is not live in the parts: ascending runs.
    dead: Vec<(u64, u64)>,
    /// Messages that a later record put into the queue: where they are, or whose payload they have.
    moved: Vec<LogEntry>,
    moved_routes: Vec<(QueueId, u64, LogEntry)>,
    /// The last sequence that the plan covers.
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

/// What a plan still looks for.
struct Look {
    wanted: u64,
    /// Dead runs that may still be looked at.
    runs: usize,
}

impl Look {
    fn is_over(&self) -> bool {
        self.wanted == 0 || self.runs == 0
    }
    /// Counts what is live from `first` on, until that is enough, or too much is `dead`, or at `last`; and up to where it has
    /// counted. The dead runs up to there are added `to` others.
    fn at_span(
        &mut self,
        first: u64,
        last: u64,
        dead: impl Iterator<Item = (u64, u64)>,
        to: &mut Vec<(u64, u64)>,
    ) -> (u64, u64) {
        let (mut live, mut next) = (0, first);
        // As if something behind the span were dead: what is before it is live.
        for (lo, hi) in dead.chain([(last + 1, last + 1)]) {
            if hi < next {
                continue;
            }
            let (lo, hi) = (lo.min(last + 1), hi.min(last));
            let found = lo.saturating_sub(next).min(self.wanted);
            live += found;
            self.wanted -= found;
            if self.wanted == 0 {
                return (live, next + found - 1);
            }
            if lo > last {
                break;
            }
            to.push((lo, hi));
            next = hi + 1;
            self.runs -= 1;
            if self.runs == 0 {
                return (live, hi);
            }
        }
        (live, last)
    }
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
        let mut look = Look {
            wanted: asked.count.max(1) as u64,
            runs: RUNS_MAX,
        };
        for span in queue.spans_from(asked.from) {
            if span.first > asked.upto {
                break;
            }
            if plan.parts.len() == PARTS_MAX {
                plan.upto = span.first.max(asked.from) - 1;
                break;
            }
            let (first, last) = (span.first.max(asked.from), span.last().min(asked.upto));
            let dead = queue.dead_within(first, last);
            let (live, last) = look.at_span(first, last, dead, &mut plan.dead);
            if live > 0 {
                plan.parts.push(Part {
                    segment: span.segment,
                    first,
                    last,
                    live: live as usize,
                });
            }
            if look.is_over() {
                plan.upto = last;
                break;
            }
        }
        if !index.moves.is_empty() {
            let parts = std::mem::take(&mut plan.parts);
            for part in &parts {
                let range = (asked.queue, part.first)..=(asked.queue, part.last);
                for (&(_, seq), moved) in index.moves.range(range) {
                    plan.add_move(part.segment, seq, moved);
                }
            }
            plan.parts = parts;
        }
        plan
    }
    fn add_move(&mut self, segment: u32, seq: u64, moved: &Move) {
        let entry = LogEntry {
            seq,
            at: Position { segment, offset: 0 },
            body_len: moved.body_len,
            flags: moved.flags,
        };
        match moved.root {
            _ if self.is_dead(seq) => {}
            Root::At(at) => self.moved.push(LogEntry { at, ..entry }),
            Root::Route(queue, root) => self.moved_routes.push((queue, root, entry)),
        }
    }
    fn is_dead(&self, seq: u64) -> bool {
        self.dead_until(seq).is_some()
    }
    /// The end of the dead run that a sequence is in.
    fn dead_until(&self, seq: u64) -> Option<u64> {
        let at = self.dead.partition_point(|(_, hi)| *hi < seq);
        self.dead.get(at).filter(|(lo, _)| *lo <= seq).map(|(_, hi)| *hi)
    }
    /// The live sequences of a part.
    fn live_in(&self, part: &Part) -> impl Iterator<Item = u64> {
        let (mut next, last) = (part.first, part.last);
        std::iter::from_fn(move || {
            while let Some(dead) = self.dead_until(next) {
                next = dead + 1;
            }
            let seq = next;
            next += 1;
            (seq <= last).then_some(seq)
        })
    }
}

/// Looks up pages, opening each segment's directory once for all of them. A thousand queues that are emptied together
/// have a thousand parts in each of many segments, and sorting a directory by queue is most of the work.
///
/// # Errors
/// A segment with a part of the page could not be read. Its messages exist, but are not known.
pub(super) fn read<D: Disk>(
    shared: &Shared<D>,
    cache: &mut DirectoryCache,
    asked: &[PageRead],
) -> Vec<io::Result<Page>> {
    cache.failed.clear();
    let mut drafts: Vec<Draft> = asked.iter().map(|asked| Draft::new(shared, asked)).collect();
    let mut parts: Vec<(u32, usize, usize)> = Vec::new();
    for (n, draft) in drafts.iter().enumerate() {
        parts.extend(draft.plan.parts.iter().zip(0..).map(|(part, m)| (part.segment, n, m)));
    }
    parts.sort_unstable();
    for (_, n, m) in parts {
        if let Some(draft) = drafts.get_mut(n) {
            draft.list(shared, cache, m);
        }
    }
    let pages = drafts.into_iter().zip(asked);
    pages
        .map(|(mut draft, asked)| {
            for _ in 1..TRIES {
                if draft.error.is_some() || draft.is_whole(shared) {
                    break;
                }
                draft = Draft::new(shared, asked);
                for m in 0..draft.plan.parts.len() {
                    draft.list(shared, cache, m);
                }
            }
            draft.finish()
        })
        .collect()
}

/// A page that is being looked up.
struct Draft {
    plan: Plan,
    page: Page,
    /// Why a part could not be read.
    error: Option<io::Error>,
}

impl Draft {
    fn new<D: Disk>(shared: &Shared<D>, asked: &PageRead) -> Draft {
        let plan = Plan::new(&shared.index.read(), asked);
        Draft {
            page: Page {
                queue: asked.queue,
                from: asked.from,
                upto: plan.upto,
                entries: plan.moved.clone(),
            },
            plan,
            error: None,
        }
    }
    fn list<D: Disk>(&mut self, shared: &Shared<D>, cache: &mut DirectoryCache, part: usize) {
        if let Some(part) = self.plan.parts.get(part)
            && let Err(error) = list_part(shared, cache, self.page.queue, part, &self.plan, &mut self.page.entries)
        {
            self.error = Some(error);
        }
    }
    /// Whether everything was found that the index has.
    fn is_whole<D: Disk>(&mut self, shared: &Shared<D>) -> bool {
        self.page.entries.sort_unstable_by_key(|entry| entry.seq);
        self.page.entries.dedup_by_key(|entry| entry.seq);
        let expected: usize = self.plan.parts.iter().map(|part| part.live).sum();
        self.page.entries.len() >= expected || !has_changed(shared, self.page.queue, &self.plan, &self.page.entries)
    }
    fn finish(mut self) -> io::Result<Page> {
        if let Some(error) = self.error {
            return Err(error);
        }
        self.page.entries.sort_unstable_by_key(|entry| entry.seq);
        self.page.entries.dedup_by_key(|entry| entry.seq);
        Ok(self.page)
    }
}

/// Whether something that the plan expected and that was not found has moved or been settled meanwhile.
fn has_changed<D: Disk>(shared: &Shared<D>, queue: QueueId, plan: &Plan, found: &[LogEntry]) -> bool {
    let index = shared.index.read();
    let missing = |seq: &u64| found.binary_search_by_key(seq, |entry| entry.seq).is_err();
    plan.parts.iter().any(|part| {
        plan.live_in(part)
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
) -> io::Result<()> {
    let in_part = |seq: u64| (part.first..=part.last).contains(&seq);
    let routes = plan.moved_routes.iter().filter(|(.., entry)| in_part(entry.seq));
    let places = plan.moved.iter().filter(|entry| in_part(entry.seq)).count();
    let live = part.live - (places + routes.clone().count()).min(part.live);
    let Some(directory) = cache.directory(shared, part.segment)? else {
        return Ok(());
    };
    if let Some(list) = directory.queues.get_mut(&queue) {
        list.find(part.segment, live, |seq| in_part(seq) && !plan.is_dead(seq), into);
    }
    for (root_queue, root, entry) in routes {
        let mut payload = Vec::new();
        if let Some(list) = directory.queues.get_mut(root_queue) {
            list.find(part.segment, 1, |seq| seq == *root, &mut payload);
        }
        into.extend(payload.first().map(|found| LogEntry {
            at: found.at,
            body_len: found.body_len,
            ..*entry
        }));
    }
    Ok(())
}

/// Directories of recently used segments, the last one first.
#[derive(Default)]
pub(super) struct DirectoryCache {
    kept: Vec<Cached>,
    /// The state for choosing the next one to evict.
    turn: u64,
    /// Segments that could not be read for the pages being looked up, and why: so a thousand pages do not each try
    /// again.
    failed: Vec<(u32, io::Error)>,
}

/// What a directory lists, sorted by queue.
#[derive(Default)]
struct Cached {
    segment: u32,
    queues: HashMap<QueueId, QueueList>,
    bytes: usize,
    /// How far the directory was read. The directory of a segment that is being written grows.
    read: Cursor,
    whole: bool,
}

/// What a directory lists of one queue.
///
/// ```text
///   entry   seq - seq before - 1 (zigzag), (offset - offset before) / 8, body len, flags 1
/// ```
#[derive(Default)]
struct QueueList {
    bytes: Vec<u8>,
    end: Place,
    /// Where the last page ended, because the next one most likely begins there.
    resume: Place,
}

/// A place behind an entry of a [`QueueList`].
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    at: usize,
    /// One more than the sequence of the last entry.
    next: u64,
    offset: u32,
}

impl QueueList {
    fn push(&mut self, offset: u32, body_len: u32, route: &Route) {
        let delta = route.seq.wrapping_sub(self.end.next) as i64;
        put_varint(&mut self.bytes, (delta << 1 ^ delta >> 63) as u64);
        put_varint(&mut self.bytes, u64::from(offset.wrapping_sub(self.end.offset) / 8));
        put_varint(&mut self.bytes, u64::from(body_len));
        self.bytes.push(route.flags);
        self.end = Place {
            at: self.bytes.len(),
            next: route.seq.wrapping_add(1),
            offset,
        };
    }
    /// Appends the wanted entries, of which `live` exist.
    fn find(&mut self, segment: u32, live: usize, wanted: impl Fn(u64) -> bool, into: &mut Vec<LogEntry>) {
        let before = into.len();
        // If the queue was logged in order, all wanted entries are behind the end of the last page.
        for start in [self.resume, Place::default()] {
            into.truncate(before);
            let mut place = start;
            while into.len() - before < live
                && let Some(entry) = self.next(segment, &mut place)
            {
                if wanted(entry.seq) {
                    into.push(entry);
                }
            }
            if into.len() - before >= live {
                self.resume = place;
                return;
            }
        }
    }
    fn next(&self, segment: u32, place: &mut Place) -> Option<LogEntry> {
        let rest = self.bytes.get(place.at..)?;
        let mut input = Input(rest);
        let delta = input.varint()?;
        let seq = place.next.wrapping_add((delta >> 1) ^ (delta & 1).wrapping_neg());
        let offset = place.offset.wrapping_add(input.number::<u32>()?.wrapping_mul(8));
        let (body_len, flags) = (input.number()?, input.u8()?);
        *place = Place {
            at: self.bytes.len() - input.0.len(),
            next: seq.wrapping_add(1),
            offset,
        };
        Some(LogEntry {
            seq,
            at: Position { segment, offset },
            body_len,
            flags,
        })
    }
}

impl Cached {
    /// Adds entries of the part that follows what was read.
    fn add(&mut self, following: &[u8]) {
        let mut entries = Entries::following(following, self.read);
        for listed in entries.by_ref() {
            let Listed::Message {
                offset,
                body_len,
                routes,
            } = listed
            else {
                continue;
            };
            for route in &routes {
                let list = self.queues.entry(route.queue).or_insert_with(|| {
                    self.bytes += QUEUE_BYTES;
                    QueueList::default()
                });
                let before = list.bytes.len();
                list.push(offset, body_len, route);
                self.bytes += list.bytes.len() - before;
            }
        }
        self.read = entries.cursor().behind(self.read.at);
    }
}

impl DirectoryCache {
    /// The directory of a segment. `None` if the segment is gone.
    fn directory<D: Disk>(&mut self, shared: &Shared<D>, segment: u32) -> io::Result<Option<&mut Cached>> {
        if let Some((_, error)) = self.failed.iter().find(|(failed, _)| *failed == segment) {
            return Err(same(error));
        }
        let at = self.kept.iter().position(|cached| cached.segment == segment);
        let mut cached = at.map_or_else(Cached::default, |at| self.kept.remove(at));
        cached.segment = segment;
        if !cached.whole {
            match load(&mut cached, shared, segment) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => {
                    self.failed.push((segment, same(&error)));
                    return Err(error);
                }
            }
        }
        self.kept.insert(0, cached);
        let mut bytes: usize = self.kept.iter().map(|cached| cached.bytes).sum();
        while bytes > CACHE_BYTES && self.kept.len() > 1 {
            // Evict any but this one at random. Directories are used in turn, so the one unused for longest would be
            // needed next.
            self.turn = self.turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let others = self.kept.len() - 1;
            bytes -= self.kept.swap_remove(1 + (self.turn >> 33) as usize % others).bytes;
        }
        Ok(self.kept.first_mut())
    }
}

/// Another error with the same text.
fn same(error: &io::Error) -> io::Error {
    let code = error.raw_os_error().map(io::Error::from_raw_os_error);
    code.unwrap_or_else(|| io::Error::new(error.kind(), error.to_string()))
}

/// Reads the part of a segment's directory that is not known yet. Returns whether the segment exists.
fn load<D: Disk>(cached: &mut Cached, shared: &Shared<D>, segment: u32) -> io::Result<bool> {
    let Some(pinned) = shared.pin(segment)? else {
        return Ok(false);
    };
    if let Some(open) = &pinned.directory {
        // Copied, so that the segment's writer does not have to wait.
        let rest = |at| open.lock().following(at).to_vec();
        let mut before = None;
        while before != Some(cached.read.at) {
            before = Some(cached.read.at);
            cached.add(&rest(cached.read.at));
        }
        return Ok(true);
    }
    match read_directory(&*pinned.file, &pinned.header)? {
        Some((_, directory)) => cached.add(directory.get(cached.read.at..).unwrap_or_default()),
        None => {
            // A segment without a trailer is one that a start could not seal.
            let had_trailer = Trailer::read(&*pinned.file)?.is_some();
            let scanned = scan(&pinned)?;
            if had_trailer {
                shared.damaged(&pinned.header, 0, &[], "the footer does not hold; the records are read");
            }
            *cached = Cached {
                segment,
                ..Cached::default()
            };
            scanned.pieces().for_each(|piece| cached.add(piece));
        }
    }
    cached.whole = true;
    Ok(true)
}

/// Builds a directory from the records.
fn scan<F: DiskFile>(pinned: &Pinned<F>) -> io::Result<Directory> {
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
    scanner.finish()?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const QUEUE: QueueId = QueueId(7);

    /// All that pages of so many messages bring, and how many pages that were.
    fn paged(index: &Index, upto: u64, count: usize) -> (BTreeSet<u64>, usize) {
        let (mut found, mut pages, mut from) = (BTreeSet::new(), 0, 0);
        while from <= upto {
            let asked = PageRead {
                queue: QUEUE,
                from,
                upto,
                count,
            };
            let plan = Plan::new(index, &asked);
            assert!(plan.parts.len() <= PARTS_MAX && plan.dead.len() <= RUNS_MAX);
            let live = plan.parts.iter().map(|part| part.live).sum::<usize>();
            let here: Vec<u64> = plan.parts.iter().flat_map(|part| plan.live_in(part)).collect();
            assert_eq!((here.len(), live <= count), (live, true));
            assert!(plan.upto >= from && here.iter().all(|seq| (from..=plan.upto).contains(seq)));
            found.extend(here);
            from = plan.upto + 1;
            pages += 1;
        }
        (found, pages)
    }

    /// A page of a queue whose messages lie far apart in the log read as many directories as it has messages.
    #[test]
    fn a_page_reads_few_directories() {
        let mut index = Index::default();
        (0..1_000).for_each(|seq| index.insert(QUEUE, seq, 1 + seq as u32));
        let (found, pages) = paged(&index, 999, 128);
        assert!(found.into_iter().eq(0..1_000));
        assert_eq!(pages, 1_000_usize.div_ceil(PARTS_MAX));
    }

    /// A page looked through all that is dead between two messages that are far apart.
    #[test]
    fn a_page_looks_at_few_dead_runs() {
        let mut index = Index::default();
        let all: Vec<u64> = (0..10_000).map(|n| n * 4_000).collect();
        all.iter().for_each(|seq| index.insert(QUEUE, *seq, 1));
        let last = all[all.len() - 1];
        let (found, _) = paged(&index, last, 128);
        assert!(found.iter().eq(&all));
        index.settle(QUEUE, 1, last - 1);
        let (found, pages) = paged(&index, last, 128);
        assert!(found.into_iter().eq([0, last]));
        assert!(pages > 1);
    }

    #[test]
    fn pages_bring_what_is_live_however_it_lies() {
        let mut random = 1_u64;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % n
        };
        for _ in 0..20 {
            let (mut index, mut model) = (Index::default(), BTreeSet::new());
            let (mut seq, mut segment) = (0, 1);
            for _ in 0..2_000 {
                seq += 1 + below(3) * below(40);
                segment += u32::from(below(20) == 0);
                index.insert(QUEUE, seq, segment);
                model.insert(seq);
            }
            for _ in 0..200 {
                let lo = below(seq);
                let hi = lo + below(100);
                index.settle(QUEUE, lo, hi);
                model.retain(|seq| !(lo..=hi).contains(seq));
            }
            for count in [1, 7, 128] {
                assert_eq!(paged(&index, seq, count).0, model);
            }
        }
    }
}
