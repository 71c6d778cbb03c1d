//! The driver over real loopback sockets, with a toy session and a real engine.

use super::*;
use crate::clock::Clock;
use crate::config::Config;
use crate::directory::Directory;
use crate::node::Node;
use crate::terms::Terms;
use crate::threads::IoThreads;
use crate::transport::{Door, Socket};
use gatepost_core::command::{Attach, Command, Login, Said};
use gatepost_core::event::{CloseReason, Event};
use gatepost_core::properties::{Origin, Properties, PropertyCodec};
use gatepost_core::session::{Close, Cx, Protocol, ReadInterest, Session, TURN_WORK};
use gatepost_core::store::Recovered;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};

/// A protocol of lines; see [`ToySession::line`].
struct Toy;

struct NoProperties;

impl PropertyCodec for NoProperties {
    fn origin(&self) -> Origin {
        Origin(250)
    }
    fn decode(&self, _: &[u8]) -> Properties {
        Properties::default()
    }
}

impl Protocol for Toy {
    fn name(&self) -> &'static str {
        "toy"
    }
    fn codec(&self) -> Arc<dyn PropertyCodec> {
        Arc::new(NoProperties)
    }
    fn open(&self, _: Now, _: Peer) -> Box<dyn Session> {
        Box::new(ToySession {
            logging_in: false,
            due: None,
            paused: 0,
        })
    }
}

struct ToySession {
    logging_in: bool,
    due: Option<Time>,
    /// How often the driver paused it.
    paused: u32,
}

impl ToySession {
    fn line(&mut self, cx: &mut Cx<'_>, line: &str) -> Result<(), Close> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "say" => cx.out.extend_from_slice(format!("{rest}\n").as_bytes()),
            "flood" => cx.out.resize(cx.out.len() + rest.parse::<usize>().unwrap_or(0), b'x'),
            "tick" => self.due = Some(cx.now.monotonic + Duration::from_millis(20)),
            "paused" => cx.out.extend_from_slice(format!("{}\n", self.paused).as_bytes()),
            "echo" => cx.commands.push(Command::Echo {
                channel: 0,
                token: rest.parse().unwrap_or(0),
            }),
            "login" => {
                self.logging_in = true;
                let login = Login::Password {
                    user: "guest".into(),
                    password: b"guest"[..].into(),
                    said: Said::default(),
                };
                cx.commands.push(Command::Authenticate(Box::new(login)));
            }
            "bye" => {
                cx.out.extend_from_slice(b"bye\n");
                return Err(Close::normal("bye"));
            }
            "leave" => {
                cx.out.extend_from_slice(b"left\n");
                return Err(Close::by_peer("left"));
            }
            other => return Err(Close::abnormal(format!("what is {other}"))),
        }
        Ok(())
    }
}

impl Session for ToySession {
    fn handle_bytes(&mut self, cx: &mut Cx<'_>, input: &[u8]) -> Result<usize, Close> {
        let mut used = 0;
        while !self.logging_in
            && !cx.is_full()
            && let Some(end) = input[used..].iter().position(|b| *b == b'\n')
        {
            let line = String::from_utf8_lossy(&input[used..used + end]).into_owned();
            used += end + 1;
            cx.work += 1;
            self.line(cx, &line)?;
        }
        Ok(used)
    }
    fn handle_events(&mut self, cx: &mut Cx<'_>, events: &mut Vec<Event>) -> Result<(), Close> {
        for event in events.drain(..) {
            match event {
                Event::Authenticated { .. } => {
                    let attach = Attach {
                        vhost: "/".into(),
                        protocol: "Toy 1",
                        client_name: None,
                        ..Attach::default()
                    };
                    cx.commands.push(Command::Attach(Box::new(attach)));
                }
                Event::Attached => {
                    self.logging_in = false;
                    cx.out.extend_from_slice(b"attached\n");
                }
                Event::Echo { token, .. } => cx.out.extend_from_slice(format!("echo {token}\n").as_bytes()),
                Event::Closed(_) => {
                    cx.out.extend_from_slice(b"closed\n");
                    return Err(Close::normal("closed"));
                }
                _ => {}
            }
        }
        Ok(())
    }
    fn handle_timeout(&mut self, cx: &mut Cx<'_>) -> Result<(), Close> {
        self.due = None;
        cx.out.extend_from_slice(b"tock\n");
        Ok(())
    }
    fn poll_timeout(&self) -> Option<Time> {
        self.due
    }
    fn read_interest(&self) -> ReadInterest {
        if self.logging_in {
            ReadInterest::Nothing
        } else {
            ReadInterest::All
        }
    }
    fn set_paused(&mut self, _: Now, paused: bool) {
        self.paused += u32::from(paused);
    }
}

fn plain() -> Door {
    Door {
        terms: Arc::new(Terms::plain(0)),
        tls: None,
    }
}

/// A node with one I/O thread, and connections to it.
struct Bench {
    node: Arc<Node>,
    threads: IoThreads,
    listener: TcpListener,
}

impl Bench {
    fn start() -> Bench {
        let config = Config::default();
        let directory = Directory::new(&config).expect("a directory");
        let protocols: Vec<Box<dyn Protocol>> = vec![Box::new(Toy)];
        let node = Node::new(
            config,
            directory,
            crate::tls::Ports::default(),
            protocols,
            Clock::start(),
            Recovered::default(),
            Arc::default(),
        );
        let node = Arc::new(node);
        let threads = IoThreads::start(&node, 1).expect("a thread");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        Bench {
            node,
            threads,
            listener,
        }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.listener.local_addr().expect("an address")).expect("connected");
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a time limit");
        let (server, address) = self.listener.accept().expect("accepted");
        server.set_nonblocking(true).expect("not blocking");
        self.node.connections[0].opened.fetch_add(1, Ordering::Relaxed);
        self.threads
            .deal(&self.node, plain(), Socket::Tcp(server, address), false);
        client
    }

    /// Waits until the I/O thread has noticed that clients have closed.
    fn wait_for_closed(&self, count: u64) {
        while self.node.connections[0].closed.load(Ordering::Relaxed) < count {
            std::thread::yield_now();
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.threads.stop();
    }
}

fn send(mut client: &TcpStream, text: &str) {
    client.write_all(text.as_bytes()).expect("sent");
}

#[track_caller]
fn expect(mut client: &TcpStream, text: &str) {
    let mut got = vec![0; text.len()];
    client.read_exact(&mut got).expect("an answer");
    assert_eq!(String::from_utf8_lossy(&got), text);
}

#[track_caller]
fn rest(mut client: &TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    client.read_to_end(&mut got).expect("an orderly end");
    got
}

#[test]
fn frames_in_pieces_are_put_together() {
    let bench = Bench::start();
    let client = bench.connect();
    client.set_nodelay(true).expect("no delay");
    for byte in "say hello\nsay you\n".chars() {
        send(&client, &byte.to_string());
    }
    expect(&client, "hello\nyou\n");
}

#[test]
fn a_frame_much_larger_than_a_read_arrives_whole() {
    let bench = Bench::start();
    let client = bench.connect();
    let long = "x".repeat(3 << 20);
    let writer = client.try_clone().expect("a second handle");
    std::thread::scope(|scope| {
        scope.spawn(|| send(&writer, &format!("say {long}\nsay after\n")));
        expect(&client, &format!("{long}\nafter\n"));
    });
}

#[test]
fn what_a_turn_parses_is_bounded_and_the_rest_follows_without_more_bytes() {
    let bench = Bench::start();
    let client = bench.connect();
    // In one read, and without a login in between: only the limit makes several turns of it.
    let lines = 3 * TURN_WORK;
    let turns = || {
        bench
            .threads
            .figures()
            .map(|t| t.turns.load(Ordering::Relaxed))
            .sum::<u64>()
    };
    send(&client, &"say a\n".repeat(lines));
    expect(&client, &"a\n".repeat(lines));
    assert!(turns() >= 3, "{} turns", turns());
    // With an engine, and answers of its own.
    send(&client, &format!("login\n{}", "echo 7\n".repeat(lines)));
    expect(&client, &format!("attached\n{}", "echo 7\n".repeat(lines)));
}

#[test]
fn what_follows_a_login_waits_for_it() {
    let bench = Bench::start();
    let client = bench.connect();
    send(&client, "login\nsay a\necho 7\n");
    expect(&client, "attached\na\necho 7\n");
    assert_eq!(bench.node.attached.load(Ordering::Relaxed), 1);
}

#[test]
fn what_follows_a_login_is_not_forgotten_while_the_output_is_full() {
    let bench = Bench::start();
    let client = bench.connect();
    send(&client, "flood 20000000\nlogin\nsay after\n");
    expect(&client, &format!("{}attached\nafter\n", "x".repeat(20_000_000)));
}

#[test]
fn last_words_reach_a_peer_that_reads_slowly_and_still_sends() {
    let bench = Bench::start();
    let client = bench.connect();
    send(&client, "flood 8000000\nbye\n");
    // The session has ended by now. These bytes must not make the kernel reset the connection while output is on its
    // way.
    send(&client, "say too late\n");
    let got = rest(&client);
    assert_eq!(got.len(), 8_000_004);
    assert!(got.ends_with(b"xbye\n"));
}

/// An AMQP client closes the socket after `close-ok`. Lapin logged an error when it read the end of the stream together with
/// that, because the gateway had closed first.
#[test]
fn a_peer_that_is_to_close_first_is_waited_for_but_not_for_ever() {
    let bench = Bench::start();
    let (closes, stays) = (bench.connect(), bench.connect());
    let asked = std::time::Instant::now();
    for client in [&closes, &stays] {
        send(client, "leave\n");
        expect(client, "left\n");
    }
    closes.shutdown(std::net::Shutdown::Write).expect("closed");
    assert!(rest(&closes).is_empty());
    send(&stays, "say too late\n");
    assert!(rest(&stays).is_empty());
    assert!(asked.elapsed() >= Duration::from_secs(1), "it had no time to close");
}

#[test]
fn a_peer_that_does_not_read_is_not_read_either() {
    let bench = Bench::start();
    let client = bench.connect();
    send(&client, "flood 20000000\n");
    // The beginning has arrived, so the rest waits in the driver.
    expect(&client, "x");
    send(&client, "paused\nbye\n");
    let got = String::from_utf8(rest(&client)).expect("text");
    let answer = got.trim_start_matches('x');
    assert_eq!((got.len() - answer.len(), answer), (19_999_999, "1\nbye\n"));
}

#[test]
fn a_session_without_heart_beats_has_the_system_look_for_its_peer() {
    let bench = Bench::start();
    let client = bench.connect();
    send(&client, "login\n");
    expect(&client, "attached\n");
    // In the kernel's table of connections, found by our end's port, timer 2 is the keep-alive.
    let (ours, theirs) = (
        bench.listener.local_addr().expect("an address").port(),
        client.local_addr().expect("an address").port(),
    );
    let is_asked = || {
        let table = std::fs::read_to_string("/proc/self/net/tcp").expect("the table");
        let found = table.lines().find_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, remote) = (fields.next()?, fields.next()?);
            let timer = fields.nth(2)?;
            (local.ends_with(&format!(":{ours:04X}")) && remote.ends_with(&format!(":{theirs:04X}")))
                .then(|| timer.starts_with("02:"))
        });
        found.expect("our connection")
    };
    // It is set in the turn that answers, after the answer.
    while !is_asked() {
        std::thread::yield_now();
    }
}

#[test]
fn time_passes_for_an_idle_session() {
    let bench = Bench::start();
    let client = bench.connect();
    send(&client, "tick\n");
    expect(&client, "tock\n");
    send(&client, "tick\nsay meanwhile\n");
    expect(&client, "meanwhile\ntock\n");
}

#[test]
fn a_link_is_detached_once_however_it_ends() {
    let bench = Bench::start();
    for (count, end) in ["bye\n", "nonsense\n", ""].into_iter().enumerate() {
        let client = bench.connect();
        send(&client, "login\n");
        expect(&client, "attached\n");
        send(&client, end);
        client.shutdown(Shutdown::Both).expect("shut");
        bench.wait_for_closed(count as u64 + 1);
        let counters = bench.node.vhosts.list()[0].enter(|engine| engine.counters());
        assert_eq!(
            (counters.traffic.links_attached, counters.traffic.links_detached),
            (count as u64 + 1, count as u64 + 1)
        );
        assert_eq!(bench.node.attached.load(Ordering::Relaxed), 0);
    }
}

/// A turn that holds the engine for long (17 ms were seen) makes others wait, and their turns become longer. Their
/// bytes must be neither lost nor reordered.
#[test]
fn whoever_waits_for_a_long_hold_of_the_engine_is_served_after_it() {
    let bench = Bench::start();
    let clients: Vec<TcpStream> = (0..10).map(|_| bench.connect()).collect();
    for client in &clients {
        send(client, "login\n");
        expect(client, "attached\n");
    }
    let vhost = &bench.node.vhosts.list()[0];
    let (held, hold) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            vhost.enter(|_| {
                held.send(()).expect("somebody waits");
                released.recv().expect("released");
            });
        });
        hold.recv().expect("held");
        for client in &clients {
            for number in 0..50 {
                send(client, &format!("echo {number}\n"));
            }
        }
        // By now some turn waits for the lock, or will find it free. Either way everything is answered, in order.
        release.send(()).expect("it waits");
        let answers: String = (0..50).map(|number| format!("echo {number}\n")).collect();
        for client in &clients {
            expect(client, &answers);
        }
    });
}

#[test]
fn a_stop_says_goodbye_to_everyone() {
    let bench = Bench::start();
    let clients: Vec<TcpStream> = (0..20).map(|_| bench.connect()).collect();
    for client in &clients {
        send(client, "login\n");
        expect(client, "attached\n");
    }
    bench.node.vhosts.list()[0].end_links(CloseReason::Shutdown);
    for client in &clients {
        assert_eq!(rest(client), b"closed\n");
    }
    drop(clients);
    bench.wait_for_closed(20);
    assert_eq!(bench.node.attached.load(Ordering::Relaxed), 0);
}

#[test]
fn a_thread_that_ends_detaches_what_it_served() {
    let bench = Bench::start();
    let client = bench.connect();
    send(&client, "login\n");
    expect(&client, "attached\n");
    bench.threads.stop();
    let counters = bench.node.vhosts.list()[0].enter(|engine| engine.counters());
    assert_eq!(counters.traffic.links_detached, 1);
    assert_eq!(rest(&client), b"");
}

#[test]
fn an_idle_connection_is_small() {
    let bench = Bench::start();
    let (server, address) = {
        let _client = TcpStream::connect(bench.listener.local_addr().expect("an address")).expect("connected");
        bench.listener.accept().expect("accepted")
    };
    let task = Serving::new(Arc::clone(&bench.node), plain(), Socket::Tcp(server, address), false);
    let bytes = size_of_val(&task);
    // With the session (some hundred bytes) and the waker (some tens), this is below a KiB.
    assert!(bytes <= 640, "{bytes} bytes");
}
