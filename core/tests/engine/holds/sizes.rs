//! The largest objects that a client can make are removed in bounded holds, free their memory, and let a quiet pair of
//! clients continue meanwhile.
//!
//! `GATEPOST_SIZE=1000000 cargo test -p gatepost-core --test engine sizes -- --nocapture` uses objects of that size,
//! and prints how long the longest hold took.

use super::*;
use gatepost_core::engine::ObjectKind;
use gatepost_core::testing::disk::SimDisk;
use std::time::{Duration, Instant};

/// How many topics, subscriptions or messages there are.
fn size() -> usize {
    let wanted = std::env::var("GATEPOST_SIZE").ok();
    wanted.map_or(20_000, |size| size.parse().expect("a number"))
}

/// A world with room for that many objects, and a quiet pair of clients.
struct Large {
    w: World,
    publisher: Client,
    consumer: Client,
    holds: usize,
}

/// A clock for what is printed: nothing depends on it.
fn clock() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "it is printed, and nothing depends on it")]
    START.get_or_init(Instant::now).elapsed()
}

impl Large {
    fn new() -> Large {
        let settings = gatepost_core::testing::world::Settings {
            session_filters_max: size(),
            objects_bytes_max: 16 << 30,
            memory_bytes_max: 16 << 30,
            cache_bytes_max: 16 << 30,
            ..Default::default()
        };
        let mut w = World::with(1, settings, Default::default());
        w.set_audits(false);
        w.time_holds(clock);
        let (publisher, consumer) = (w.connect("mqtt"), w.connect("mqtt"));
        run(&mut w, publisher, [clean("quiet publisher")]);
        run(
            &mut w,
            consumer,
            [clean("quiet consumer"), subscribe(vec![filter("quiet", 0)])],
        );
        Large {
            w,
            publisher,
            consumer,
            holds: 0,
        }
    }

    /// One hold, and then the turn of the quiet pair. Returns what `hold` returns.
    fn hold<T>(&mut self, hold: impl FnOnce(&mut World) -> T) -> T {
        let result = hold(&mut self.w);
        self.holds += 1;
        self.w.send(self.publisher, vec![mqtt("quiet", "m", 0, 0)]);
        let heard = now(&mut self.w, self.consumer);
        assert_eq!(heard, ["publish q0 #0 quiet m"], "the quiet pair goes on");
        result
    }

    /// Applies commands in as many holds as needed.
    fn apply(&mut self, client: Client, mut commands: Vec<Command>) {
        while self.hold(|w| w.hold(client, &mut commands)) {}
    }

    /// Runs the engine's timers until `done`.
    fn wait(&mut self, done: impl Fn(&World) -> bool) {
        while !done(&self.w) {
            self.hold(|w| w.advance(ms(1)));
            // Nothing expires before the log has a time.
            self.w.catch_up();
        }
    }

    /// Bytes of objects once nothing waits for the log.
    fn objects(&mut self) -> u64 {
        self.w.catch_up();
        self.w.counters().objects_bytes.iter().map(|bytes| *bytes as u64).sum()
    }

    /// Prints the result, and checks the limit.
    fn check(&mut self, what: &str) {
        let units = self.w.counters().longest_hold_units;
        let longest = self.w.take_longest_hold();
        println!("{what}: {} holds, the longest {longest:?}, {units} units", self.holds);
        assert!(units < LONGEST_UNITS, "{what}: {units} units");
    }
}

fn retain_many(large: &mut Large, p: Client, body: &str, expires: bool) {
    let deadline = large.w.now().wall + ms(600_000);
    for first in (0..size()).step_by(1_000) {
        let some = (first..(first + 1_000).min(size())).map(|n| {
            let message = topic_message(&format!("plant/{}/{n}", n % 100), body, |e| {
                e.retain = true;
                e.deadline = expires.then_some(deadline);
            });
            mqtt_message(message, 0)
        });
        large.apply(p, some.collect());
        // It takes its confirms, which otherwise stay.
        hear(&mut large.w, p);
    }
}

#[test]
fn retained_topics_are_emptied_in_bounded_holds() {
    let mut large = Large::new();
    let p = large.w.connect("mqtt");
    run(&mut large.w, p, [clean("p")]);
    let before = large.objects();
    retain_many(&mut large, p, "m", false);
    let full = large.w.counters();
    assert_eq!(full.retained as usize, size() + 1);
    assert!(full.objects_bytes[ObjectKind::Retained as usize] > 100 * size());
    retain_many(&mut large, p, "", false);
    assert_eq!(large.w.counters().retained, 1);
    let after = large.objects();
    assert!(
        after <= before + (64 << 10),
        "{:?}, {before} before",
        large.w.counters().objects_bytes
    );
    large.check("retained topics, cleared one by one");

    let mut large = Large::new();
    let p = large.w.connect("mqtt");
    run(&mut large.w, p, [clean("p")]);
    retain_many(&mut large, p, "m", true);
    large.w.advance(ms(600_000));
    large.wait(|w| w.counters().retained == 1);
    let after = large.objects();
    assert!(
        after <= before + (64 << 10),
        "{:?}, {before} before",
        large.w.counters().objects_bytes
    );
    large.check("retained topics that expire at once");
}

#[test]
fn a_session_with_very_many_subscriptions_ends_in_bounded_holds() {
    let mut large = Large::new();
    let before = large.objects();
    let c = large.w.connect("mqtt");
    run(&mut large.w, c, [kept("c")]);
    for first in (0..size()).step_by(1_000) {
        let some = (first..(first + 1_000).min(size())).map(|n| filter(&format!("plant/{n}/+"), 1));
        large.apply(c, vec![subscribe(some.collect())]);
        hear(&mut large.w, c);
    }
    // It reconnects, which searches nothing.
    large.w.drop_client(c);
    let c = large.w.connect("mqtt");
    large.apply(c, vec![kept("c")]);
    assert_eq!(hear(&mut large.w, c), ["open present"]);
    large.w.drop_client(c);
    let c = large.w.connect("mqtt");
    large.apply(c, vec![clean("c")]);
    assert_eq!(hear(&mut large.w, c), ["open new"]);
    assert_eq!(large.w.counters().subscriptions, 1);
    large.w.drop_client(c);
    let after = large.objects();
    assert!(
        after <= before + (64 << 10),
        "{:?}, {before} before",
        large.w.counters().objects_bytes
    );
    large.check("subscriptions of a session");
}

#[test]
fn a_queue_with_very_many_messages_is_purged_and_deleted_in_bounded_holds() {
    for command in [purge("q"), delete("q")] {
        let mut large = Large::new();
        let p = large.w.connect("amqp");
        run(&mut large.w, p, [transient("q")]);
        let before = large.w.turn(|engine| engine.usage().messages);
        for first in (0..size()).step_by(1_000) {
            let some = (first..(first + 1_000).min(size())).map(|n| put_transient("q", &n.to_string()));
            large.apply(p, some.collect());
        }
        let full = large.w.turn(|engine| engine.usage().messages);
        assert!(full > before + 100 * size());
        large.apply(p, vec![command]);
        assert_eq!(large.w.counters().messages_ready, 0);
        // The messages are dropped in later holds.
        for _ in 0..size() {
            if large.w.turn(|engine| engine.usage().messages) == before {
                break;
            }
            large.hold(|w| w.advance(ms(1)));
        }
        assert_eq!(large.w.turn(|engine| engine.usage().messages), before);
        large.check("messages of a queue");
    }
}

/// The engine of a deleted vhost is freed outside of all locks. The log forgets its keys afterwards, in slices: confirms
/// of other vhosts wait for one of them at most.
#[test]
fn the_log_forgets_a_vhost_with_very_many_topics() {
    use gatepost_core::store::{Batch, KeyKind, Record, Store, StoreSettings, VhostId, key, vhost_key};
    let vhost = VhostId(7);
    let disk = std::sync::Arc::new(SimDisk::new(1));
    let open = || Store::open(disk.clone(), StoreSettings::default(), Default::default()).expect("a log");
    let (mut store, _) = open();
    let set = |key: Box<[u8]>, value: Option<&[u8]>| Record::Key {
        key,
        value: value.map(Into::into),
    };
    let mut commit = |records: Vec<Record>| {
        let batch = Batch {
            records,
            ..Batch::default()
        };
        store.commit(&mut [batch], Default::default()).expect("committed");
    };
    commit(vec![set(vhost_key(vhost), Some(b"plant"))]);
    for first in (0..size()).step_by(1_000) {
        let topic = |n: usize| key(vhost, KeyKind::Retained, &[format!("plant/{n}\0").as_bytes()]);
        commit((first..first + 1_000).map(|n| set(topic(n), Some(b"m"))).collect());
    }
    #[expect(clippy::disallowed_methods, reason = "it is printed, and nothing depends on it")]
    let began = Instant::now();
    commit(vec![set(vhost_key(vhost), None)]);
    println!(
        "keys of a vhost: the log took {:?} to forget {} of them",
        began.elapsed(),
        size()
    );
    store.close(Default::default()).expect("a good end");
    assert!(open().1.keys.is_empty());
}
