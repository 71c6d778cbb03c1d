//! Connections inside the process: links without a socket, subject to the same checks as all others.
//!
//! [`InProcess`] sends commands to an engine and receives events, with the rights of its user.
//! [`Local`] is an engine with its log on the caller's thread, for programs and tests without threads for them: when a call
//! returns, its effects are synced and reported.
//!
//! ```
//! use gatepost_core::access::Rights;
//! use gatepost_core::command::{Command, Get};
//! use gatepost_core::engine::{Engine, Settings};
//! use gatepost_core::event::Event;
//! use gatepost_core::in_process::InProcess;
//! use gatepost_core::properties::Codecs;
//! use gatepost_core::time::Now;
//!
//! let now = Now::default();
//! let mut engine = Engine::new(Settings::default(), Codecs::default(), 1);
//! engine.set_rights("app".into(), Rights::all().into());
//! let mut app = InProcess::attach(&mut engine, now, "app", "example")?;
//! app.send(Command::Get(Box::new(Get { channel: 1, queue: "q".into(), no_ack: true })));
//! app.visit(&mut engine, now);
//! assert!(matches!(app.poll(), Some(Event::Failed { .. })), "there is no such queue");
//! # Ok::<(), gatepost_core::fault::Fault>(())
//! ```

use crate::access::Asked;
use crate::command::{Attach, Channel, Command, Consume, ConsumerToken, DeclareQueue, Outcome, Peer, PublishFlags};
use crate::engine::{Applied, Engine, Link, Room, Settings, Wake, Wakes};
use crate::event::{Delivery, Event};
use crate::fault::Fault;
use crate::message::Message;
use crate::properties::{Codecs, Name};
use crate::store::disk::Disk;
use crate::store::{Batch, Lsn, Reader, Request, Store, StoreError, StoreSettings, Ticket};
use crate::time::Now;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The protocol of these connections, for people and metrics.
pub const PROTOCOL: &str = "in-process";

/// The channel of the short forms.
const CHANNEL: Channel = 1;

/// The most messages and bytes taken in one visit: as many as for a socket.
const ROOM: Room = Room {
    messages: 1024,
    bytes: 1 << 20,
    large: true,
};

/// A connection to an engine. End it with [`InProcess::detach`] and a last visit: its exclusive queues and unsettled
/// deliveries stay with it until then.
pub struct InProcess {
    link: Link,
    woken: Arc<Woken>,
    commands: Vec<Command>,
    events: VecDeque<Event>,
    /// Room for one take.
    taken: Vec<Event>,
}

impl InProcess {
    /// Attaches a connection of `user`, listed under `name`. It is not woken when there is something to take, so it has
    /// to be visited.
    ///
    /// # Errors
    /// The user may not use this vhost, or there is no room for another connection.
    pub fn attach(engine: &mut Engine, now: Now, user: &str, name: &str) -> Result<InProcess, Fault> {
        InProcess::attach_with(engine, now, user, name, None)
    }

    /// As [`InProcess::attach`]. `wake` is called when the next visit has something to take.
    ///
    /// # Errors
    /// As [`InProcess::attach`].
    pub fn attach_woken(
        engine: &mut Engine,
        now: Now,
        user: &str,
        name: &str,
        wake: Arc<dyn Wake>,
    ) -> Result<InProcess, Fault> {
        InProcess::attach_with(engine, now, user, name, Some(wake))
    }

    /// Attaches a connection of the node itself, which may do everything. Do not use it for anything that a client controls.
    ///
    /// # Errors
    /// As [`InProcess::attach`].
    pub fn attach_as_node(engine: &mut Engine, now: Now, name: &str) -> Result<InProcess, Fault> {
        InProcess::attach_as_node_with(engine, now, name, None)
    }

    /// As [`InProcess::attach_as_node`]. `wake` is called when the next visit has something to take.
    ///
    /// # Errors
    /// As [`InProcess::attach`].
    pub fn attach_as_node_with_wake(
        engine: &mut Engine,
        now: Now,
        name: &str,
        wake: Arc<dyn Wake>,
    ) -> Result<InProcess, Fault> {
        InProcess::attach_as_node_with(engine, now, name, Some(wake))
    }

    fn attach_as_node_with(
        engine: &mut Engine,
        now: Now,
        name: &str,
        outer: Option<Arc<dyn Wake>>,
    ) -> Result<InProcess, Fault> {
        engine.admit_node_link()?;
        let woken = Woken::new(outer);
        let link = engine.attach_as_node(now, &attach_as(engine, name), woken.clone());
        Ok(InProcess::of(link, woken))
    }

    fn attach_with(
        engine: &mut Engine,
        now: Now,
        user: &str,
        name: &str,
        outer: Option<Arc<dyn Wake>>,
    ) -> Result<InProcess, Fault> {
        engine.admit_link(user)?;
        let woken = Woken::new(outer);
        let attach = attach_as(engine, name);
        let link = engine.attach(now, &attach, user.into(), Peer::on_this_machine(), woken.clone());
        Ok(InProcess::of(link, woken))
    }

    fn of(link: Link, woken: Arc<Woken>) -> InProcess {
        InProcess {
            link,
            woken,
            commands: Vec::new(),
            events: VecDeque::new(),
            taken: Vec::new(),
        }
    }

    /// Queues a command for the next visit.
    pub fn send(&mut self, command: Command) {
        self.commands.push(command);
    }

    /// Queues the declaration of a durable queue for the next visit.
    pub fn declare_queue(&mut self, name: &str) {
        self.send(Command::DeclareQueue(Box::new(DeclareQueue::durable(CHANNEL, name))));
    }

    /// Queues a message for the next visit. It is confirmed when it is as durable as its envelope says.
    pub fn publish(&mut self, message: Message) {
        self.send(Command::Publish {
            channel: CHANNEL,
            flags: PublishFlags::CONFIRM,
            packet_id: 0,
            message,
        });
    }

    /// Queues the start of a consumer for the next visit. `consumer` is its number in deliveries.
    pub fn consume(&mut self, queue: &str, consumer: ConsumerToken) {
        self.send(Command::Consume(Box::new(Consume::settling(CHANNEL, consumer, queue))));
    }

    /// Queues the settling of a delivery for the next visit.
    pub fn settle(&mut self, delivery: &Delivery, outcome: Outcome) {
        self.send(Command::Settle {
            channel: delivery.channel,
            number: delivery.number,
            multiple: false,
            outcome,
        });
    }

    /// Queues the orderly end of the connection for the next visit.
    pub fn detach(&mut self) {
        self.commands.push(Command::Detach);
    }

    /// Takes back commands that the engine has not applied yet, such as a publish that met pressure ([`Event::Flow`]).
    /// Otherwise the next visit would apply them.
    pub fn take_back(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }

    /// Visits the engine once: applies the queued commands, and takes events. Call it under the engine's lock, and
    /// drain the engine afterwards. Returns whether another visit has more to do at once.
    pub fn visit(&mut self, engine: &mut Engine, now: Now) -> bool {
        self.woken.flag.store(false, Ordering::Relaxed);
        let visited = engine.visit(now, self.link, &mut self.commands, ROOM, &mut self.taken);
        self.events.extend(self.taken.drain(..));
        visited.more || visited.applied == Applied::Some
    }

    /// Whether the connection is still to get retained messages that a subscription of its session asked for.
    pub fn replays(&self, engine: &Engine) -> bool {
        engine.replays(self.link)
    }

    /// The question that a command waits for, and its user, if an external server knows this user's rights. Call it
    /// after each visit, in the same hold, and have the question answered ([`Engine::answer_question`]).
    pub fn take_question(&self, engine: &mut Engine) -> Option<(Link, Box<Asked>)> {
        engine.take_question(self.link).map(|asked| (self.link, asked))
    }

    /// The next event taken.
    pub fn poll(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

fn attach_as(engine: &Engine, name: &str) -> Attach {
    Attach {
        vhost: engine.vhost().clone(),
        protocol: PROTOCOL,
        client_name: Some(name.into()),
        ..Attach::default()
    }
}

/// Whether there has been something to take since the last visit.
struct Woken {
    flag: AtomicBool,
    outer: Option<Arc<dyn Wake>>,
}

impl Woken {
    fn new(outer: Option<Arc<dyn Wake>>) -> Arc<Woken> {
        Arc::new(Woken {
            flag: AtomicBool::new(false),
            outer,
        })
    }
}

impl Wake for Woken {
    fn wake(&self) {
        self.flag.store(true, Ordering::Relaxed);
        if let Some(outer) = &self.outer {
            outer.wake();
        }
    }
}

/// An engine and its log on the caller's thread.
pub struct Local<D: Disk> {
    engine: Engine,
    store: Store<D>,
    reader: Reader<D>,
    submitted: Vec<Batch>,
    /// Batches that are written, with the LSN at which they are durable.
    undurable: VecDeque<(Lsn, Ticket)>,
    asked: Vec<Request>,
}

impl<D: Disk> Local<D> {
    /// Opens the log on `disk`, and starts an engine with its content. `rights`: the rights of its users. `seed` must
    /// be unpredictable to peers.
    ///
    /// # Errors
    /// The log cannot be opened.
    pub fn open(
        disk: Arc<D>,
        settings: Settings,
        rights: impl IntoIterator<Item = (Name, Arc<crate::access::Rights>)>,
        seed: u64,
        now: Now,
    ) -> Result<Local<D>, StoreError> {
        let store_settings = StoreSettings {
            salt: seed,
            ..StoreSettings::default()
        };
        let (store, recovered) = Store::open(disk, store_settings, now.wall)?;
        let mut engine = Engine::new(settings, Codecs::default(), seed);
        for (user, rights) in rights {
            engine.set_rights(user, rights);
        }
        engine.recover(now, recovered);
        let mut local = Local {
            reader: store.reader(),
            engine,
            store,
            submitted: Vec::new(),
            undurable: VecDeque::new(),
            asked: Vec::new(),
        };
        local.run(now, |_| ())?;
        Ok(local)
    }

    /// Runs `turn`, and then the log until it has nothing to do. What `turn` caused is written and reported when this
    /// returns, and the next visit of a connection takes the results.
    ///
    /// # Errors
    /// The log failed. Nothing is confirmed any more.
    pub fn run<T>(&mut self, now: Now, turn: impl FnOnce(&mut Engine) -> T) -> Result<T, StoreError> {
        if self.engine.poll_timeout().is_some_and(|due| due <= now.monotonic) {
            self.engine.handle_timeout(now);
        }
        let result = turn(&mut self.engine);
        loop {
            self.drain();
            if self.submitted.is_empty() && self.asked.is_empty() {
                break;
            }
            self.commit(now)?;
            let served = self.reader.serve(&std::mem::take(&mut self.asked));
            if let Some(error) = served.error {
                let what = "read messages back".to_owned();
                return Err(StoreError::Io { what, source: error });
            }
            self.engine.loaded(now, served.answers);
        }
        self.store.tick(now)?;
        self.report(now);
        Ok(result)
    }

    /// Visits a connection until there is nothing left to do for it.
    ///
    /// # Errors
    /// As [`Local::run`].
    pub fn visit(&mut self, now: Now, connection: &mut InProcess) -> Result<(), StoreError> {
        loop {
            let more = self.run(now, |engine| connection.visit(engine, now))?;
            // Everything that waited for the log has been reported meanwhile.
            if !more && !connection.woken.flag.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
    }

    /// Closes the log in good order, so that the next start has less to read.
    ///
    /// # Errors
    /// The log failed.
    pub fn close(mut self, now: Now) -> Result<(), StoreError> {
        self.run(now, Engine::flush)?;
        self.store.close(now)
    }

    fn drain(&mut self) {
        let mut batch = Batch::default();
        self.engine.drain(&mut batch, &mut self.asked, &mut Wakes::default());
        if !batch.is_empty() {
            self.submitted.push(batch);
        }
    }

    fn commit(&mut self, now: Now) -> Result<(), StoreError> {
        let Some(ticket) = self.submitted.last().map(|batch| batch.ticket) else {
            return Ok(());
        };
        let must = self.store.commit(&mut self.submitted, now)?;
        self.submitted.clear();
        self.undurable.push_back((must, ticket));
        self.engine.written(now, ticket);
        self.report(now);
        Ok(())
    }

    fn report(&mut self, now: Now) {
        let durable = self.store.durable();
        while let Some((_, ticket)) = self.undurable.pop_front_if(|(must, _)| *must <= durable) {
            self.engine.durable(now, ticket);
        }
    }
}
