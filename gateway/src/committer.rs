//! The log's writing thread: takes the batches that all vhosts submitted, writes and syncs them as one group, and reports back.
//!
//! ```text
//!   vhost ─submit─┐                       ┌─► written(ticket), durable(ticket) ─► links woken
//!   vhost ─submit─┴► pending ─swap─► commit
//! ```
//!
//! Group commit sets its own pace: everything that arrives during one sync is in the next group. If fewer batches wait than
//! the last group had, publishers are probably still sending, so the group waits for more, but not longer than the last
//! sync took. A single publisher's batch never waits for others. `store.min_sync_gap` delays only groups that need a sync at
//! once.

use crate::config::Confirm;
use crate::node::Node;
use crate::store::Store;
use crate::watch;
use gatepost_core::store::disk::RealDisk;
use gatepost_core::store::{Batch, Cut, CutError, Durability, Lsn, StoreError, Ticket, VhostId};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Batches that wait for the committer, in ticket order per vhost.
#[derive(Default)]
pub(crate) struct LogQueue {
    pending: Mutex<Pending>,
    ready: Condvar,
}

#[derive(Default)]
struct Pending {
    batches: Vec<Batch>,
    /// The vhost of each batch.
    vhosts: Vec<VhostId>,
    /// Estimated bytes of all batches.
    bytes: usize,
    /// Batches that a client waits for.
    awaited: usize,
    /// The strongest durability that one of the batches needs.
    need: Option<Durability>,
    /// When the oldest batch was submitted.
    since: Option<Instant>,
    /// The committer sleeps until `awaited` reaches this (or `LAZY_BYTES` wait, or a stop); 0: it is busy.
    sleeps_for: usize,
    stopping: bool,
    /// Backups that wait for the list of the log's files.
    cuts: Vec<CutTo>,
}

/// Where a cut goes.
type CutTo = oneshot::Sender<Result<Cut<RealDisk>, CutError>>;

/// A group to commit together.
#[derive(Default)]
struct Group {
    batches: Vec<Batch>,
    vhosts: Vec<VhostId>,
    awaited: usize,
    need: Option<Durability>,
    cuts: Vec<CutTo>,
}

/// Timing of the last commits, which decides how long the next group waits.
#[derive(Debug)]
struct Pace {
    /// Minimum time from the end of one sync to the next.
    gap: Duration,
    /// Duration of the last commit that synced, and of the last that did not.
    sync_took: Duration,
    write_took: Duration,
    /// End of the last commit, and of the last that synced.
    ended: Instant,
    synced: Instant,
    /// Batches in the last group that a client waited for.
    last_awaited: usize,
}

impl Pace {
    /// The earliest time at which a group may be committed, and the time until which it may wait for further batches. `since`:
    /// when its oldest batch was submitted.
    fn window(&self, need: Option<Durability>, since: Instant) -> (Instant, Instant) {
        let (earliest, took) = if need == Some(Durability::Always) {
            (self.synced + self.gap, self.sync_took)
        } else {
            (since, self.write_took)
        };
        (earliest, since.max(self.ended) + took.min(PATIENCE_MAX))
    }

    fn note(&mut self, group: &Group, began: Instant) {
        self.ended = Instant::now();
        let took = self.ended - began;
        match group.need {
            Some(Durability::Always) => {
                self.sync_took = took;
                self.synced = self.ended;
            }
            Some(_) => self.write_took = took,
            None => {}
        }
        if group.awaited > 0 {
            self.last_awaited = group.awaited;
        }
    }
}

/// Batches that no client waits for are written after this time, or with the next batch that a client waits for.
const LAZY: Duration = Duration::from_millis(50);
/// Batches that no client waits for are also written at this size, because they count as publishers' memory.
const LAZY_BYTES: usize = 512 << 10;
/// Longest wait for further batches, however slow the disk.
const PATIENCE_MAX: Duration = Duration::from_millis(20);

impl LogQueue {
    /// Appends a batch. Called under the vhost's lock, which keeps its tickets in order.
    pub(crate) fn submit(&self, vhost: VhostId, batch: Batch) {
        let mut pending = self.pending.lock();
        pending.bytes = pending.bytes.saturating_add(batch.bytes);
        pending.awaited += usize::from(batch.need.is_some());
        pending.need = pending.need.max(batch.need);
        let first = pending.since.is_none();
        if first {
            pending.since = Some(Instant::now());
        }
        pending.batches.push(batch);
        pending.vhosts.push(vhost);
        // Wakes the committer (a system call) only if it has something to do: commit, or start the timer of `LAZY`.
        let enough = pending.awaited >= pending.sleeps_for || pending.bytes >= LAZY_BYTES;
        if pending.sleeps_for > 0 && (first || enough) {
            pending.sleeps_for = 0;
            drop(pending);
            self.ready.notify_one();
        }
    }

    /// Makes the committer write what waits, and end.
    pub(crate) fn stop(&self) {
        self.pending.lock().stopping = true;
        self.ready.notify_one();
    }

    /// Bytes that wait, and how long the oldest batch has waited.
    pub(crate) fn backlog(&self) -> (usize, Duration) {
        let pending = self.pending.lock();
        (
            pending.bytes,
            pending.since.map_or(Duration::ZERO, |since| since.elapsed()),
        )
    }

    /// Asks for a cut through the log after everything submitted so far. The sender is dropped if the log has ended, or
    /// ends before the cut.
    pub(crate) fn cut(&self) -> oneshot::Receiver<Result<Cut<RealDisk>, CutError>> {
        let (to, cut) = oneshot::channel();
        let mut pending = self.pending.lock();
        if !pending.stopping {
            pending.cuts.push(to);
        }
        drop(pending);
        self.ready.notify_one();
        cut
    }

    /// The log has ended, normally or not: requests for cuts are dropped, so that nobody waits for them.
    fn end(&self) {
        let mut pending = self.pending.lock();
        pending.stopping = true;
        pending.cuts.clear();
    }

    fn is_empty(&self) -> bool {
        self.pending.lock().batches.is_empty()
    }

    /// Waits until a group should be committed, or until `idle_until`, when the store's chores are due (the group may be
    /// empty). Returns whether the committer must stop.
    fn collect(&self, group: &mut Group, pace: &Pace, idle_until: Instant) -> bool {
        let mut pending = self.pending.lock();
        loop {
            let now = Instant::now();
            let (wait_until, sleeps_for) = match pending.since {
                _ if pending.stopping || !pending.cuts.is_empty() => break,
                _ if now >= idle_until => break,
                None => (idle_until, 1),
                Some(since) if pending.awaited == 0 => {
                    let until = since + LAZY;
                    if pending.bytes >= LAZY_BYTES || now >= until {
                        break;
                    }
                    (until, 1)
                }
                Some(since) => {
                    let (earliest, patient_until) = pace.window(pending.need, since);
                    if now >= earliest && (pending.awaited >= pace.last_awaited || now >= patient_until) {
                        break;
                    }
                    if now < earliest {
                        (earliest, usize::MAX)
                    } else {
                        (patient_until, pace.last_awaited)
                    }
                }
            };
            pending.sleeps_for = sleeps_for;
            self.ready.wait_until(&mut pending, wait_until.min(idle_until));
            pending.sleeps_for = 0;
        }
        std::mem::swap(&mut group.batches, &mut pending.batches);
        std::mem::swap(&mut group.vhosts, &mut pending.vhosts);
        group.awaited = std::mem::take(&mut pending.awaited);
        group.cuts.append(&mut pending.cuts);
        group.need = pending.need.take();
        pending.bytes = 0;
        pending.since = None;
        pending.stopping
    }
}

/// Runs on the log's thread until [`LogQueue::stop`], then closes the store.
///
/// # Errors
/// The store failed. It is poisoned, and nothing more will be confirmed.
pub(crate) fn run(node: &Node, store: Store) -> Result<(), StoreError> {
    let ended = serve(node, store);
    node.log.end();
    ended
}

fn serve(node: &Node, mut store: Store) -> Result<(), StoreError> {
    let settings = &node.config().store;
    let now = Instant::now();
    let mut pace = Pace {
        gap: settings.min_sync_gap.0,
        sync_took: Duration::ZERO,
        write_took: Duration::ZERO,
        ended: now,
        synced: now,
        last_awaited: 1,
    };
    let mut group = Group::default();
    let mut waiting = Waiting::default();
    let mut growth = Growth::default();
    growth.note(node, &store);
    let mut chores_at = store.tick(node.clock.now())?;
    loop {
        let until_chores = chores_at.map_or(IDLE_MAX, |at| (at - node.clock.now().monotonic).min(IDLE_MAX));
        let stopping = node.log.collect(&mut group, &pace, Instant::now() + until_chores);
        // During a disk alarm the store compacts earlier and more, and does not zero files ahead.
        let [alarm, full] = [&node.health.disk_alarm, &node.health.disk_full].map(|flag| flag.load(Ordering::Relaxed));
        store.set_disk_short(alarm || full);
        let config = node.config();
        pace.gap = config.store.min_sync_gap.0;
        store.set_interval(config.store.interval.0, config.store.confirm == Confirm::Written);
        if !group.batches.is_empty() {
            let began = Instant::now();
            let lsn = store.commit(&mut group.batches, node.clock.now())?;
            pace.note(&group, began);
            node.commit_times.record(pace.ended - began);
            waiting.push(lsn, &group);
            if !waiting.is_covered(store.durable()) {
                // Some batches only need to be written, not synced.
                report(&latest_tickets(&group), node, Reached::Written);
            }
            let due = store.due_after(node.clock.now().monotonic);
            chores_at = Some(chores_at.map_or(due, |at| at.min(due)));
            group.batches.clear();
            group.vhosts.clear();
        }
        for to in group.cuts.drain(..) {
            // The requester may be gone. Then the cut is dropped here and keeps no segment.
            drop(to.send(store.cut()));
        }
        waiting.report(store.durable(), node);
        if store.is_due() || chores_at.is_none_or(|at| at <= node.clock.now().monotonic) {
            chores_at = store.tick(node.clock.now())?;
            waiting.report(store.durable(), node);
        }
        growth.note(node, &store);
        // Reports of `durable` may have caused further batches, which are written before the end.
        if stopping && node.log.is_empty() {
            return store.close(node.clock.now());
        }
    }
}

/// Triggers a check of the free disk when the log has grown by a part of a segment or its reserve has changed. The
/// check once a second would be too late for a fast disk.
#[derive(Default)]
struct Growth {
    looked_at: u64,
    reserved: u64,
}

impl Growth {
    fn note(&mut self, node: &Node, store: &Store) {
        let written = node.store_stats.bytes_written.load(Ordering::Relaxed);
        let reserved = store.reserved();
        if written - self.looked_at >= watch::worth_a_look(node) || reserved != self.reserved {
            *self = Growth {
                looked_at: written,
                reserved,
            };
            node.health.log_reserved.store(reserved, Ordering::Relaxed);
            node.look.notify_one();
        }
    }
}

/// The longest time between two ticks of an idle store.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// Groups that are written but not durable yet. With `durability = "interval"` they wait for a later sync.
#[derive(Default)]
struct Waiting(VecDeque<(Lsn, Vec<(VhostId, Ticket)>)>);

impl Waiting {
    fn push(&mut self, lsn: Lsn, group: &Group) {
        // Reporting a ticket also reports all earlier ones of its vhost, so the order must be kept.
        match self.0.back_mut() {
            Some((last, tickets)) if *last >= lsn => add_latest_tickets(group, tickets),
            _ => self.0.push_back((lsn, latest_tickets(group))),
        }
    }

    /// Whether everything that waits is durable.
    fn is_covered(&self, durable: Lsn) -> bool {
        self.0.back().is_none_or(|(lsn, _)| *lsn <= durable)
    }

    fn report(&mut self, durable: Lsn, node: &Node) {
        while let Some((_, tickets)) = self.0.pop_front_if(|(lsn, _)| *lsn <= durable) {
            report(&tickets, node, Reached::Durable);
        }
    }
}

/// The state that batches have reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reached {
    Written,
    Durable,
}

fn report(tickets: &[(VhostId, Ticket)], node: &Node, reached: Reached) {
    for (vhost, ticket) in tickets {
        if *vhost == VhostId::NODE {
            if reached == Reached::Durable {
                node.vhosts.log().durable(*ticket);
            }
        } else if let Some(vhost) = node.vhosts.numbered(*vhost) {
            let now = node.clock.now();
            vhost.enter(|engine| match reached {
                Reached::Written => engine.written(now, *ticket),
                Reached::Durable => engine.durable(now, *ticket),
            });
        }
    }
}

/// The highest ticket of each vhost in the group.
fn latest_tickets(group: &Group) -> Vec<(VhostId, Ticket)> {
    let mut tickets = Vec::new();
    add_latest_tickets(group, &mut tickets);
    tickets
}

fn add_latest_tickets(group: &Group, tickets: &mut Vec<(VhostId, Ticket)>) {
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

    fn batch(ticket: u64, awaited: bool) -> Batch {
        let key = Record::Key {
            key: Box::new([1]),
            value: None,
        };
        Batch {
            records: vec![key],
            ticket: Ticket(ticket),
            need: awaited.then_some(Durability::Always),
            bytes: 32,
            ..Batch::default()
        }
    }

    fn pace(last_awaited: usize) -> Pace {
        let now = Instant::now();
        Pace {
            gap: Duration::ZERO,
            sync_took: Duration::from_secs(3600),
            write_took: Duration::from_secs(3600),
            ended: now,
            synced: now,
            last_awaited,
        }
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[test]
    fn a_single_publisher_is_committed_at_once() {
        let queue = LogQueue::default();
        queue.submit(VhostId(0), batch(1, true));
        let mut group = Group::default();
        assert!(!queue.collect(&mut group, &pace(1), later()));
        assert_eq!((group.batches.len(), group.awaited), (1, 1));
    }

    #[test]
    fn a_group_is_taken_whole_and_in_order() {
        let queue = LogQueue::default();
        for ticket in 1..=5 {
            queue.submit(VhostId(0), batch(ticket, ticket % 2 == 1));
            queue.submit(VhostId(1), batch(10 * ticket, false));
        }
        let mut group = Group::default();
        queue.collect(&mut group, &pace(3), later());
        assert_eq!(
            latest_tickets(&group),
            [(VhostId(0), Ticket(5)), (VhostId(1), Ticket(50))]
        );
        assert_eq!(group.batches.len(), 10);
        assert!(queue.is_empty());
    }

    #[test]
    fn as_many_batches_as_last_time_end_the_wait() {
        let queue = LogQueue::default();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut group = Group::default();
                queue.collect(&mut group, &pace(2), later());
                group.batches.len()
            });
            queue.submit(VhostId(0), batch(1, true));
            queue.submit(VhostId(0), batch(2, true));
            assert!(waiting.join().expect("the waiting thread") >= 1);
        });
    }

    #[test]
    fn only_what_needs_a_sync_waits_for_the_gap_between_two() {
        let gap = Duration::from_secs(3600);
        let pace = Pace { gap, ..pace(1) };
        let queue = LogQueue::default();
        queue.submit(
            VhostId(0),
            Batch {
                need: Some(Durability::Os),
                ..batch(1, false)
            },
        );
        queue.submit(
            VhostId(0),
            Batch {
                need: Some(Durability::Interval),
                ..batch(2, false)
            },
        );
        let mut group = Group::default();
        queue.collect(&mut group, &pace, later());
        assert_eq!((group.batches.len(), group.need), (2, Some(Durability::Interval)));
        let since = Instant::now();
        assert_eq!(pace.window(Some(Durability::Always), since).0, pace.synced + gap);
        assert_eq!(pace.window(group.need, since).0, since);
    }

    /// A backup that is requested while nothing is logged must contain everything that was logged before.
    #[test]
    fn a_cut_is_not_kept_waiting_and_comes_behind_what_was_submitted() {
        let queue = LogQueue::default();
        queue.submit(VhostId(0), batch(1, false));
        let cut = queue.cut();
        let mut group = Group::default();
        assert!(!queue.collect(&mut group, &pace(1), later()));
        assert_eq!((group.batches.len(), group.cuts.len()), (1, 1));
        drop(cut);
    }

    /// The bug: the log failed while a backup waited for it, and the request was never answered.
    #[test]
    fn nobody_waits_for_a_cut_of_a_log_that_has_ended() {
        let queue = LogQueue::default();
        let mut before = queue.cut();
        queue.end();
        let mut after = queue.cut();
        for cut in [&mut before, &mut after] {
            assert!(matches!(cut.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        }
    }

    #[test]
    fn a_stop_takes_what_nobody_waits_for_too() {
        let queue = LogQueue::default();
        queue.submit(VhostId(0), batch(1, false));
        queue.stop();
        let mut group = Group::default();
        assert!(queue.collect(&mut group, &pace(1), later()));
        assert_eq!(group.batches.len(), 1);
    }
}
