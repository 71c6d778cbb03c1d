//! The pump in the simulated world with real sessions: situations that a client from outside cannot bring about
//! reliably.

mod authentication;
mod denied;

use gatepost_core::event::{Event, Pressure};
use gatepost_core::properties::Codecs;
use gatepost_core::session::Protocol as _;
use gatepost_core::testing::pipe::Pipe;
use gatepost_core::testing::world::{Settings, World};
use gatepost_mqtt::Mqtt;
use gatepost_stomp::Stomp;
use std::time::Duration;

fn world(seed: u64, mqtt: &Mqtt) -> World {
    let codecs = Codecs::new(vec![mqtt.codec()]);
    World::speaking(seed, Settings::default(), Default::default(), codecs)
}

fn packet(byte: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).expect("a short packet");
    assert!(length < 128);
    [&[byte, length], body].concat()
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a short text");
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}

/// An MQTT 3.1.1 CONNECT with a clean session; the will goes to the topic `will`.
fn connect(client_id: &str, will: bool) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x04".to_vec();
    body.extend([if will { 0x06 } else { 0x02 }, 0, 0]);
    body.extend(text(client_id));
    if will {
        body.extend(text("will"));
        body.extend(text("gone"));
    }
    packet(0x10, &body)
}

fn publish(topic: &str, id: u16, payload: &str) -> Vec<u8> {
    let mut body = text(topic);
    if id > 0 {
        body.extend(id.to_be_bytes());
    }
    body.extend(payload.as_bytes());
    packet(if id > 0 { 0x32 } else { 0x30 }, &body)
}

fn subscribe(filter: &str) -> Vec<u8> {
    packet(0x82, &[&[0, 1][..], &text(filter), &[0]].concat())
}

const CONNACK: &[u8] = &[0x20, 2, 0, 0];

/// A client that has received its CONNACK.
fn client(w: &mut World, mqtt: &Mqtt, client_id: &str, will: bool) -> Pipe {
    let pipe = w.open(mqtt);
    w.feed(pipe, &connect(client_id, will));
    w.settle();
    assert_eq!(w.drain(pipe), CONNACK);
    pipe
}

fn subscriber(w: &mut World, mqtt: &Mqtt, filter: &str) -> Pipe {
    let pipe = client(w, mqtt, "subscriber", false);
    w.feed(pipe, &subscribe(filter));
    w.settle();
    assert_eq!(w.drain(pipe), [0x90, 3, 0, 1, 0]);
    pipe
}

#[test]
fn a_login_is_answered_by_a_wake_and_later_packets_wait() {
    let mqtt = Mqtt::default();
    let mut w = world(1, &mqtt);
    let pipe = w.open(&mqtt);
    w.feed(pipe, &connect("c", false));
    // Pipelined after the CONNECT, as MQTT 5 4.13 allows.
    w.feed(pipe, &subscribe("t"));
    while w.is_ready(pipe) {
        w.turn_of(pipe, usize::MAX);
    }
    assert!(w.drain(pipe).is_empty() && !w.is_attached(pipe), "nobody has answered");
    w.answer_logins(|_| Event::authenticated("guest"));
    assert!(w.is_ready(pipe), "the answer calls it");
    w.settle();
    assert_eq!(w.drain(pipe), [CONNACK, &[0x90, 3, 0, 1, 0]].concat());
}

#[test]
fn the_first_publish_on_a_full_disk_waits_where_it_cannot_be_refused() {
    // The bug: a connection was told of pressure only after it had published. Its first publish was refused, which MQTT
    // 3 can only express by closing the connection.
    let mqtt = Mqtt::default();
    let mut w = world(1, &mqtt);
    let kept = w.open(&mqtt);
    let mut body = b"\x00\x04MQTT\x04\x00\x00\x00".to_vec();
    body.extend(text("kept"));
    w.feed(kept, &packet(0x10, &body));
    w.feed(kept, &packet(0x82, &[&[0, 1][..], &text("t"), &[1]].concat()));
    w.settle();
    let publisher = client(&mut w, &mqtt, "publisher", false);
    w.set_pressure(Some(Pressure::Full));
    w.feed(publisher, &publish("t", 7, "m"));
    w.settle();
    assert!(w.ended(publisher).is_none(), "{:?}", w.ended(publisher));
    assert!(w.drain(publisher).is_empty());
    assert!(w.buffered_bytes(publisher) > 0, "it waits at the connection");
    w.set_pressure(None);
    w.settle();
    assert_eq!(w.drain(publisher), [0x40, 2, 0, 7]);
    assert_eq!(w.buffered_bytes(publisher), 0);
}

#[test]
fn a_slow_log_delays_only_publishes_that_need_it() {
    let mqtt = Mqtt::default();
    let mut w = world(1, &mqtt);
    let listener = subscriber(&mut w, &mqtt, "#");
    let durable = client(&mut w, &mqtt, "durable", false);
    let light = client(&mut w, &mqtt, "light", false);
    w.set_pressure(Some(Pressure::Backlog));
    w.feed(durable, &publish("a", 7, "waits"));
    w.feed(durable, &publish("a", 0, "passes"));
    w.settle();
    assert_eq!(w.drain(listener), publish("a", 0, "passes"));
    w.feed(light, &publish("b", 0, "light"));
    w.settle();
    assert_eq!(w.drain(listener), publish("b", 0, "light"));
    w.set_pressure(None);
    w.settle();
    assert_eq!(w.drain(durable), [0x40, 2, 0, 7]);
    assert_eq!(w.drain(listener), publish("a", 0, "waits"));
}

/// An MQTT 5 CONNECT of a session that is kept, with a will to the topic `will`.
fn connect_v5(client_id: &str) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x05\x04\x00\x00".to_vec();
    // Session Expiry Interval: 60 s. No properties of the will.
    body.extend([5, 0x11, 0, 0, 0, 60]);
    body.extend(text(client_id));
    body.push(0);
    body.extend(text("will"));
    body.extend(text("gone"));
    packet(0x10, &body)
}

/// Runs events in the order that the seed chooses, until nothing is ready.
fn shuffle(w: &mut World) {
    for _ in 0..60 {
        let pipes: Vec<Pipe> = w.pipes().filter(|pipe| w.is_ready(*pipe)).collect();
        match w.random().below(4) {
            0 => w.answer_logins(|_| Event::authenticated("guest")),
            1 => w.catch_up(),
            _ if !pipes.is_empty() => {
                let pipe = pipes[w.random().below(pipes.len() as u64) as usize];
                w.turn_of(pipe, usize::MAX);
            }
            _ => {}
        }
    }
    w.settle();
}

/// Runs the turns of all ready connections. The log does nothing meanwhile.
fn turns(w: &mut World) {
    while let Some(pipe) = w.pipes().find(|pipe| w.is_ready(*pipe)) {
        w.turn_of(pipe, usize::MAX);
    }
}

#[test]
fn while_a_sync_is_pending_only_publishes_that_need_the_log_wait() {
    // The bug: a slow disk stalled everybody. The test does not set any pressure: the engine finds out by itself.
    let (mqtt, stomp) = (Mqtt::default(), Stomp::new(gatepost_stomp::Settings::default()));
    let settings = Settings {
        log_backlog_bytes_max: 16 << 10,
        ..Settings::default()
    };
    let codecs = Codecs::new(vec![mqtt.codec(), stomp.codec()]);
    let mut w = World::speaking(1, settings, Default::default(), codecs);
    let kept = w.open(&mqtt);
    let mut body = b"\x00\x04MQTT\x04\x00\x00\x00".to_vec();
    body.extend(text("kept"));
    w.feed(kept, &packet(0x10, &body));
    w.feed(kept, &packet(0x82, &[&[0, 1][..], &text("durable"), &[1]].concat()));
    let listener = subscriber(&mut w, &mqtt, "light/#");
    let durable = client(&mut w, &mqtt, "durable", false);
    let light = client(&mut w, &mqtt, "light", false);
    let transient = w.open(&stomp);
    w.feed(
        transient,
        b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0",
    );
    w.feed(
        transient,
        b"SUBSCRIBE\nid:1\ndestination:/queue/transient\ndurable:false\nauto-delete:true\n\n\0",
    );
    w.settle();
    assert!(w.drain(transient).starts_with(b"CONNECTED\n"));

    // From here on nothing is written or synced until the very end.
    let payload = "x".repeat(100);
    let mut sent = 0;
    while w.buffered_bytes(durable) == 0 {
        sent += 1;
        assert!(sent < 1_000, "the engine never holds it back");
        w.feed(durable, &publish("durable", sent, &payload));
        turns(&mut w);
    }
    let submitted = w.submitted().len();
    assert!(submitted > 0 && w.drain(durable).is_empty(), "it waits for the log");
    for n in 0..100 {
        let n = n.to_string();
        w.feed(light, &publish("light/1", 0, &n));
        let send = format!("SEND\ndestination:/queue/transient\nreceipt:r{n}\n\n{n}\0");
        w.feed(transient, send.as_bytes());
        turns(&mut w);
        assert_eq!(w.drain(listener), publish("light/1", 0, &n));
        let heard = String::from_utf8(w.drain(transient)).expect("text");
        assert!(heard.contains(&format!("receipt-id:r{n}\n")), "{heard}");
        assert!(
            heard.contains("MESSAGE\n") && heard.contains(&format!("\n\n{n}\0")),
            "{heard}"
        );
    }
    assert_eq!(w.submitted().len(), submitted, "nothing of that went to the log");
    assert!(w.drain(durable).is_empty() && w.buffered_bytes(durable) > 0);
    w.settle();
    assert_eq!(w.drain(durable).len(), 4 * usize::from(sent), "a PUBACK for each");
    assert_eq!(w.buffered_bytes(durable), 0);
}

#[test]
fn packets_before_a_reconnect_are_handled_first() {
    // The bug: the client's DISCONNECT was overtaken by its own next CONNECT, and its will was published.
    let mqtt = Mqtt::default();
    for seed in 0..200 {
        let mut w = world(seed, &mqtt);
        let listener = subscriber(&mut w, &mqtt, "#");
        let old = w.open(&mqtt);
        w.feed(old, &connect_v5("device"));
        w.settle();
        let connack = w.drain(old);
        assert_eq!(
            (connack[0], &connack[2..4]),
            (0x20, &[0, 0][..]),
            "no session is present"
        );
        let says_goodbye = w.random().chance(50, 100);
        w.feed(old, &publish_v5("said", "m"));
        if says_goodbye {
            w.feed(old, &[0xE0, 0]);
        }
        let closes = w.random().chance(70, 100);
        if closes {
            w.close(old);
        }
        if w.random().chance(20, 100) {
            w.turn_of(old, usize::MAX);
        }
        let new = w.open(&mqtt);
        w.feed(new, &connect_v5("device"));
        shuffle(&mut w);
        let context = format!("seed {seed}, goodbye {says_goodbye}, closes {closes}");
        let will = if says_goodbye {
            Vec::new()
        } else {
            publish("will", 0, "gone")
        };
        assert_eq!(w.drain(listener), [publish("said", 0, "m"), will].concat(), "{context}");
        let connack = w.drain(new);
        assert_eq!((connack[0], &connack[2..4]), (0x20, &[1, 0][..]), "{context}");
        assert!(w.ended(old).is_some() && w.ended(new).is_none(), "{context}");
        if !says_goodbye && !closes {
            let last = w.drain(old);
            assert_eq!((last[0], last[2]), (0xE0, 0x8E), "{context}");
        }
    }
}

fn publish_v5(topic: &str, payload: &str) -> Vec<u8> {
    packet(0x30, &[&text(topic)[..], &[0], payload.as_bytes()].concat())
}

#[test]
fn a_disconnect_read_after_the_reconnect_still_changes_the_expiry() {
    let mqtt = Mqtt::default();
    let mut w = world(1, &mqtt);
    let old = w.open(&mqtt);
    w.feed(old, &connect_v5("device"));
    w.settle();
    w.feed(old, &[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 0]);
    w.close(old);
    let new = w.open(&mqtt);
    w.feed(new, &connect_v5("device"));
    // The new connection proceeds as far as it can before the old one has a turn.
    w.turn_of(new, usize::MAX);
    w.answer_logins(|_| Event::authenticated("guest"));
    while w.is_ready(new) {
        w.turn_of(new, usize::MAX);
    }
    assert!(w.drain(new).is_empty(), "the old connection has the session");
    w.settle();
    let connack = w.drain(new);
    assert_eq!(
        (connack[0], &connack[2..4]),
        (0x20, &[0, 0][..]),
        "the session had ended"
    );
}

#[test]
fn connections_that_wait_for_each_other_may_all_break() {
    let mqtt = Mqtt::default();
    for seed in 0..50 {
        let mut w = world(seed, &mqtt);
        let listener = subscriber(&mut w, &mqtt, "#");
        let devices: Vec<Pipe> = (0..4).map(|_| w.open(&mqtt)).collect();
        for device in &devices {
            w.feed(*device, &connect_v5("device"));
        }
        for _ in 0..w.random().below(30) {
            let pipes: Vec<Pipe> = devices.iter().copied().filter(|pipe| w.is_ready(*pipe)).collect();
            w.answer_logins(|_| Event::authenticated("guest"));
            if !pipes.is_empty() {
                let pipe = pipes[w.random().below(pipes.len() as u64) as usize];
                w.turn_of(pipe, usize::MAX);
            }
        }
        let came = |pipe: &&Pipe| w.is_attached(**pipe) || w.ended(**pipe).is_some();
        let opened = devices.iter().filter(came).count();
        for device in devices.iter().rev() {
            w.break_pipe(*device);
        }
        w.settle();
        let wills = w.drain(listener).len() / publish("will", 0, "gone").len();
        assert_eq!(wills, opened, "seed {seed}: each that was to have the session had it");
        w.break_pipe(listener);
        w.assert_idle();
    }
}

#[test]
fn input_that_arrived_before_a_failed_write_is_handled() {
    // The bug: the connection ended at the failed write, and an unread DISCONNECT before it was lost: the will was
    // published.
    let mqtt = Mqtt::default();
    for says_goodbye in [true, false] {
        let mut w = world(1, &mqtt);
        let listener = subscriber(&mut w, &mqtt, "#");
        let device = client(&mut w, &mqtt, "device", true);
        w.feed(device, &subscribe("command"));
        w.settle();
        w.drain(device);
        // The socket accepts nothing, so that there is output left to write.
        w.set_room(device, 0);
        w.feed(listener, &publish("command", 0, "stop"));
        w.settle();
        w.drain(listener);
        w.feed(device, &publish("said", 0, "last"));
        if says_goodbye {
            w.feed(device, &[0xE0, 0]);
        }
        w.break_output(device);
        w.settle();
        let will = if says_goodbye {
            Vec::new()
        } else {
            publish("will", 0, "gone")
        };
        assert_eq!(w.drain(listener), [publish("said", 0, "last"), will].concat());
        let ended = w.ended(device).expect("it ends");
        assert_eq!(ended.abnormal, !says_goodbye, "{ended:?}");
        assert!(w.drain(device).is_empty() && !w.is_attached(device));
    }
}

#[test]
fn a_connection_that_waits_for_another_times_out() {
    // The bug: its timers did not run while it waited, so it stayed for as long as the old connection did.
    let mqtt = Mqtt::default();
    let mut w = world(1, &mqtt);
    let old = client(&mut w, &mqtt, "device", false);
    let new = w.open(&mqtt);
    w.feed(new, &connect("device", false));
    w.turn_of(new, usize::MAX);
    w.answer_logins(|_| Event::authenticated("guest"));
    while w.is_ready(new) {
        w.turn_of(new, usize::MAX);
    }
    assert!(
        w.drain(new).is_empty() && w.is_attached(new),
        "the old connection has the session"
    );
    w.advance(gatepost_mqtt::Settings::default().connect_timeout);
    assert!(w.is_ready(new), "its time is over");
    for _ in 0..10 {
        w.turn_of(new, usize::MAX);
    }
    assert!(w.ended(new).is_some(), "it is closed");
    w.settle();
    assert!(!w.is_attached(new));
    // The old connection was told and has ended too; the client may connect again.
    assert!(w.ended(old).is_some());
    client(&mut w, &mqtt, "device", false);
}

/// A PUBLISH of QoS 0 with a payload of 100,000 bytes.
fn publish_large(number: u8) -> Vec<u8> {
    let mut packet = vec![0x30];
    let mut length = 3 + 100_000_usize;
    while length > 0 {
        let more = if length > 127 { 0x80 } else { 0 };
        packet.push((length % 128) as u8 | more);
        length /= 128;
    }
    packet.extend(text("t"));
    packet.extend([number; 100_000]);
    packet
}

/// Each of the subscribers that read nothing had a copy of the message of its own. Sixty of them and a message of 3 MB took
/// 180 MB, with a budget of 25.
#[test]
fn large_messages_go_to_one_slow_reader_at_a_time_while_memory_is_short() {
    let mqtt = Mqtt::default();
    let mut w = world(1, &mqtt);
    let publisher = client(&mut w, &mqtt, "publisher", false);
    let subscribers: Vec<Pipe> = (0..10)
        .map(|n| {
            let pipe = client(&mut w, &mqtt, &format!("subscriber {n}"), false);
            w.feed(pipe, &subscribe("t"));
            w.settle();
            assert_eq!(w.drain(pipe), [0x90, 3, 0, 1, 0]);
            w.set_room(pipe, 0);
            pipe
        })
        .collect();
    let buffers = w.limit_buffers(150_000);
    for number in 1..=3 {
        w.feed(publisher, &publish_large(number));
        w.settle();
    }
    // Two fit, and one more may always be sent.
    let held: usize = subscribers.iter().map(|pipe| w.buffered_bytes(*pipe)).sum();
    assert!((100_000..400_000).contains(&held), "{held} bytes");
    assert!(buffers.are_full());
    // Those who hold the memory and read nothing are closed after ten seconds, so whoever reads gets everything in order.
    let reader = subscribers[9];
    w.set_room(reader, usize::MAX);
    for _ in 0..20 {
        w.advance(Duration::from_secs(10));
        w.settle();
    }
    let expected: Vec<u8> = (1..=3).flat_map(publish_large).collect();
    assert!(w.drain(reader) == expected, "it got something else");
    assert!(w.ended(reader).is_none());
    let closed = subscribers.iter().filter(|pipe| w.ended(**pipe).is_some());
    assert!(closed.count() >= 2);
    assert!(!buffers.are_full());
}

/// Strangers could have a client id, a will and a password of 180 KB each in memory, in as many connections as may wait for
/// their logins.
#[test]
fn large_connects_are_refused_as_busy_while_memory_is_short() {
    let mqtt = Mqtt::default();
    let mut w = world(1, &mqtt);
    w.limit_buffers(200_000);
    let mut large = b"\x00\x04MQTT\x04\x06\0\0".to_vec();
    large.extend(text(&"c".repeat(30_000)));
    large.extend(text("will"));
    large.extend(text(&"w".repeat(30_000)));
    let mut packet = vec![
        0x10,
        (large.len() % 128) as u8 | 0x80,
        (large.len() / 128 % 128) as u8 | 0x80,
    ];
    packet.push((large.len() / 16_384) as u8);
    packet.extend(&large);
    let turns_of = |w: &mut World, pipe: Pipe| {
        while w.is_ready(pipe) {
            w.turn_of(pipe, usize::MAX);
        }
    };
    let (mut waiting, mut busy) = (0, 0);
    for n in 0..10 {
        let pipe = w.open(&mqtt);
        let mut own = packet.clone();
        own[16..19].copy_from_slice(format!("{n:03}").as_bytes());
        w.feed(pipe, &own);
        turns_of(&mut w, pipe);
        match w.drain(pipe)[..] {
            [] => waiting += 1,
            // Server unavailable.
            [0x20, 2, 0, 3] => busy += 1,
            ref other => panic!("{other:?}"),
        }
    }
    assert_eq!((waiting, busy), (4, 6), "logins");
    // A usual one is not refused.
    let usual = w.open(&mqtt);
    w.feed(usual, &connect("usual", false));
    w.settle();
    assert_eq!(w.drain(usual), CONNACK);
}
