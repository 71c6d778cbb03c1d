//! A thread of the generator: non-blocking sockets under epoll; publishers fill a buffer and write it at once;
//! consumers read a full buffer and answer with one write. On a small machine processor time spent here is missing for
//! the broker, so nothing is allocated, locked, or read from the clock per message.

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
    /// Index in [`Shared::bells`].
    thread: usize,
    epoll: OwnedFd,
    /// Ends a wait with nanosecond precision; epoll rounds its time-out up to a millisecond.
    timer: OwnedFd,
    clients: Vec<Client>,
    scratch: Vec<u8>,
}

/// A connection and its role.
#[derive(Debug)]
struct Client {
    stream: Transport,
    wire: Wire,
    role: Role,
    /// The incomplete frame at the end of the last read.
    rest: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of `output` that are written.
    written: usize,
    /// Whether epoll reports when the socket can be written again.
    awaits_room: bool,
    last_write_ns: u64,
    keep_alive_ns: u64,
}

/// The role of a connection.
#[derive(Debug)]
pub(crate) enum Role {
    Publisher(Publisher),
    Consumer(Consumer),
}

/// A publisher's parameters and progress.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) index: usize,
    pub(crate) run: u16,
    /// Messages sent so far, which is the sequence number of the next one.
    pub(crate) sent: u64,
    /// Number of messages to send.
    pub(crate) end: u64,
    /// No message is sent after this.
    pub(crate) deadline_ns: u64,
    pub(crate) pace: Pace,
    /// Whether the broker confirms publishes.
    pub(crate) confirmed: bool,
    pub(crate) window: u64,
    /// Messages confirmed or refused so far.
    pub(crate) settled: u64,
    pub(crate) refused: u64,
    /// Settled messages whose latency was recorded.
    pub(crate) timed: u64,
    /// Number of queues that messages are spread over in turn.
    pub(crate) queues: u64,
    pub(crate) body: Vec<u8>,
}

/// The ledger of a consumer.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) index: usize,
    pub(crate) ledger: Ledger,
    pub(crate) latencies: Recorder,
    /// The time of the read that is being parsed.
    pub(crate) now_ns: u64,
}

/// Maximum bytes that a publisher writes in one turn: several thousand small messages, so that consumers on the same
/// thread get their turns.
const BATCH_BYTES: usize = 64 * 1024;
/// Maximum bytes that a consumer reads in one turn.
const READ_BYTES: usize = 256 * 1024;
/// How often an idle thread checks whether the run is over.
const LOOK_UP_NS: u64 = 50_000_000;
/// Tokens of the bell and the timer in epoll's events.
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
        // Fits an incomplete frame and a complete one, whatever the size of the bodies.
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

    /// Runs until the shared stop. Returns the connections for their results.
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
        // Parses bytes that arrived after the handshakes, which may be more than one read.
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
                    // Reading resets the event; the value is not needed.
                    let _ = rustix::io::read(if event.data.u64() == BELL { bell } else { &self.timer }, &mut [0; 8]);
                    continue;
                }
                let place = event.data.u64() as usize;
                if flags.contains(epoll::EventFlags::OUT) {
                    self.flush(place)?;
                }
                if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                    self.listen(place)?;
                    // epoll does not report bytes that TLS has decrypted or that were removed from WebSocket frames.
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

    /// Lets every publisher write a batch. Returns how long to wait for the next turn.
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

    /// Reads once and parses all complete frames.
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

    /// Writes output as far as the socket accepts it.
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
    /// Parses complete frames, writes answers to `output`, and updates the shared counts. Returns the bytes consumed.
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
    /// Appends a batch of the messages that may be sent now. Returns how long until the next one, unless the socket has
    /// an event before.
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
            // Checks again after setting the flag: a consumer that was between the two did not see it.
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
            // A confirm or a consumer will wake this thread.
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

    /// Records latencies of confirms. Each counts for the oldest message that waits for one. This is exact if the
    /// broker confirms in order; otherwise the mean still is.
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

    /// A body to write stamps into.
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
