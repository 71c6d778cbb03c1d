//! Rights, patterns, and the caches of links.

use super::topics::{filled_in, is_filled_in};
use super::*;
use crate::message::Dialect;
use crate::topic::Pattern;
use Dialect::{Dot, Slash};

fn names(text: &str) -> NamePattern {
    NamePattern::parse(text).expect("a pattern")
}

fn slash(texts: &[&str]) -> Vec<TopicPattern> {
    let parse = |text: &&str| TopicPattern::parse(text, Slash).expect("a filter");
    texts.iter().map(parse).collect()
}

#[test]
fn a_name_pattern_matches_anywhere_and_the_empty_one_nothing() {
    assert!(names("q").matches("my-queue") && !names("^q").matches("my-queue"));
    assert!(names("^(a|b)$").matches("a") && !names("^(a|b)$").matches("ab"));
    assert!(names(".*").matches("") && names(".*").matches("anything"));
    for none in ["", "^$"] {
        assert!(!names(none).matches("") && !names(none).matches("q"));
    }
    assert!(NamePattern::parse("(").is_err());
    assert!(NamePattern::parse(&"a".repeat(PATTERN_BYTES_MAX + 1)).is_err());
    assert!(
        NamePattern::parse("((a{100}){100}){100}").is_err(),
        "too large once compiled"
    );
}

fn published() -> Message {
    Message::new(crate::message::Envelope::default(), "amq.topic", "k", b"", b"")
}

fn rights() -> Rights {
    let read = slash(&["dev/{client_id}/#", "u-{username}/+", "pub/#"]);
    let write = slash(&["dev/{client_id}/up"]);
    Rights::all().with_topics("amq.topic", write, read)
}

fn who<'a>(user: &'a str, client_id: Option<&'a str>) -> Who<'a> {
    Who {
        user,
        client_id,
        vhost: "/",
    }
}

/// A topic is compared without building the text; the result must be the same.
#[test]
fn a_level_is_compared_as_it_is_filled_in() {
    let who = who("a{b", Some("{username}"));
    let levels = [
        "",
        "{",
        "a{b",
        "{username}",
        "{username}x",
        "x{client_id}{vhost}",
        "{{vhost}}",
        "{user",
        "a{bx",
    ];
    let found = [
        "",
        "{",
        "a{b",
        "a{bx",
        "x{username}/",
        "{/}",
        "{user",
        "{username}",
        "/",
    ];
    for level in levels {
        for found in found {
            assert_eq!(
                is_filled_in(level, found, who),
                *filled_in(level, who) == *found,
                "{level} {found}"
            );
        }
    }
    let nobody = Who { client_id: None, ..who };
    assert!(!is_filled_in("{client_id}", "", nobody));
}

#[test]
fn placeholders_stand_for_the_connection() {
    let r = rights();
    let may = |topic: &str, who| r.permit_topic(Permission::Write, b"amq.topic", (topic.as_bytes(), Slash), who);
    assert!(may("dev/a/up", who("u", Some("a"))));
    assert!(!may("dev/b/up", who("u", Some("a"))) && !may("dev/a/down", who("u", Some("a"))));
    assert!(!may("dev//up", who("u", None)), "it has no client id");
    let reads = |filter: &str, who| {
        let filter = Pattern::parse(filter, Slash).expect("a filter");
        r.permit_filter(Permission::Read, "amq.topic", &filter, who)
    };
    assert!(reads("dev/a/+", who("u", Some("a"))) && reads("u-u/x", who("u", None)) && reads("pub/+", who("u", None)));
    assert!(!reads("dev/+/x", who("u", Some("a"))) && !reads("#", who("u", Some("a"))));
    // The topics of an exchange without rules are not limited.
    assert!(r.permit_topic(Permission::Write, b"other", (b"x.y", Dot), who("u", None)));
}

/// A client named `+` or `a/#` must not get other clients' topics, nor one named like a placeholder.
#[test]
fn the_value_of_a_placeholder_is_no_wildcard() {
    let r = rights();
    for id in ["+", "#", "a/#", "x/+", "{username}"] {
        for filter in ["dev/+/up", "dev/a/up", "dev/#", "dev/u/up"] {
            let filter = Pattern::parse(filter, Slash).expect("a filter");
            let may = r.permit_filter(Permission::Read, "amq.topic", &filter, who("u", Some(id)));
            assert!(!may, "{id} {filter:?}");
        }
        assert!(
            !r.permit_topic(
                Permission::Write,
                b"amq.topic",
                (b"dev/a/up", Slash),
                who("u", Some(id))
            ),
            "{id}"
        );
    }
}

/// A route permitted to one connection is permitted to others of its user, unless their client ids matter.
#[test]
fn a_permitted_route_holds_for_all_connections_with_the_same_rights() {
    let mut users = UserRights::default();
    let limited =
        |write: &[&str]| Arc::new(Rights::all().with_topics("amq.topic", slash(write), slash(&["{client_id}"])));
    users.set("u".into(), limited(&["{username}/#", "{vhost}"]));
    users.set("v".into(), limited(&["{username}/#", "{vhost}"]));
    users.set("w".into(), limited(&["a", "x{client_id}"]));
    let permitted = |user: &str| Access::new(user.into(), &users).remember(&users, &published(), None);
    assert_eq!(permitted("u"), permitted("u"));
    assert_ne!(permitted("u"), permitted("v"));
    assert_ne!(permitted("w"), permitted("w"));
    assert_ne!(permitted("nobody"), permitted("nobody"));
    let mut link = Access::new("w".into(), &users);
    let before = link.remember(&users, &published(), None);
    assert!(link.knows(&users, Some((3, before))));
    link.set_client_id(&"c".into());
    assert!(
        !link.knows(&users, Some((3, before))),
        "it may publish something else now"
    );
    assert_ne!(link.remember(&users, &published(), None), before);
}

/// The node knew a user's rights. From now on, an external server is asked about each publish.
#[test]
fn permissions_are_forgotten_when_rights_become_external() {
    let mut users = UserRights::default();
    users.set("u".into(), rights().into());
    let mut access = Access::new("u".into(), &users);
    let permitted = access.remember(&users, &published(), Some(3));
    access.begin_asking(&Arc::default());
    users.set("u".into(), Rights::asked().into());
    assert!(access.limits(&users).is_some_and(Rights::are_asked) && access.asking().is_some());
    for permitted in [permitted, Permitted::NOBODY] {
        assert!(!access.knows(&users, Some((3, permitted))));
    }
    assert!(!access.wrote_to(b"amq.topic"));
}

#[test]
fn a_link_drops_its_cache_when_rights_change() {
    let mut users = UserRights::default();
    users.set("u".into(), Rights::all().into());
    let mut access = Access::new("u".into(), &users);
    assert!(access.knows(&users, None), "everything is permitted");
    users.set("u".into(), rights().into());
    let nobody = |route| Some((route, Permitted::NOBODY));
    assert!(!access.knows(&users, nobody(3)));
    assert!(access.limits(&users).is_some());
    let permitted = access.remember(&users, &published(), Some(3));
    assert!(access.knows(&users, nobody(3)) && !access.knows(&users, nobody(3 + ROUTES as u64)));
    assert!(access.knows(&users, Some((4, permitted))) && !access.knows(&users, nobody(4)));
    assert!(!access.knows(&users, None));
    users.set("somebody".into(), Rights::all().into());
    assert!(!access.knows(&users, Some((3, permitted))));
    assert!(access.limits(&users).is_some() && !access.knows(&users, nobody(3)));
    users.set("u".into(), rights().into());
    assert!(access.limits(&users).is_some());
    access.remember(&users, &published(), None);
    assert!(
        !access.knows(&users, Some((4, permitted))),
        "it was permitted with other rights"
    );
    users.remove("u");
    let limits = access.limits(&users).expect("no rights");
    assert!(!limits.permit(Permission::Write, "amq.topic"));
}
