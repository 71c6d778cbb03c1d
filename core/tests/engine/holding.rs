//! Consumers that take and never settle: their unsettled deliveries cost little memory, are limited, and delay nobody
//! else.

use crate::support::*;
use gatepost_core::command::{Command, Outcome};
use gatepost_core::store::StoreSettings;
use gatepost_core::testing::world::{Client, Settings, World};

const KIB: usize = 1 << 10;

/// `unsettled`: the bytes of unsettled deliveries that are permitted.
fn world(unsettled: usize) -> World {
    let settings = Settings {
        cache_bytes_max: 256 * KIB,
        memory_bytes_max: 2 << 20,
        unsettled_bytes_max: unsettled,
        ..Settings::default()
    };
    let mut w = World::with(1, settings, StoreSettings::default());
    w.set_audits(false);
    w
}

/// Audits the engine. Not done after every turn, because there is too much to walk.
fn audit(w: &mut World) {
    w.set_audits(true);
    w.set_pressure(None);
    w.set_audits(false);
}

/// Numbers delivered, oldest first.
fn numbers(heard: &[String]) -> Vec<usize> {
    heard
        .iter()
        .filter_map(|line| delivered(line))
        .map(|(_, n)| n)
        .collect()
}

/// Delivery number and body.
fn delivered(line: &str) -> Option<(u64, usize)> {
    let (_, rest) = line.strip_prefix("deliver c")?.split_once(" #")?;
    let mut words = rest.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

fn puts(queue: &str, numbers: std::ops::Range<usize>, size: usize, is_durable: bool) -> Vec<Command> {
    let body = |n: usize| padded(&n.to_string(), size);
    let put = |n| {
        if is_durable {
            put(queue, &body(n))
        } else {
            put_transient(queue, &body(n))
        }
    };
    numbers.map(put).collect()
}

/// Takes and settles until nothing more comes.
fn hear_and_settle(w: &mut World, c: Client) -> Vec<usize> {
    let mut found = Vec::new();
    loop {
        let heard = hear(w, c);
        let Some((last, _)) = heard.iter().filter_map(|line| delivered(line)).next_back() else {
            return found;
        };
        found.extend(numbers(&heard));
        w.send(c, vec![ack_upto(last)]);
    }
}

/// A delivery was usually handed out before the log had it. Its body then stayed in memory until it was settled, so a
/// consumer that never settles made all publishers wait.
#[test]
fn bodies_of_unsettled_deliveries_are_evicted_and_delay_nobody() {
    for is_durable in [true, false] {
        let mut w = world(64 << 20);
        let (c, p) = (w.connect("amqp"), w.connect("amqp"));
        let queue = if is_durable { durable("q") } else { transient("q") };
        run(&mut w, c, [queue, consume("q", 1)]);
        let mut found = Vec::new();
        const COUNT: usize = 3_000;
        for first in (0..COUNT).step_by(50) {
            w.send(p, puts("q", first..first + 50, 4 * KIB, is_durable));
            // It takes before the log writes.
            found.extend(numbers(&now(&mut w, c)));
            let told = hear(&mut w, p);
            assert!(!told.iter().any(|line| line.starts_with("flow")), "{told:?}");
            let bytes = w.counters().memory_bytes;
            assert!(bytes < 1 << 20, "{bytes} bytes of bodies, durable: {is_durable}");
        }
        assert_counted(&found, COUNT);
        // About 32 bytes each, and bodies that were not evicted yet.
        let bytes = w.counters().unsettled_bytes as usize;
        assert!(bytes < COUNT * 32 + 512 * KIB, "{bytes} bytes");
        audit(&mut w);
        // Returned messages are complete, and in their former places.
        w.drop_client(c);
        let c = w.connect("amqp");
        w.send(c, vec![consume_with("q", 1, |c| c.prefetch = Some(100))]);
        let mut again = Vec::new();
        loop {
            let more = numbers(&hear(&mut w, c));
            if more.is_empty() {
                break;
            }
            again.extend(more);
            w.send(c, vec![ack_upto(again.len() as u64)]);
        }
        assert_counted(&again, COUNT);
        audit(&mut w);
    }
}

#[test]
fn a_consumer_that_never_settles_is_throttled_and_others_are_not() {
    let mut w = world(512 * KIB);
    let (stuck, good, p) = (w.connect("amqp"), w.connect("amqp"), w.connect("amqp"));
    run(&mut w, p, [durable("s"), durable("g")]);
    const COUNT: usize = 40_000;
    for first in (0..COUNT).step_by(1_000) {
        run(&mut w, p, puts("s", first..first + 1_000, 0, true));
        run(&mut w, p, puts("g", first..first + 1_000, 0, true));
    }
    w.send(stuck, vec![consume("s", 1)]);
    let heard = hear(&mut w, stuck);
    let held = numbers(&heard).len();
    // 16,384 entries, and what was reserved.
    assert!((10_000..20_000).contains(&held), "{held} held");
    let counters = w.counters();
    assert!(counters.unsettled_bytes < 1 << 20, "{} bytes", counters.unsettled_bytes);
    assert_eq!(counters.consumers_held_back, 1);
    // Further channels and consumers of the same connection get one delivery each, and `Get` does not help either.
    for channel in 2..10 {
        let mut more = consume_with("s", u32::from(channel), |c| c.channel = channel);
        if channel == 9 {
            more = consume("s", 100);
        }
        w.send(stuck, vec![more]);
        let more = numbers(&hear(&mut w, stuck)).len();
        assert_eq!(more, usize::from(channel != 9), "channel {channel}");
    }
    // Another connection settles, and gets all of its queue without a prefetch.
    w.send(good, vec![consume("g", 1)]);
    assert_counted(&hear_and_settle(&mut w, good), COUNT);
    audit(&mut w);
    // So does the throttled one once it settles. Deliveries of its other channels come first.
    let closes = (2..9).map(|channel| Command::CloseChannel { channel, reply: false });
    w.send(stuck, closes.chain([cancel(100), ack_upto(held as u64)]).collect());
    let rest = hear_and_settle(&mut w, stuck);
    audit(&mut w);
    assert_counted(&[numbers(&heard), rest].concat(), COUNT);
    assert_eq!(w.counters().consumers_held_back, 0);
    w.drop_client(stuck);
    w.drop_client(good);
    w.drop_client(p);
    w.assert_idle();
    assert_eq!(w.counters().unsettled_bytes, 0);
}

#[test]
fn a_throttled_consumer_continues_when_others_settle_or_leave() {
    let mut w = world(512 * KIB);
    let (greedy, late, p) = (w.connect("amqp"), w.connect("amqp"), w.connect("amqp"));
    run(&mut w, p, [durable("s"), durable("g")]);
    for first in (0..20_000).step_by(1_000) {
        run(&mut w, p, puts("s", first..first + 1_000, 0, true));
        run(&mut w, p, puts("g", first..first + 1_000, 0, true));
    }
    w.send(greedy, vec![consume("s", 1)]);
    let held = numbers(&hear(&mut w, greedy)).len();
    w.send(late, vec![consume("g", 1)]);
    let guaranteed = numbers(&hear(&mut w, late)).len();
    assert!(
        (8_000..10_000).contains(&guaranteed),
        "{guaranteed} whatever others hold"
    );
    assert_eq!(w.counters().consumers_held_back, 2);
    w.send(greedy, vec![ack_upto(held as u64 / 4 * 3)]);
    w.catch_up();
    assert!(!numbers(&hear(&mut w, late)).is_empty(), "others have settled");
    w.drop_client(greedy);
    let rest = hear_and_settle(&mut w, late);
    assert_eq!(rest.last(), Some(&19_999));
    audit(&mut w);
}

#[test]
fn a_get_is_refused_to_a_throttled_client_and_served_to_others() {
    let mut w = world(512 * KIB);
    let (stuck, other, p) = (w.connect("amqp"), w.connect("amqp"), w.connect("amqp"));
    run(&mut w, p, [durable("q")]);
    for first in (0..20_000).step_by(1_000) {
        run(&mut w, p, puts("q", first..first + 1_000, 0, true));
    }
    run(&mut w, stuck, [Command::OpenChannel { channel: CH }]);
    let mut got = 0;
    let refused = loop {
        let heard = run(&mut w, stuck, (0..500).map(|_| get("q")).collect::<Vec<_>>());
        got += heard.iter().filter(|line| line.starts_with("got")).count();
        if let Some(line) = heard.iter().find(|line| !line.starts_with("got")) {
            break line.clone();
        }
    };
    assert!((10_000..20_000).contains(&got), "{got} got");
    assert!(refused.starts_with("failed Get QuotaExceeded"), "{refused}");
    let heard = run(&mut w, other, [get("q")]);
    assert_eq!(heard, [format!("got #1 {got} left {}", 20_000 - got - 1)]);
    // Its channel is closed, and returns its deliveries in order.
    run(&mut w, stuck, [close_channel()]);
    let heard = run(&mut w, other, [get("q"), get("q")]);
    let expected = [
        format!("got #2 0 again left {}", 20_000 - 2),
        format!("got #3 1 again left {}", 20_000 - 3),
    ];
    assert_eq!(heard, expected);
    audit(&mut w);
}

#[test]
fn a_consumer_that_settles_gets_what_its_throttled_competitor_cannot() {
    let mut w = world(512 * KIB);
    let (stuck, good, p) = (w.connect("amqp"), w.connect("amqp"), w.connect("amqp"));
    run(&mut w, p, [durable("q")]);
    for first in (0..60_000).step_by(1_000) {
        run(&mut w, p, puts("q", first..first + 1_000, 0, true));
    }
    w.send(stuck, vec![consume("q", 1)]);
    w.send(good, vec![consume("q", 1)]);
    let (mut held, mut settled) = (Vec::new(), Vec::new());
    loop {
        held.extend(numbers(&hear(&mut w, stuck)));
        let more = hear_and_settle(&mut w, good);
        if more.is_empty() {
            break;
        }
        settled.extend(more);
    }
    assert!(held.len() < 20_000, "{} held", held.len());
    assert_eq!(held.len() + settled.len(), 60_000);
    assert!(held.is_sorted() && settled.is_sorted());
    // Deliveries that the throttled one returns go to the other, oldest first.
    run(&mut w, stuck, [settle(0, true, Outcome::Requeue), cancel(1)]);
    let again = hear_and_settle(&mut w, good);
    assert_eq!(again.last(), held.last());
    audit(&mut w);
}
