//! Limits the buffers of all connections of a node together: incomplete packets, parked publishes, and output that peers have not
//! read.
//!
//! A connection with large buffers has a [`Part`]. While all parts together are within the limit, no connection waits.
//! Above it:
//!
//! - only one connection with a large incomplete packet is read at a time, until its packet is complete and its memory free.
//!   It stays the same one until then: if two took turns, both would grow;
//! - only one connection at a time is given a large message to send, until its peer has read it;
//! - a peer that has stopped in the middle of a large packet, in either direction, is closed, so that others get its memory;
//! - all other connections are read and written in small portions.

use crate::engine::Wake;
use crate::time::Time;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Bytes that a connection may buffer without a part: small packets, and what a turn leaves behind. They are counted too, because
/// there may be ten thousand such connections.
pub const FREE_BYTES: usize = 16 << 10;
/// The same while memory is short.
pub const FREE_BYTES_SHORT: usize = 2 << 10;
/// A peer that has stopped in the middle of a large packet is closed after this time, if memory is short.
pub const STALL: Duration = Duration::from_secs(10);
/// A peer that sends, or reads, less than this within [`STALL`] counts as stopped.
pub(crate) const PROGRESS_BYTES: usize = 64 << 10;

/// The memory of all connections' buffers.
pub struct Buffers {
    bytes_max: AtomicUsize,
    bytes: AtomicUsize,
    /// How often a connection was not read.
    held_back: AtomicU64,
    /// Connections closed because they had stopped.
    stalled: AtomicU64,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// The number of the part that may grow although the limit is reached.
    growing: Option<u64>,
    /// Parts that wait to grow, or for memory to be free again.
    waiting: VecDeque<(u64, Arc<dyn Wake>)>,
    /// The number of the part that may send a large message although the limit is reached.
    sending: Option<u64>,
    /// Parts that wait to send one.
    senders: VecDeque<(u64, Arc<dyn Wake>)>,
    parts: u64,
}

impl Buffers {
    /// No buffers yet, with a limit in bytes.
    pub fn new(bytes_max: usize) -> Buffers {
        Buffers {
            bytes_max: AtomicUsize::new(bytes_max),
            bytes: AtomicUsize::new(0),
            held_back: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
            queue: Mutex::default(),
        }
    }
    /// Bytes in all parts.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
    /// Sets another limit.
    pub fn set_bytes_max(&self, bytes_max: usize) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
        // There may be room now.
        self.wake();
    }
    /// The limit.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max.load(Ordering::Relaxed)
    }
    /// Bytes that a connection may buffer without a part at present.
    pub fn free_bytes(&self) -> usize {
        if self.are_full() { FREE_BYTES_SHORT } else { FREE_BYTES }
    }
    /// Changes the count of a connection without a part from `before` to `now` bytes.
    pub(crate) fn count_small(&self, before: usize, now: usize) {
        match now.cmp(&before) {
            std::cmp::Ordering::Greater => drop(self.bytes.fetch_add(now - before, Ordering::Relaxed)),
            std::cmp::Ordering::Less => {
                let was_full = self.are_full();
                self.bytes.fetch_sub(before - now, Ordering::Relaxed);
                if was_full {
                    self.wake();
                }
            }
            std::cmp::Ordering::Equal => {}
        }
    }
    /// Whether the limit is reached.
    pub fn are_full(&self) -> bool {
        self.bytes() > self.bytes_max()
    }
    /// How often a connection was not read because there was no memory for the rest of its packet.
    pub fn held_back(&self) -> u64 {
        self.held_back.load(Ordering::Relaxed)
    }
    /// Connections closed because they had stopped in the middle of a large packet.
    pub fn stalled(&self) -> u64 {
        self.stalled.load(Ordering::Relaxed)
    }
    /// Makes a part for a connection whose buffers grow.
    pub fn part(self: &Arc<Self>, now: Time) -> Part {
        let mut queue = self.queue.lock();
        queue.parts += 1;
        Part {
            buffers: Arc::clone(self),
            number: queue.parts,
            bytes: 0,
            since: now,
            read: 0,
            asked: false,
        }
    }
    /// Wakes waiting connections: all if there is memory, otherwise the next one if none is growing.
    fn wake(&self) {
        let mut woken = Vec::new();
        {
            let mut queue = self.queue.lock();
            if !self.are_full() {
                woken.extend(queue.waiting.drain(..));
                woken.extend(queue.senders.drain(..));
            } else {
                if queue.growing.is_none() {
                    woken.extend(queue.waiting.pop_front());
                }
                if queue.sending.is_none()
                    && let Some((number, wake)) = queue.senders.front()
                {
                    // It keeps its place until it has asked again.
                    woken.push((*number, Arc::clone(wake)));
                }
            }
        }
        for (_, wake) in woken {
            wake.wake();
        }
    }
}

/// One connection's part of the memory. Given back when it is dropped.
pub struct Part {
    buffers: Arc<Buffers>,
    number: u64,
    bytes: usize,
    /// Start of the current period of [`STALL`].
    since: Time,
    /// Bytes carried in this period.
    read: usize,
    /// It has asked to send a large message.
    asked: bool,
}

impl Part {
    /// Sets the bytes that the connection buffers.
    pub fn set(&mut self, bytes: usize) {
        let buffers = &self.buffers;
        if bytes >= self.bytes {
            buffers.bytes.fetch_add(bytes - self.bytes, Ordering::Relaxed);
            self.bytes = bytes;
            return;
        }
        let was_full = buffers.are_full();
        buffers.bytes.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        self.bytes = bytes;
        if was_full {
            // A packet is complete, so another part may grow.
            buffers.queue.lock().growing.take_if(|number| *number == self.number);
            buffers.wake();
        }
    }

    /// Whether the limit is reached.
    pub fn is_short(&self) -> bool {
        self.buffers.are_full()
    }

    /// Whether the rest of a large packet may be read now. If not, `wake` is called when the caller should ask again.
    /// Ask only when there is something to read: a part that may grow but does not keeps others waiting.
    pub fn may_grow(&mut self, wake: impl FnOnce() -> Arc<dyn Wake>) -> bool {
        let buffers = &self.buffers;
        if !buffers.are_full() {
            return true;
        }
        let mut queue = buffers.queue.lock();
        // Memory may have been freed before this part was in the queue, so check again.
        if !buffers.are_full() {
            return true;
        }
        if queue.growing.is_none_or(|number| number == self.number) {
            queue.growing = Some(self.number);
            return true;
        }
        if !queue.waiting.iter().any(|(number, _)| *number == self.number) {
            queue.waiting.push_back((self.number, wake()));
            buffers.held_back.fetch_add(1, Ordering::Relaxed);
        }
        false
    }

    /// Whether a large message may be sent now. If not, `wake` is called when the caller should ask again. In both cases call
    /// [`Part::sent`] when there is nothing to send any more. Those who ask get their turns in order.
    pub fn may_send(&mut self, wake: impl FnOnce() -> Arc<dyn Wake>) -> bool {
        let buffers = &self.buffers;
        let mut queue = buffers.queue.lock();
        if !buffers.are_full() {
            return true;
        }
        self.asked = true;
        let queue = &mut *queue;
        let first = queue.senders.front().map(|(number, _)| *number);
        let is_free = queue.sending.is_none() && first.is_none_or(|number| number == self.number);
        if is_free || queue.sending == Some(self.number) {
            queue.sending = Some(self.number);
            queue.senders.retain(|(number, _)| *number != self.number);
            return true;
        }
        if !queue.senders.iter().any(|(number, _)| *number == self.number) {
            queue.senders.push_back((self.number, wake()));
            buffers.held_back.fetch_add(1, Ordering::Relaxed);
        }
        false
    }

    /// The peer has read what was sent, or there is nothing to send: the next part may.
    pub fn sent(&mut self) {
        if std::mem::take(&mut self.asked) {
            let mut queue = self.buffers.queue.lock();
            queue.sending.take_if(|number| *number == self.number);
            queue.senders.retain(|(number, _)| *number != self.number);
            drop(queue);
            self.buffers.wake();
        }
    }

    /// Gives up the permission to grow, because there is nothing to read. Kept in the middle of a packet.
    pub fn pass(&self) {
        if self.buffers.are_full() {
            self.buffers.wake();
        }
    }

    /// Notes that bytes have arrived, or that the peer has read some.
    pub fn note_read(&mut self, bytes: usize) {
        self.read += bytes;
    }

    /// When to call [`Part::has_stalled`].
    pub fn due(&self) -> Time {
        self.since + STALL
    }

    /// Whether the peer has stopped and must be closed. Call it after [`Part::due`]. `waits_for_us`: the peer has sent bytes that
    /// we have not read.
    pub fn has_stalled(&mut self, now: Time, waits_for_us: bool) -> bool {
        let stalled = self.buffers.are_full() && !waits_for_us && self.read < PROGRESS_BYTES;
        self.since = now;
        self.read = 0;
        if stalled {
            self.buffers.stalled.fetch_add(1, Ordering::Relaxed);
        }
        stalled
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.buffers.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        {
            let mut queue = self.buffers.queue.lock();
            queue.growing.take_if(|number| *number == self.number);
            queue.waiting.retain(|(number, _)| *number != self.number);
            queue.sending.take_if(|number| *number == self.number);
            queue.senders.retain(|(number, _)| *number != self.number);
        }
        self.buffers.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Bell {
        fn rung(&self) -> usize {
            self.0.swap(0, Ordering::Relaxed)
        }
    }

    fn bells() -> [Arc<Bell>; 3] {
        Default::default()
    }

    #[test]
    fn over_the_limit_one_grows_until_it_is_done_and_then_the_next() {
        let buffers = Arc::new(Buffers::new(100));
        let [mut a, mut b, mut c] = std::array::from_fn(|_| buffers.part(Time(0)));
        let bells = bells();
        let wake = |n: usize| {
            let bell: Arc<dyn Wake> = bells[n].clone();
            move || bell
        };
        for part in [&mut a, &mut b, &mut c] {
            part.set(40);
        }
        assert!(buffers.are_full());
        assert!(a.may_grow(wake(0)));
        assert!(!b.may_grow(wake(1)) && !c.may_grow(wake(2)) && !b.may_grow(wake(1)));
        // The same part goes on growing.
        a.set(70);
        assert!(a.may_grow(wake(0)));
        assert_eq!(buffers.held_back(), 2);
        // Its packet is complete, so there is memory for all.
        drop(a);
        assert_eq!((bells[1].rung(), bells[2].rung()), (1, 1));
        assert!(b.may_grow(wake(1)) && c.may_grow(wake(2)));
        // Still no memory: the next one is woken, and passes if it has nothing to read.
        b.set(90);
        c.set(90);
        let mut d = buffers.part(Time(0));
        d.set(90);
        assert!(b.may_grow(wake(1)));
        assert!(!c.may_grow(wake(2)) && !d.may_grow(wake(0)));
        drop(b);
        assert_eq!((bells[2].rung(), bells[0].rung()), (1, 0));
        c.pass();
        assert_eq!(bells[0].rung(), 1);
        assert!(d.may_grow(wake(0)));
        // A part that is dropped while it waits leaves nothing behind.
        assert!(!c.may_grow(wake(2)));
        drop((c, d));
        assert_eq!((buffers.bytes(), bells[2].rung()), (0, 0));
    }

    #[test]
    fn over_the_limit_one_sends_a_large_message_until_it_is_read() {
        let buffers = Arc::new(Buffers::new(100));
        let [mut a, mut b, mut c] = std::array::from_fn(|_| buffers.part(Time(0)));
        let bells = bells();
        let wake = |n: usize| {
            let bell: Arc<dyn Wake> = bells[n].clone();
            move || bell
        };
        assert!(a.may_send(wake(0)) && b.may_send(wake(1)), "there is memory");
        a.set(90);
        b.set(90);
        assert!(c.may_send(wake(2)), "nobody else has asked");
        c.set(90);
        assert!(!a.may_send(wake(0)) && !b.may_send(wake(1)) && !a.may_send(wake(0)));
        assert!(c.may_send(wake(2)), "it may go on");
        // Some of it is read: the others still wait.
        c.set(30);
        assert_eq!((bells[0].rung(), bells[1].rung()), (0, 0));
        c.sent();
        assert_eq!((bells[0].rung(), bells[1].rung()), (1, 0));
        assert!(a.may_send(wake(0)) && !c.may_send(wake(2)));
        // Whoever leaves passes it on.
        drop(a);
        assert_eq!((bells[1].rung(), bells[2].rung()), (1, 0));
        drop(b);
        assert_eq!(bells[2].rung(), 1, "there is memory again");
    }

    #[test]
    fn a_stalled_peer_is_closed_only_when_memory_is_short() {
        let buffers = Arc::new(Buffers::new(100));
        let mut part = buffers.part(Time(0));
        part.set(90);
        let later = part.due();
        assert!(!part.has_stalled(later, false), "there is memory");
        part.set(110);
        let later = part.due();
        assert!(!part.has_stalled(later, true), "it waits for us");
        let later = part.due();
        part.note_read(PROGRESS_BYTES);
        assert!(!part.has_stalled(later, false), "it goes on");
        let later = part.due();
        part.note_read(1);
        assert!(part.has_stalled(later, false));
        assert_eq!(buffers.stalled(), 1);
    }
}
