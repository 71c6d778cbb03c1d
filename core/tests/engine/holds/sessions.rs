//! Subscriptions, and the ends of sessions with many of them.

use super::*;
use gatepost_core::command::Unsubscribe;
use gatepost_core::testing::disk::Crash;

fn subscribe_to_many(w: &mut World, c: Client) {
    run(
        w,
        c,
        [subscribe((0..MANY).map(|n| filter(&format!("t/{n}/#"), 1)).collect())],
    );
}

fn unsubscribe_from_many() -> Command {
    Command::Unsubscribe(Box::new(Unsubscribe {
        packet_id: 3,
        filters: (0..MANY).map(|n| (format!("t/{n}/#").into(), None)).collect(),
    }))
}

#[test]
fn many_filters_take_many_holds_and_one_answer() {
    let mut w = World::new(1);
    let (c, p) = (w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, c, [kept("c")]);
    run(&mut w, p, [clean("p")]);
    let filters = (0..MANY).map(|n| filter(&format!("t/{n}/#"), 1)).collect();
    let mut left = vec![subscribe(filters), mqtt("t/0", "behind", 1, 0)];
    assert!(w.hold(c, &mut left));
    assert!(now(&mut w, c).is_empty(), "the answer is one");
    run(&mut w, p, [mqtt("t/0", "between", 1, 0), mqtt("t/4999", "early", 1, 0)]);
    assert!(holds(&mut w, c, left) > 10);
    let heard = hear(&mut w, c);
    assert_eq!(heard.iter().filter(|line| line.starts_with("suback")).count(), 1);
    let granted = heard.iter().find(|line| line.starts_with("suback")).expect("an answer");
    assert_eq!(granted.matches("Ok(1)").count(), MANY);
    let messages: Vec<_> = heard.iter().filter(|line| line.starts_with("publish")).collect();
    assert_eq!(messages, ["publish q1 #1 t/0 between", "publish q1 #2 t/0 behind"]);

    let mut left = vec![unsubscribe_from_many()];
    assert!(w.hold(c, &mut left));
    assert!(holds(&mut w, c, left) > 10);
    let heard = hear(&mut w, c);
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].matches("true").count(), MANY);
    w.crash(Crash::Power);
    let c = w.connect("mqtt");
    run(&mut w, c, [kept("c"), mqtt("t/0", "unheard", 1, 0)]);
    assert_eq!(run(&mut w, c, [unsubscribe("t/0/#", None)]), ["unsuback 2 [false]"]);
}

#[test]
fn a_session_with_many_subscriptions_ends_in_many_holds() {
    let mut w = World::new(1);
    let (c, p) = (w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, p, [clean("p")]);
    run(&mut w, c, [clean("c")]);
    subscribe_to_many(&mut w, c);
    let mut left = vec![Command::Detach];
    assert!(w.hold(c, &mut left));
    // A publisher may still find the session's queue meanwhile, and is confirmed all the same.
    for n in [0, MANY / 2, MANY - 1] {
        let confirmed = run(&mut w, p, [mqtt(&format!("t/{n}"), "m", 1, 0)]);
        assert!(
            confirmed.len() == 1 && confirmed[0].starts_with("confirmed"),
            "{confirmed:?}"
        );
    }
    assert!(holds(&mut w, c, left) > 10);
    w.drop_client(p);
    w.assert_idle();
    assert_eq!(w.counters().traffic.links_detached, 2);
}

#[test]
fn a_client_that_comes_back_while_its_session_ends_gets_a_new_one() {
    // The new session must neither get what is left of the old one, nor lose its own subscriptions with it.
    let mut w = World::new(1);
    let old = w.connect("mqtt");
    run(&mut w, old, [clean("c")]);
    subscribe_to_many(&mut w, old);
    let mut ending = vec![Command::Detach];
    assert!(w.hold(old, &mut ending));
    let new = w.connect("mqtt");
    let mut opening = vec![kept("c"), subscribe(vec![filter("t/0/#", 1), filter("t/4999/#", 1)])];
    assert!(!w.hold(new, &mut opening));
    assert!(w.waits(new));
    while w.hold(old, &mut ending) {
        assert!(now(&mut w, new).is_empty(), "the old session is not gone yet");
    }
    assert_eq!(hear(&mut w, new), ["open new", "suback 1 [Ok(1), Ok(1)]"]);
    let heard = run(
        &mut w,
        new,
        [
            mqtt("t/0", "a", 0, 0),
            mqtt("t/1", "b", 0, 0),
            mqtt("t/4999", "c", 0, 0),
        ],
    );
    assert_eq!(heard, ["publish q0 #0 t/0 a", "publish q0 #0 t/4999 c"]);
}

#[test]
fn a_clean_start_waits_for_the_end_of_the_former_session() {
    let mut w = World::new(1);
    let old = w.connect("mqtt");
    run(&mut w, old, [kept("c")]);
    subscribe_to_many(&mut w, old);
    let new = w.connect("mqtt");
    w.send(new, vec![clean("c")]);
    assert_eq!(now(&mut w, old), ["closed TakenOver"]);
    assert!(now(&mut w, new).is_empty(), "the old session is not gone yet");
    w.drop_client(old);
    assert!(holds(&mut w, new, Vec::new()) > 10);
    assert!(now(&mut w, new).is_empty(), "the log does not know yet");
    assert_eq!(hear(&mut w, new), ["open new"]);
    w.crash(Crash::Power);
    let c = w.connect("mqtt");
    assert_eq!(
        run(&mut w, c, [kept("c"), mqtt("t/7", "m", 1, 0)]),
        ["open new", "confirmed 1"]
    );
}

#[test]
fn a_session_expires_in_many_holds() {
    let mut w = World::new(1);
    let c = w.connect("mqtt");
    run(&mut w, c, [session("c", |s| s.expiry = Some(1))]);
    subscribe_to_many(&mut w, c);
    w.drop_client(c);
    w.advance(ms(1_500));
    w.catch_up();
    let c = w.connect("mqtt");
    assert_eq!(run(&mut w, c, [session("c", |s| s.expiry = Some(0))]), ["open new"]);
    assert_eq!(run(&mut w, c, [unsubscribe("t/4999/#", None)]), ["unsuback 2 [false]"]);
    w.drop_client(c);
    w.assert_idle();
}

#[test]
fn retained_messages_are_sent_once_for_a_filter_however_often_it_is_asked_for() {
    // A client that subscribed and unsubscribed faster than replays were served piled them up without limit.
    let mut w = World::new(1);
    let (p, c) = (w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, p, [clean("p"), retain("r/1", "m"), retain("s/1", "m")]);
    run(&mut w, c, [clean("c")]);
    let mut commands = Vec::new();
    for _ in 0..100 {
        commands.extend([
            subscribe(vec![filter("r/#", 0)]),
            subscribe(vec![filter("s/#", 0)]),
            unsubscribe("s/#", None),
        ]);
    }
    let heard = run(&mut w, c, commands);
    let messages: Vec<_> = heard.iter().filter(|line| line.starts_with("publish")).collect();
    assert_eq!(messages, ["publish q0 #0 r/1 m retain"]);
    // Asked for again, it is sent again. MQTT 5 3.8.4 [MQTT-3.8.4-4]
    let heard = run(&mut w, c, [subscribe(vec![filter("r/#", 0)])]);
    assert_eq!(heard, ["suback 1 [Ok(0)]", "publish q0 #0 r/1 m retain"]);
}

/// More groups than a session joins in one hold.
const GROUPS: usize = 200;

fn group(n: usize) -> gatepost_core::command::Subscription {
    shared("g", &format!("t/{n:03}"), 1)
}

fn to_all_groups(w: &mut World, p: Client, body: &str) {
    let all: Vec<Command> = (0..GROUPS).map(|n| mqtt(&format!("t/{n:03}"), body, 1, 0)).collect();
    run(w, p, all);
}

fn member(w: &mut World) -> Client {
    let c = w.connect("mqtt");
    let heard = run(w, c, [session("c", |s| s.receive_maximum = u16::MAX)]);
    assert!(heard[0].starts_with("open"), "{heard:?}");
    w.send(c, Vec::new());
    c
}

/// The topics of the messages that a client hears, sorted.
fn topics(w: &mut World, c: Client) -> Vec<String> {
    let heard = hear(w, c);
    let topic = |line: &String| line.split(' ').find(|word| word.starts_with("t/")).map(str::to_owned);
    let mut topics: Vec<String> = heard.iter().filter_map(topic).collect();
    topics.sort();
    topics
}

fn all_topics() -> Vec<String> {
    (0..GROUPS).map(|n| format!("t/{n:03}")).collect()
}

/// A member of 10,000 groups joined all of them in the hold in which it came back.
#[test]
fn a_member_of_many_groups_that_comes_back_joins_them_in_many_holds() {
    let mut w = World::new(1);
    let (p, c) = (w.connect("mqtt"), w.connect("mqtt"));
    run(&mut w, p, [clean("p")]);
    run(&mut w, c, [kept("c"), subscribe((0..GROUPS).map(group).collect())]);
    w.drop_client(c);
    to_all_groups(&mut w, p, "1");
    let c = w.connect("mqtt");
    let opened = run(&mut w, c, [session("c", |s| s.receive_maximum = u16::MAX)]);
    assert_eq!(opened[0], "open present");
    let at_once = opened.len() - 1;
    assert!((1..GROUPS / 2).contains(&at_once), "{at_once} messages at once");
    w.advance(ms(1));
    assert_eq!(at_once + topics(&mut w, c).len(), GROUPS);
    // It is in each group once.
    to_all_groups(&mut w, p, "2");
    assert_eq!(topics(&mut w, c), all_topics());
}

/// While it joins, it subscribes to groups again and leaves others, and it may go and come back.
#[test]
fn groups_may_change_while_their_member_joins_them() {
    for seed in 0..20 {
        let mut rng = gatepost_core::testing::disk::Rng::new(seed);
        let mut w = World::new(seed);
        let (p, c) = (w.connect("mqtt"), w.connect("mqtt"));
        run(&mut w, p, [clean("p")]);
        run(&mut w, c, [kept("c"), subscribe((0..GROUPS).map(group).collect())]);
        w.drop_client(c);
        let mut c = member(&mut w);
        let mut left: std::collections::BTreeSet<String> = all_topics().into_iter().collect();
        for _ in 0..30 {
            let n = rng.below(GROUPS as u64) as usize;
            match rng.below(8) {
                0 => w.advance(ms(1)),
                1 => {
                    w.drop_client(c);
                    c = member(&mut w);
                }
                2..=4 => {
                    run(&mut w, c, [subscribe_as(vec![group(n)], Some(7))]);
                    left.insert(format!("t/{n:03}"));
                }
                _ => {
                    run(&mut w, c, [unsubscribe(&format!("t/{n:03}"), Some("g"))]);
                    left.remove(&format!("t/{n:03}"));
                }
            }
        }
        w.advance(ms(1));
        hear(&mut w, c);
        to_all_groups(&mut w, p, "m");
        assert_eq!(topics(&mut w, c), left.into_iter().collect::<Vec<_>>(), "seed {seed}");
        let consumers = w.counters().consumers;
        assert!(consumers <= GROUPS as u64, "seed {seed}: {consumers} consumers");
        w.drop_client(p);
        w.drop_client(c);
        w.assert_idle();
    }
}
