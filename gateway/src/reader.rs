//! The log's reading thread: loads the bodies and pages that engines request.
//!
//! A failed read says nothing about the data. It is retried with growing pauses, and its queue waits meanwhile; reads
//! of other queues continue. If a read fails for longer than `store.read_timeout`, the process ends, as after a failed
//! write.

use crate::node::Node;
use crate::store;
use gatepost_core::store::disk::retry_pause;
use gatepost_core::store::{Request, Served, VhostId};
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Requests that wait for the reader, in order of arrival.
#[derive(Default)]
pub(crate) struct ReadQueue {
    pending: Mutex<Pending>,
    ready: Condvar,
}

#[derive(Default)]
struct Pending {
    /// Requests, each with its vhost.
    reads: Vec<(VhostId, Request)>,
    stopping: bool,
}

impl ReadQueue {
    /// Appends `reads`, draining them.
    pub(crate) fn submit(&self, vhost: VhostId, reads: &mut Vec<Request>) {
        let mut pending = self.pending.lock();
        let idle = pending.reads.is_empty();
        pending.reads.extend(reads.drain(..).map(|read| (vhost, read)));
        drop(pending);
        if idle {
            self.ready.notify_one();
        }
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.pending.lock().stopping = true;
        self.ready.notify_one();
    }

    /// Waits for requests until `until` and takes all of them. Returns `false` when the thread must end.
    fn collect(&self, into: &mut Vec<(VhostId, Request)>, until: Option<Instant>) -> bool {
        let mut pending = self.pending.lock();
        while pending.reads.is_empty() && !pending.stopping {
            match until {
                Some(until) if self.ready.wait_until(&mut pending, until).timed_out() => break,
                Some(_) => {}
                None => self.ready.wait(&mut pending),
            }
        }
        std::mem::swap(into, &mut pending.reads);
        !pending.stopping
    }
}

/// The store's reader, as this thread uses it. A trait so that tests can make reads fail.
pub(crate) trait Fetch {
    /// Reads what can be read.
    fn serve(&mut self, requests: &[Request]) -> Served;
}

impl Fetch for store::Reader {
    fn serve(&mut self, requests: &[Request]) -> Served {
        store::Reader::serve(self, requests)
    }
}

/// Bodies per call, so that an engine can deliver the first ones while the next ones are read.
const BODIES_AT_ONCE: usize = 64;
/// Pages per call. Many at once, because they share the work of reading a segment's directory.
const PAGES_AT_ONCE: usize = 1024;

/// A request that failed.
#[derive(Clone, Debug)]
struct Failing {
    vhost: VhostId,
    request: Request,
    failures: u32,
    since: Instant,
    retry_at: Instant,
}

/// Failed requests, until they succeed. Bounded by the number of requests that engines make at a time.
#[derive(Debug, Default)]
struct Retries {
    waiting: Vec<Failing>,
    /// Requests that are being retried now.
    trying: Vec<Failing>,
    last_error: String,
}

impl Retries {
    /// When the next retry is due.
    fn next(&self) -> Option<Instant> {
        self.waiting.iter().map(|failing| failing.retry_at).min()
    }
    /// Adds the requests that are due to `work`.
    fn add_due(&mut self, now: Instant, work: &mut Vec<(VhostId, Request)>) {
        let due = |failing: &mut Failing| failing.retry_at <= now;
        self.trying.extend(self.waiting.extract_if(.., due));
        work.extend(
            self.trying
                .iter()
                .map(|failing| (failing.vhost, failing.request.clone())),
        );
    }
    /// Records which of a vhost's requests failed.
    fn note(&mut self, vhost: VhostId, served: &mut Served, now: Instant) {
        if let Some(error) = served.error.take() {
            self.last_error = error.to_string();
        }
        for request in served.failed.drain(..) {
            let same = |failing: &Failing| failing.vhost == vhost && failing.request == request;
            let before = self.trying.iter().find(|failing| same(failing));
            let failures = before.map_or(0, |failing| failing.failures).saturating_add(1);
            self.waiting.push(Failing {
                vhost,
                request,
                failures,
                since: before.map_or(now, |failing| failing.since),
                retry_at: now + retry_pause(failures),
            });
        }
    }
    /// Whether a request has failed for longer than `limit`.
    fn have_failed_for(&self, limit: Duration, now: Instant) -> bool {
        // At least two failures: with a short limit, a single one must not end the process.
        let lasts = |failing: &Failing| failing.failures > 1 && now - failing.since >= limit;
        self.waiting.iter().any(lasts)
    }
}

/// Runs on the reader's thread until [`ReadQueue::stop`], or until reads have failed for too long.
pub(crate) fn run(node: &Node, mut reader: impl Fetch) {
    let mut work = Vec::new();
    let mut retries = Retries::default();
    while node.reads.collect(&mut work, retries.next()) {
        retries.add_due(Instant::now(), &mut work);
        serve(node, &mut reader, &mut work, &mut retries);
        retries.trying.clear();
        work.clear();
        report(node, &retries);
        if retries.have_failed_for(node.config().store.read_timeout.0, Instant::now()) {
            let why = format!("cannot read for longer than store.read_timeout: {}", retries.last_error);
            return store::log_failed(node, &why);
        }
    }
}

/// Reports failing reads in the log and in the node's health.
fn report(node: &Node, retries: &Retries) {
    let failing = retries.waiting.len() as u64;
    let before = node.health.reads_failing.swap(failing, Ordering::Relaxed);
    match (before, failing) {
        (0, 0) => {}
        (0, _) => {
            let error = &retries.last_error;
            tracing::error!(
                failing,
                error,
                "reads of the log fail: they are tried again, and their queues wait"
            );
        }
        (_, 0) => tracing::info!("reads of the log succeed again"),
        _ => {}
    }
}

fn serve(node: &Node, reader: &mut impl Fetch, work: &mut [(VhostId, Request)], retries: &mut Retries) {
    let mut reads = Vec::new();
    // Sorted by position, because with many queues neighbours in the log belong to different queues.
    work.sort_by_key(|(vhost, request)| {
        let (kind, at) = match request {
            Request::Page(_) => (0, None),
            Request::Key(_) => (1, None),
            Request::Body(read) => (2, Some(read.at)),
        };
        (*vhost, kind, at)
    });
    let mut rest = &*work;
    while let Some((vhost, first)) = rest.first() {
        let vhost = *vhost;
        let at_once = match first {
            Request::Page(_) => PAGES_AT_ONCE,
            Request::Body(_) | Request::Key(_) => BODIES_AT_ONCE,
        };
        let alike = |(v, request): &&(VhostId, Request)| {
            *v == vhost && std::mem::discriminant(request) == std::mem::discriminant(first)
        };
        let same = rest.iter().take(at_once).take_while(alike).count();
        let (now, later) = rest.split_at(same);
        reads.clear();
        reads.extend(now.iter().map(|(_, read)| read.clone()));
        rest = later;
        let mut served = reader.serve(&reads);
        retries.note(vhost, &mut served, Instant::now());
        if let Some(vhost) = node.vhosts.numbered(vhost).filter(|_| !served.answers.is_empty()) {
            let now = node.clock.now();
            vhost.enter(|engine| engine.loaded(now, served.answers));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepost_core::store::{PageRead, QueueId};

    fn page(queue: u64) -> Request {
        Request::Page(PageRead {
            queue: QueueId(queue),
            from: 0,
            upto: 9,
            count: 1,
        })
    }

    fn failed(requests: &[Request]) -> Served {
        Served {
            failed: requests.to_vec(),
            error: Some(std::io::Error::other("a bad sector")),
            ..Served::default()
        }
    }

    /// Retries the requests that are due at `now`. All fail except `heals`. Returns what was retried.
    fn round(retries: &mut Retries, now: Instant, heals: &[Request]) -> Vec<Request> {
        let mut work = Vec::new();
        retries.add_due(now, &mut work);
        let tried: Vec<Request> = work.iter().map(|(_, request)| request.clone()).collect();
        let fail: Vec<Request> = tried
            .iter()
            .filter(|request| !heals.contains(request))
            .cloned()
            .collect();
        retries.note(VhostId(0), &mut failed(&fail), now);
        retries.trying.clear();
        tried
    }

    #[test]
    fn a_read_that_fails_is_tried_again_with_longer_and_longer_pauses() {
        let (mut retries, start) = (Retries::default(), Instant::now());
        retries.note(VhostId(0), &mut failed(&[page(1)]), start);
        let mut pauses = Vec::new();
        let mut now = start;
        for _ in 0..10 {
            let due = retries.next().expect("it waits");
            assert!(
                round(&mut retries, due - Duration::from_millis(1), &[]).is_empty(),
                "not yet due"
            );
            assert_eq!(round(&mut retries, due, &[]), [page(1)]);
            pauses.push(due - now);
            now = due;
        }
        assert!(
            pauses.is_sorted() && pauses[0] < Duration::from_millis(50),
            "{pauses:?}"
        );
        assert_eq!(pauses[9], Duration::from_secs(1), "{pauses:?}");
        let since = now - start;
        assert!(retries.have_failed_for(since, now));
        assert!(!retries.have_failed_for(since + Duration::from_millis(1), now));
    }

    /// If every tenth read fails, some request is failing at any time, but none for long.
    #[test]
    fn the_limit_is_each_read_s_own() {
        let (mut retries, mut now) = (Retries::default(), Instant::now());
        for n in 0..1_000 {
            retries.note(VhostId(0), &mut failed(&[page(n)]), now);
            now = retries.next().expect("it waits") + Duration::from_millis(1);
            assert_eq!(round(&mut retries, now, &[page(n)]), [page(n)]);
            assert!(!retries.have_failed_for(Duration::from_millis(100), now));
            assert!(retries.waiting.is_empty());
        }
    }

    #[test]
    fn a_limit_shorter_than_the_first_pause_allows_one_more_try() {
        let (mut retries, now) = (Retries::default(), Instant::now());
        retries.note(VhostId(0), &mut failed(&[page(1)]), now);
        assert!(!retries.have_failed_for(Duration::ZERO, now));
        let due = retries.next().expect("it waits");
        round(&mut retries, due, &[]);
        assert!(retries.have_failed_for(Duration::ZERO, due));
    }
}
