//! The I/O threads. One runtime owns all sockets and timers, and its thread runs the turns of connections. Further
//! threads sleep, and help while more turns are ready than one thread can run (`turns.rs` runs turns, `admission.rs`
//! decides who helps).

mod admission;
mod turns;

#[cfg(test)]
mod tests;

use crate::driver::Serving;
use crate::node::Node;
use crate::transport::{Door, Socket};
use parking_lot::Mutex;
use std::cell::OnceCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;
use turns::Turns;

/// All I/O threads, at least one.
pub(crate) struct IoThreads {
    runtime: Handle,
    turns: Arc<Turns<Serving>>,
    figures: Vec<Arc<Figures>>,
    stop: Arc<Notify>,
    /// The owner first.
    joined: Mutex<Vec<JoinHandle<()>>>,
}

/// The counters of a thread.
#[derive(Default)]
pub(crate) struct Figures {
    /// Turns that connections took here.
    pub turns: AtomicU64,
    /// Bytes read from sockets.
    pub bytes_in: AtomicU64,
    /// Bytes written to sockets.
    pub bytes_out: AtomicU64,
}

impl Figures {
    /// Bytes read from and written to sockets.
    fn bytes(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed) + self.bytes_out.load(Ordering::Relaxed)
    }
}

thread_local! {
    static FIGURES: OnceCell<Arc<Figures>> = const { OnceCell::new() };
}

/// Adds to the counters of the current I/O thread.
pub(crate) fn with_figures<T>(add: impl FnOnce(&Figures) -> T) {
    FIGURES.with(|figures| {
        if let Some(figures) = figures.get() {
            let _ = add(figures);
        }
    });
}

impl IoThreads {
    /// Starts `count` threads (0: one per core). The first owns the sockets, drives the vhosts' timers, and is the only
    /// one that runs while it can carry the load.
    ///
    /// # Errors
    /// The system has no thread or descriptor left.
    pub(crate) fn start(node: &Arc<Node>, count: usize) -> io::Result<IoThreads> {
        let count = match count {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let figures: Vec<Arc<Figures>> = (0..count).map(|_| Arc::default()).collect();
        let threads = IoThreads {
            runtime: runtime.handle().clone(),
            turns: Turns::new(count - 1, figures.clone()),
            figures,
            stop: Arc::new(Notify::new()),
            joined: Mutex::default(),
        };
        node.vhosts.start_timers(node, &threads.runtime);
        let started = threads.start_owner(runtime).and_then(|()| threads.start_helpers());
        if let Err(error) = started {
            threads.stop();
            return Err(error);
        }
        Ok(threads)
    }

    fn start_owner(&self, runtime: Runtime) -> io::Result<()> {
        let (turns, stop) = (Arc::clone(&self.turns), Arc::clone(&self.stop));
        self.start_thread(0, move || {
            // Unconstrained: tokio's budget for a task is meant for one connection, and this task runs all of them.
            runtime.spawn(tokio::task::unconstrained(Arc::clone(&turns).own()));
            runtime.block_on(stop.notified());
            turns.clear();
        })
    }

    fn start_helpers(&self) -> io::Result<()> {
        for number in 1..self.count() {
            let (turns, runtime) = (Arc::clone(&self.turns), self.runtime.clone());
            self.start_thread(number, move || {
                // New connections register their sockets and timers there.
                let _entered = runtime.enter();
                turns.help(number);
            })?;
        }
        Ok(())
    }

    fn start_thread(&self, number: usize, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let figures = self.figures.get(number).map(Arc::clone).unwrap_or_default();
        let thread = std::thread::Builder::new()
            .name(format!("io-{number}"))
            .spawn(move || {
                let _ = FIGURES.with(|cell| cell.set(figures));
                run();
            })?;
        self.joined.lock().push(thread);
        Ok(())
    }

    /// Serves a new connection. `over`: the limit of connections is reached, so the client is told that and closed.
    pub(crate) fn deal(&self, node: &Arc<Node>, door: Door, socket: Socket, over: bool) {
        self.turns.spawn(Serving::new(Arc::clone(node), door, socket, over));
    }

    /// The runtime of the first thread, which accepts connections. If the serving thread accepts, a flood of
    /// connections waits its turn; a separate thread would compete with it for the processor.
    pub(crate) fn accepting(&self) -> &Handle {
        &self.runtime
    }

    /// The counters of all threads.
    pub(crate) fn figures(&self) -> impl Iterator<Item = &Figures> {
        self.figures.iter().map(|figures| &**figures)
    }

    /// Number of threads, working or asleep.
    pub(crate) fn count(&self) -> usize {
        self.figures.len()
    }

    /// Number of threads that help the first one now.
    pub(crate) fn helping(&self) -> usize {
        self.turns.helping()
    }

    /// Ends all threads and drops the connections that are still open.
    pub(crate) fn stop(&self) {
        self.turns.stop();
        let mut joined = std::mem::take(&mut *self.joined.lock());
        // Helpers first: when the owner ends, it drops the connections, and helpers may be running them.
        for helper in joined.drain(1.min(joined.len())..) {
            // The result is not needed: a panic would have aborted the process.
            let _ = helper.join();
        }
        self.stop.notify_one();
        for owner in joined {
            let _ = owner.join();
        }
    }
}
