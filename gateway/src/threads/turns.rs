//! The queue of connections that are ready for a turn, and who takes them.
//!
//! ```text
//!              wake                          take                     again
//!   task ─────────────────► ready ─────────────────────► turn ─────────────────► later
//!                             ▲      owner, or a helper                            │
//!                             └──────── when the owner has polled the reactor ─────┘
//! ```
//!
//! The *owner* is a task of the runtime that has all sockets and timers. It takes turns from the queue, at most
//! [`PASS`] of them, and then lets the runtime poll its reactor. Helpers are plain threads that take turns from the
//! same queue while they are admitted ([`Admission`]) and otherwise sleep. A connection may so have its turns on any
//! thread, one at a time. Nothing moves: its socket and its timer stay with the runtime.
//!
//! A wake is a push to the queue. Only the first one after the owner went to sleep wakes it, which takes a system call
//! where it comes from another thread: a fan-out to a thousand connections makes one.

use super::admission::{Admission, is_long};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// Turns the owner takes before it polls the reactor, so that a long queue does not keep others from being heard.
const PASS: usize = 61;
/// So many turns are ready before a sleeping helper is called: for less, the call costs more than it saves.
const CALL: usize = 4;

thread_local! {
    /// Number of the helper this thread is; 0 in all others.
    static HELPER: Cell<usize> = const { Cell::new(0) };
}

/// See the module. `F` is what is run in turns: a connection.
pub(crate) struct Turns<F> {
    queue: Mutex<Queue<F>>,
    seats: Mutex<Seats<F>>,
    /// Wakes the owner.
    owner: OnceLock<Waker>,
    /// Where each helper sleeps.
    beds: Vec<Condvar>,
    began: Instant,
}

struct Queue<F> {
    ready: VecDeque<Arc<Task<F>>>,
    /// They have more to do at once, and had their turn since the reactor was polled.
    later: Vec<Arc<Task<F>>>,
    /// Taken from `ready` so far.
    taken: u64,
    /// The owner waits for the reactor, and has to be woken.
    is_asleep: bool,
    is_stopped: bool,
    admission: Admission,
    round: Option<Round>,
}

/// From now until all turns that are ready now have been taken.
struct Round {
    began: Instant,
    /// What the owner's thread had of the processor by then, where that matters.
    processor: Option<Duration>,
    /// `Queue::taken` at its end.
    until: u64,
}

/// All tasks there are, ready or not: those that sleep are known to nobody else but whoever will wake them.
struct Seats<F> {
    all: Vec<Option<Arc<Task<F>>>>,
    free: Vec<usize>,
    is_closed: bool,
}

/// One connection.
pub(crate) struct Task<F> {
    state: AtomicU8,
    future: Mutex<Option<F>>,
    turns: Arc<Turns<F>>,
    seat: usize,
}

/// Waits to be woken.
const IDLE: u8 = 0;
/// Is in the queue.
const READY: u8 = 1;
/// Has its turn.
const RUNNING: u8 = 2;
/// Has its turn, and was woken since that began: it gets another.
const AGAIN: u8 = 3;
/// Is over.
const DONE: u8 = 4;

impl<F: Future<Output = ()> + Unpin + Send + 'static> Turns<F> {
    /// For one owner and so many helpers.
    pub(super) fn new(helpers: usize) -> Arc<Turns<F>> {
        Arc::new(Turns {
            queue: Mutex::new(Queue {
                ready: VecDeque::new(),
                later: Vec::new(),
                taken: 0,
                is_asleep: false,
                is_stopped: false,
                admission: Admission::new(helpers),
                round: None,
            }),
            seats: Mutex::new(Seats {
                all: Vec::new(),
                free: Vec::new(),
                is_closed: false,
            }),
            owner: OnceLock::new(),
            beds: (0..helpers).map(|_| Condvar::new()).collect(),
            began: Instant::now(),
        })
    }

    /// Has `future` run in turns until it ends. Its first turn comes by itself.
    pub(super) fn spawn(self: &Arc<Self>, future: F) {
        let mut seats = self.seats.lock();
        if seats.is_closed {
            drop(seats);
            return;
        }
        let seat = seats.free.pop().unwrap_or(seats.all.len());
        let task = Arc::new(Task {
            state: AtomicU8::new(READY),
            future: Mutex::new(Some(future)),
            turns: Arc::clone(self),
            seat,
        });
        match seats.all.get_mut(seat) {
            Some(free) => *free = Some(Arc::clone(&task)),
            None => seats.all.push(Some(Arc::clone(&task))),
        }
        drop(seats);
        self.push(task);
    }

    /// Helpers that take turns now.
    pub(super) fn helping(&self) -> usize {
        self.queue.lock().admission.admitted()
    }

    /// So many helpers take turns from now on.
    #[cfg(test)]
    pub(super) fn admit(&self, count: usize) {
        self.queue.lock().admission.admit(count);
    }

    /// Nobody takes a turn any more.
    pub(super) fn stop(&self) {
        self.queue.lock().is_stopped = true;
        for bed in &self.beds {
            bed.notify_all();
        }
    }

    /// Drops all connections, when nobody takes turns any more.
    pub(super) fn clear(&self) {
        let all = {
            let mut seats = self.seats.lock();
            seats.is_closed = true;
            std::mem::take(&mut seats.all)
        };
        for task in all.into_iter().flatten() {
            task.state.store(DONE, Ordering::Release);
            let future = task.future.lock().take();
            drop(future);
        }
        let (ready, later) = {
            let mut queue = self.queue.lock();
            (std::mem::take(&mut queue.ready), std::mem::take(&mut queue.later))
        };
        drop((ready, later));
    }

    /// The owner's work, for ever. On the runtime that has the sockets.
    pub(super) async fn own(self: Arc<Self>) {
        std::future::poll_fn(|cx| {
            self.owner.get_or_init(|| cx.waker().clone());
            if self.pass() {
                look_at_sockets(cx);
            }
            Poll::Pending
        })
        .await
    }

    /// Takes the turns that are ready, up to [`PASS`] of them. Returns whether there are more.
    pub(super) fn pass(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.is_asleep = false;
        queue.wake_up_later();
        queue.begin_round();
        if queue.ready.len() >= CALL {
            // Costs nothing where they are awake.
            for bed in self.beds.iter().take(queue.admission.admitted()) {
                bed.notify_one();
            }
        }
        for _ in 0..PASS {
            let Some(task) = queue.take() else { break };
            MutexGuard::unlocked(&mut queue, || task.run());
        }
        queue.end_round(self.began);
        queue.is_asleep = queue.ready.is_empty() && queue.later.is_empty();
        !queue.is_asleep && !queue.is_stopped
    }

    /// The work of helper `number`, counted from 1, until there is a stop.
    pub(super) fn help(&self, number: usize) {
        HELPER.set(number);
        let mut queue = self.queue.lock();
        while !queue.is_stopped {
            let admitted = number <= queue.admission.admitted();
            if let Some(task) = admitted.then(|| queue.take()).flatten() {
                MutexGuard::unlocked(&mut queue, || task.run());
            } else if let Some(bed) = self.beds.get(number - 1) {
                bed.wait(&mut queue);
            }
        }
    }

    fn push(&self, task: Arc<Task<F>>) {
        let mut queue = self.queue.lock();
        if queue.is_stopped {
            drop(queue);
            return;
        }
        queue.ready.push_back(task);
        self.see_that_it_is_taken(queue);
    }

    /// It has more to do at once, after others had their turns and the reactor was polled.
    fn push_later(&self, task: Arc<Task<F>>) {
        let mut queue = self.queue.lock();
        if queue.is_stopped {
            drop(queue);
            return;
        }
        if queue.is_asleep {
            // The reactor is being polled already.
            queue.ready.push_back(task);
            self.see_that_it_is_taken(queue);
        } else {
            queue.later.push(task);
        }
    }

    fn see_that_it_is_taken(&self, mut queue: MutexGuard<'_, Queue<F>>) {
        if !queue.is_asleep {
            return;
        }
        let helper = HELPER.get();
        if helper > 0 && helper <= queue.admission.admitted() && queue.ready.len() == 1 {
            // This very thread takes it, as soon as its turn is over. Only the owner could send it away, and would first
            // empty the queue.
            return;
        }
        queue.is_asleep = false;
        drop(queue);
        if let Some(owner) = self.owner.get() {
            owner.wake_by_ref();
        }
    }

    fn leave(&self, seat: usize) {
        let mut seats = self.seats.lock();
        let Some(task) = seats.all.get_mut(seat).and_then(Option::take) else {
            return;
        };
        seats.free.push(seat);
        drop(seats);
        drop(task);
    }
}

impl<F> Queue<F> {
    fn take(&mut self) -> Option<Arc<Task<F>>> {
        if self.is_stopped {
            return None;
        }
        let task = self.ready.pop_front()?;
        self.taken += 1;
        Some(task)
    }

    fn wake_up_later(&mut self) {
        self.ready.extend(self.later.drain(..));
    }

    fn begin_round(&mut self) {
        let is_of_interest = self.ready.len() > 1 || self.admission.admitted() > 0;
        if self.round.is_none() && is_of_interest && !self.admission.is_idle() {
            self.round = Some(Round {
                began: Instant::now(),
                processor: self.admission.is_about_to_admit().then(processor_time),
                until: self.taken + self.ready.len() as u64,
            });
        }
    }

    fn end_round(&mut self, began: Instant) {
        let Some(round) = &self.round else { return };
        let now = Instant::now();
        let mut took = now - round.began;
        // A thousand connections at once are not waited for: where the round is long already, that is known now.
        if self.taken < round.until && !is_long(took) {
            return;
        }
        if let Some(before) = round.processor {
            took = took.min(processor_time().saturating_sub(before));
        }
        self.admission.round(now - began, took);
        self.round = None;
    }
}

impl<F: Future<Output = ()> + Unpin + Send + 'static> Task<F> {
    fn run(self: Arc<Self>) {
        // Acquire: what its waker did before is seen here.
        self.state.swap(RUNNING, Ordering::AcqRel);
        let waker = Waker::from(Arc::clone(&self));
        if self.poll(&mut Context::from_waker(&waker)).is_ready() {
            self.state.store(DONE, Ordering::Release);
            self.turns.leave(self.seat);
        } else if self
            .state
            .compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            self.state.store(READY, Ordering::Release);
            let turns = Arc::clone(&self.turns);
            turns.push_later(self);
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut slot = self.future.lock();
        let Some(future) = slot.as_mut() else {
            return Poll::Ready(());
        };
        // In tests a panic unwinds, and would take the thread with it: all other connections would be silent, and the test
        // would hang instead of fail. What we ship aborts.
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| Pin::new(future).poll(cx)));
        if matches!(polled, Ok(Poll::Pending)) {
            return Poll::Pending;
        }
        let ended = slot.take();
        drop(slot);
        drop(ended);
        Poll::Ready(())
    }

    /// Whether it is to be pushed to the queue by whoever asks.
    fn becomes_ready(&self) -> bool {
        let woken = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| match state {
                IDLE => Some(READY),
                RUNNING => Some(AGAIN),
                _ => None,
            });
        woken == Ok(IDLE)
    }
}

impl<F: Future<Output = ()> + Unpin + Send + 'static> Wake for Task<F> {
    fn wake(self: Arc<Self>) {
        if self.becomes_ready() {
            let turns = Arc::clone(&self.turns);
            turns.push(self);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.becomes_ready() {
            self.turns.push(Arc::clone(self));
        }
    }
}

/// Has the runtime poll its reactor before it polls us again. Waking ourselves directly would not: the runtime polls it
/// only when nothing is left to run, or after some sixty polls.
fn look_at_sockets(cx: &mut Context<'_>) {
    // Its first poll is what leaves the waker with the runtime.
    let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
}

/// What this thread had of the processor.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
