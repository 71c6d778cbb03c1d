//! The queue of connections that are ready for a turn, and the threads that run the turns.
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
//! same queue while they are admitted ([`Admission`]) and otherwise sleep. So a connection's turns may run on any
//! thread, one at a time. Its socket and timer always stay with the owner's runtime.
//!
//! A wake is a push to the queue. Only the first wake after the owner went to sleep wakes it, which is a system call
//! if it comes from another thread. So a fan-out to a thousand connections makes one system call.

use super::Figures;
use super::admission::Admission;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

/// Turns the owner takes before it polls the reactor. Without a limit, a long queue would delay reading from other sockets.
const PASS: usize = 61;
/// Sleeping helpers are woken only if this many turns are ready: for fewer, the wake costs more than it saves.
const CALL: usize = 4;

thread_local! {
    /// This thread's number as a helper; 0 in threads that are none.
    static HELPER: Cell<usize> = const { Cell::new(0) };
}

/// The queue of turns. `F` is the future of a connection.
pub(crate) struct Turns<F> {
    queue: Mutex<Queue<F>>,
    seats: Mutex<Seats<F>>,
    /// The owner's waker.
    owner: OnceLock<Waker>,
    /// One for each helper, on which it sleeps.
    beds: Vec<Condvar>,
    began: Instant,
    /// What each thread has read and written.
    figures: Vec<Arc<Figures>>,
}

struct Queue<F> {
    ready: VecDeque<Arc<Task<F>>>,
    /// Tasks that already had a turn since the reactor was polled, and have more to do.
    later: Vec<Arc<Task<F>>>,
    /// Number of tasks taken from `ready` so far.
    taken: u64,
    /// The owner waits in the reactor and must be woken.
    is_asleep: bool,
    is_stopped: bool,
    admission: Admission,
    round: Option<Round>,
}

/// A round: lasts until all turns that were ready at its beginning have been taken.
struct Round {
    began: Instant,
    /// `Queue::taken` at its end.
    until: u64,
}

/// All tasks. Keeps sleeping tasks alive and lets `clear` find them; otherwise only their wakers refer to them.
struct Seats<F> {
    all: Vec<Option<Arc<Task<F>>>>,
    free: Vec<usize>,
    is_closed: bool,
}

/// A connection and its state.
pub(crate) struct Task<F> {
    state: AtomicU8,
    future: Mutex<Option<F>>,
    turns: Arc<Turns<F>>,
    seat: usize,
}

/// The task waits to be woken.
const IDLE: u8 = 0;
/// The task is in the queue.
const READY: u8 = 1;
/// The task's turn runs.
const RUNNING: u8 = 2;
/// The task's turn runs and it was woken meanwhile, so it gets another.
const AGAIN: u8 = 3;
/// The task has ended.
const DONE: u8 = 4;

impl<F: Future<Output = ()> + Unpin + Send + 'static> Turns<F> {
    /// A queue for one owner and this many helpers. `figures`: the counters of all threads.
    pub(super) fn new(helpers: usize, figures: Vec<Arc<Figures>>) -> Arc<Turns<F>> {
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
            figures,
        })
    }

    /// Adds a connection, which is ready for its first turn at once.
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

    /// Number of helpers that take turns at present.
    pub(super) fn helping(&self) -> usize {
        self.queue.lock().admission.admitted()
    }

    /// Sets the number of helpers that take turns.
    #[cfg(test)]
    pub(super) fn admit(&self, count: usize) {
        self.queue.lock().admission.admit(count);
    }

    /// Ends all threads' work: no turn begins after this.
    pub(super) fn stop(&self) {
        self.queue.lock().is_stopped = true;
        for bed in &self.beds {
            bed.notify_all();
        }
    }

    /// Drops all connections. Call it when no turn runs any more.
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

    /// The owner's work; never returns. Runs on the runtime that has the sockets.
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

    /// Runs the turns that are ready, up to [`PASS`] of them. Returns whether more are left.
    pub(super) fn pass(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.is_asleep = false;
        queue.wake_up_later();
        queue.begin_round();
        if queue.ready.len() >= CALL {
            // Cheap for helpers that are awake.
            for bed in self.beds.iter().take(queue.admission.admitted()) {
                bed.notify_one();
            }
        }
        for _ in 0..PASS {
            let Some(task) = queue.take() else { break };
            MutexGuard::unlocked(&mut queue, || task.run());
        }
        queue.end_round(self.began, &self.figures);
        queue.is_asleep = queue.ready.is_empty() && queue.later.is_empty();
        !queue.is_asleep && !queue.is_stopped
    }

    /// The work of helper `number`, counted from 1, until `stop`.
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

    /// Queues a task that has more to do, for after the next poll of the reactor.
    fn push_later(&self, task: Arc<Task<F>>) {
        let mut queue = self.queue.lock();
        if queue.is_stopped {
            drop(queue);
            return;
        }
        if queue.is_asleep {
            // The owner is polling the reactor now, so the task may go to `ready` at once.
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
            // This helper takes the task itself when its current turn is over. Only the owner can end its help, and it empties
            // the queue first.
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
                until: self.taken + self.ready.len() as u64,
            });
        }
    }

    fn end_round(&mut self, began: Instant, figures: &[Arc<Figures>]) {
        let Some(round) = &self.round else { return };
        if self.taken < round.until {
            return;
        }
        let now = Instant::now();
        let bytes = || figures.iter().map(|figures| figures.bytes()).sum();
        self.admission.round(now - began, now - round.began, bytes);
        self.round = None;
    }
}

impl<F: Future<Output = ()> + Unpin + Send + 'static> Task<F> {
    fn run(self: Arc<Self>) {
        // Acquire: makes visible what the waking thread did before the wake.
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
        // In tests a panic unwinds and would end this thread: all other connections would stop, and the test would hang instead
        // of failing. The released program aborts on panic.
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| Pin::new(future).poll(cx)));
        if matches!(polled, Ok(Poll::Pending)) {
            return Poll::Pending;
        }
        let ended = slot.take();
        drop(slot);
        drop(ended);
        Poll::Ready(())
    }

    /// Marks the task as woken. Returns whether the caller must push it to the queue.
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

/// Makes the runtime poll its reactor before it polls us again. Waking ourselves directly would not do that: the
/// runtime polls the reactor only when no task is ready, or after about sixty polls.
fn look_at_sockets(cx: &mut Context<'_>) {
    // The first poll of `yield_now` defers the waker until after the runtime has polled its reactor.
    let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
}
