//! The keep-alive: a client may be silent for one and a half times its interval.

use crate::script::{Script, connect};
use gatepost_core::event::Event;
use gatepost_core::time::Time;
use gatepost_mqtt::Settings;
use gatepost_mqtt::codec::{Limits, decode};
use gatepost_mqtt::frame::{Connect, Packet, Property, Publish, Sender, Version};
use std::time::Duration;

fn open(version: Version, keep_alive: u16, settings: Settings) -> Script {
    Script::open_with(
        &Connect {
            keep_alive,
            ..connect(version)
        },
        settings,
    )
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn silence_ends_the_connection_and_not_before() {
    for version in [Version::V311, Version::V5] {
        let mut script = open(version, 2, Settings::default());
        script.advance(2_999 * MS);
        assert!(script.closed().is_none());
        script.advance(MS);
        assert!(script.closed().is_some_and(|close| close.abnormal));
        if version == Version::V5 {
            script.assert_disconnected(0x8D);
        } else {
            script.assert_closed_silently();
        }
    }
}

#[test]
fn no_keep_alive_means_no_limit() {
    let script = open(Version::V5, 0, Settings::default());
    assert_eq!(script.session.poll_timeout(), None);
}

#[test]
fn every_whole_packet_counts() {
    let mut script = open(Version::V311, 2, Settings::default());
    for _ in 0..5 {
        script.advance(2_900 * MS);
        script.feed(&[0xC0, 0]);
    }
    assert_eq!(script.sent(), [0xD0, 0].repeat(5));
    script.advance(3_000 * MS);
    assert!(script.closed().is_some());
}

#[test]
fn single_bytes_do_not_reset_the_keep_alive_but_a_kilobyte_does() {
    let mut whole = Vec::new();
    Publish {
        topic: "t",
        payload: &[0; 4000],
        ..Publish::default()
    }
    .encode(Version::V311, &mut whole)
    .unwrap();
    let mut script = open(Version::V311, 2, Settings::default());
    for byte in &whole[..3] {
        script.advance(900 * MS);
        script.feed(&[*byte]);
    }
    script.advance(300 * MS);
    assert!(
        script.closed().is_some(),
        "a byte now and then does not reset the keep-alive"
    );

    let mut script = open(Version::V311, 2, Settings::default());
    for kilobyte in whole.chunks(1000) {
        script.advance(2_900 * MS);
        script.feed(kilobyte);
        assert!(script.closed().is_none());
    }
    assert_eq!(script.published().0.body().len(), 4000);
}

#[test]
fn time_in_which_nothing_is_read_does_not_count() {
    let mut script = open(Version::V5, 2, Settings::default());
    script.session.set_paused(script.now, true);
    assert_eq!(script.session.poll_timeout(), None);
    script.advance(60_000 * MS);
    script.session.set_paused(script.now, false);
    assert_eq!(script.session.poll_timeout(), Some(script.now.monotonic + 3_000 * MS));

    let settings = Settings {
        receive_maximum: 1,
        ..Settings::default()
    };
    let mut script = open(Version::V311, 2, settings);
    script.packet(&Packet::Publish(Publish {
        topic: "t",
        qos: 1,
        packet_id: 1,
        ..Publish::default()
    }));
    assert_eq!(script.session.poll_timeout(), None, "nothing is read until the confirm");
    script.advance(60_000 * MS);
    script.event(Event::Confirmed { channel: 0, upto: 1 });
    assert_eq!(
        script.session.poll_timeout(),
        Some(Time(script.now.monotonic.0 + 3_000))
    );
}

#[test]
fn the_servers_value_is_announced_and_used_in_mqtt_5_only() {
    for (version, theirs, effective, told) in [
        (Version::V5, 120, 60, true),
        (Version::V5, 0, 60, true),
        (Version::V5, 30, 30, false),
        (Version::V311, 120, 120, false),
    ] {
        let settings = Settings {
            keep_alive_max: Some(60),
            ..Settings::default()
        };
        let mut script = Script::new(version, settings);
        script.login(&Connect {
            keep_alive: theirs,
            ..connect(version)
        });
        script.event(Event::SessionOpened { present: false });
        let sent = script.sent();
        let Ok(Some((Packet::ConnAck(packet), _))) = decode(&sent, version, Sender::Server, &Limits::WIRE) else {
            panic!()
        };
        assert_eq!(
            packet.properties.iter().any(|p| p == Property::ServerKeepAlive(60)),
            told
        );
        let due = script.now.monotonic + effective * 1500 * MS;
        assert_eq!(script.session.poll_timeout(), Some(due));
    }
}
