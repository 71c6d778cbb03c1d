//! Drives an engine turn by turn, without sockets, log or clock. Shared by the examples that measure.

use gatepost_core::access::Rights;
use gatepost_core::command::{Attach, Command, OpenSession, Peer, RetainHandling, Subscribe, Subscription};
use gatepost_core::engine::{Engine, Link, Room, Settings, Wake, Wakes};
use gatepost_core::event::Event;
use gatepost_core::properties::Codecs;
use gatepost_core::store::Batch;
use gatepost_core::time::{Now, Time, Wall};
use std::sync::Arc;

struct Silent;

impl Wake for Silent {
    fn wake(&self) {}
}

/// An engine, and the time that its turns have taken so far.
pub(crate) struct Driver {
    /// For everything other than turns.
    pub(crate) engine: Engine,
    /// The events that the link of the last turn took.
    pub(crate) events: Vec<Event>,
    monotonic: u64,
}

impl Driver {
    /// An engine with these users.
    pub(crate) fn new(users: impl IntoIterator<Item = (&'static str, Rights)>) -> Driver {
        let mut engine = Engine::new(Settings::default(), Codecs::default(), 1);
        for (user, rights) in users {
            engine.set_rights(user.into(), rights.into());
        }
        Driver {
            engine,
            events: Vec::new(),
            monotonic: 1,
        }
    }

    /// Attaches a connection of a user.
    pub(crate) fn attach(&mut self, user: &str) -> Link {
        let attach = Attach {
            vhost: "/".into(),
            protocol: "example",
            client_name: None,
            ..Attach::default()
        };
        let peer = Peer::on_this_machine();
        self.engine
            .attach(Now::default(), &attach, user.into(), peer, Arc::new(Silent))
    }

    /// One turn of the link: its commands, and what it takes. The log counts as finished at once.
    pub(crate) fn turn(&mut self, link: Link, commands: &mut Vec<Command>) {
        self.monotonic += 1000;
        let now = Now {
            monotonic: Time(self.monotonic),
            wall: Wall(1_700_000_000_000 + self.monotonic / 1_000_000),
        };
        let room = Room {
            messages: 256,
            bytes: 1 << 20,
            large: true,
        };
        self.events.clear();
        loop {
            self.engine.visit(now, link, commands, room, &mut self.events);
            if commands.is_empty() {
                break;
            }
        }
        let (mut batch, mut requests, mut wakes) = (Batch::default(), Vec::new(), Wakes::default());
        self.engine.drain(&mut batch, &mut requests, &mut wakes);
        if !batch.is_empty() {
            self.engine.durable(now, batch.ticket);
        }
    }

    /// An MQTT session that ends with its connection.
    pub(crate) fn open_session(&mut self, link: Link, client_id: &str) {
        let session = OpenSession {
            client_id: client_id.into(),
            clean_start: true,
            expiry: Some(0),
            receive_maximum: 1000,
            will: None,
        };
        self.turn(link, &mut vec![Command::OpenSession(Box::new(session))]);
    }

    /// Subscribes such a session.
    pub(crate) fn subscribe(&mut self, link: Link, filter: &str, qos: u8) {
        let subscription = Subscription {
            filter: filter.into(),
            share: None,
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Never,
        };
        let subscribe = Subscribe {
            packet_id: 1,
            filters: vec![Ok(subscription)],
            subscription_id: None,
        };
        self.turn(link, &mut vec![Command::Subscribe(Box::new(subscribe))]);
    }
}
