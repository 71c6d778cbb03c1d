//! What a vhost retains of its topics, and what walks find.

use super::*;
use crate::message::{Dialect, Envelope};
use Dialect::{Dot, Slash};

fn message(key: &str, dialect: Dialect, body: &str) -> Message {
    Message::new(
        Envelope {
            dialect,
            ..Envelope::default()
        },
        "amq.topic",
        key,
        b"",
        body.as_bytes(),
    )
}

fn expiring(key: &str, deadline: u64) -> Message {
    let envelope = Envelope {
        dialect: Slash,
        deadline: Some(Wall(deadline)),
        ..Envelope::default()
    };
    Message::new(envelope, "amq.topic", key, b"", b"x")
}

fn filled(topics: &[&str]) -> Retained {
    let mut retained = Retained::default();
    for topic in topics {
        let (change, before) = retained.set(&message(topic, Slash, topic), Kept::InLog(1));
        assert!(matches!(change, Change::Stored) && before.is_none());
    }
    retained
}

fn all(retained: &mut Retained, text: &str, dialect: Dialect, now: u64) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(mut cursor) = retained.matching(Pattern::parse(text, dialect).expect("valid")) {
        while retained.next_batch(&mut cursor, Wall(now), &mut 1, &mut out) == Walked::More {}
    }
    out.iter().map(|m| m.key().to_owned()).collect()
}

#[test]
fn a_look_up_costs_what_it_compares() {
    let deep: Vec<String> = (0..10).map(|n| format!("{n}{}", "/a".repeat(99))).collect();
    let mut retained = filled(&deep.iter().map(String::as_str).collect::<Vec<_>>());
    let mut spent = |text: &str| {
        let mut cursor = retained
            .matching(Pattern::parse(text, Dot).expect("valid"))
            .expect("something may match");
        let (mut left, mut out) = (1_000_000, Vec::new());
        assert_eq!(
            retained.next_batch(&mut cursor, Wall(0), &mut left, &mut out),
            Walked::End
        );
        1_000_000 - left
    };
    assert_eq!(spent("#"), 10);
    // 40 levels against 100, ten times.
    let midst = format!("#.{}b", "a.".repeat(38));
    assert!(spent(&midst) > 10 * 40 * 100 / 10, "{}", spent(&midst));
}

#[test]
fn a_topic_keeps_its_last_message_and_an_empty_one_clears_it() {
    let mut retained = Retained::default();
    let mut set = |key, dialect, body| {
        let (change, before) = retained.set(&message(key, dialect, body), Kept::InLog(1));
        let before = before.map(|before| String::from_utf8_lossy(before.body()).into_owned());
        (format!("{change:?}"), before, retained.count(), retained.bytes() > 0)
    };
    let (stored, cleared, nothing) = ("Stored".to_owned(), "Cleared".to_owned(), "Nothing".to_owned());
    assert_eq!(set("a/b", Slash, "1"), (stored.clone(), None, 1, true));
    // The same topic in the other dialect.
    assert_eq!(set("a.b", Dot, "2"), (stored, Some("1".into()), 1, true));
    assert_eq!(set("a/c", Slash, ""), (nothing.clone(), None, 1, true));
    assert_eq!(set("a/b", Slash, ""), (cleared, Some("2".into()), 0, false));
    assert_eq!(set("", Dot, "1"), (nothing, None, 0, false));
    assert_eq!(
        Retained::key_of(&message("v1%2E5.s", Dot, "")),
        Retained::key_of(&message("v1.5/s", Slash, ""))
    );
}

#[test]
fn patterns_find_what_they_match_in_order_of_topics() {
    let mut retained = filled(&[
        "sport",
        "sport/",
        "sport/a/b",
        "sports",
        "/finance",
        "$SYS/a",
        "$SYS",
        "a/$x",
        "//",
        "sport/a",
    ]);
    let mut find = |filter| all(&mut retained, filter, Slash, 0);
    assert_eq!(find("sport/#"), ["sport", "sport/", "sport/a", "sport/a/b"]);
    assert_eq!(find("sport/+"), ["sport/", "sport/a"]);
    assert_eq!(find("+/+"), ["/finance", "a/$x", "sport/", "sport/a"]);
    assert_eq!(find("+"), ["sport", "sports"]);
    assert_eq!(find("+/+/+"), ["//", "sport/a/b"]);
    assert_eq!(find("$SYS/#"), ["$SYS", "$SYS/a"]);
    assert_eq!(find("$SYS/+"), ["$SYS/a"]);
    assert_eq!(find("sport/a"), ["sport/a"]);
    assert_eq!(find("missing"), Vec::<String>::new());
    assert_eq!(find("#").len(), 8);
    assert_eq!(all(&mut retained, "#", Dot, 0).len(), 8, "all but the broker's own");
    assert_eq!(all(&mut retained, "#.a.#", Dot, 0), ["a/$x", "sport/a", "sport/a/b"]);
    assert_eq!(all(&mut retained, "$SYS.#", Dot, 0), ["$SYS", "$SYS/a"]);
    assert_eq!(all(&mut retained, "*.a", Dot, 0), ["sport/a"]);
}

#[test]
fn expired_messages_are_dropped_when_read_or_swept() {
    let mut retained = filled(&["a/0"]);
    for n in 1..=4 {
        retained.set(&expiring(&format!("a/{n}"), 100 * n), Kept::InLog(1));
    }
    assert_eq!(retained.next_expiry(), Some(Wall(100)));
    assert_eq!(all(&mut retained, "a/+", Slash, 99).len(), 5);
    assert_eq!(all(&mut retained, "a/1", Slash, 100), Vec::<String>::new());
    assert_eq!(
        retained
            .take_expired()
            .iter()
            .map(|(key, _)| &**key)
            .collect::<Vec<_>>(),
        [b"a\x001\0"]
    );
    retained.expire(Wall(350), 1);
    retained.expire(Wall(250), 10);
    assert_eq!(retained.next_expiry(), Some(Wall(300)));
    // Replacing a message removes its deadline.
    retained.set(&message("a/3", Slash, "for ever"), Kept::InLog(1));
    retained.expire(Wall(1000), 10);
    assert_eq!(retained.take_expired().len(), 2);
    assert_eq!(retained.next_expiry(), None);
    assert_eq!(all(&mut retained, "#", Slash, 1000), ["a/0", "a/3"]);
}

#[test]
fn a_walk_continues_correctly_while_topics_are_set_and_cleared() {
    let mut retained = filled(&["a/1", "a/2", "a/3", "a/4"]);
    let mut cursor = retained
        .matching(Pattern::parse("a/+", Slash).expect("valid"))
        .expect("something");
    let mut out = Vec::new();
    assert_eq!(
        retained.next_batch(&mut cursor, Wall(0), &mut 2, &mut out),
        Walked::More
    );
    retained.set(&message("a/2", Slash, ""), Kept::InLog(1));
    retained.set(&message("a/3", Slash, ""), Kept::InLog(1));
    retained.set(&message("a/0", Slash, "behind the cursor"), Kept::InLog(1));
    retained.set(&message("a/5", Slash, "in front of it"), Kept::InLog(1));
    while retained.next_batch(&mut cursor, Wall(0), &mut 2, &mut out) == Walked::More {}
    assert_eq!(
        out.iter().map(Message::key).collect::<Vec<_>>(),
        ["a/1", "a/2", "a/4", "a/5"]
    );
}

#[test]
fn a_sparse_pattern_leaps_instead_of_reading_everything() {
    let mut retained = Retained::default();
    for room in 0..10 {
        for n in 0..1000 {
            retained.set(&message(&format!("{room}/{n:03}"), Slash, "x"), Kept::InLog(1));
        }
    }
    let mut cursor = retained
        .matching(Pattern::parse("+/500", Slash).expect("valid"))
        .expect("something");
    let mut out = Vec::new();
    retained.next_batch(&mut cursor, Wall(0), &mut 40, &mut out);
    assert_eq!(out.len(), 10);
}

#[test]
fn a_walk_finds_what_matching_one_by_one_finds() {
    let mut random = 1_u64;
    let mut below = |n: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % n
    };
    let words = ["a", "b", "", "$x", "\u{1}", "\0", "é", "a\0", "a\u{1}"];
    for _ in 0..300 {
        let mut retained = Retained::default();
        let mut topics = std::collections::BTreeSet::new();
        for _ in 0..40 {
            let topic = (0..=below(4))
                .map(|_| words[below(words.len())])
                .collect::<Vec<_>>()
                .join(".");
            if !topic.is_empty() {
                retained.set(&message(&topic, Dot, "x"), Kept::InLog(1));
                topics.insert(topic);
            }
        }
        assert_eq!(retained.count(), topics.len());
        for dialect in [Dot, Slash] {
            let (separator, one) = if dialect == Dot { (".", "*") } else { ("/", "+") };
            let mut levels: Vec<&str> = (0..=below(4))
                .map(|_| [one, one, "a", "b", "", "$x", "é"][below(7)])
                .collect();
            if dialect == Dot {
                levels.insert(below(levels.len() + 1), "#");
            } else if below(2) == 0 {
                levels.push("#");
            }
            let text = levels.join(separator);
            let Ok(pattern) = Pattern::parse(&text, dialect) else {
                continue;
            };
            let mut found = all(&mut retained, &text, dialect, 0);
            found.sort();
            let expected: Vec<_> = topics
                .iter()
                .filter(|topic| pattern.matches(&Levels::new(topic, Dot)))
                .cloned()
                .collect();
            assert_eq!(found, expected, "{text} in {dialect:?}");
        }
    }
}

/// Everything that a walk finds, and the messages that it had to wait for. If `brings`, each of these is read at once.
fn fetched(retained: &mut Retained, text: &str, brings: bool) -> (Vec<String>, Vec<String>) {
    let (mut out, mut waited) = (Vec::new(), Vec::new());
    let mut cursor = retained.matching(Pattern::parse(text, Slash).expect("valid"));
    while let Some(at) = &mut cursor {
        match retained.next_batch(at, Wall(0), &mut 1, &mut out) {
            Walked::End => break,
            Walked::More => {}
            Walked::Absent => {
                let wanted = retained.ahead(at, Wall(0), 2, 100);
                for Wanted { key, number, .. } in wanted {
                    let topic = spell(levels_of(&key), Slash);
                    waited.push(topic.clone());
                    if brings {
                        assert!(retained.loaded(&key, number, &message(&topic, Slash, &topic)));
                    } else {
                        assert!(retained.lost(&key, number));
                    }
                }
            }
        }
    }
    (out.iter().map(|m| m.key().to_owned()).collect(), waited)
}

#[test]
fn messages_leave_once_they_are_written_and_a_walk_waits_for_them() {
    let topics = ["a/1", "a/2", "a/3", "a/4"];
    let mut retained = filled(&topics);
    retained.set(&message("a/0", Slash, "the node's"), Kept::InMemory);
    assert!(retained.evict(0).is_none(), "nothing is written");
    let bytes = retained.bytes();
    let left = std::iter::from_fn(|| retained.evict(1)).count();
    assert_eq!((left, retained.count(), retained.bytes()), (4, 5, bytes));
    retained.set(&message("a/3", Slash, "later"), Kept::InLog(2));
    assert!(retained.evict(1).is_none());
    let all = ["a/0", "a/1", "a/2", "a/3", "a/4"].map(str::to_owned);
    assert_eq!(
        fetched(&mut retained, "a/#", true),
        (all.to_vec(), vec!["a/1".into(), "a/2".into(), "a/4".into()])
    );
    assert_eq!(fetched(&mut retained, "a/#", true), (all.to_vec(), vec![]));
    // The message in memory for longest is evicted first.
    assert_eq!(retained.evict(2).map(|m| m.key().to_owned()), Some("a/3".into()));
    assert_eq!(retained.evict(2).map(|m| m.key().to_owned()), Some("a/1".into()));
    assert_eq!(fetched(&mut retained, "a/#", false).0, ["a/0", "a/2", "a/4"]);
    assert_eq!(retained.count(), 3);
}

/// A late answer must not undo a change made meanwhile.
#[test]
fn an_answer_to_a_request_before_a_change_is_ignored() {
    let wanted = |retained: &Retained| {
        let cursor = retained
            .matching(Pattern::parse("t", Slash).expect("valid"))
            .expect("it matches");
        retained.ahead(&cursor, Wall(0), 9, 100)[0].clone()
    };
    let mut retained = filled(&["t"]);
    retained.evict(1);
    let before = wanted(&retained);
    for body in ["2", ""] {
        retained.set(&message("t", Slash, body), Kept::InLog(2));
        assert!(!retained.loaded(&before.key, before.number, &message("t", Slash, "1")));
        assert!(!retained.lost(&before.key, before.number));
        assert_eq!(retained.count(), usize::from(!body.is_empty()));
    }
    // Set and evicted again: the number tells the two apart.
    retained.set(&message("t", Slash, "3"), Kept::InLog(3));
    retained.evict(3);
    assert!(!retained.loaded(&before.key, before.number, &message("t", Slash, "1")));
    let now = wanted(&retained);
    assert!(retained.loaded(&now.key, now.number, &message("t", Slash, "3")));
    assert!(
        !retained.loaded(&now.key, now.number, &message("t", Slash, "3")),
        "once"
    );
}
