//! Deliveries of a channel: settled, returned, fetched.

use super::*;
use gatepost_core::testing::disk::Crash;

#[test]
fn unsettled_deliveries_of_a_closed_channel_return_in_order_over_many_holds() {
    let mut w = World::new(1);
    let (a, b) = (w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [transient("q"), consume("q", 1)]);
    let puts: Vec<_> = (0..MANY).map(|n| put_transient("q", &n.to_string())).collect();
    run(&mut w, b, puts);
    assert_eq!(hear(&mut w, a).len(), MANY);
    let mut closing = vec![close_channel(), echo(1)];
    assert!(w.hold(a, &mut closing));
    let mut heard = run(&mut w, b, [consume_no_ack("q", 2)]);
    assert!(holds(&mut w, a, closing) > 2);
    assert_eq!(now(&mut w, a), ["done CloseChannel", "echo 1"]);
    // A consumer in between gets the oldest of what has returned.
    heard.extend(hear(&mut w, b));
    let numbers: Vec<usize> = heard.iter().filter_map(|line| redelivered(line)).collect();
    assert_counted(&numbers, MANY);
}

#[test]
fn a_recover_of_many_deliveries_takes_many_holds_and_returns_each_once() {
    let mut w = World::new(1);
    let (a, b) = (w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [transient("q"), consume("q", 2)]);
    let puts: Vec<_> = (0..MANY).map(|n| put_transient("q", &n.to_string())).collect();
    run(&mut w, b, puts);
    assert_eq!(hear(&mut w, a).len(), MANY);
    let mut recovering = vec![
        Command::Recover {
            channel: CH,
            reply: true,
        },
        echo(1),
    ];
    assert!(w.hold(a, &mut recovering));
    // Returned messages go to others, or wait until all have returned: they are not delivered and returned again.
    assert!(now(&mut w, a).is_empty());
    let other = run(&mut w, b, [get_no_ack("q"), get_no_ack("q")]);
    assert!(other[0].starts_with("got #1 0 again"), "{other:?}");
    assert!(other[1].starts_with("got #2 1 again"), "{other:?}");
    assert!(holds(&mut w, a, recovering) > 2);
    let heard = hear(&mut w, a);
    assert_eq!(heard[..2], ["done Recover", "echo 1"]);
    let again: Vec<usize> = heard.iter().filter_map(|line| redelivered(line)).collect();
    assert_eq!(again, (2..MANY).collect::<Vec<_>>());
    // Earlier numbers are no longer valid.
    assert!(run(&mut w, a, [ack(1)])[0].starts_with("failed Settle"));
}

#[test]
fn a_queue_with_many_consumers_is_deleted_at_once_and_they_end_in_many_holds() {
    for with_session_between in [false, true] {
        let mut w = World::new(1);
        let (one, p) = (w.connect("amqp"), w.connect("amqp"));
        w.set_audits(false);
        let mut commands = vec![durable("q")];
        commands.extend((1..=MANY as u32).map(|n| consume_with("q", n, |c| c.reply = false)));
        run(&mut w, one, commands);
        run(&mut w, p, (0..10).map(|n| put("q", &n.to_string())).collect::<Vec<_>>());
        // Some have reservations, which are dropped with the queue. A delivery that was taken is settled as usual.
        let first = now(&mut w, one);
        assert!(!first.is_empty());
        run(&mut w, p, [put("q", "reserved")]);
        w.send(p, vec![delete("q")]);
        let early = now(&mut w, one).iter().filter(|line| line.starts_with("gone")).count();
        assert!((1..MANY).contains(&early), "{early} in the first hold");
        if with_session_between {
            // Cancelled, closed, declared again and consumed, while the rest is still being cancelled.
            let heard = run(
                &mut w,
                one,
                [cancel(MANY as u32), ack(1), durable("q"), consume("q", 1_000_000)],
            );
            assert!(heard.contains(&format!("done Cancel c{MANY}")), "{heard:?}");
            assert!(heard.contains(&"consuming c1000000".into()), "{heard:?}");
        }
        let mut gone = early;
        let mut turns = 0;
        while w.counters().consumers > u64::from(with_session_between) {
            w.advance(ms(1));
            gone += hear(&mut w, one).iter().filter(|line| line.starts_with("gone")).count();
            turns += 1;
        }
        assert!(turns > 0);
        gone += hear(&mut w, one).iter().filter(|line| line.starts_with("gone")).count();
        w.set_audits(true);
        assert_eq!(gone, MANY - usize::from(with_session_between));
        if with_session_between {
            run(&mut w, p, [put("q", "new")]);
            let heard = hear(&mut w, one);
            assert!(
                heard[0].starts_with("deliver c1000000") && heard[0].ends_with(" new"),
                "{heard:?}"
            );
        }
        w.drop_client(one);
        w.drop_client(p);
        w.assert_idle();
    }
}

#[test]
fn a_settle_of_many_takes_many_holds() {
    let mut w = World::new(1);
    let (a, b) = (w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [durable("q"), consume("q", 1)]);
    let puts: Vec<_> = (0..MANY).map(|n| put("q", &n.to_string())).collect();
    run(&mut w, b, puts);
    assert_eq!(hear(&mut w, a).len(), MANY);
    assert!(holds(&mut w, a, vec![ack_upto(MANY as u64), echo(1)]) > 2);
    assert_eq!(now(&mut w, a), ["echo 1"], "the number was known all the time");
    w.drop_client(a);
    assert_eq!(run(&mut w, b, [get("q")]), ["empty"]);
}

#[test]
fn a_link_with_many_channels_and_queues_is_detached_in_many_holds() {
    let mut w = World::new(1);
    let c = w.connect("amqp");
    let open = (1..=2047).map(|channel| Command::OpenChannel { channel });
    run(&mut w, c, open.collect::<Vec<_>>());
    let queues = (0..500).map(|n| declare(&format!("q{n}"), |d| (d.durable, d.exclusive) = (false, true)));
    run(&mut w, c, queues.collect::<Vec<_>>());
    assert!(holds(&mut w, c, vec![Command::Detach]) > 5);
    w.assert_idle();
}

#[test]
fn consumers_that_are_passed_over_do_not_prolong_a_hold() {
    // Each message asked all of them to find one that could take it.
    let mut w = World::new(1);
    w.set_audits(false);
    let (a, c, p) = (w.connect("amqp"), w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [transient("q")]);
    for part in 0..10 {
        let some = (0..MANY as u32 / 10).map(|n| consume_with("q", 1 + part * 1_000 + n, |c| c.prefetch = Some(1)));
        run(&mut w, c, some.collect::<Vec<_>>());
    }
    for _ in 0..MANY / 500 {
        run(&mut w, p, (0..500).map(|_| put_transient("q", "m")).collect::<Vec<_>>());
        hear(&mut w, c);
    }
    assert_eq!(w.counters().messages_unsettled, MANY as u64);
    run(&mut w, a, [consume_no_ack("q", 1)]);
    w.send(p, (0..500).map(|_| put_transient("q", "m")).collect());
    let mut heard = 0;
    for _ in 0..1_000 {
        heard += now(&mut w, a).len();
        w.advance(ms(1));
    }
    assert_eq!(heard, 500);
    let longest = w.counters().longest_hold_units;
    assert!(longest < LONGEST_UNITS, "{longest} units");
}

#[test]
fn gets_of_messages_on_disk_wait_for_each_other() {
    // Each body that was read made all waiting gets be looked through.
    let mut w = World::new(1);
    let a = w.connect("amqp");
    run(&mut w, a, [durable("q")]);
    for first in (0..300).step_by(100) {
        run(
            &mut w,
            a,
            (first..first + 100)
                .map(|n| put("q", &n.to_string()))
                .collect::<Vec<_>>(),
        );
    }
    w.crash(Crash::Process);
    let a = w.connect("amqp");
    let gets: Vec<_> = (0..301).map(|_| get("q")).chain([echo(1)]).collect();
    w.send(a, gets);
    assert!(w.waits(a), "not all of them wait for the disk at once");
    let heard = hear(&mut w, a);
    let got: Vec<_> = heard
        .iter()
        .filter_map(|line| line.split(' ').nth(2)?.parse::<usize>().ok())
        .collect();
    assert_eq!(got, (0..300).collect::<Vec<_>>());
    assert_eq!(heard[300..], ["empty", "echo 1"]);
}

/// A channel that closed returned all that it had fetched and not taken in one hold.
#[test]
fn fetched_messages_of_a_closed_channel_return_in_order_over_many_holds() {
    let mut w = World::new(1);
    let (a, b) = (w.connect("amqp"), w.connect("amqp"));
    run(&mut w, a, [transient("q")]);
    let puts: Vec<_> = (0..MANY).map(|n| put_transient("q", &n.to_string())).collect();
    run(&mut w, b, puts);
    holds(&mut w, a, (0..MANY).map(|_| get("q")).collect());
    assert_eq!(run(&mut w, b, [get_no_ack("q")]), ["empty"]);
    assert!(holds(&mut w, a, vec![close_channel()]) > 2);
    let heard = run(&mut w, b, (0..MANY).map(|_| get_no_ack("q")).collect::<Vec<_>>());
    assert_eq!(heard.len(), MANY);
    for (n, line) in heard.iter().enumerate() {
        assert!(line.contains(&format!(" {n} ")), "{line} in place {n}");
    }
}
