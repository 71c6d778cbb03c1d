//! The log's writing thread: takes what all vhosts submitted, makes it durable as one group, and reports back.
//!
//! ```text
//!   vhost ─submit─┐                       ┌─► durable(ticket) ─► links woken
//!   vhost ─submit─┴► pending ─swap─► commit
//! ```
//!
//! Group commit clocks itself: everything that arrives while one sync runs joins the next, taken whole. While
//! publishers are still sending (fewer batches wait than the last group had), a group may wait for company up to the
//! last sync's own duration. A single publisher is its own company and never waits.

use crate::node::Node;
use crate::store::Store;
use gatepost_core::store::{Batch, Lsn, StoreError, Ticket};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What waits for the committer, in ticket order per vhost.
#[derive(Default)]
pub(crate) struct LogQueue {
    pending: Mutex<Pending>,
    ready: Condvar,
}

#[derive(Default)]
struct Pending {
    batches: Vec<Batch>,
    /// The vhost of each batch.
    vhosts: Vec<usize>,
    /// Estimated bytes of all batches.
    bytes: usize,
    /// Batches somebody waits for.
    syncs: usize,
    /// When the oldest batch came.
    since: Option<Instant>,
    /// The committer sleeps until there are this many `syncs` (or lazy bytes, or a stop); 0: it is busy.
    sleeps_for: usize,
    stopping: bool,
}

/// A group to commit together.
#[derive(Default)]
struct Group {
    batches: Vec<Batch>,
    vhosts: Vec<usize>,
    syncs: usize,
}

/// How the last sync went, which is what the next group goes by.
#[derive(Debug)]
struct Pace {
    /// Least time from the end of one sync to the next.
    gap: Duration,
    /// How long the last commit that synced took.
    took: Duration,
    ended: Instant,
    /// Batches somebody waited for in the last group.
    company: usize,
}

/// Batches nobody waits for are written after this time, or with the next that somebody waits for.
const LAZY: Duration = Duration::from_millis(50);
/// ... or once they are this large: what waits counts against the memory of publishers.
const LAZY_BYTES: usize = 512 << 10;
/// No group waits longer for company, however slow the disk.
const PATIENCE_MAX: Duration = Duration::from_millis(20);

impl LogQueue {
    /// Appends a batch. Called under the vhost's lock, which is what keeps its tickets in order.
    pub(crate) fn submit(&self, vhost: usize, batch: Batch) {
        let mut pending = self.pending.lock();
        pending.bytes = pending.bytes.saturating_add(batch.bytes);
        pending.syncs += usize::from(batch.sync || batch.urgent);
        let first = pending.since.is_none();
        if first {
            pending.since = Some(Instant::now());
        }
        pending.batches.push(batch);
        pending.vhosts.push(vhost);
        // A system call only where it changes something: the first batch starts the lazy clock.
        let enough = pending.syncs >= pending.sleeps_for || pending.bytes >= LAZY_BYTES;
        if pending.sleeps_for > 0 && (first || enough) {
            pending.sleeps_for = 0;
            drop(pending);
            self.ready.notify_one();
        }
    }

    /// Lets the committer take what there is and end.
    pub(crate) fn stop(&self) {
        self.pending.lock().stopping = true;
        self.ready.notify_one();
    }

    /// Bytes that wait, and for how long the oldest has.
    pub(crate) fn backlog(&self) -> (usize, Duration) {
        let pending = self.pending.lock();
        (
            pending.bytes,
            pending.since.map_or(Duration::ZERO, |since| since.elapsed()),
        )
    }

    fn is_empty(&self) -> bool {
        self.pending.lock().batches.is_empty()
    }

    /// Waits until a group is worth committing, the store's chores are due (an empty group), or the end has come
    /// (`true`).
    fn collect(&self, group: &mut Group, pace: &Pace, idle_until: Instant) -> bool {
        let mut pending = self.pending.lock();
        loop {
            let now = Instant::now();
            let (wait_until, sleeps_for) = match pending.since {
                _ if pending.stopping => break,
                _ if now >= idle_until => break,
                None => (idle_until, 1),
                Some(since) if pending.syncs == 0 => {
                    let until = since + LAZY;
                    if pending.bytes >= LAZY_BYTES || now >= until {
                        break;
                    }
                    (until, 1)
                }
                Some(since) => {
                    let earliest = pace.ended + pace.gap;
                    let patient_until = since.max(pace.ended) + pace.took.min(PATIENCE_MAX);
                    if now >= earliest && (pending.syncs >= pace.company || now >= patient_until) {
                        break;
                    }
                    if now < earliest {
                        (earliest, usize::MAX)
                    } else {
                        (patient_until, pace.company)
                    }
                }
            };
            pending.sleeps_for = sleeps_for;
            self.ready.wait_until(&mut pending, wait_until.min(idle_until));
            pending.sleeps_for = 0;
        }
        std::mem::swap(&mut group.batches, &mut pending.batches);
        std::mem::swap(&mut group.vhosts, &mut pending.vhosts);
        group.syncs = std::mem::take(&mut pending.syncs);
        pending.bytes = 0;
        pending.since = None;
        pending.stopping
    }
}

/// Runs on the log's thread until [`LogQueue::stop`], then closes the store.
///
/// # Errors
/// The store failed: it is poisoned, and nothing more will be confirmed.
pub(crate) fn run(node: &Node, mut store: Store) -> Result<(), StoreError> {
    let settings = &node.config.store;
    let mut pace = Pace {
        gap: settings.min_sync_gap.0,
        took: Duration::ZERO,
        ended: Instant::now(),
        company: 1,
    };
    let mut group = Group::default();
    let mut waiting = Waiting::default();
    let mut chores_at = store.tick(node.clock.now())?;
    loop {
        let until_chores = chores_at.map_or(IDLE_MAX, |at| (at - node.clock.now().monotonic).min(IDLE_MAX));
        let stopping = node.log.collect(&mut group, &pace, Instant::now() + until_chores);
        // Under the alarm the store spends no disk it need not: no compaction, no zeroing ahead.
        store.set_disk_short(node.health.disk_alarm.load(Ordering::Relaxed));
        if !group.batches.is_empty() {
            let began = Instant::now();
            let lsn = store.commit(&mut group.batches, node.clock.now())?;
            pace.ended = Instant::now();
            node.commit_times.record(pace.ended - began);
            if group.syncs > 0 {
                pace.took = pace.ended - began;
                pace.company = group.syncs;
            }
            waiting.push(lsn, &group);
            if lsn > store.confirmed() {
                let due = node.clock.now().monotonic + settings.interval.0;
                chores_at = Some(chores_at.map_or(due, |at| at.min(due)));
            }
            group.batches.clear();
            group.vhosts.clear();
        }
        waiting.report(store.confirmed(), node);
        if store.is_due() || chores_at.is_none_or(|at| at <= node.clock.now().monotonic) {
            chores_at = store.tick(node.clock.now())?;
            waiting.report(store.confirmed(), node);
        }
        // What `durable` caused on the way out is still written.
        if stopping && node.log.is_empty() {
            return store.close(node.clock.now());
        }
    }
}

/// With nothing to do, the store is asked again after this time all the same.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// Groups that are written and not reported yet: with `durability = "interval"` they wait for a later sync.
#[derive(Default)]
struct Waiting(VecDeque<(Lsn, Vec<(usize, Ticket)>)>);

impl Waiting {
    fn push(&mut self, lsn: Lsn, group: &Group) {
        // A ticket covers all before it, so nothing is reported past what waits.
        match self.0.back_mut() {
            Some((last, tickets)) if *last >= lsn => latest_tickets(group, tickets),
            _ => {
                let mut tickets = Vec::new();
                latest_tickets(group, &mut tickets);
                self.0.push_back((lsn, tickets));
            }
        }
    }

    fn report(&mut self, confirmed: Lsn, node: &Node) {
        while let Some((_, tickets)) = self.0.pop_front_if(|(lsn, _)| *lsn <= confirmed) {
            for (vhost, ticket) in tickets {
                if let Some(vhost) = node.vhosts.get(vhost) {
                    let now = node.clock.now();
                    vhost.enter(|engine, wakes| engine.durable(now, ticket, wakes));
                }
            }
        }
    }
}

/// The highest ticket of each vhost in the group.
fn latest_tickets(group: &Group, tickets: &mut Vec<(usize, Ticket)>) {
    for (batch, vhost) in group.batches.iter().zip(&group.vhosts) {
        match tickets.iter_mut().find(|(v, _)| v == vhost) {
            Some((_, ticket)) => *ticket = batch.ticket.max(*ticket),
            None => tickets.push((*vhost, batch.ticket)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepost_core::store::Record;

    fn batch(ticket: u64, sync: bool) -> Batch {
        let key = Record::Key {
            key: Box::new([1]),
            value: None,
        };
        Batch {
            records: vec![key],
            ticket: Ticket(ticket),
            sync,
            bytes: 32,
            ..Batch::default()
        }
    }

    fn pace(company: usize) -> Pace {
        Pace {
            gap: Duration::ZERO,
            took: Duration::from_secs(3600),
            ended: Instant::now(),
            company,
        }
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[test]
    fn a_single_publisher_is_committed_at_once() {
        let queue = LogQueue::default();
        queue.submit(0, batch(1, true));
        let mut group = Group::default();
        assert!(!queue.collect(&mut group, &pace(1), later()));
        assert_eq!((group.batches.len(), group.syncs), (1, 1));
    }

    #[test]
    fn a_group_is_taken_whole_and_in_order() {
        let queue = LogQueue::default();
        for ticket in 1..=5 {
            queue.submit(0, batch(ticket, ticket % 2 == 1));
            queue.submit(1, batch(10 * ticket, false));
        }
        let mut group = Group::default();
        queue.collect(&mut group, &pace(3), later());
        let mut durable = Vec::new();
        latest_tickets(&group, &mut durable);
        assert_eq!(durable, [(0, Ticket(5)), (1, Ticket(50))]);
        assert_eq!(group.batches.len(), 10);
        assert!(queue.is_empty());
    }

    #[test]
    fn the_last_arrival_of_the_company_ends_the_wait() {
        let queue = LogQueue::default();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut group = Group::default();
                queue.collect(&mut group, &pace(2), later());
                group.batches.len()
            });
            queue.submit(0, batch(1, true));
            queue.submit(0, batch(2, true));
            assert!(waiting.join().expect("the waiting thread") >= 1);
        });
    }

    #[test]
    fn a_stop_takes_what_nobody_waits_for_too() {
        let queue = LogQueue::default();
        queue.submit(0, batch(1, false));
        queue.stop();
        let mut group = Group::default();
        assert!(queue.collect(&mut group, &pace(1), later()));
        assert_eq!(group.batches.len(), 1);
    }
}
