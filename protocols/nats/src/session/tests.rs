//! The session against scripts, on virtual time.

use super::*;
use gatepost_core::event::DeliveryFlags;
use gatepost_core::time::Wall;
use std::time::Duration;

struct Script {
    session: NatsSession,
    now: Now,
    input: Vec<u8>,
    commands: Vec<Command>,
    out: Vec<u8>,
    closed: Option<Close>,
}

impl Script {
    fn new() -> Script {
        let now = Now {
            monotonic: Time(1_000),
            wall: Wall(1_700_000_000_000),
        };
        let settings = Settings {
            subscriptions_max: 2,
            max_payload: 100,
            ..Settings::default()
        };
        Script {
            session: NatsSession::new(Arc::new(settings), now),
            now,
            input: Vec::new(),
            commands: Vec::new(),
            out: Vec::new(),
            closed: None,
        }
    }

    fn ready() -> Script {
        let mut script = Script::new();
        script.send("CONNECT {\"verbose\":false}\r\n");
        script.tell(vec![Event::authenticated("u")]);
        script.tell(vec![Event::Attached]);
        script.said();
        script.commands.clear();
        script
    }

    fn with<T>(&mut self, turn: impl FnOnce(&mut NatsSession, &mut Cx<'_>, &[u8]) -> Result<T, Close>) -> Option<T> {
        let codecs = Codecs::new(vec![Arc::new(NatsProperties)]);
        let mut cx = Cx {
            now: self.now,
            commands: &mut self.commands,
            out: &mut self.out,
            codecs: &codecs,
            random: &mut || 7,
            work: 0,
            complaints: &mut Vec::new(),
            is_memory_short: false,
        };
        match turn(&mut self.session, &mut cx, &self.input) {
            Ok(result) => Some(result),
            Err(close) => {
                self.closed = Some(close);
                None
            }
        }
    }

    fn send(&mut self, text: &str) {
        self.input.extend_from_slice(text.as_bytes());
        if let Some(used) = self.with(|session, cx, input| session.handle_bytes(cx, input)) {
            self.input.drain(..used);
        }
    }

    fn tell(&mut self, mut events: Vec<Event>) {
        self.with(|session, cx, _| session.handle_events(cx, &mut events));
    }

    fn wait(&mut self, by: Duration) {
        self.now.monotonic = self.now.monotonic + by;
        while self.closed.is_none() && self.session.poll_timeout().is_some_and(|at| at <= self.now.monotonic) {
            self.with(|session, cx, _| session.handle_timeout(cx));
        }
    }

    fn said(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.out)).expect("text")
    }

    fn deliver(&mut self, consumer: ConsumerToken, key: &str, raw: &str) {
        let envelope = Envelope {
            origin: ORIGIN,
            ..Envelope::default()
        };
        self.tell(vec![Event::Deliver(Delivery {
            channel: 1,
            qos: 0,
            flags: DeliveryFlags::default(),
            consumer,
            number: 1,
            message: Message::new(envelope, "amq.topic", key, raw.as_bytes(), b"hi"),
            extra: None,
        })]);
    }
}

#[test]
fn the_server_speaks_first_and_logs_the_client_in() {
    let mut script = Script::new();
    script.wait(Duration::ZERO);
    let info = script.said();
    assert!(
        info.starts_with("INFO {") && info.contains("\"max_payload\":100"),
        "{info}"
    );
    script.send("CONNECT {\"user\":\"u\",\"pass\":\"p\"}\r\nPING\r\n");
    assert!(matches!(&script.commands[..], [Command::Authenticate(_)]), "PING waits");
    script.tell(vec![Event::authenticated("u")]);
    script.tell(vec![Event::Attached]);
    script.send("");
    assert!(matches!(script.commands.last(), Some(Command::Echo { .. })));
    script.tell(vec![Event::Echo { channel: 0, token: 0 }]);
    assert_eq!(script.said(), "+OK\r\nPONG\r\n");
}

#[test]
fn without_a_login_a_client_is_refused_and_disconnected() {
    let mut script = Script::new();
    script.send("SUB a 1\r\n");
    assert!(script.said().ends_with("-ERR 'Authorization Violation'\r\n"));
    assert!(script.closed.is_some() && script.commands.is_empty());
    let mut script = Script::new();
    script.send("PUB a 50\r\n");
    assert!(script.said().ends_with("-ERR 'Maximum Payload Violation'\r\n"));
    let mut script = Script::new();
    script.wait(Duration::from_secs(10));
    assert!(script.said().ends_with("-ERR 'Authentication Timeout'\r\n"));
}

#[test]
fn a_message_is_published_with_its_reply_subject() {
    let mut script = Script::ready();
    script.send("PUB plant.1 answers.7 2\r\nhi\r\n");
    let [Command::Publish { message, .. }] = &script.commands[..] else {
        panic!("{:?}", script.commands)
    };
    assert_eq!(
        (message.key(), message.properties_raw()),
        ("plant.1", &b"answers.7"[..])
    );
    assert_eq!(message.body(), b"hi");
    script.send("PUB plant.* 0\r\n\r\n");
    assert_eq!(script.said(), "-ERR 'Invalid Publish Subject'\r\n");
    assert!(script.closed.is_none());
}

#[test]
fn a_subscription_gets_messages_until_its_count_is_reached() {
    let mut script = Script::ready();
    script.send("SUB plant.> 9\r\nUNSUB 9 2\r\n");
    assert_eq!(script.commands.len(), 3, "{:?}", script.commands);
    script.deliver(1, "plant.1", "");
    script.deliver(1, "plant.a b", "answers");
    // Its topic has no subject, so it is dropped and does not count.
    script.deliver(1, "plant..1", "");
    script.deliver(1, "plant.3", "");
    assert_eq!(
        script.said(),
        "MSG plant.1 9 2\r\nhi\r\nMSG plant.a%20b 9 answers 2\r\nhi\r\n"
    );
    assert!(matches!(
        script.commands.last(),
        Some(Command::CloseChannel { channel: 1, .. })
    ));
}

#[test]
fn limits_are_refused_with_nats_errors() {
    let mut script = Script::ready();
    script.send("SUB a 1\r\nSUB b 2\r\nSUB #.a 3\r\n");
    assert_eq!(script.said(), "-ERR 'Invalid Subject'\r\n");
    script.send("SUB c 3\r\n");
    assert_eq!(script.said(), "-ERR 'maximum subscriptions exceeded'\r\n");
    assert!(script.closed.is_some());
}

#[test]
fn a_client_that_answers_no_ping_is_dropped() {
    let mut script = Script::ready();
    script.wait(Duration::from_secs(60));
    assert_eq!(script.said(), "PING\r\n");
    script.send("PONG\r\n");
    for _ in 0..2 {
        script.wait(Duration::from_secs(60));
        assert_eq!(script.said(), "PING\r\n");
    }
    script.wait(Duration::from_secs(60));
    assert_eq!(script.said(), "-ERR 'Stale Connection'\r\n");
}
