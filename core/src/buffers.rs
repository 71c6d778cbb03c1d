//! Memory for what connections have buffered, for all connections of a node together: packets that have not arrived completely,
//! publishes that wait, output that its peer has not taken.
//!
//! A connection that buffers more than a little has a [`Part`]. While all parts together are within the limit, nobody waits.
//! Over it:
//!
//! - a connection with a large unfinished packet is not read, but for one at a time, whose packet completes and makes room. Which
//!   one that is does not change before its packet is complete: two in turns would both grow;
//! - a peer that has stopped in the middle of a large packet is closed, so that it does not keep the memory from others;
//! - everybody else is read and written in small portions.

use crate::engine::Wake;
use crate::time::Time;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Bytes that a connection buffers without a part: what small packets take, and what a turn leaves behind. They are counted all
/// the same: ten thousand connections may have so much.
pub const FREE_BYTES: usize = 16 << 10;
/// The same while memory is short.
pub const FREE_BYTES_SHORT: usize = 2 << 10;
/// A peer that has stopped in the middle of a large packet is closed after this time, if memory is short.
pub const STALL: Duration = Duration::from_secs(10);
/// A peer that sends less than this in that time counts as stopped.
const PROGRESS_BYTES: usize = 64 << 10;

/// The memory of all connections' buffers.
pub struct Buffers {
    bytes_max: AtomicUsize,
    bytes: AtomicUsize,
    /// Times that a connection was not read.
    held_back: AtomicU64,
    /// Connections closed because they had stopped.
    stalled: AtomicU64,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// The part that may grow although there is no memory left.
    growing: Option<u64>,
    /// Parts that want to grow next, or to know that there is memory again.
    waiting: VecDeque<(u64, Arc<dyn Wake>)>,
    parts: u64,
}

impl Buffers {
    /// With a limit in bytes.
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
    /// What a connection may buffer without a part now.
    pub fn free_bytes(&self) -> usize {
        if self.are_full() { FREE_BYTES_SHORT } else { FREE_BYTES }
    }
    /// A connection without a part buffered `before`, and buffers `now`.
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
    /// Whether there is more than there should be.
    pub fn are_full(&self) -> bool {
        self.bytes() > self.bytes_max()
    }
    /// Times that a connection was not read, because there was no memory for the rest of its packet.
    pub fn held_back(&self) -> u64 {
        self.held_back.load(Ordering::Relaxed)
    }
    /// Connections closed because they had stopped in the middle of a large packet.
    pub fn stalled(&self) -> u64 {
        self.stalled.load(Ordering::Relaxed)
    }
    /// A part for a connection that begins to buffer much.
    pub fn part(self: &Arc<Self>, now: Time) -> Part {
        let mut queue = self.queue.lock();
        queue.parts += 1;
        Part {
            buffers: Arc::clone(self),
            number: queue.parts,
            bytes: 0,
            since: now,
            read: 0,
        }
    }
    /// Wakes whoever can go on now: all if there is memory, else the next one if nobody is growing.
    fn wake(&self) {
        let mut woken = Vec::new();
        {
            let mut queue = self.queue.lock();
            if !self.are_full() {
                woken.extend(queue.waiting.drain(..));
            } else if queue.growing.is_none() {
                woken.extend(queue.waiting.pop_front());
            }
        }
        for (_, wake) in woken {
            wake.wake();
        }
    }
}

/// What one connection has of the memory. Given back when it is dropped.
pub struct Part {
    buffers: Arc<Buffers>,
    number: u64,
    bytes: usize,
    /// Start of the present period of [`STALL`].
    since: Time,
    /// Bytes that arrived in it.
    read: usize,
}

impl Part {
    /// What the connection buffers now.
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
            // A packet is complete: the next one may grow.
            buffers.queue.lock().growing.take_if(|number| *number == self.number);
            buffers.wake();
        }
    }

    /// Whether there is no memory left.
    pub fn is_short(&self) -> bool {
        self.buffers.are_full()
    }

    /// Whether the rest of a large packet may be read now. If not, `wake` is called when it is worth asking again.
    /// Ask only when there is something to read: a part that may grow and does not keeps others waiting.
    pub fn may_grow(&mut self, wake: impl FnOnce() -> Arc<dyn Wake>) -> bool {
        let buffers = &self.buffers;
        if !buffers.are_full() {
            return true;
        }
        let mut queue = buffers.queue.lock();
        // Whoever made room meanwhile has woken the parts that waited before this one.
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

    /// There is nothing to read: another part may grow, unless this one is in the middle of a packet.
    pub fn pass(&self) {
        if self.buffers.are_full() {
            self.buffers.wake();
        }
    }

    /// Bytes have arrived.
    pub fn note_read(&mut self, bytes: usize) {
        self.read += bytes;
    }

    /// When to look whether the peer has stopped.
    pub fn due(&self) -> Time {
        self.since + STALL
    }

    /// Whether the peer has stopped and has to go; asked when [`Part::due`] is over. `waits_for_us`: it has sent what we have not
    /// read.
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
        // The same one goes on.
        a.set(70);
        assert!(a.may_grow(wake(0)));
        assert_eq!(buffers.held_back(), 2);
        // Done: there is memory for all.
        drop(a);
        assert_eq!((bells[1].rung(), bells[2].rung()), (1, 1));
        assert!(b.may_grow(wake(1)) && c.may_grow(wake(2)));
        // Still none: the next one is called, and passes if it has nothing to read.
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
        // A part that goes while it waits leaves nothing behind.
        assert!(!c.may_grow(wake(2)));
        drop((c, d));
        assert_eq!((buffers.bytes(), bells[2].rung()), (0, 0));
    }

    #[test]
    fn who_has_stopped_goes_only_when_memory_is_short_and_others_do_not_wait_for_us() {
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
