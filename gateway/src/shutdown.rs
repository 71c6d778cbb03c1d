//! Stopping: on a signal, or because of a failure.

use crate::exit::Failure;
use crate::node::Node;
use crate::threads::IoThreads;
use gatepost_core::event::CloseReason;
use std::future::Future;
use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Time for clients to receive the closing message and to disconnect.
const GOODBYES: Duration = Duration::from_millis(1_500);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// After the log failed, the process continues for this long, so that probes see that it is unhealthy and clients are
/// told.
const RED: Duration = Duration::from_secs(1);

/// SIGTERM and SIGINT.
pub(crate) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// Installs the handlers, early so that no signal is lost.
    ///
    /// # Errors
    /// The system has no room for a handler.
    pub(crate) fn listen() -> io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for a signal and returns its name and number.
    async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.term.recv() => ("SIGTERM", 15),
            _ = self.int.recv() => ("SIGINT", 2),
        }
    }
}

/// Waits for a signal or a failure; returns the failure. After this, a further signal ends the process
/// at once.
pub(crate) async fn wait(node: &Node, mut signals: Signals) -> Option<Failure> {
    tokio::select! {
        () = node.failed() => {}
        (name, _) = signals.next() => {
            tracing::info!(signal = name, "stopping; a second signal ends at once");
        }
        () = node.desk.stopped() => {
            tracing::info!("stopping: asked to by the control socket; a signal ends at once");
        }
    }
    tokio::spawn(async move {
        let (name, number) = signals.next().await;
        tracing::warn!(signal = name, "ending at once: the next start replays the log");
        process::exit(128 + number);
    });
    node.take_failure()
}

/// Ends after the log failed. Nothing is confirmed or written any more; clients were told when it failed.
pub(crate) async fn fail(threads: &Arc<IoThreads>) {
    tokio::time::sleep(RED).await;
    let io = Arc::clone(threads);
    blocking(move || io.stop()).await;
}

/// Ends in order: closes clients' connections, and writes the resulting records (wills, say) to the log.
///
/// Dropping `listeners` closes them; `committer` and `reader` are the log's threads.
pub(crate) async fn run<L>(
    node: &Arc<Node>,
    threads: &Arc<IoThreads>,
    listeners: L,
    committer: JoinHandle<()>,
    reader: JoinHandle<()>,
) {
    let began = Instant::now();
    node.health.stopping.store(true, Ordering::Relaxed);
    drop(listeners);
    for vhost in node.vhosts.list().iter() {
        vhost.end_links(CloseReason::Shutdown);
    }
    while node.attached.load(Ordering::Relaxed) > 0 && began.elapsed() < GOODBYES {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let cut_off = node.attached.load(Ordering::Relaxed);
    let io = Arc::clone(threads);
    blocking(move || io.stop()).await;
    for vhost in node.vhosts.list().iter() {
        vhost.enter(|engine| engine.flush());
    }
    node.reads.stop();
    node.log.stop();
    // On a blocking thread, so that a second signal is handled while a slow disk syncs.
    blocking(move || (committer.join(), reader.join())).await;
    tracing::info!(took_ms = began.elapsed().as_millis(), cut_off, "stopped");
}

fn blocking<T: Send + 'static>(wait: impl FnOnce() -> T + Send + 'static) -> impl Future {
    tokio::task::spawn_blocking(wait)
}
