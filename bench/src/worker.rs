//! One thread of the generator: non-blocking sockets under epoll, publishers that fill a buffer and write it at once, consumers
//! that read a buffer full and answer with one write. Processor time spent here is time the broker does not get on a small
//! machine, so nothing is allocated, locked or asked of the clock per message.

use crate::body::{self, Stamp};
use crate::connect::{Connected, Wire};
use crate::latency::{Pace, Recorder};
use crate::shared::Shared;
use crate::transport::Transport;
use crate::verify::Ledger;
use crate::wire::Sink;
use anyhow::{Context, bail};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// A thread's connections.
#[derive(Debug)]
pub(crate) struct Worker<'a> {
    shared: &'a Shared,
    /// Our place in [`Shared::bells`].
    thread: usize,
    epoll: OwnedFd,
    /// Ends a wait to the nanosecond, where the time-out of epoll is rounded up to a millisecond.
    timer: OwnedFd,
    clients: Vec<Client>,
    scratch: Vec<u8>,
}

/// One connection and what it is for.
#[derive(Debug)]
struct Client {
    stream: Transport,
    wire: Wire,
    role: Role,
    /// The cut-off frame at the end of the last read.
    rest: Vec<u8>,
    output: Vec<u8>,
    /// How much of `output` is written.
    written: usize,
    /// epoll tells when there is room in the socket again.
    awaits_room: bool,
    last_write_ns: u64,
    keep_alive_ns: u64,
}

/// What a connection is for.
#[derive(Debug)]
pub(crate) enum Role {
    Publisher(Publisher),
    Consumer(Consumer),
}

/// A publisher's programme and how far it is.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) index: usize,
    pub(crate) run: u16,
    /// Sent so far, and the sequence number of the next message.
    pub(crate) sent: u64,
    /// Sent when all is sent.
    pub(crate) end: u64,
    /// Nothing leaves after this.
    pub(crate) deadline_ns: u64,
    pub(crate) pace: Pace,
    /// Whether the broker confirms.
    pub(crate) confirmed: bool,
    pub(crate) window: u64,
    /// Confirmed or refused so far.
    pub(crate) settled: u64,
    pub(crate) refused: u64,
    /// Settled messages whose latency is recorded.
    pub(crate) timed: u64,
    /// Messages take turns over so many queues.
    pub(crate) queues: u64,
    pub(crate) body: Vec<u8>,
}

/// What a consumer has seen.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) index: usize,
    pub(crate) ledger: Ledger,
    pub(crate) latencies: Recorder,
    /// The time of the read that is being parsed.
    pub(crate) now_ns: u64,
}

/// What one turn of a publisher writes at most; several thousand small messages, so that consumers on the same thread get theirs.
const BATCH_BYTES: usize = 64 * 1024;
/// What one turn of a consumer reads at most.
const READ_BYTES: usize = 256 * 1024;
/// How often an idle thread looks whether the run is over.
const LOOK_UP_NS: u64 = 50_000_000;
/// Places of the bell and the timer among epoll's events.
const BELL: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

impl<'a> Worker<'a> {
    pub(crate) fn new(shared: &'a Shared, thread: usize, body_bytes: usize) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = &shared.bells[thread].event;
        epoll::add(&epoll, bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        // A cut-off frame and a whole one fit, whatever the size of the bodies.
        let scratch = vec![0; READ_BYTES + 2 * (body_bytes + READ_BYTES)];
        Ok(Self {
            shared,
            thread,
            epoll,
            timer,
            clients: Vec::new(),
            scratch,
        })
    }

    pub(crate) fn add(&mut self, connected: Connected, role: Role, keep_alive_s: u16) -> anyhow::Result<()> {
        let Connected { stream, wire, rest } = connected;
        stream.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(self.clients.len() as u64);
        epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)?;
        self.clients.push(Client {
            stream,
            wire,
            role,
            rest,
            output: Vec::new(),
            written: 0,
            awaits_room: false,
            last_write_ns: self.shared.now_ns(),
            keep_alive_ns: u64::from(keep_alive_s) * 1_000_000_000,
        });
        Ok(())
    }

    /// Runs until the shared stop; gives the connections back for their books.
    pub(crate) fn run(mut self) -> Vec<(Role, Connected)> {
        if let Err(error) = self.turns() {
            self.shared.fail(format!("{error:#}"));
        }
        let unwritten: usize = self
            .clients
            .iter()
            .map(|client| client.output.len() - client.written)
            .sum();
        self.shared.unwritten_bytes.fetch_add(unwritten as u64, Relaxed);
        let clients = self.clients.into_iter();
        clients
            .map(
                |Client {
                     stream,
                     wire,
                     role,
                     rest,
                     ..
                 }| (role, Connected { stream, wire, rest }),
            )
            .collect()
    }

    fn turns(&mut self) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(256);
        // What arrived behind the handshakes, which may be more than one read brings.
        for place in 0..self.clients.len() {
            let client = &mut self.clients[place];
            let mut input = std::mem::take(&mut client.rest);
            input.drain(..client.parse(self.shared, &input)?);
            client.rest = input;
            self.flush(place)?;
            while self.clients[place].stream.has_more() {
                self.listen(place)?;
            }
        }
        while !self.shared.stop.load(Relaxed) {
            let wait_ns = self.pump_all()?;
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let timeout = if wait_ns == 0 {
                zero
            } else {
                Timespec {
                    tv_nsec: LOOK_UP_NS as _,
                    ..zero
                }
            };
            if wait_ns > 0 && wait_ns < LOOK_UP_NS {
                let it_value = Timespec {
                    tv_nsec: wait_ns as _,
                    ..zero
                };
                let once = Itimerspec {
                    it_interval: zero,
                    it_value,
                };
                timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
            }
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("epoll"),
            }
            let mut heard = false;
            for event in &events {
                let flags = event.flags;
                if matches!(event.data.u64(), BELL | TIMER) {
                    let bell = &self.shared.bells[self.thread].event;
                    // Reading takes the sign away; what it says is known.
                    let _ = rustix::io::read(if event.data.u64() == BELL { bell } else { &self.timer }, &mut [0; 8]);
                    continue;
                }
                let place = event.data.u64() as usize;
                if flags.contains(epoll::EventFlags::OUT) {
                    self.flush(place)?;
                }
                if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                    self.listen(place)?;
                    // What TLS has decrypted and WebSocket unpacked, epoll does not tell of.
                    while self.clients[place].stream.has_more() {
                        self.listen(place)?;
                    }
                    heard |= matches!(self.clients[place].role, Role::Consumer(_));
                }
            }
            if heard && self.shared.bells.len() > 1 {
                self.shared.wake_waiting(self.thread);
            }
        }
        Ok(())
    }

    /// Lets every publisher write a batch; how long to wait for the next turn.
    fn pump_all(&mut self) -> anyhow::Result<u64> {
        let mut wait_ns = LOOK_UP_NS;
        for place in 0..self.clients.len() {
            let now_ns = self.shared.now_ns();
            let client = &mut self.clients[place];
            let mut quiet_ns = now_ns - client.last_write_ns;
            if let Role::Publisher(publisher) = &mut client.role {
                let wait = if client.awaits_room {
                    LOOK_UP_NS
                } else {
                    publisher.fill(self.shared, self.thread, now_ns, &mut client.wire, &mut client.output)
                };
                wait_ns = wait_ns.min(wait);
                if !client.output.is_empty() {
                    quiet_ns = 0;
                    self.flush(place)?;
                }
            }
            if quiet_ns > self.clients[place].keep_alive_ns / 2 && self.clients[place].keep_alive_ns > 0 {
                let client = &mut self.clients[place];
                client.wire.ping(&mut client.output);
                client.last_write_ns = now_ns;
                self.flush(place)?;
            }
        }
        Ok(wait_ns)
    }

    /// Reads once and parses everything.
    fn listen(&mut self, place: usize) -> anyhow::Result<()> {
        let client = &mut self.clients[place];
        let kept = client.rest.len();
        self.scratch[..kept].copy_from_slice(&client.rest);
        let end = self.scratch.len().min(kept + READ_BYTES);
        let filled = match client.stream.read(&mut self.scratch[kept..end]) {
            Ok(0) => bail!("the broker closed the connection of {}", client.role),
            Ok(read) => kept + read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("the connection of {} broke", client.role)),
        };
        let input = &self.scratch[..filled];
        let used = client.parse(self.shared, input)?;
        client.rest.clear();
        client.rest.extend_from_slice(&input[used..]);
        if client.rest.len() + READ_BYTES > self.scratch.len() {
            bail!("the broker sent {} a frame larger than any it was sent", client.role);
        }
        if !client.output.is_empty() && !client.awaits_room {
            self.flush(place)?;
        }
        Ok(())
    }

    /// Writes what there is, as far as the socket takes it.
    fn flush(&mut self, place: usize) -> anyhow::Result<()> {
        let client = &mut self.clients[place];
        while client.written < client.output.len() {
            match client.stream.write(&client.output[client.written..]) {
                Ok(written) => client.written += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).with_context(|| format!("cannot write for {}", client.role)),
            }
        }
        match client.stream.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                return Err(error).with_context(|| format!("cannot write for {}", client.role));
            }
            _ => {}
        }
        if client.written > 0 {
            client.last_write_ns = self.shared.now_ns();
        }
        let is_taken = client.written == client.output.len();
        let awaits_room = !is_taken || client.stream.is_unwritten();
        if is_taken {
            client.output.clear();
            client.written = 0;
        }
        if awaits_room != client.awaits_room {
            client.awaits_room = awaits_room;
            let room = if awaits_room {
                epoll::EventFlags::OUT
            } else {
                epoll::EventFlags::empty()
            };
            let data = epoll::EventData::new_u64(place as u64);
            epoll::modify(&self.epoll, &client.stream, data, epoll::EventFlags::IN | room)?;
        }
        Ok(())
    }
}

impl Client {
    /// Parses what is whole, answers it in `output` and shares the counts; the bytes consumed.
    fn parse(&mut self, shared: &Shared, input: &[u8]) -> anyhow::Result<usize> {
        let used = match &mut self.role {
            Role::Consumer(consumer) => {
                consumer.now_ns = shared.now_ns();
                let used = self.wire.parse(input, &mut self.output, consumer);
                consumer.publish_count(shared);
                used
            }
            Role::Publisher(publisher) => {
                let used = self.wire.parse(input, &mut self.output, publisher);
                publisher.time_confirms(shared);
                publisher.publish_count(shared);
                used
            }
        };
        used.with_context(|| format!("on the connection of {}", self.role))
    }
}

impl Publisher {
    /// Appends a batch of what may leave now; how long until the next could, unless the socket says something before.
    fn fill(&mut self, shared: &Shared, thread: usize, now_ns: u64, wire: &mut Wire, out: &mut Vec<u8>) -> u64 {
        if now_ns >= self.deadline_ns && self.sent < self.end {
            self.end = self.sent;
        }
        let left = self.end - self.sent;
        if left == 0 {
            self.publish_count(shared);
            return LOOK_UP_NS;
        }
        let due = self.pace.due(now_ns).saturating_sub(self.sent);
        let unconfirmed = if self.confirmed { self.sent - self.settled } else { 0 };
        let mut room = shared.room();
        if room == 0 {
            // Look again behind the flag: a consumer that came in between did not see it.
            shared.bells[thread].waits.store(true, SeqCst);
            room = shared.room();
        }
        let allowed = left.min(self.window.saturating_sub(unconfirmed)).min(room);
        let batch_ns = now_ns;
        for _ in 0..allowed.min(due) {
            if out.len() >= BATCH_BYTES {
                break;
            }
            let sent_ns = self.pace.intended_ns(self.sent, batch_ns);
            let stamp = Stamp {
                run: self.run,
                publisher: (self.index as u64 * self.queues + self.sent % self.queues) as u16,
                sequence: self.sent / self.queues,
                sent_ns,
            };
            stamp.write(&mut self.body);
            if !wire.publish(out, &self.body) {
                break;
            }
            self.sent += 1;
        }
        self.publish_count(shared);
        match (allowed, self.pace) {
            // A confirm or a consumer gives the sign.
            (0, _) => LOOK_UP_NS,
            (_, Pace::Every { .. }) if due < allowed => self
                .pace
                .intended_ns(self.sent, now_ns)
                .saturating_sub(shared.now_ns())
                .min(LOOK_UP_NS),
            _ if out.is_empty() => LOOK_UP_NS,
            _ => 0,
        }
    }

    /// Records how long confirms took. Each counts for the oldest message that waits for one: exact where a broker confirms in
    /// order, and where it does not the mean still is.
    fn time_confirms(&mut self, shared: &Shared) {
        if self.timed == self.settled {
            return;
        }
        if let Some(mut latencies) = shared.confirm_latencies() {
            let now_ns = shared.now_ns();
            for sequence in self.timed..self.settled {
                latencies.record(now_ns.saturating_sub(self.pace.intended_ns(sequence, now_ns)));
            }
        }
        self.timed = self.settled;
    }

    fn publish_count(&self, shared: &Shared) {
        let count = &shared.publishers[self.index];
        count.published.store(self.sent, Relaxed);
        count.confirmed.store(self.settled - self.refused, Relaxed);
        count.refused.store(self.refused, Relaxed);
        let finished = self.sent == self.end && (!self.confirmed || self.settled >= self.sent);
        if finished && !count.finished.load(Relaxed) {
            count.finished_ns.store(shared.now_ns(), Relaxed);
            count.finished.store(true, SeqCst);
        }
    }

    /// The body to write stamps into.
    pub(crate) fn blank(size: usize) -> Vec<u8> {
        body::blank(size)
    }
}

impl Consumer {
    fn publish_count(&self, shared: &Shared) {
        let count = &shared.consumers[self.index];
        let received = self.ledger.received();
        if received != count.received.load(Relaxed) {
            if count.first_ns.load(Relaxed) == 0 {
                count.first_ns.store(self.now_ns, Relaxed);
            }
            count.last_ns.store(self.now_ns, Relaxed);
            count.received.store(received, SeqCst);
        }
    }
}

impl Sink for Publisher {
    fn message(&mut self, _: &[u8]) {}

    fn confirmed(&mut self, count: u64) {
        self.settled += count;
    }

    fn refused(&mut self, count: u64) {
        self.settled += count;
        self.refused += count;
    }
}

impl Sink for Consumer {
    #[inline]
    fn message(&mut self, body: &[u8]) {
        if let Some(stamp) = self.ledger.enter(body) {
            self.latencies.record(self.now_ns.saturating_sub(stamp.sent_ns));
        }
    }

    fn confirmed(&mut self, _: u64) {}

    fn refused(&mut self, _: u64) {}
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Publisher(publisher) => write!(f, "publisher {}", publisher.index),
            Self::Consumer(consumer) => write!(f, "consumer {}", consumer.index),
        }
    }
}
