//! Unix sockets in addition to ports.

use crate::support::Gatepost;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Says `hello` and returns as many bytes as `answer` has.
fn ask(path: &Path, hello: &[u8], answer: usize) -> Vec<u8> {
    let mut stream = UnixStream::connect(path).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    stream.write_all(hello).expect("sent");
    let mut got = vec![0; answer];
    stream.read_exact(&mut got).expect("an answer");
    got
}

#[test]
fn every_protocol_is_spoken_on_unix_sockets_by_users_of_this_machine() {
    // A socket's path is short: at most 107 bytes on Linux.
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let listener = |name: &str| {
        let file = path(name);
        format!(
            "[listeners.unix_{name}]\nprotocol = \"{name}\"\nbind = [\"unix:{}\"]\n",
            file.display()
        )
    };
    let settings = listener("mqtt") + &listener("amqp") + &listener("stomp");
    let mut gatepost = Gatepost::with(1, &settings);
    let speak = || {
        // Anonymous, and as guest: both are for clients on this machine only.
        let connack = ask(&path("mqtt"), b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01u", 4);
        assert_eq!(connack, [0x20, 2, 0, 0]);
        let connected = ask(
            &path("stomp"),
            b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0",
            9,
        );
        assert_eq!(connected, b"CONNECTED");
        // AMQP 0-9-1's connection.start.
        assert_eq!(ask(&path("amqp"), b"AMQP\x00\x00\x09\x01", 3), [1, 0, 0]);
    };
    speak();
    // A killed gateway leaves the sockets' files, which do not prevent the next start.
    gatepost.kill();
    assert!(path("mqtt").exists());
    gatepost.start_again();
    speak();
    assert!(gatepost.terminate().0.success());
    assert!(!path("mqtt").exists() && !path("amqp").exists() && !path("stomp").exists());
}
