//! Threads that hash passwords, so that I/O threads never do, and a cache of recently verified passwords.
//!
//! ```text
//!   login ──in the cache──► answer
//!         └─► queue (bounded) ──► hashing thread, at low priority ──► answer, by a wake
//! ```
//!
//! - The queue is bounded in logins and in bytes; beyond it a login is refused as "busy", in its protocol's words.
//! - A login whose connection has closed meanwhile (its handshake timed out, say) is skipped.
//! - The threads have a low priority: many logins at once get idle processor time, and at least a quarter of a busy core.
//! - The memory that hashing needs is `auth.hashing_memory`, a part of `memory.budget`. A thread frees it when it ends, after
//!   some seconds without work.
//! - A verified password is cached for `auth.cache_ttl` as a keyed digest of user and password (HMAC-SHA-256 under a key of this
//!   process), compared in constant time. Wrong passwords are never cached.

use super::kept::Kept;
use super::password::{Cost, PasswordHash, Workspace};
use gatepost_core::event::Event;
use gatepost_core::properties::Name;
use parking_lot::{Condvar, Mutex};
use ring::hmac;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Receives the answer to a login: a connection, or an HTTP request. It may be gone when the answer comes.
pub(crate) trait Answer: Send + Sync {
    /// Takes the answer. Called on any thread.
    fn answer(&self, event: Event);
}

/// The hashing threads and their queue.
pub(crate) struct Hashing {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when a job is queued, and when the threads must end.
    queued: Condvar,
    /// Key of the digests in `remembered`.
    key: hmac::Key,
    figures: Figures,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Bytes of the passwords and tokens in the queue.
    bytes: usize,
    remembered: HashMap<Name, Remembered>,
    settings: Settings,
    threads: usize,
    /// Threads that wait for a job, or are about to wake for one.
    idle: usize,
    closed: bool,
    #[cfg(test)]
    paused: bool,
    /// The system gives no threads.
    #[cfg(test)]
    starved: bool,
}

/// The configured limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Maximum threads.
    pub threads: usize,
    /// Maximum logins that may wait.
    pub queue_max: usize,
    /// How long a verified password is cached.
    pub remember: Duration,
    /// Parameters of a new hash.
    pub cost: Cost,
    /// Iterations of a new SCRAM verifier; `None`: no verifier is made.
    pub iterations: Option<NonZeroU32>,
    /// KiB that one check may use.
    pub memory_kib_max: u32,
}

impl Settings {
    fn new_passwords(&self) -> (Cost, Option<NonZeroU32>) {
        (self.cost, self.iterations)
    }
}

struct Remembered {
    digest: [u8; 32],
    /// The hash that was checked. A new password replaces the user's hash, and so invalidates this entry.
    hash: Arc<PasswordHash>,
    until: Instant,
}

/// Counts of password checks.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Passwords hashed.
    pub hashed: AtomicU64,
    /// Logins answered from the cache.
    pub remembered: AtomicU64,
    /// Logins refused because too many waited.
    pub busy: AtomicU64,
    /// Logins skipped because their connection had closed.
    pub abandoned: AtomicU64,
    /// Jobs that wait now.
    pub waiting: AtomicU64,
    /// Bytes that the threads work in.
    pub workspaces: AtomicU64,
}

/// A password to check against a hash.
pub(crate) struct Check {
    /// The name the client gave.
    pub user: Name,
    pub password: Box<[u8]>,
    /// The user's hash, or a decoy for an unknown user.
    pub hash: Arc<PasswordHash>,
    /// Where the answer goes.
    pub to: Weak<dyn Answer>,
    /// Makes the answer, given whether the password is right.
    pub then: Box<dyn FnOnce(bool) -> Event + Send>,
}

enum Job {
    Check(Check),
    /// Other slow work for a login. `work` returns `None` if the answer is sent from elsewhere.
    Work {
        bytes: usize,
        to: Weak<dyn Answer>,
        work: Box<dyn FnOnce() -> Option<Event> + Send>,
    },
    Make {
        password: Box<[u8]>,
        done: oneshot::Sender<Kept>,
    },
}

impl Job {
    /// Bytes of passwords and tokens that it holds.
    fn bytes(&self) -> usize {
        match self {
            Job::Check(Check { password, .. }) | Job::Make { password, .. } => password.len(),
            Job::Work { bytes, .. } => *bytes,
        }
    }
}

/// Too many logins wait, or no thread can be started that would take this one.
#[derive(Debug)]
pub(crate) struct Busy;

/// Maximum bytes of passwords that may wait.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// Maximum cached passwords. When the cache is full of valid entries it is emptied, which costs each user one more
/// hash.
const REMEMBERED_MAX: usize = 16_384;
/// A thread without work for this long ends and frees its memory.
const IDLE: Duration = Duration::from_secs(5);
/// A thread's nice value. It gets a quarter of a core that I/O threads keep busy, and all of an idle one. With the lowest
/// priority (19) a login at a busy gateway took 70 ms instead of 3.
const NICE: i32 = 5;

impl Hashing {
    pub(crate) fn new(settings: Settings) -> Hashing {
        let mut key = [0; 32];
        super::password::fill_random(&mut key);
        Hashing {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    settings,
                    ..State::default()
                }),
                queued: Condvar::new(),
                key: hmac::Key::new(hmac::HMAC_SHA256, &key),
                figures: Figures::default(),
            }),
        }
    }

    pub(crate) fn figures(&self) -> &Figures {
        &self.shared.figures
    }

    /// Memory of the threads, and of the passwords and tokens that wait for them.
    pub(crate) fn bytes(&self) -> u64 {
        let waiting = self.shared.state.lock().bytes as u64;
        waiting + self.shared.figures.workspaces.load(Ordering::Relaxed)
    }

    /// Applies new limits.
    pub(crate) fn configure(&self, settings: Settings) {
        self.shared.state.lock().settings = settings;
    }

    /// Parameters of a new hash, and iterations of a new verifier if one is made.
    pub(crate) fn new_passwords(&self) -> (Cost, Option<NonZeroU32>) {
        self.shared.state.lock().settings.new_passwords()
    }

    /// KiB that one check may use.
    pub(crate) fn memory_kib_max(&self) -> u32 {
        self.shared.state.lock().settings.memory_kib_max
    }

    /// Whether this password is in the cache.
    pub(crate) fn remembers(&self, user: &Name, password: &[u8], hash: &Arc<PasswordHash>) -> bool {
        let digest = self.shared.digest(user, password);
        let known = self.shared.remembers(user, digest.as_ref(), hash);
        if known {
            self.shared.figures.remembered.fetch_add(1, Ordering::Relaxed);
        }
        known
    }

    /// Queues a password check.
    ///
    /// # Errors
    /// Too many wait already, or no thread can be started.
    pub(crate) fn check(&self, check: Check) -> Result<(), Busy> {
        self.admit(Job::Check(check))
    }

    /// Queues other slow work for a login. `bytes`: memory that it holds while it waits.
    ///
    /// # Errors
    /// Too many wait already, or no thread can be started.
    pub(crate) fn work(
        &self,
        bytes: usize,
        to: Weak<dyn Answer>,
        work: Box<dyn FnOnce() -> Option<Event> + Send>,
    ) -> Result<(), Busy> {
        self.admit(Job::Work { bytes, to, work })
    }

    /// Hashes a new password, and makes a SCRAM verifier if that mechanism is enabled.
    ///
    /// # Errors
    /// No thread can be started, or all have ended because the node is stopping.
    pub(crate) async fn make(&self, password: &[u8]) -> Result<Kept, oneshot::error::RecvError> {
        let (done, made) = oneshot::channel();
        {
            let mut state = self.shared.state.lock();
            let job = Job::Make {
                password: password.into(),
                done,
            };
            // A job that is not taken drops `done`, which ends the wait below.
            let _ = self.push(&mut state, job);
        }
        made.await
    }

    /// Stops the threads from taking jobs, or lets them continue.
    #[cfg(test)]
    pub(super) fn pause(&self, paused: bool) {
        self.shared.state.lock().paused = paused;
        self.shared.queued.notify_all();
    }

    /// Simulates a system that gives no threads, or gives them again.
    #[cfg(test)]
    pub(super) fn starve(&self, starved: bool) {
        self.shared.state.lock().starved = starved;
    }

    /// Queues a login's job unless too many wait.
    fn admit(&self, job: Job) -> Result<(), Busy> {
        let mut state = self.shared.state.lock();
        let full = state.queue.len() >= state.settings.queue_max || state.bytes + job.bytes() > QUEUE_BYTES_MAX;
        let admitted = if full { Err(Busy) } else { self.push(&mut state, job) };
        if admitted.is_err() {
            self.shared.figures.busy.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// # Errors
    /// There is no thread that would take the job, and none can be started.
    fn push(&self, state: &mut State, job: Job) -> Result<(), Busy> {
        // One thread for each job that no idle thread will take, so that a login never waits for a single slow one.
        if state.idle <= state.queue.len() && state.threads < state.settings.threads.max(1) {
            match self.start(state) {
                Ok(()) => state.threads += 1,
                Err(error) => {
                    tracing::error!(%error, threads = state.threads, "cannot start a thread that checks passwords");
                    if state.threads == 0 {
                        return Err(Busy);
                    }
                }
            }
        }
        state.bytes += job.bytes();
        match job {
            Job::Check(_) | Job::Work { .. } => state.queue.push_back(job),
            // An operator waits for it, so it takes precedence over logins.
            Job::Make { .. } => state.queue.push_front(job),
        }
        let waiting = &self.shared.figures.waiting;
        waiting.store(state.queue.len() as u64, Ordering::Relaxed);
        self.shared.queued.notify_one();
        Ok(())
    }

    #[cfg_attr(not(test), expect(unused_variables, reason = "only tests have threads refused"))]
    fn start(&self, state: &State) -> io::Result<()> {
        #[cfg(test)]
        if state.starved {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("hashing".to_owned());
        thread.spawn(move || shared.run()).map(drop)
    }
}

impl Drop for Hashing {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        state.queue.clear();
        self.shared.queued.notify_all();
    }
}

impl Shared {
    fn digest(&self, user: &str, password: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(user.len() as u64).to_be_bytes());
        context.update(user.as_bytes());
        context.update(password);
        context.sign()
    }

    fn remembers(&self, user: &Name, digest: &[u8], hash: &Arc<PasswordHash>) -> bool {
        use subtle::ConstantTimeEq as _;
        let state = self.state.lock();
        state.remembered.get(user).is_some_and(|known| {
            let is_it: bool = known.digest.ct_eq(digest).into();
            is_it && Arc::ptr_eq(&known.hash, hash) && Instant::now() < known.until
        })
    }

    fn remember(&self, check: &Check) {
        let mut state = self.state.lock();
        if state.settings.remember.is_zero() {
            return;
        }
        if state.remembered.len() >= REMEMBERED_MAX {
            let now = Instant::now();
            state.remembered.retain(|_, known| now < known.until);
            if state.remembered.len() >= REMEMBERED_MAX {
                state.remembered.clear();
            }
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(self.digest(&check.user, &check.password).as_ref());
        let remembered = Remembered {
            digest,
            hash: Arc::clone(&check.hash),
            until: Instant::now() + state.settings.remember,
        };
        state.remembered.insert(check.user.clone(), remembered);
    }

    /// Runs one thread until it has been idle for [`IDLE`].
    fn run(&self) {
        // On Linux this sets the priority of this thread only. If it fails, hashing competes with the I/O threads as an equal.
        let _ = rustix::process::setpriority_process(None, NICE);
        let mut workspace = Workspace::default();
        while let Some(job) = self.next() {
            match job {
                Job::Check(check) => self.check(check, &mut workspace),
                Job::Work { to, work, .. } => {
                    if to.strong_count() == 0 {
                        self.figures.abandoned.fetch_add(1, Ordering::Relaxed);
                    } else if let Some(answer) = work()
                        && let Some(to) = to.upgrade()
                    {
                        to.answer(answer);
                    }
                }
                Job::Make { password, done } => {
                    let (cost, iterations) = self.state.lock().settings.new_passwords();
                    self.figures.hashed.fetch_add(1, Ordering::Relaxed);
                    // The request may have been cancelled.
                    let made = Kept::make(&password, cost, iterations, &mut workspace);
                    workspace.count(&self.figures.workspaces);
                    let _ = done.send(made);
                }
            }
        }
        workspace.uncount(&self.figures.workspaces);
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                break;
            }
            #[cfg(test)]
            if state.paused {
                self.queued.wait(&mut state);
                continue;
            }
            if let Some(job) = state.queue.pop_front() {
                state.bytes = state.bytes.saturating_sub(job.bytes());
                self.figures.waiting.store(state.queue.len() as u64, Ordering::Relaxed);
                return Some(job);
            }
            state.idle += 1;
            let timed_out = self.queued.wait_for(&mut state, IDLE).timed_out();
            state.idle -= 1;
            if timed_out && state.queue.is_empty() {
                break;
            }
        }
        // The workspace is freed when `run` returns.
        state.threads -= 1;
        None
    }

    fn check(&self, check: Check, workspace: &mut Workspace) {
        if check.to.strong_count() == 0 {
            self.figures.abandoned.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // Many devices may share a user and log in at once: after the first, the others find the password cached.
        let digest = self.digest(&check.user, &check.password);
        let is_right = if self.remembers(&check.user, digest.as_ref(), &check.hash) {
            self.figures.remembered.fetch_add(1, Ordering::Relaxed);
            true
        } else {
            self.figures.hashed.fetch_add(1, Ordering::Relaxed);
            let is_right = check.hash.matches(&check.password, workspace);
            workspace.count(&self.figures.workspaces);
            if is_right {
                self.remember(&check);
            }
            is_right
        };
        if let Some(to) = check.to.upgrade() {
            to.answer((check.then)(is_right));
        }
    }
}
