//! The log's reading thread: fetches the bodies that engines want back in memory.

use crate::node::Node;
use crate::store::Reader;
use gatepost_core::store::Request;
use parking_lot::{Condvar, Mutex};

/// What is to be fetched, first come first served.
#[derive(Default)]
pub(crate) struct ReadQueue {
    pending: Mutex<Pending>,
    ready: Condvar,
}

#[derive(Default)]
struct Pending {
    /// Of which vhost, and what.
    reads: Vec<(usize, Request)>,
    stopping: bool,
}

impl ReadQueue {
    /// Appends `reads`, draining them.
    pub(crate) fn submit(&self, vhost: usize, reads: &mut Vec<Request>) {
        let mut pending = self.pending.lock();
        let idle = pending.reads.is_empty();
        pending.reads.extend(reads.drain(..).map(|read| (vhost, read)));
        drop(pending);
        if idle {
            self.ready.notify_one();
        }
    }

    /// Ends the thread: nobody waits for bodies any more.
    pub(crate) fn stop(&self) {
        self.pending.lock().stopping = true;
        self.ready.notify_one();
    }

    /// Waits for work and takes it whole; `false` at the end.
    fn collect(&self, into: &mut Vec<(usize, Request)>) -> bool {
        let mut pending = self.pending.lock();
        while pending.reads.is_empty() && !pending.stopping {
            self.ready.wait(&mut pending);
        }
        std::mem::swap(into, &mut pending.reads);
        !pending.stopping
    }
}

/// Bodies read at once: what an engine got back, it can pass on while the next ones are read.
const BODIES_AT_ONCE: usize = 64;
/// Pages looked up at once: they share the work of opening a segment's directory.
const PAGES_AT_ONCE: usize = 1024;

/// Runs on the reader's thread until [`ReadQueue::stop`].
pub(crate) fn run(node: &Node, mut reader: Reader) {
    let mut work = Vec::new();
    let mut reads = Vec::new();
    while node.reads.collect(&mut work) {
        // Where many queues are read, neighbours in the log are of different ones.
        work.sort_by_key(|(vhost, request)| {
            let at = match request {
                Request::Page(_) => None,
                Request::Body(read) => Some(read.at),
            };
            (*vhost, at)
        });
        let mut rest = work.as_slice();
        while let Some(&(vhost, first)) = rest.first() {
            let at_once = match first {
                Request::Page(_) => PAGES_AT_ONCE,
                Request::Body(_) => BODIES_AT_ONCE,
            };
            let alike = |(v, request): &&(usize, Request)| {
                *v == vhost && std::mem::discriminant(request) == std::mem::discriminant(&first)
            };
            let same = rest.iter().take(at_once).take_while(alike).count();
            let (now, later) = rest.split_at(same);
            reads.clear();
            reads.extend(now.iter().map(|(_, read)| *read));
            rest = later;
            let loaded = reader.serve(&reads);
            if let Some(vhost) = node.vhosts.get(vhost) {
                let now = node.clock.now();
                vhost.enter(|engine, wakes| engine.loaded(now, loaded, wakes));
            }
        }
        work.clear();
    }
}
