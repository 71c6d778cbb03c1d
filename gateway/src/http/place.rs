//! The places of HTTP connections, of which there are only so many.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// A connection's place among the open ones. A new connection may take it over.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// A request is being answered, so the place must not be taken over.
    pub(super) busy: AtomicBool,
    /// Notified when another connection took the place over: this one must close.
    pub(super) cut: Notify,
    /// It was notified.
    #[cfg(test)]
    is_cut: AtomicBool,
}

impl Place {
    /// Closes the connection.
    pub(super) fn close(&self) {
        #[cfg(test)]
        self.is_cut.store(true, Ordering::Relaxed);
        self.cut.notify_one();
    }
    #[cfg(test)]
    pub(super) fn is_closed(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }
}

/// A handle for a request that only waits for time to pass: meanwhile its place may be taken over.
#[derive(Clone, Debug)]
pub(crate) struct Waiting(Arc<Place>);

impl Waiting {
    /// The handle of the connection at `place`.
    pub(super) fn at(place: &Arc<Place>) -> Waiting {
        Waiting(Arc::clone(place))
    }

    /// Waits. Meanwhile a new connection may take the place over, which closes this one.
    pub(crate) async fn aside(&self, wait: impl Future) {
        self.0.busy.store(false, Ordering::Relaxed);
        wait.await;
        self.0.busy.store(true, Ordering::Relaxed);
    }
}
