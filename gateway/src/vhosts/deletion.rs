//! Tests that delete a vhost with connected clients of each protocol: what the clients are told, and that nothing
//! remains.

use crate::clock::Clock;
use crate::config::Config;
use crate::directory::Directory;
use crate::directory::permissions::Permission;
use crate::node::Node;
use crate::protocols;
use crate::store;
use crate::terms::Terms;
use crate::threads::IoThreads;
use crate::transport::{Door, Socket};
use gatepost_core::catalog::VhostRecord;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

/// A node with its log thread, an I/O thread and every protocol.
struct Bench {
    node: Arc<Node>,
    threads: IoThreads,
    committer: Option<JoinHandle<()>>,
    runtime: tokio::runtime::Runtime,
    listener: TcpListener,
}

impl Bench {
    fn start(data: &Path) -> Bench {
        let mut config = Config::default();
        config.node.data_dir = data.to_owned();
        let directory = Directory::new(&config).expect("a directory");
        let clock = Clock::start();
        let (store, recovered) = store::open(&config, clock.now().wall).expect("open");
        let (stats, spoken) = (store.stats(), protocols::all(&config.values));
        let tls = crate::tls::Ports::default();
        let node = Arc::new(Node::new(config, directory, tls, spoken, clock, recovered, stats));
        let committing = Arc::clone(&node);
        let committer = std::thread::spawn(move || crate::committer::run(&committing, store).expect("a good log"));
        Bench {
            threads: IoThreads::start(&node, 1).expect("a thread"),
            node,
            committer: Some(committer),
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .expect("a runtime"),
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"),
        }
    }

    fn create(&self, name: &str) {
        let record = VhostRecord {
            name: name.into(),
            ..VhostRecord::default()
        };
        self.runtime.block_on(self.node.create_vhost(record)).expect("created");
        let granted = self.node.set_permission("guest", name, Permission::everything());
        self.runtime.block_on(granted).expect("granted");
    }

    fn connect(&self, protocol: &str) -> Client {
        let stream = TcpStream::connect(self.listener.local_addr().expect("an address")).expect("connected");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a time limit");
        let (server, address) = self.listener.accept().expect("accepted");
        server.set_nonblocking(true).expect("not blocking");
        let place = protocols::find(protocol).expect("a protocol");
        self.node.connections[place].opened.fetch_add(1, Ordering::Relaxed);
        let door = Door {
            terms: Arc::new(Terms::plain(place)),
            tls: None,
        };
        self.threads.deal(&self.node, door, Socket::Tcp(server, address), false);
        Client(stream)
    }

    fn stop(mut self) {
        self.threads.stop();
        self.node.log.stop();
        self.committer.take().expect("once").join().expect("a good end");
    }
}

struct Client(TcpStream);

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("sent");
    }
    fn exact(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        self.0.read_exact(&mut bytes).expect("bytes");
        bytes
    }
    /// An MQTT packet of less than 128 bytes.
    fn packet(&mut self) -> Vec<u8> {
        let head = self.exact(2);
        assert!(head[1] < 128, "{head:?}");
        [head.clone(), self.exact(head[1].into())].concat()
    }
    /// An AMQP frame's payload.
    fn frame(&mut self) -> Vec<u8> {
        let head = self.exact(7);
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let mut payload = self.exact(size + 1);
        assert_eq!(payload.pop(), Some(0xCE));
        payload
    }
    fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).expect("an orderly end");
        bytes
    }
    fn until_nul(&mut self) -> String {
        let mut bytes = Vec::new();
        while bytes.last() != Some(&0) {
            bytes.extend(self.exact(1));
        }
        String::from_utf8(bytes).expect("text")
    }
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a short text");
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}

fn packet(byte: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).expect("a short packet");
    assert!(length < 128);
    [&[byte, length], body].concat()
}

/// A CONNECT as guest of the vhost `plant/a`, with a will to `t/will`. An MQTT 5 session is kept for an hour.
fn mqtt_connect(version: u8) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT".to_vec();
    body.extend([version, 0xC4, 0, 0]);
    if version == 5 {
        body.extend([5, 0x11, 0, 0, 0x0E, 0x10]);
    }
    body.extend(text(if version == 5 { "five" } else { "three" }));
    if version == 5 {
        body.push(0);
    }
    body.extend([text("t/will"), text("gone"), text("plant/a:guest"), text("guest")].concat());
    packet(0x10, &body)
}

fn short(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat()
}

fn method(channel: u16, class: u8, number: u8, arguments: &[&[u8]]) -> Vec<u8> {
    let payload = [&[0, class, 0, number][..], &arguments.concat()].concat();
    let size = u32::try_from(payload.len()).expect("a frame");
    [&[1], &channel.to_be_bytes()[..], &size.to_be_bytes(), &payload, &[0xCE]].concat()
}

/// Logs in and asks for the vhost `plant/a`. Returns the answer.
fn amqp(bench: &Bench) -> (Client, Vec<u8>) {
    let mut client = bench.connect("amqp");
    client.send(b"AMQP\x00\x00\x09\x01");
    client.frame();
    let response = [&12u32.to_be_bytes()[..], b"\0guest\0guest"].concat();
    client.send(&method(
        0,
        10,
        11,
        &[&[0; 4], &short("PLAIN"), &response, &short("en_US")],
    ));
    client.frame();
    client.send(&method(
        0,
        10,
        31,
        &[&2047u16.to_be_bytes(), &131_072u32.to_be_bytes(), &[0, 0]],
    ));
    client.send(&method(0, 10, 40, &[&short("plant/a"), &[0, 0]]));
    let answer = client.frame();
    (client, answer)
}

fn stomp(bench: &Bench) -> (Client, String) {
    let mut client = bench.connect("stomp");
    client.send(b"CONNECT\naccept-version:1.2\nhost:plant/a\nlogin:guest\npasscode:guest\n\n\0");
    let answer = client.until_nul();
    (client, answer)
}

/// A durable `SUBSCRIBE` with a receipt.
const STOMP_SUBSCRIBE: &[u8] =
    b"\nSUBSCRIBE\nid:s\ndestination:/topic/t.x\ndurable:true\nauto-delete:false\nreceipt:r\n\n\0";

const DECLARE_OK: &[u8] = &[0, 50, 0, 11];

/// A passive declaration, or a durable queue.
fn declare(flags: u8) -> Vec<u8> {
    method(1, 50, 10, &[&[0, 0], &short("q"), &[flags], &[0; 4]])
}

#[test]
fn clients_of_a_deleted_vhost_are_told_and_the_next_one_of_its_name_is_empty() {
    let dir = tempfile::tempdir().expect("a directory");
    let bench = Bench::start(dir.path());
    bench.create("plant/a");
    let (mut rabbit, answer) = amqp(&bench);
    assert_eq!(answer[..4], [0, 10, 0, 41], "connection.open-ok");
    rabbit.send(&method(1, 20, 10, &[&[0]]));
    rabbit.frame();
    rabbit.send(&declare(2));
    assert_eq!(rabbit.frame()[..4], *DECLARE_OK);
    let mut five = bench.connect("mqtt");
    five.send(&mqtt_connect(5));
    assert_eq!(five.packet()[2..4], [0, 0], "a new session");
    five.send(&packet(0x82, &[&[0, 1, 0][..], &text("t/#"), &[1]].concat()));
    assert_eq!(five.packet()[0], 0x90);
    // Retained, and acknowledged.
    five.send(&packet(0x33, &[&text("t/kept")[..], &[0, 7, 0], b"1"].concat()));
    let (mut acknowledged, mut delivered) = (false, false);
    while !(acknowledged && delivered) {
        match five.packet()[0] & 0xF0 {
            0x40 => acknowledged = true,
            0x30 => delivered = true,
            other => panic!("{other:02X}"),
        }
    }
    let mut three = bench.connect("mqtt");
    three.send(&mqtt_connect(4));
    assert_eq!(three.packet(), [0x20, 2, 0, 0]);
    let (mut stomper, answer) = stomp(&bench);
    assert!(answer.starts_with("CONNECTED\n"), "{answer}");
    stomper.send(STOMP_SUBSCRIBE);
    assert!(stomper.until_nul().contains("RECEIPT\n"));
    // A client in another vhost, which must not be affected.
    let mut neighbour = bench.connect("mqtt");
    let guest = [
        &b"\x00\x04MQTT\x04\xC2\x00\x00"[..],
        &text("n"),
        &text("guest"),
        &text("guest"),
    ]
    .concat();
    neighbour.send(&packet(0x10, &guest));
    neighbour.packet();
    neighbour.send(&packet(0x82, &[&[0, 1][..], &text("#"), &[1]].concat()));
    neighbour.packet();

    bench
        .runtime
        .block_on(bench.node.delete_vhost("plant/a"))
        .expect("deleted");

    is_told(&mut rabbit);
    let told = five.packet();
    assert_eq!(
        (told[0], told[2]),
        (0xE0, 0x98),
        "DISCONNECT, Administrative action: {told:?}"
    );
    assert!(five.rest().is_empty());
    assert!(three.rest().is_empty(), "MQTT 3 has no word for it");
    let told = String::from_utf8(stomper.rest()).expect("text");
    assert!(
        told.trim_start().starts_with("ERROR\n") && told.contains("The virtual host is deleted"),
        "{told}"
    );
    neighbour.send(&[0xC0, 0]);
    assert_eq!(neighbour.packet(), [0xD0, 0], "no will came to another vhost");
    refused(&bench);
    bench.create("plant/a");
    is_empty(&bench);
    bench
        .runtime
        .block_on(bench.node.delete_vhost("plant/a"))
        .expect("deleted");
    bench.stop();
    // After a restart the log has no data of the deleted vhost.
    let bench = Bench::start(dir.path());
    refused(&bench);
    bench.create("plant/a");
    is_empty(&bench);
    bench.stop();
}

/// The texts are those of RabbitMQ 3.10.
fn is_told(rabbit: &mut Client) {
    let told = rabbit.frame();
    assert_eq!(told[..6], [0, 10, 0, 50, 1, 64], "connection.close 320: {told:?}");
    let reason = &told[7..7 + usize::from(told[6])];
    assert_eq!(
        String::from_utf8_lossy(reason),
        "CONNECTION_FORCED - vhost 'plant/a' is down"
    );
    rabbit.send(&method(0, 10, 51, &[]));
    assert!(rabbit.rest().is_empty());
}

/// Clients are refused in a vhost that does not exist. (In STOMP an unknown `host` without a slash is the default vhost, because
/// many clients send the server's name.)
fn refused(bench: &Bench) {
    let (_, answer) = amqp(bench);
    assert_eq!(answer[..6], [0, 10, 0, 50, 2, 18], "530: {answer:?}");
    for (version, code) in [(5, 0x87), (4, 5)] {
        let mut mqtt = bench.connect("mqtt");
        mqtt.send(&mqtt_connect(version));
        assert_eq!(mqtt.packet()[3], code, "MQTT {version}");
    }
    let (_, answer) = stomp(bench);
    assert!(
        answer.starts_with("ERROR\n") && answer.contains("Virtual host 'plant/a' access denied"),
        "{answer}"
    );
}

/// Checks that the earlier vhost of the same name left no queue, session, retained message or durable subscription.
fn is_empty(bench: &Bench) {
    let (mut rabbit, answer) = amqp(bench);
    assert_eq!(answer[..4], [0, 10, 0, 41], "connection.open-ok");
    rabbit.send(&method(1, 20, 10, &[&[0]]));
    rabbit.frame();
    rabbit.send(&declare(1));
    assert_eq!(rabbit.frame()[..6], [0, 20, 0, 40, 1, 148], "404");
    let vhost = bench.node.vhost("plant/a").expect("created");
    let counters = vhost.counters();
    assert_eq!((counters.queues, counters.sessions, counters.messages_ready), (0, 0, 0));
    let mut five = bench.connect("mqtt");
    five.send(&mqtt_connect(5));
    assert_eq!(five.packet()[2..4], [0, 0], "no session is present");
    five.send(&packet(0x82, &[&[0, 1, 0][..], &text("t/#"), &[1]].concat()));
    assert_eq!(five.packet()[0], 0x90);
    five.send(&[0xC0, 0]);
    assert_eq!(five.packet(), [0xD0, 0], "nothing is retained");
    // A normal DISCONNECT that does not keep the session, as before.
    five.send(&packet(0xE0, &[0, 5, 0x11, 0, 0, 0, 0]));
    assert!(five.rest().is_empty());
}
