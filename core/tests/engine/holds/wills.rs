//! Wills whose routing takes many holds.

use super::*;
use gatepost_core::testing::disk::Crash;

#[test]
fn a_crash_between_the_holds_of_a_will_does_not_lose_it() {
    for ends in [false, true] {
        for turns in 0..12 {
            let mut w = small_holds();
            let (watcher, p) = (w.connect("mqtt"), w.connect("mqtt"));
            run(&mut w, watcher, [kept("watcher"), subscribe(combinations(10))]);
            run(&mut w, p, [clean("p")]);
            let topic = ["a"; 10].join("/");
            let will = gatepost_core::command::Will {
                message: topic_message(&topic, "will", |_| {}),
                delay: ms(0),
                expiry: None,
            };
            let c = w.connect("mqtt");
            run(&mut w, c, [session("c", |s| s.will = Some(will))]);
            if ends {
                run(&mut w, c, [Command::SessionExpiry(Some(0))]);
            }
            let mut left = vec![Command::Detach];
            for _ in 0..turns {
                if !left.is_empty() {
                    w.hold(c, &mut left);
                }
                w.send(p, vec![mqtt("nobody", "m", 1, 0)]);
                w.commit();
            }
            w.crash(Crash::Power);
            for _ in 0..40 {
                w.advance(ms(1));
            }
            w.catch_up();
            let watcher = w.connect("mqtt");
            let heard = run(&mut w, watcher, [kept("watcher")]);
            let wills = heard.iter().filter(|line| line.contains(" will")).count();
            assert_eq!(wills, 1, "{turns} turns, ends {ends}: {heard:?}");
        }
    }
}

#[test]
fn a_client_that_comes_back_while_its_will_is_published_keeps_both_wills() {
    let mut w = small_holds();
    let (watcher, c) = (w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, watcher, [kept("watcher"), subscribe(combinations(10))]);
    let topic = ["a"; 10].join("/");
    let with_will = |body: &str| {
        let will = gatepost_core::command::Will {
            message: topic_message(&topic, body, |_| {}),
            delay: ms(0),
            expiry: None,
        };
        session("c", |s| s.will = Some(will))
    };
    run(&mut w, c, [with_will("first")]);
    w.drop_client(c);
    let again = w.connect("mqtt");
    let mut opening = vec![with_will("second")];
    assert!(w.hold(again, &mut opening), "the first will is on its way");
    while w.hold(again, &mut opening) {}
    assert_eq!(hear(&mut w, again), ["open present"]);
    w.crash(Crash::Power);
    for _ in 0..40 {
        w.advance(ms(1));
    }
    w.catch_up();
    let watcher = w.connect("mqtt");
    let heard = run(&mut w, watcher, [kept("watcher")]);
    let bodies: Vec<_> = heard.iter().filter_map(|line| line.split(' ').nth(4)).collect();
    assert_eq!(bodies, ["first", "second"], "{heard:?}");
}
