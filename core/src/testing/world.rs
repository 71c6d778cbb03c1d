//! The engine, the real store on a simulated disk, and a virtual clock, on one thread.
//!
//! ```text
//!   clients ──send──► Engine ──drain──► submitted ──commit──► written ──report──► Engine
//!   clients ◄──take──                └► asked ──────fetch──► fetched ──bring──►
//! ```
//!
//! Each arrow is a call, so a test decides what happens first; [`World::step`] lets the seed decide. The same seed and
//! the same calls give the same [`World::trace`]. After every turn the engine is audited, and no link may have
//! something to take without having been woken.

use super::disk::{Crash, Rng, SimDisk};
use super::pipe::Piped;
use crate::access::{Asked, Rights};
use crate::command::{Attach, Command, Peer};
use crate::engine::inspect::{Cursor, Item};
use crate::engine::{Applied, Counters, Engine, Link, Wake, Wakes};
pub use crate::engine::{Room, Settings};
use crate::event::{Event, Pressure};
use crate::properties::{Codecs, Name};
use crate::store::disk::Disk;
use crate::store::{Answer, Batch, Lsn, Reader, Request, Store, StoreError, StoreSettings, Ticket};
use crate::time::{Now, Time, Wall};
use std::collections::{BTreeMap, VecDeque};
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Room for everything.
pub const ROOM: Room = Room {
    messages: usize::MAX,
    bytes: usize::MAX,
    large: true,
};
/// No room at all.
pub const NO_ROOM: Room = Room {
    messages: 0,
    bytes: 0,
    large: false,
};

/// The failed fetches in a row after which the process ends.
const READS_FAILED_MAX: u32 = 100;

/// A connection of a [`World`], numbered in the order of connecting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client(pub usize);

/// What one [`World::step`] did.
#[derive(Debug)]
pub enum Step {
    /// This many of the client's queued commands were applied.
    Applied(Client, usize),
    /// The client took these events.
    Took(Client, Vec<Event>),
    /// Something that no client sees: the log, the reader, the clock.
    Inside,
}

/// An engine with its store, disk, clock and clients.
pub struct World {
    settings: Settings,
    codecs: Codecs,
    store_settings: StoreSettings,
    disk: SimDisk,
    /// `None` while the machine is down.
    store: Option<(Store<SimDisk>, Reader<SimDisk>)>,
    engine: Engine,
    /// The rights of its users.
    rights: UserRights,
    outside: Outside,
    now: Now,
    rng: Rng,
    clients: Vec<Connection>,
    /// Batches from the engine that are not written yet.
    submitted: Vec<Batch>,
    /// Batches that are written and not reported yet.
    written: Option<Ticket>,
    /// Batches that are written, and reported as durable once the store has synced up to an LSN.
    undurable: VecDeque<(Lsn, Ticket)>,
    asked: Vec<Request>,
    fetched: Vec<Answer>,
    /// Failed fetches in a row.
    reads_failed: u32,
    trace: Trace,
    /// When the store's background work is due.
    tick_at: Option<Time>,
    /// The time that the system's clock was set to, until the next start.
    clock_set: Option<Wall>,
    audits: bool,
    stopwatch: Option<Stopwatch>,
    pub(super) piped: Piped,
}

/// How long holds of the lock take.
struct Stopwatch {
    clock: fn() -> Duration,
    longest: Duration,
}

/// The external server that knows the rights of some users.
#[derive(Default)]
struct Outside {
    known: BTreeMap<Name, Rights>,
    /// Questions that are not answered yet; `None`: each is answered at once.
    held: Option<VecDeque<(Client, Asked)>>,
    asked: usize,
}

/// How long an answer is valid.
pub const ANSWER_LIFE: Duration = Duration::from_secs(15);

struct Connection {
    user: Name,
    /// `None` once it is detached.
    link: Option<Link>,
    woken: Arc<Flag>,
    /// It has applied commands and not taken since, or its last take left something.
    more: bool,
    /// Its last take had no room, so it returns by itself.
    stalled: bool,
    queued: VecDeque<Command>,
    /// Commands that wait for another client. They are tried again when the client is woken.
    waiting: Vec<Command>,
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A hash of all events that clients took: FNV-1a, the same on every machine.
#[derive(Clone, Copy)]
struct Trace(u64);

impl Hasher for Trace {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// The user of [`World::connect`], who may do everything.
pub const USER: &str = "guest";

/// The rights of users.
type UserRights = BTreeMap<Name, Arc<Rights>>;

fn engine(settings: Settings, codecs: Codecs, seed: u64, rights: &UserRights) -> Engine {
    let mut engine = Engine::new(settings, codecs, seed);
    for (user, rights) in rights {
        engine.set_rights(user.clone(), Arc::clone(rights));
    }
    engine
}

impl World {
    /// A world with default settings.
    pub fn new(seed: u64) -> World {
        World::with(seed, Settings::default(), StoreSettings::default())
    }
    /// A world with an empty disk.
    ///
    /// # Panics
    /// As all of its methods: if an assertion about the store or the engine fails.
    pub fn with(seed: u64, settings: Settings, store_settings: StoreSettings) -> World {
        World::speaking(seed, settings, store_settings, Codecs::default())
    }
    /// A world with an empty disk that can decode the properties of these protocols' messages.
    ///
    /// # Panics
    /// As [`World::with`].
    pub fn speaking(seed: u64, settings: Settings, mut store_settings: StoreSettings, codecs: Codecs) -> World {
        store_settings.salt = seed;
        let now = Now {
            monotonic: Time(1_000),
            wall: Wall(1_700_000_000_000),
        };
        let rights = UserRights::from([(USER.into(), Rights::all().into())]);
        let mut world = World {
            engine: engine(settings.clone(), codecs.clone(), seed, &rights),
            rights,
            outside: Outside::default(),
            settings,
            codecs,
            store_settings,
            disk: SimDisk::new(seed),
            store: None,
            now,
            rng: Rng::new(seed),
            clients: Vec::new(),
            submitted: Vec::new(),
            written: None,
            undurable: VecDeque::new(),
            asked: Vec::new(),
            fetched: Vec::new(),
            reads_failed: 0,
            trace: Trace(0xcbf2_9ce4_8422_2325),
            tick_at: None,
            clock_set: None,
            audits: true,
            stopwatch: None,
            piped: Piped::new(seed),
        };
        world.start();
        world
    }

    /// Sets the rights of a user. Like the node's directory, it sets them again after each restart.
    pub fn set_rights(&mut self, user: &str, rights: Rights) {
        let rights = Arc::new(rights);
        self.rights.insert(user.into(), Arc::clone(&rights));
        self.turn(|engine| engine.set_rights(user.into(), rights));
    }
    /// Sets the rights of a user in the external server only, so that the engine has to ask. Questions are answered at
    /// once, before anything else happens, unless [`World::hold_answers`] was called.
    pub fn set_asked_rights(&mut self, user: &str, rights: Rights) {
        self.set_rights(user, Rights::asked());
        self.outside.known.insert(user.into(), rights);
    }
    /// From now on, questions are only answered by [`World::answer`].
    pub fn hold_answers(&mut self) {
        self.outside.held = Some(VecDeque::new());
    }
    /// Answers the oldest unanswered question, and returns it.
    pub fn answer(&mut self) -> Option<Asked> {
        let (client, asked) = self.outside.held.as_mut()?.pop_front()?;
        self.answer_to(client, asked.clone());
        Some(asked)
    }
    fn answer_to(&mut self, client: Client, asked: Asked) {
        let Some(link) = self.clients[client.0].link else {
            return;
        };
        let until = self.now.monotonic + ANSWER_LIFE;
        let user = self.clients[client.0].user.clone();
        let rights = self.outside.known.get(&user);
        let permitted = rights.is_some_and(|rights| rights.permits(&asked, &user, &self.settings.vhost));
        self.turn(|engine| engine.answer_question(link, asked.question, permitted, until));
    }
    /// Passes on the question of the client's first command. Returns whether it was answered at once.
    fn pass_on_question(&mut self, client: Client, link: Link) -> bool {
        let Some(asked) = self.engine.take_question(link) else {
            return false;
        };
        self.outside.asked += 1;
        match &mut self.outside.held {
            Some(held) => {
                held.push_back((client, *asked));
                false
            }
            None => {
                self.answer_to(client, *asked);
                true
            }
        }
    }
    /// The number of questions asked.
    pub fn questions(&self) -> usize {
        self.outside.asked
    }
    /// Lists some objects: see [`Engine::inspect`].
    pub fn inspect(&self, cursor: &mut Cursor, budget: usize) -> Vec<Item> {
        self.engine.inspect(cursor, budget)
    }
    /// Removes all rights of a user.
    pub fn remove_rights(&mut self, user: &str) {
        self.rights.remove(user);
        self.turn(|engine| engine.remove_rights(user));
    }
    /// Attaches a connection of [`USER`].
    pub fn connect(&mut self, protocol: &'static str) -> Client {
        self.connect_as(USER, protocol)
    }
    /// Attaches a connection of a user.
    pub fn connect_as(&mut self, user: &str, protocol: &'static str) -> Client {
        let woken = Arc::new(Flag::default());
        let attach = Attach {
            vhost: self.settings.vhost.clone(),
            protocol,
            client_name: None,
            ..Attach::default()
        };
        let (now, wake) = (self.now, woken.clone());
        let link = self.turn(|engine| engine.attach(now, &attach, user.into(), Peer::on_this_machine(), wake));
        self.clients.push(Connection {
            user: user.into(),
            link: Some(link),
            woken,
            more: false,
            stalled: false,
            queued: VecDeque::new(),
            waiting: Vec::new(),
        });
        Client(self.clients.len() - 1)
    }
    /// Applies commands now, in as many holds as the engine needs. Commands of a client that is gone are ignored.
    pub fn send(&mut self, client: Client, mut commands: Vec<Command>) {
        while self.hold(client, &mut commands) {}
    }
    /// Applies commands in one hold of the engine's lock, as a driver does. Returns whether some are left. Commands
    /// that wait for another client are kept here, and tried again when this client takes after a wake, or sends.
    pub fn hold(&mut self, client: Client, commands: &mut Vec<Command>) -> bool {
        let c = &mut self.clients[client.0];
        let Some(link) = c.link else {
            return false;
        };
        if !c.waiting.is_empty() {
            c.waiting.append(commands);
            std::mem::swap(&mut c.waiting, commands);
        }
        let gone = commands.iter().any(|c| matches!(c, Command::Detach));
        let now = self.now;
        c.more = true;
        let applied = self.turn(|engine| engine.apply(now, link, commands));
        let c = &mut self.clients[client.0];
        let waits = applied == Applied::Waits;
        if waits {
            c.waiting.append(commands);
        }
        if gone && applied == Applied::All {
            c.link = None;
            c.queued.clear();
        }
        applied == Applied::Some || (waits && self.pass_on_question(client, link))
    }
    /// Whether the client waits for another one.
    pub fn waits(&self, client: Client) -> bool {
        !self.clients[client.0].waiting.is_empty()
    }
    /// Tries commands again that waited for another client, if this one was woken.
    fn try_again(&mut self, client: Client) {
        let c = &self.clients[client.0];
        if !c.waiting.is_empty() && c.woken.0.swap(false, Ordering::Relaxed) {
            self.send(client, Vec::new());
        }
    }
    /// Queues commands that [`World::step`] applies, in order.
    pub fn queue(&mut self, client: Client, commands: impl IntoIterator<Item = Command>) {
        self.clients[client.0].queued.extend(commands);
    }
    /// What the client can take with that room, in one take. [`World::is_due`] says whether there is more.
    pub fn take(&mut self, client: Client, room: Room) -> Vec<Event> {
        self.try_again(client);
        let Some(link) = self.clients[client.0].link else {
            return Vec::new();
        };
        let now = self.now;
        let mut events = Vec::new();
        self.clients[client.0].woken.0.store(false, Ordering::Relaxed);
        self.clients[client.0].stalled = room.messages == 0 || room.bytes == 0;
        self.clients[client.0].more = true;
        let more = self.turn(|engine| engine.take(now, link, room, &mut events));
        self.clients[client.0].more = more;
        // A wake while the client's own thread runs it may well be ignored by a driver.
        assert!(
            !self.clients[client.0].woken.0.load(Ordering::Relaxed),
            "client {} was woken by its own take, rather than told that there is more",
            client.0
        );
        self.note(client, &events);
        self.check_wakes();
        events
    }
    /// Whether the client was woken, or has more to take, since it last took everything.
    pub fn is_due(&self, client: Client) -> bool {
        let c = &self.clients[client.0];
        c.link.is_some() && (c.more || c.woken.0.load(Ordering::Relaxed))
    }
    /// The connection ends without DISCONNECT.
    pub fn drop_client(&mut self, client: Client) {
        self.send(client, vec![Command::Detach]);
    }

    /// Writes the submitted batches, and syncs if one needs it. Returns false if the machine stopped meanwhile.
    pub fn commit(&mut self) -> bool {
        let Some((store, _)) = &mut self.store else {
            return false;
        };
        if self.submitted.is_empty() {
            return true;
        }
        let ticket = self.submitted.last().map(|b| b.ticket);
        let Ok(must) = store.commit(&mut self.submitted, self.now) else {
            self.store = None;
            return false;
        };
        // As in the gateway: a store that had nothing to do is asked again after something was logged.
        let due = if store.is_due() || self.tick_at.is_none() {
            Some(self.now.monotonic)
        } else {
            Some(store.due_after(self.now.monotonic))
        };
        self.tick_at = [self.tick_at, due].into_iter().flatten().min();
        self.submitted.clear();
        self.written = ticket;
        self.undurable.extend(ticket.map(|ticket| (must, ticket)));
        true
    }
    /// Reports to the engine what was written, and what is durable.
    pub fn report(&mut self) {
        let now = self.now;
        let durable = self.store.as_ref().map_or(Lsn::default(), |(store, _)| store.durable());
        // As in the gateway: a batch that is as durable as it needs when it is written is reported once.
        let is_covered = self.undurable.iter().all(|(must, _)| *must <= durable);
        if let Some(ticket) = self.written.take().filter(|_| !is_covered) {
            self.turn(|engine| engine.written(now, ticket));
        }
        let mut ticket = None;
        while let Some((_, reached)) = self.undurable.pop_front_if(|(must, _)| *must <= durable) {
            ticket = Some(reached);
        }
        if let Some(ticket) = ticket {
            self.turn(|engine| engine.durable(now, ticket));
        }
    }
    /// Reads the bodies that the engine requested.
    pub fn fetch(&mut self) {
        if let Some((_, reader)) = &mut self.store {
            let served = reader.serve(&std::mem::take(&mut self.asked));
            self.reads_failed = if served.failed.is_empty() {
                0
            } else {
                self.reads_failed + 1
            };
            self.fetched.extend(served.answers);
            // The gateway's reader pauses before it tries again. Here other things happen meanwhile.
            self.asked.extend(served.failed);
            if self.disk.is_crashed() {
                // A read on a stopped machine never succeeds.
                self.asked.clear();
                self.store = None;
            } else if self.reads_failed > READS_FAILED_MAX {
                // As the gateway's process does after reads have failed for long enough.
                self.store = None;
            }
        }
    }
    /// Reports the bodies that were read to the engine.
    pub fn bring(&mut self) {
        if !self.fetched.is_empty() {
            let (now, fetched) = (self.now, std::mem::take(&mut self.fetched));
            self.turn(|engine| engine.loaded(now, fetched));
        }
    }
    /// Whether the log and the reader have nothing to do.
    pub fn is_caught_up(&self) -> bool {
        self.submitted.is_empty()
            && self.written.is_none()
            && self.asked.is_empty()
            && self.fetched.is_empty()
            && !self.engine.is_releasing()
    }
    /// Lets the log and the reader catch up: everything submitted is written and reported, and everything requested is
    /// read.
    pub fn catch_up(&mut self) {
        while !self.is_caught_up() {
            // A stopped machine never answers a read.
            if !self.commit() || !self.is_running() {
                return;
            }
            self.report();
            while self.engine.is_releasing() {
                let now = self.now;
                self.turn(|engine| engine.handle_timeout(now));
            }
            self.fetch();
            self.bring();
            // The reader repeats what it could not read. On a stopped machine, that would never end.
            if !self.is_running() {
                return;
            }
        }
    }
    /// Lets time pass. What becomes due happens in order.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now.monotonic + by;
        loop {
            let next = [self.engine.poll_timeout(), self.tick_at].into_iter().flatten().min();
            let at = next.map_or(end, |t| t.min(end)).max(self.now.monotonic);
            self.now.wall = self.now.wall + (at - self.now.monotonic);
            self.now.monotonic = at;
            let now = self.now;
            let mut idle = true;
            if self.engine.poll_timeout().is_some_and(|due| due <= at) {
                idle = false;
                self.turn(|engine| engine.handle_timeout(now));
                assert!(
                    at < end || self.engine.poll_timeout().is_none_or(|due| due > at) || self.audits,
                    "a timer is due for ever"
                );
            }
            if self.tick_at.is_some_and(|due| due <= at) {
                idle = false;
                self.tick();
            }
            if idle && at >= end {
                return;
            }
        }
    }
    /// Reports pressure from outside, as the gateway does.
    pub fn set_pressure(&mut self, pressure: Option<Pressure>) {
        if let Some((store, _)) = &mut self.store {
            store.set_disk_short(matches!(pressure, Some(Pressure::Disk | Pressure::Full)));
        }
        self.turn(|engine| engine.set_pressure(pressure));
    }
    /// The store's background work.
    pub fn tick(&mut self) {
        // On a stopped machine nothing is due.
        self.tick_at = None;
        if let Some((store, _)) = &mut self.store {
            match store.tick(self.now) {
                Ok(next) => {
                    self.tick_at = next.map(|t| t.max(Time(self.now.monotonic.0 + 1)));
                    // Batches written just now are reported when the test says so.
                    if self.written.is_none() {
                        self.report();
                    }
                }
                Err(_) => self.store = None,
            }
        }
    }

    /// The system's clock is set. The gateway follows a step forward; it notices a step back only when it starts again.
    pub fn set_clock(&mut self, wall: Wall) {
        self.clock_set = Some(wall);
        if wall > self.now.wall {
            self.now.wall = wall;
            let now = self.now;
            self.turn(|engine| engine.follow_clock(now));
        }
    }
    /// The machine stops and starts again. Clients are gone, and writes that were not synced may be.
    pub fn crash(&mut self, how: Crash) {
        self.store = None;
        self.disk = self.disk.restart(how);
        self.restart();
    }
    /// Stops in good order and starts again.
    pub fn stop_and_start(&mut self) {
        while self.clients.iter().any(|c| c.link.is_some()) {
            for client in 0..self.clients.len() {
                self.drop_client(Client(client));
            }
        }
        self.break_pipes();
        self.turn(|engine| engine.flush());
        self.commit();
        if let Some((store, _)) = self.store.take() {
            store.close(self.now).expect("the disk works");
        }
        self.restart();
    }
    fn restart(&mut self) {
        self.forget_pipes();
        for c in &mut self.clients {
            c.link = None;
            c.queued.clear();
            c.waiting.clear();
        }
        self.submitted.clear();
        self.asked.clear();
        self.fetched.clear();
        self.reads_failed = 0;
        self.written = None;
        self.undurable.clear();
        let seed = self.rng.word();
        self.engine = engine(self.settings.clone(), self.codecs.clone(), seed, &self.rights);
        self.start();
    }
    fn start(&mut self) {
        if let Some(wall) = self.clock_set.take() {
            self.now.wall = wall;
        }
        if self.try_start().is_err() {
            // The process ends, and the operator repairs the disk before the next start.
            self.disk.relieve();
            if let Err(error) = self.try_start() {
                panic!("the store does not start: {error}");
            }
        }
        self.tick_at = Some(self.now.monotonic);
    }
    fn try_start(&mut self) -> Result<(), StoreError> {
        let disk = Arc::new(self.disk.clone());
        let (store, recovered) = Store::open_watched(disk, self.store_settings.clone(), self.now.wall, &mut |_| {})?;
        // As the gateway's clock: it continues from the latest time in the log.
        self.now.wall = self.now.wall.max(recovered.wall);
        let now = self.now;
        let seed = self.rng.word();
        let mut engine = engine(self.settings.clone(), self.codecs.clone(), seed, &self.rights);
        engine.recover(now, recovered);
        store.check_start()?;
        self.engine = engine;
        let reader = store.reader();
        self.store = Some((store, reader));
        self.turn(|_| {});
        Ok(())
    }

    /// Does one thing that can happen, chosen by the seed: commands, a take with some room, the log, the reader, a
    /// little time.
    pub fn step(&mut self) -> Step {
        let client = Client(self.rng.below(self.clients.len() as u64) as usize);
        match self.rng.below(16) {
            0..=4 if self.clients.get(client.0).is_some_and(|c| !c.queued.is_empty()) => {
                let queued = &mut self.clients[client.0].queued;
                let n = 1 + self.rng.below(queued.len().min(20) as u64) as usize;
                let commands = queued.drain(..n).collect();
                self.send(client, commands);
                Step::Applied(client, n)
            }
            5..=9 if !self.clients.is_empty() && self.is_due(client) => {
                let room = match self.rng.below(8) {
                    0 => NO_ROOM,
                    1..=4 => ROOM,
                    _ => Room {
                        messages: 1 + self.rng.below(5) as usize,
                        bytes: 1 + self.rng.below(4_000) as usize,
                        large: true,
                    },
                };
                let events = self.take(client, room);
                if self.clients[client.0].stalled {
                    self.clients[client.0].more = true;
                }
                Step::Took(client, events)
            }
            10 => {
                self.commit();
                Step::Inside
            }
            11 => {
                self.report();
                Step::Inside
            }
            12 => {
                self.fetch();
                Step::Inside
            }
            13 => {
                self.bring();
                Step::Inside
            }
            14 => {
                let by = self.rng.below(40);
                self.advance(Duration::from_millis(by));
                Step::Inside
            }
            _ => Step::Inside,
        }
    }

    /// The seed's next number, for choices of the test itself.
    pub fn random(&mut self) -> &mut Rng {
        &mut self.rng
    }
    /// The time.
    pub fn now(&self) -> Now {
        self.now
    }
    /// The number of definitions that the last start found damaged.
    pub fn damaged_definitions(&self) -> u64 {
        self.engine.damaged_definitions()
    }
    /// Applies other settings, as a reload of the configuration does. The next start uses them, too.
    pub fn reconfigure(&mut self, settings: Settings) {
        self.settings = Settings {
            vhost: self.settings.vhost.clone(),
            number: self.settings.number,
            ..settings.clone()
        };
        self.turn(|engine| engine.reconfigure(settings));
    }
    /// Continues counting: see [`Engine::count`].
    pub fn count(&self, counting: &mut crate::engine::Counting, slots_max: u32) -> Option<Counters> {
        self.engine.count(counting, slots_max)
    }
    /// The engine's counters and gauges.
    pub fn counters(&self) -> Counters {
        self.engine.counters()
    }
    /// The disk, to make it fail.
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }
    /// Bytes that can still be written to the disk.
    pub fn free_space(&self) -> u64 {
        self.disk.free_space().unwrap_or(0)
    }
    /// Bytes that the store has allocated in addition.
    pub fn reserved(&self) -> u64 {
        self.store.as_ref().map_or(0, |(store, _)| store.reserved())
    }
    /// Whether the store still works.
    pub fn is_running(&self) -> bool {
        self.store.is_some() && !self.disk.is_crashed()
    }
    /// Batches that wait to be written.
    pub fn submitted(&self) -> &[Batch] {
        &self.submitted
    }
    /// The hash of all events that clients took so far.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }
    /// Turns off the audits after every turn, which cost time in proportion to what is queued.
    pub fn set_audits(&mut self, on: bool) {
        self.audits = on;
    }
    /// Has each hold of the lock timed by a clock of the test: this one reads none.
    pub fn time_holds(&mut self, clock: fn() -> Duration) {
        let longest = Duration::ZERO;
        self.stopwatch = Some(Stopwatch { clock, longest });
    }
    /// How long the longest hold took since the last call, if they are timed.
    pub fn take_longest_hold(&mut self) -> Duration {
        let stopwatch = self.stopwatch.as_mut();
        stopwatch.map_or(Duration::ZERO, |watch| std::mem::take(&mut watch.longest))
    }
    /// Asserts that connections that are gone left nothing: no messages, consumers, confirms, answers.
    pub fn assert_idle(&self) {
        self.engine.assert_idle();
    }

    /// One hold of the engine's lock, as in the gateway.
    pub fn turn<T>(&mut self, turn: impl FnOnce(&mut Engine) -> T) -> T {
        let mut wakes = Wakes::default();
        let began = self.stopwatch.as_ref().map(|watch| (watch.clock)());
        let result = turn(&mut self.engine);
        let mut batch = Batch::default();
        self.engine.drain(&mut batch, &mut self.asked, &mut wakes);
        if let (Some(watch), Some(began)) = (&mut self.stopwatch, began) {
            watch.longest = watch.longest.max((watch.clock)().saturating_sub(began));
        }
        if !batch.is_empty() {
            self.submitted.push(batch);
        }
        wakes.fire();
        if self.audits {
            self.engine.audit();
            self.check_wakes();
        }
        result
    }
    /// Whether the engine has something for the link.
    pub(super) fn has_work(&self, link: Link) -> bool {
        self.engine.has_work(link)
    }
    /// Property codecs of all protocols.
    pub(super) fn codecs(&self) -> &Codecs {
        &self.codecs
    }
    /// The vhost's name.
    pub(super) fn vhost_name(&self) -> &Name {
        &self.settings.vhost
    }
    fn check_wakes(&self) {
        if !self.audits {
            return;
        }
        self.check_pipes();
        for (n, c) in self.clients.iter().enumerate() {
            let Some(link) = c.link else { continue };
            let told = c.more || c.stalled || c.woken.0.load(Ordering::Relaxed);
            assert!(told || !self.engine.has_work(link), "client {n} was not woken");
        }
    }
    fn note(&mut self, client: Client, events: &[Event]) {
        for event in events {
            self.trace.write(format!("{} {event:?}", client.0).as_bytes());
            if let Event::Deliver(d) | Event::Got { delivery: d, .. } = event {
                self.trace.write(d.message.body());
            }
        }
    }
}
