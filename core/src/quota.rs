//! Limits of users and vhosts on open connections, channels and queues.
//!
//! A user's limits apply over all vhosts, so the counts are shared: the directory makes one [`Quota`] for each user and
//! gives it to every engine. A connection or channel keeps a [`Seat`] as long as it exists, so that
//! every way of ending it decreases the count. The cost is per connection and channel, not per message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Limits of a vhost. `None`: no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VhostLimits {
    /// Open connections, at most.
    pub connections_max: Option<usize>,
    /// Queues, at most; the node's limit applies too.
    pub queues_max: Option<usize>,
}

/// A user's counts and limits.
#[derive(Debug, Default)]
pub struct Quota {
    connections: Count,
    channels: Count,
}

#[derive(Debug)]
struct Count {
    open: AtomicU32,
    max: AtomicU32,
}

impl Default for Count {
    fn default() -> Count {
        Count {
            open: AtomicU32::new(0),
            max: AtomicU32::new(UNLIMITED),
        }
    }
}

const UNLIMITED: u32 = u32::MAX;

/// Counts one connection or channel until it is dropped.
#[derive(Debug)]
pub struct Seat {
    quota: Arc<Quota>,
    of: fn(&Quota) -> &Count,
}

impl Drop for Seat {
    fn drop(&mut self) {
        (self.of)(&self.quota).open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Quota {
    /// Sets the limits; `None`: no limit. Open connections and channels stay.
    pub fn set_limits(&self, connections: Option<u32>, channels: Option<u32>) {
        for (count, max) in [(&self.connections, connections), (&self.channels, channels)] {
            count.max.store(max.unwrap_or(UNLIMITED), Ordering::Relaxed);
        }
    }

    /// Counts a new connection.
    ///
    /// # Errors
    /// The limit, if it is reached.
    pub fn connect(self: &Arc<Self>) -> Result<Seat, u32> {
        self.seat(|quota| &quota.connections)
    }

    /// Counts a new channel.
    ///
    /// # Errors
    /// The limit, if it is reached.
    pub fn open_channel(self: &Arc<Self>) -> Result<Seat, u32> {
        self.seat(|quota| &quota.channels)
    }

    /// Open connections.
    pub fn connections(&self) -> u32 {
        self.connections.open.load(Ordering::Relaxed)
    }

    /// Open channels.
    pub fn channels(&self) -> u32 {
        self.channels.open.load(Ordering::Relaxed)
    }

    fn seat(self: &Arc<Self>, of: fn(&Quota) -> &Count) -> Result<Seat, u32> {
        let count = of(self);
        let max = count.max.load(Ordering::Relaxed);
        let more = |open: u32| (open < max).then(|| open + 1);
        match count.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Seat {
                quota: Arc::clone(self),
                of,
            }),
            Err(_) => Err(max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_counted_until_they_are_dropped() {
        let quota = Arc::new(Quota::default());
        let first = quota.connect().expect("no limit");
        quota.set_limits(Some(2), Some(0));
        let second = quota.connect().expect("two");
        assert_eq!(quota.connect().map(drop), Err(2));
        assert_eq!(quota.open_channel().map(drop), Err(0));
        drop(first);
        let third = quota.connect().expect("one is gone");
        // Open ones stay and count when the limit is lowered.
        quota.set_limits(Some(1), None);
        assert_eq!(quota.connect().map(drop), Err(1));
        drop(second);
        assert_eq!(quota.connect().map(drop), Err(1));
        drop(third);
        assert_eq!(quota.connections(), 0);
        let channel = quota.open_channel().expect("no limit");
        assert_eq!((quota.channels(), quota.connections()), (1, 0));
        drop(channel);
    }
}
