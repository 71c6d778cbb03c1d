//! The node's vhosts: the list of them, and their creation and deletion at run time.
//!
//! ```text
//!   create   record logged ──► engine in the list ──► connections
//!   delete   out of the list ──► engine ended: it logs nothing more ──► deletion logged ──► the log drops its data
//! ```
//!
//! A vhost's number is never used again. Batches that a deleted vhost submitted earlier are before the record of
//! its deletion in the log.

use crate::accountant::Pools;
use crate::committer::LogQueue;
use crate::node::Node;
use crate::vhost::Vhost;
use gatepost_core::catalog::{VhostRecord, vhost_deletion, vhost_record};
use gatepost_core::engine::{Engine, Usage};
use gatepost_core::event::CloseReason;
use gatepost_core::store::{Batch, Durability, Record, Ticket, VhostId};
use parking_lot::{Mutex, RwLock};
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Why a vhost was not created or deleted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VhostError {
    /// A vhost of that name exists.
    #[error("vhost '{0}' exists")]
    Exists(String),
    /// There is no vhost of that name.
    #[error("vhost '{0}' not found")]
    NotFound(String),
    /// The name is not valid.
    #[error("a vhost's name has 1 to {NAME_MAX} bytes")]
    Name,
    /// All numbers are used up.
    #[error(
        "this data directory has had {} vhosts: there is no number for another",
        VhostId::MAX
    )]
    TooMany,
    /// The log no longer accepts records: the node is stopping.
    #[error("the log is closed")]
    LogClosed,
}

/// Maximum length of a vhost's name in bytes.
const NAME_MAX: usize = 255;

/// The list of vhosts.
pub(crate) struct Vhosts {
    list: RwLock<Arc<[Arc<Vhost>]>>,
    /// The highest number so far. Locked while a vhost is created or deleted, so that there is one change at a time.
    changing: tokio::sync::Mutex<VhostId>,
    log: NodeLog,
    /// The runtime of the engines' timers.
    timers: OnceLock<Handle>,
    /// Deleted vhosts that may still be in use: see [`Vhosts::take_unused`].
    deleted: Mutex<Vec<Arc<Vhost>>>,
}

impl Vhosts {
    pub(crate) fn new(list: Vec<Arc<Vhost>>, highest: VhostId, log: Arc<LogQueue>) -> Vhosts {
        Vhosts {
            list: RwLock::new(list.into()),
            changing: tokio::sync::Mutex::new(highest),
            log: NodeLog {
                queue: log,
                state: Mutex::default(),
            },
            timers: OnceLock::new(),
            deleted: Mutex::default(),
        }
    }

    /// Deleted vhosts that nothing uses any more. Drop them on a thread that nothing waits for: freeing a million
    /// topics takes most of a second. Without this list, the last connection of the vhost would do that when it ends.
    pub(crate) fn take_unused(&self) -> Vec<Arc<Vhost>> {
        // The list has the last reference, so nobody can take another.
        let is_unused = |vhost: &mut Arc<Vhost>| Arc::strong_count(vhost) == 1;
        self.deleted.lock().extract_if(.., is_unused).collect()
    }

    /// All vhosts.
    pub(crate) fn list(&self) -> Arc<[Arc<Vhost>]> {
        Arc::clone(&self.list.read())
    }

    /// The vhost of that name.
    pub(crate) fn named(&self, name: &str) -> Option<Arc<Vhost>> {
        self.list.read().iter().find(|vhost| *vhost.name == *name).cloned()
    }

    /// The vhost with that number.
    pub(crate) fn numbered(&self, number: VhostId) -> Option<Arc<Vhost>> {
        self.list.read().iter().find(|vhost| vhost.number == number).cloned()
    }

    /// The log of the node's own records.
    pub(crate) fn log(&self) -> &NodeLog {
        &self.log
    }

    /// Runs the timers of all present and future engines on `runtime`.
    pub(crate) fn start_timers(&self, node: &Arc<Node>, runtime: &Handle) {
        let _ = self.timers.set(runtime.clone());
        for vhost in self.list().iter() {
            self.drive(node, vhost);
        }
    }

    fn drive(&self, node: &Arc<Node>, vhost: &Arc<Vhost>) {
        if let Some(runtime) = self.timers.get() {
            let (node, vhost) = (Arc::clone(node), Arc::clone(vhost));
            runtime.spawn(async move { vhost.drive_timers(&node.clock).await });
        }
    }
}

impl Node {
    /// Creates a vhost. Returns when its record is synced.
    ///
    /// # Errors
    /// The name is taken or not valid, or the log is closed.
    pub(crate) async fn create_vhost(self: &Arc<Self>, record: VhostRecord) -> Result<VhostId, VhostError> {
        if record.name.is_empty() || record.name.len() > NAME_MAX {
            return Err(VhostError::Name);
        }
        let mut highest = self.vhosts.changing.lock().await;
        if self.vhosts.named(&record.name).is_some() {
            return Err(VhostError::Exists(record.name.to_string()));
        }
        if *highest >= VhostId::MAX {
            return Err(VhostError::TooMany);
        }
        let number = VhostId(highest.0 + 1);
        // The number counts as used even if the write fails.
        *highest = number;
        self.vhosts.log.write(vec![vhost_record(number, &record)]).await?;
        let usage = vec![Usage::default(); self.vhosts.list().len() + 1];
        let Some(share) = Pools::of(&self.config()).shares(&usage).pop() else {
            unreachable!("as many shares as engines, and one is new")
        };
        let mut engine = Engine::new(
            crate::node::engine_settings(&self.config(), record.name.clone(), number, share),
            self.codecs.clone(),
            crate::random::random(),
        );
        self.directory.instruct(number, &mut engine);
        let vhost = Arc::new(self.vhost_of(record, number, engine));
        {
            let mut list = self.vhosts.list.write();
            *list = list.iter().cloned().chain([Arc::clone(&vhost)]).collect();
        }
        // Once more: rights may have changed between `instruct` and the insertion into the list.
        self.directory.push(&vhost);
        self.vhosts.drive(self, &vhost);
        // Makes the accountant give the new engine its share of memory, and the watch tell it about a disk alarm.
        self.short_of_memory.notify_one();
        self.look.notify_one();
        tracing::info!(vhost = %vhost.name, %number, "vhost created");
        Ok(number)
    }

    /// Changes a vhost's description, tags and default queue type. Its contents stay. Returns when its record is
    /// synced.
    ///
    /// # Errors
    /// There is no vhost of that name, or the log is closed.
    pub(crate) async fn change_vhost(
        &self,
        name: &str,
        change: impl FnOnce(&mut VhostRecord),
    ) -> Result<(), VhostError> {
        let _none_is_deleted_meanwhile = self.vhosts.changing.lock().await;
        let vhost = self
            .vhosts
            .named(name)
            .ok_or_else(|| VhostError::NotFound(name.to_owned()))?;
        let mut record = vhost.record();
        change(&mut record);
        if record != vhost.record() {
            self.vhosts.log.write(vec![vhost_record(vhost.number, &record)]).await?;
            vhost.set_record(record);
        }
        Ok(())
    }

    /// Deletes a vhost with everything in it, and ends its connections. Returns when the deletion is synced.
    ///
    /// # Errors
    /// There is no vhost of that name, or the log is closed.
    pub(crate) async fn delete_vhost(self: &Arc<Self>, name: &str) -> Result<(), VhostError> {
        let _highest = self.vhosts.changing.lock().await;
        let vhost = self
            .vhosts
            .named(name)
            .ok_or_else(|| VhostError::NotFound(name.to_owned()))?;
        {
            let mut list = self.vhosts.list.write();
            *list = list
                .iter()
                .filter(|other| !Arc::ptr_eq(other, &vhost))
                .cloned()
                .collect();
        }
        vhost.end(CloseReason::VhostDeleted);
        let mut records = vec![vhost_deletion(vhost.number)];
        records.extend(self.directory.about_vhost(vhost.number));
        self.vhosts.log.write(records).await?;
        self.directory.forget_vhost(vhost.number);
        self.short_of_memory.notify_one();
        tracing::info!(vhost = %vhost.name, number = %vhost.number, "vhost deleted");
        self.vhosts.deleted.lock().push(vhost);
        Ok(())
    }

    /// Numbers and records of all vhosts.
    pub(crate) fn list_vhosts(&self) -> Vec<(VhostId, VhostRecord)> {
        let list = self.vhosts.list();
        list.iter().map(|vhost| (vhost.number, vhost.record())).collect()
    }
}

/// The node is stopping and accepts no more records.
#[derive(Debug)]
pub(crate) struct LogClosed;

impl From<LogClosed> for VhostError {
    fn from(_: LogClosed) -> VhostError {
        VhostError::LogClosed
    }
}

/// The log of the node's own records, which belong to no engine: users, permissions, vhosts.
pub(crate) struct NodeLog {
    queue: Arc<LogQueue>,
    state: Mutex<NodeLogState>,
}

#[derive(Default)]
struct NodeLogState {
    /// The last ticket that was given out.
    last: u64,
    waiting: VecDeque<(Ticket, oneshot::Sender<()>)>,
}

impl NodeLog {
    /// Submits records as one batch and does not wait. The receiver resolves when they are synced.
    pub(crate) fn submit(&self, records: Vec<Record>) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        // Locked until the batch is submitted, so that tickets reach the log in order.
        let mut state = self.state.lock();
        state.last += 1;
        let ticket = Ticket(state.last);
        state.waiting.push_back((ticket, done));
        let batch = Batch {
            bytes: RECORD_BYTES * records.len(),
            records,
            ticket,
            need: Some(Durability::Always),
            ..Batch::default()
        };
        self.queue.submit(VhostId::NODE, batch);
        wait
    }

    /// Logs records as one batch. Returns when they are synced.
    ///
    /// # Errors
    /// The log is closed.
    pub(crate) async fn write(&self, records: Vec<Record>) -> Result<(), LogClosed> {
        self.submit(records).await.map_err(|_| LogClosed)
    }

    /// Takes the committer's report that all batches up to this one are durable.
    pub(crate) fn durable(&self, upto: Ticket) {
        let mut state = self.state.lock();
        while let Some((_, done)) = state.waiting.pop_front_if(|(ticket, _)| *ticket <= upto) {
            // The caller may have been cancelled.
            let _ = done.send(());
        }
    }

    /// Ends all waits with an error, because the log failed or is closed.
    pub(crate) fn close(&self) {
        self.state.lock().waiting.clear();
    }
}

/// Estimated size of a record.
const RECORD_BYTES: usize = 256;

#[cfg(test)]
mod deletion;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::Config;
    use crate::directory::Directory;
    use crate::directory::permissions::Permission;
    use crate::store;
    use gatepost_core::command::{Attach, Command, DeclareQueue, Peer};
    use gatepost_core::engine::{Link, Room, Wake};
    use gatepost_core::event::Event;
    use gatepost_core::properties::{Name, Table};
    use std::path::Path;
    use std::thread::JoinHandle;

    struct Nobody;

    impl Wake for Nobody {
        fn wake(&self) {}
    }

    /// A node over a directory, with the log's thread only.
    pub(crate) struct Bench {
        pub(crate) node: Arc<Node>,
        committer: Option<JoinHandle<()>>,
        pub(crate) runtime: tokio::runtime::Runtime,
    }

    impl Bench {
        pub(crate) fn start(data: &Path) -> Bench {
            let mut config = Config::default();
            config.node.data_dir = data.to_owned();
            Bench::start_with(config)
        }
        pub(crate) fn start_with(config: Config) -> Bench {
            let directory = Directory::new(&config).expect("a directory");
            let clock = Clock::start();
            let (store, recovered) = store::open(&config, clock.now().wall).expect("open");
            let node = Node::new(
                config,
                directory,
                crate::tls::Ports::default(),
                Vec::new(),
                clock,
                recovered,
                store.stats(),
            );
            let node = Arc::new(node);
            let committing = Arc::clone(&node);
            let committer = std::thread::spawn(move || {
                crate::committer::run(&committing, store).expect("a good log");
            });
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            Bench {
                node,
                committer: Some(committer),
                runtime,
            }
        }
        pub(crate) fn create(&self, name: &str) -> Result<VhostId, VhostError> {
            let record = VhostRecord {
                name: name.into(),
                tags: vec!["plant".into()],
                ..VhostRecord::default()
            };
            self.runtime.block_on(self.node.create_vhost(record))
        }
        pub(crate) fn delete(&self, name: &str) -> Result<(), VhostError> {
            self.runtime.block_on(self.node.delete_vhost(name))
        }
        fn names(&self) -> Vec<(u32, Name)> {
            let list = self.node.list_vhosts();
            list.into_iter()
                .map(|(number, record)| (number.0, record.name))
                .collect()
        }
        /// A connection that declares a durable queue and waits for the answer.
        pub(crate) fn declare(&self, vhost: &str, queue: &str) -> (Arc<Vhost>, Link) {
            let granted = self.node.set_permission("guest", vhost, Permission::everything());
            self.runtime.block_on(granted).expect("granted");
            let vhost = self.node.vhost(vhost).expect("a vhost");
            let attach = Attach {
                vhost: vhost.name.clone(),
                protocol: "AMQP 0-9-1",
                client_name: None,
                ..Attach::default()
            };
            let now = self.node.clock.now();
            let link = vhost.enter(|engine| {
                let link = engine.attach(now, &attach, "guest".into(), Peer::on_this_machine(), Arc::new(Nobody));
                let declare = Command::DeclareQueue(Box::new(DeclareQueue {
                    channel: 1,
                    name: queue.into(),
                    passive: false,
                    durable: true,
                    exclusive: false,
                    auto_delete: false,
                    arguments: Table::default(),
                    lenient: false,
                    reply: true,
                }));
                engine.apply(now, link, &mut vec![declare]);
                link
            });
            while !self
                .events(&vhost, link)
                .iter()
                .any(|event| matches!(event, Event::QueueDeclared { .. }))
            {
                std::thread::yield_now();
            }
            (vhost, link)
        }
        pub(crate) fn events(&self, vhost: &Vhost, link: Link) -> Vec<Event> {
            let mut events = Vec::new();
            let room = Room {
                messages: 10,
                bytes: 1 << 20,
                large: true,
            };
            vhost.enter(|engine| engine.take(self.node.clock.now(), link, room, &mut events));
            events
        }
        pub(crate) fn stop(mut self) {
            self.node.log.stop();
            self.committer.take().expect("once").join().expect("a good end");
        }
    }

    #[test]
    fn a_deleted_vhost_is_freed_once_nobody_uses_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let bench = Bench::start(dir.path());
        bench.create("plant").expect("created");
        let used = bench.node.vhost("plant").expect("a vhost");
        bench.delete("plant").expect("deleted");
        let unused = || bench.node.vhosts.take_unused().len();
        assert_eq!(unused(), 0);
        drop(used);
        assert_eq!(unused(), 1);
        assert_eq!(unused(), 0);
        bench.stop();
    }

    #[test]
    fn vhosts_come_and_go_and_their_numbers_are_never_used_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let bench = Bench::start(dir.path());
        assert_eq!(bench.names(), [(1, "/".into())]);
        assert_eq!(bench.create("plant"), Ok(VhostId(2)));
        assert_eq!(bench.create("plant"), Err(VhostError::Exists("plant".into())));
        assert_eq!(bench.create(""), Err(VhostError::Name));
        assert_eq!(bench.create(&"x".repeat(256)), Err(VhostError::Name));
        bench.declare("plant", "orders");
        bench.declare("/", "orders");
        bench.stop();

        let bench = Bench::start(dir.path());
        assert_eq!(bench.names(), [(1, "/".into()), (2, "plant".into())]);
        assert_eq!(bench.node.list_vhosts()[1].1.tags, ["plant".into()]);
        let queues = |name: &str| {
            let vhost = bench.node.vhost(name).expect("a vhost");
            vhost.enter(|engine| engine.counters()).queues
        };
        assert_eq!((queues("/"), queues("plant")), (1, 1));
        // A connection of the deleted vhost is told, and what its engine submits afterwards is not logged.
        let (vhost, link) = bench.declare("plant", "late");
        bench.delete("plant").expect("deleted");
        let told = bench.events(&vhost, link);
        assert!(
            matches!(told[..], [Event::Closed(CloseReason::VhostDeleted)]),
            "{told:?}"
        );
        vhost.enter(|engine| engine.flush());
        assert_eq!(bench.delete("plant"), Err(VhostError::NotFound("plant".into())));
        assert!(bench.node.vhost("plant").is_none());
        // The default vhost can be deleted too, and is not created again.
        bench.delete("/").expect("deleted");
        bench.stop();

        let bench = Bench::start(dir.path());
        assert_eq!(bench.names(), []);
        assert_eq!(bench.create("plant"), Ok(VhostId(3)));
        let vhost = bench.node.vhost("plant").expect("a vhost");
        assert_eq!(vhost.enter(|engine| engine.counters()).queues, 0);
        bench.stop();
    }
}
