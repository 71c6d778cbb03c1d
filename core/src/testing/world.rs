//! The engine, the real store on a simulated disk, and a virtual clock, on one thread.
//!
//! ```text
//!   clients ──send──► Engine ──drain──► submitted ──commit──► written ──report──► Engine
//!   clients ◄──take──                └► asked ──────fetch──► fetched ──bring──►
//! ```
//!
//! Each arrow is a call, so a test decides what overtakes what; [`World::step`] lets the seed decide. The same seed and the
//! same calls give the same [`World::trace`]. After every turn the engine's books are audited, and no link may have
//! something to take without having been told so.

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

/// Room for whatever there is.
pub const ROOM: Room = Room {
    messages: usize::MAX,
    bytes: usize::MAX,
};
/// No room at all.
pub const NO_ROOM: Room = Room { messages: 0, bytes: 0 };

/// Fetches in a row that may fail before the process ends.
const READS_FAILED_MAX: u32 = 100;

/// A connection of a [`World`], by the order of connecting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client(pub usize);

/// What one [`World::step`] did.
#[derive(Debug)]
pub enum Step {
    /// So many of the client's queued commands were applied.
    Applied(Client, usize),
    /// The client took these.
    Took(Client, Vec<Event>),
    /// Something happened that no client sees yet: the log, the reader, the clock.
    Inside,
}

/// See the module.
pub struct World {
    settings: Settings,
    codecs: Codecs,
    store_settings: StoreSettings,
    disk: SimDisk,
    /// `None` while the machine is down.
    store: Option<(Store<SimDisk>, Reader<SimDisk>)>,
    engine: Engine,
    /// Of its users.
    rights: UserRights,
    outside: Outside,
    now: Now,
    rng: Rng,
    clients: Vec<Connection>,
    /// Handed over by the engine, not yet written.
    submitted: Vec<Batch>,
    /// Written, and not yet reported as that.
    written: Option<Ticket>,
    /// Written, and to be reported as durable once the store is that far.
    undurable: VecDeque<(Lsn, Ticket)>,
    asked: Vec<Request>,
    fetched: Vec<Answer>,
    /// Fetches in a row that could not read something.
    reads_failed: u32,
    trace: Trace,
    /// When the store's background work is due.
    tick_at: Option<Time>,
    /// What the clock was set to, until the next start.
    clock_set: Option<Wall>,
    audits: bool,
    pub(super) piped: Piped,
}

/// Whoever knows what some users may do.
#[derive(Default)]
struct Outside {
    known: BTreeMap<Name, Rights>,
    /// Questions that nobody has answered; `None`: each is answered at once.
    held: Option<VecDeque<(Client, Asked)>>,
    asked: usize,
}

/// How long an answer counts.
pub const ANSWER_LIFE: Duration = Duration::from_secs(15);

struct Connection {
    user: Name,
    /// `None` once it is detached.
    link: Option<Link>,
    woken: Arc<Flag>,
    /// It has applied and not taken since, or its last take left something.
    more: bool,
    /// Its last take had no room: it comes back by itself.
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

/// A hash of everything clients heard: FNV-1a, the same on every machine.
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

/// The user of [`World::connect`]; it may do everything.
pub const USER: &str = "guest";

/// What users may do.
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
    /// As all of its methods: if the store or the engine does what it must not.
    pub fn with(seed: u64, settings: Settings, store_settings: StoreSettings) -> World {
        World::speaking(seed, settings, store_settings, Codecs::default())
    }
    /// A world with an empty disk, that can read the properties of these protocols' messages.
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
            piped: Piped::new(seed),
        };
        world.start();
        world
    }

    /// Says what a user may do. As the node's directory does, it says so again after each restart.
    pub fn set_rights(&mut self, user: &str, rights: Rights) {
        let rights = Arc::new(rights);
        self.rights.insert(user.into(), Arc::clone(&rights));
        self.turn(|engine| engine.set_rights(user.into(), rights));
    }
    /// Says what a user may do, but not to the engine: it asks. It is answered at once, before anything else happens, unless
    /// [`World::hold_answers`] was called.
    pub fn set_asked_rights(&mut self, user: &str, rights: Rights) {
        self.set_rights(user, Rights::asked());
        self.outside.known.insert(user.into(), rights);
    }
    /// Nobody answers any more, until [`World::answer`].
    pub fn hold_answers(&mut self) {
        self.outside.held = Some(VecDeque::new());
    }
    /// Answers the oldest question that is held, and returns it.
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
    /// Passes on what the client's first command asks. Returns whether there is an answer already.
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
    /// How many questions were asked.
    pub fn questions(&self) -> usize {
        self.outside.asked
    }
    /// Lists some of what there is.
    pub fn inspect(&self, cursor: &mut Cursor, budget: usize) -> Vec<Item> {
        self.engine.inspect(cursor, budget)
    }
    /// Takes all rights of a user away.
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
    /// Applies commands now, in as many holds as the engine wants. A client that is gone is ignored.
    pub fn send(&mut self, client: Client, mut commands: Vec<Command>) {
        while self.hold(client, &mut commands) {}
    }
    /// Applies commands for one hold of the engine's lock, as a driver does. Returns whether some are left. What waits for
    /// another client is kept here, and is tried again when this one takes after a call, or sends.
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
    /// Tries again what waited for another client, if this one was called.
    fn try_again(&mut self, client: Client) {
        let c = &self.clients[client.0];
        if !c.waiting.is_empty() && c.woken.0.swap(false, Ordering::Relaxed) {
            self.send(client, Vec::new());
        }
    }
    /// Queues commands for [`World::step`] to apply, in order.
    pub fn queue(&mut self, client: Client, commands: impl IntoIterator<Item = Command>) {
        self.clients[client.0].queued.extend(commands);
    }
    /// What the client can take with that room, in one take. Whether there is more: [`World::is_due`].
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
        // Its own thread would be woken while it runs, and a driver may well ignore that.
        assert!(
            !self.clients[client.0].woken.0.load(Ordering::Relaxed),
            "client {} was woken by its own take, rather than told that there is more",
            client.0
        );
        self.note(client, &events);
        self.check_wakes();
        events
    }
    /// Whether the client has been woken, or has more to take, since it last took everything.
    pub fn is_due(&self, client: Client) -> bool {
        let c = &self.clients[client.0];
        c.link.is_some() && (c.more || c.woken.0.load(Ordering::Relaxed))
    }
    /// The connection ends without a goodbye.
    pub fn drop_client(&mut self, client: Client) {
        self.send(client, vec![Command::Detach]);
    }

    /// Writes what was submitted, and syncs if a batch needs it. False: the machine stopped meanwhile.
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
        // As the gateway does: a store that had nothing to do is asked again once something was logged.
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
    /// Reports to the engine what was written, and what of it is as durable as it needs.
    pub fn report(&mut self) {
        let now = self.now;
        let durable = self.store.as_ref().map_or(Lsn::default(), |(store, _)| store.durable());
        // As the gateway does: what is all it needs to be is reported once.
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
    /// Reads the bodies the engine asked for.
    pub fn fetch(&mut self) {
        if let Some((_, reader)) = &mut self.store {
            let served = reader.serve(&std::mem::take(&mut self.asked));
            self.reads_failed = if served.failed.is_empty() {
                0
            } else {
                self.reads_failed + 1
            };
            self.fetched.extend(served.answers);
            // The gateway's reader waits before it asks again. Here other things happen meanwhile.
            self.asked.extend(served.failed);
            if self.disk.is_crashed() {
                // No read of a machine that has stopped ever succeeds.
                self.asked.clear();
                self.store = None;
            } else if self.reads_failed > READS_FAILED_MAX {
                // As the gateway's process does once reads have failed for long enough.
                self.store = None;
            }
        }
    }
    /// Brings the bodies that were read.
    pub fn bring(&mut self) {
        if !self.fetched.is_empty() {
            let (now, fetched) = (self.now, std::mem::take(&mut self.fetched));
            self.turn(|engine| engine.loaded(now, fetched));
        }
    }
    /// Whether the log and the reader have nothing to do.
    pub fn is_caught_up(&self) -> bool {
        self.submitted.is_empty() && self.written.is_none() && self.asked.is_empty() && self.fetched.is_empty()
    }
    /// The log and the reader catch up: everything submitted is written and reported, everything asked for is brought.
    pub fn catch_up(&mut self) {
        while !self.is_caught_up() {
            // A machine that stopped does not bring what was asked for, however often it is asked.
            if !self.commit() || !self.is_running() {
                return;
            }
            self.report();
            self.fetch();
            self.bring();
            // The reader asks again for what it could not read. On a machine that has stopped, that never ends.
            if !self.is_running() {
                return;
            }
        }
    }
    /// Time passes; what is due in between happens in order.
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
        // A machine that is down has nothing due.
        self.tick_at = None;
        if let Some((store, _)) = &mut self.store {
            match store.tick(self.now) {
                Ok(next) => {
                    self.tick_at = next.map(|t| t.max(Time(self.now.monotonic.0 + 1)));
                    // What was just written is reported when the test says so.
                    if self.written.is_none() {
                        self.report();
                    }
                }
                Err(_) => self.store = None,
            }
        }
    }

    /// The system's clock is set. The gateway follows a step forwards, and notices one back only when it starts again.
    pub fn set_clock(&mut self, wall: Wall) {
        self.clock_set = Some(wall);
        if wall > self.now.wall {
            self.now.wall = wall;
            let now = self.now;
            self.turn(|engine| engine.follow_clock(now));
        }
    }
    /// The machine stops and starts again: clients are gone, un-synced writes may be.
    pub fn crash(&mut self, how: Crash) {
        self.store = None;
        self.disk = self.disk.restart(how);
        self.restart();
    }
    /// A clean stop and start.
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
            // The process ends, and whoever runs it sees to the disk before the next start.
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
        // As the gateway's clock does: it goes on from the latest time in the log.
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

    /// One thing happens, of those that can, as the seed has it: commands, a take with some room, the log, the reader,
    /// a little time.
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

    /// The seed's next number, for choices the test leaves to it.
    pub fn random(&mut self) -> &mut Rng {
        &mut self.rng
    }
    /// The time.
    pub fn now(&self) -> Now {
        self.now
    }
    /// Definitions that the last start found damaged.
    pub fn damaged_definitions(&self) -> u64 {
        self.engine.damaged_definitions()
    }
    /// Puts other settings into effect, as a reload of the configuration does. The next start has them, too.
    pub fn reconfigure(&mut self, settings: Settings) {
        self.settings = Settings {
            vhost: self.settings.vhost.clone(),
            number: self.settings.number,
            ..settings.clone()
        };
        self.turn(|engine| engine.reconfigure(settings));
    }
    /// Goes on with counting: see [`Engine::count`].
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
    /// Bytes the disk has left.
    pub fn free_space(&self) -> u64 {
        self.disk.free_space().unwrap_or(0)
    }
    /// Bytes the store has set aside beside them.
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
    /// Hash of everything clients heard so far.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }
    /// Audits after every turn cost time in proportion to what is queued: off for big ones.
    pub fn set_audits(&mut self, on: bool) {
        self.audits = on;
    }
    /// Asserts that nothing is left of the connections that are gone: no messages, consumers, confirms, answers.
    pub fn assert_idle(&self) {
        self.engine.assert_idle();
    }

    /// One hold of the engine's lock, as the gateway does it.
    pub fn turn<T>(&mut self, turn: impl FnOnce(&mut Engine) -> T) -> T {
        let mut wakes = Wakes::default();
        let result = turn(&mut self.engine);
        let mut batch = Batch::default();
        self.engine.drain(&mut batch, &mut self.asked, &mut wakes);
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
