//! The I/O threads: one single-threaded runtime each. A connection is dealt to the least loaded and stays there.
//!
//! Tasks are spawned on the runtime itself and not on a `LocalSet`: sessions are `Send`, the turn's buffers are the
//! thread's, and so a layer of waking between the socket and its task is saved.

use crate::driver::Serving;
use crate::node::Node;
use crate::transport::{Door, Socket};
use parking_lot::Mutex;
use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::thread::JoinHandle;
use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;

/// All I/O threads; one at least.
pub(crate) struct IoThreads {
    threads: Vec<IoThread>,
}

struct IoThread {
    shared: Arc<Shared>,
    runtime: Handle,
    stop: Arc<Notify>,
    joined: Mutex<Option<JoinHandle<()>>>,
}

/// What a thread shows to the others.
#[derive(Default)]
pub(crate) struct Shared {
    number: usize,
    /// Connections it serves.
    pub connections: AtomicUsize,
    /// Turns its connections took.
    pub turns: AtomicU64,
    /// Bytes read from sockets.
    pub bytes_in: AtomicU64,
    /// Bytes written to sockets.
    pub bytes_out: AtomicU64,
    /// Tasks that other threads want to run here.
    mailbox: Mutex<Vec<Waker>>,
    posted: Notify,
}

thread_local! {
    /// Number of the I/O thread this is.
    static CURRENT: Cell<usize> = const { Cell::new(usize::MAX) };
}

impl Shared {
    /// Wakes one of this thread's tasks.
    ///
    /// From the thread itself that is a push to its run queue. From elsewhere tokio would write to the thread's event
    /// descriptor for every single task; a fan-out to a thousand connections is to cost one such write, so only the
    /// first into an empty mailbox makes it.
    pub(crate) fn wake(&self, task: &Waker) {
        if CURRENT.get() == self.number {
            task.wake_by_ref();
            return;
        }
        let mut mailbox = self.mailbox.lock();
        let first = mailbox.is_empty();
        mailbox.push(task.clone());
        drop(mailbox);
        if first {
            self.posted.notify_one();
        }
    }

    async fn deliver_mail(&self) {
        let mut tasks = Vec::new();
        loop {
            self.posted.notified().await;
            std::mem::swap(&mut tasks, &mut *self.mailbox.lock());
            tasks.drain(..).for_each(Waker::wake);
        }
    }
}

impl IoThreads {
    /// Starts `count` threads (0: one per core). The first also drives the vhosts' timers.
    ///
    /// # Errors
    /// The system has no thread or descriptor left.
    pub(crate) fn start(node: &Arc<Node>, count: usize) -> io::Result<IoThreads> {
        let count = match count {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let threads: Vec<IoThread> = (0..count).map(IoThread::start).collect::<io::Result<_>>()?;
        if let Some(first) = threads.first() {
            node.vhosts.start_timers(node, &first.runtime);
        }
        Ok(IoThreads { threads })
    }

    /// Gives a new connection to the thread with the fewest.
    pub(crate) fn deal(&self, node: &Arc<Node>, door: Door, socket: Socket) {
        let least = self
            .threads
            .iter()
            .min_by_key(|t| t.shared.connections.load(Ordering::Relaxed));
        if let Some(thread) = least {
            let (node, shared) = (Arc::clone(node), Arc::clone(&thread.shared));
            let connection = Serving::new(node, shared, door, socket);
            thread.runtime.spawn(connection);
        }
    }

    /// The thread that accepts for all. Not one of its own: there a flood of connections takes its turn with those that
    /// are served, where another thread would compete with this one for the processor.
    pub(crate) fn accepting(&self) -> &Handle {
        &self.threads[0].runtime
    }

    /// What the threads show.
    pub(crate) fn shared(&self) -> impl Iterator<Item = &Shared> {
        self.threads.iter().map(|thread| &*thread.shared)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.threads.len()
    }

    /// Ends all threads; connections that are still open are dropped.
    pub(crate) fn stop(&self) {
        for thread in &self.threads {
            thread.stop.notify_one();
        }
        for thread in &self.threads {
            if let Some(handle) = thread.joined.lock().take() {
                // A thread that panicked has aborted the process, or was told so by tokio already.
                let _ = handle.join();
            }
        }
    }
}

impl IoThread {
    fn start(number: usize) -> io::Result<IoThread> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let shared = Arc::new(Shared {
            number,
            ..Shared::default()
        });
        let stop = Arc::new(Notify::new());
        let handle = runtime.handle().clone();
        let (mail, stopped) = (Arc::clone(&shared), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name(format!("io-{number}"))
            .spawn(move || {
                CURRENT.set(number);
                runtime.block_on(async move {
                    tokio::spawn(async move { mail.deliver_mail().await });
                    stopped.notified().await;
                });
            })?;
        Ok(IoThread {
            shared,
            runtime: handle,
            stop,
            joined: Mutex::new(Some(thread)),
        })
    }
}
