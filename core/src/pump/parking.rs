//! Publishes that have to wait, and commands that may pass them.
//!
//! While publishers have to wait, a connection is still read, because a settle, cancel or close may follow a publish and
//! relieves the pressure. So publishes are set aside ("parked") up to a limit; above it the
//! stream is not read. When the disk is full, publishes go to the engine if their peers can be told that they are
//! refused.
//!
//! If the log is slow, short of disk or full, only publishes that need the log are parked. Others continue, unless they would
//! overtake a parked publish of the same channel that must keep its order.

use crate::command::{Channel, Command, PublishFlags};
use crate::event::Pressure;
use crate::message::Message;
use crate::seldom::Seldom;

/// The parked publishes of a connection.
#[derive(Debug)]
pub(super) struct Parking {
    pressure: Option<Pressure>,
    /// The pressure changed, so parked publishes may no longer have to wait.
    changed: bool,
    /// Empty for most connections at most times, and then it is only one word in size.
    parked: Seldom<Parked>,
    /// Memory of what is parked.
    bytes: u32,
    bytes_max: u32,
}

/// Parked publishes and their channels.
#[derive(Debug, Default)]
struct Parked {
    commands: Vec<Command>,
    /// Channels with parked publishes; once for publishes with [`PublishFlags::PASSING`] and once for those without.
    held_up: Vec<(Channel, bool)>,
}

impl Parking {
    pub(super) fn new(bytes_max: usize) -> Parking {
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        Parking {
            pressure: None,
            changed: false,
            parked: Seldom::default(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Sets the engine's pressure on publishers.
    pub(super) fn set_pressure(&mut self, pressure: Option<Pressure>) {
        self.changed |= self.pressure != pressure;
        self.pressure = pressure;
    }

    /// Whether the limit is reached.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    /// Memory of what is parked.
    pub(super) fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Parks those of `commands` that have to wait.
    pub(super) fn sort(&mut self, commands: &mut Vec<Command>) {
        if self.pressure.is_none() || commands.is_empty() {
            return;
        }
        let mut passing = Vec::with_capacity(commands.len());
        for command in commands.drain(..) {
            match &command {
                Command::Publish {
                    channel,
                    flags,
                    message,
                    ..
                } => {
                    if self.has_to_wait(*channel, *flags, needs_log(message)) {
                        let is_passing = flags.contains(PublishFlags::PASSING);
                        self.park(*channel, is_passing, command);
                    } else {
                        passing.push(command);
                    }
                }
                Command::Transaction(transaction) => {
                    // A transaction is answered as a whole, so it can always be refused.
                    let (channel, flags) = (transaction.channel, PublishFlags::CONFIRM);
                    let needs = |c: &Command| matches!(c, Command::Publish { message, .. } if needs_log(message));
                    let waits = if transaction.publishes() {
                        self.has_to_wait(channel, flags, transaction.commands.iter().any(needs))
                    } else {
                        // Settles free memory, but an earlier transaction has to be applied before.
                        self.is_held_up(channel, flags)
                    };
                    if waits {
                        self.park(channel, false, command);
                    } else {
                        passing.push(command);
                    }
                }
                // Settles free memory, and mean the same before and after a publish.
                Command::Settle { .. } | Command::Received { .. } | Command::Stray { .. } => passing.push(command),
                // Everything else must stay behind the publishes of its channel, so those are applied first despite the pressure.
                _ => {
                    self.give_way(command.channel(), &mut passing);
                    passing.push(command);
                }
            }
        }
        *commands = passing;
    }

    fn has_to_wait(&self, channel: Channel, flags: PublishFlags, needs_log: bool) -> bool {
        match self.pressure {
            None => false,
            Some(Pressure::Memory) => true,
            // The engine refuses it if it needs the disk, and the peer is told.
            Some(Pressure::Full) if flags.contains(PublishFlags::CONFIRM) && !flags.contains(PublishFlags::PATIENT) => {
                false
            }
            Some(Pressure::Disk | Pressure::Full | Pressure::Backlog) => needs_log || self.is_held_up(channel, flags),
        }
    }

    /// Whether a parked publish of the channel must go first.
    fn is_held_up(&self, channel: Channel, flags: PublishFlags) -> bool {
        let may_pass = flags.contains(PublishFlags::PASSING);
        let mut held_up = self.parked.get().into_iter().flat_map(|parked| &parked.held_up);
        held_up.any(|(of, passing)| *of == channel && (*passing || !may_pass))
    }

    /// Inserts publishes that no longer have to wait in front of `commands`.
    pub(super) fn release(&mut self, commands: &mut Vec<Command>) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let Some(Parked {
            commands: mut released, ..
        }) = self.parked.take()
        else {
            return;
        };
        self.bytes = 0;
        self.sort(&mut released);
        released.append(commands);
        *commands = released;
    }

    /// Moves a channel's parked publishes to `passing`; `None`: those of all channels.
    fn give_way(&mut self, channel: Option<Channel>, passing: &mut Vec<Command>) {
        let Some(parked) = self.parked.get_mut() else { return };
        match channel {
            Some(channel) if !parked.held_up.iter().any(|(of, _)| *of == channel) => {}
            Some(channel) => {
                let its = parked.commands.extract_if(.., |c| c.channel() == Some(channel));
                passing.extend(its);
                parked.held_up.retain(|(of, _)| *of != channel);
                self.bytes = parked.commands.iter().map(parked_bytes).fold(0, u32::saturating_add);
            }
            None => {
                passing.append(&mut parked.commands);
                self.parked = Seldom::default();
                self.bytes = 0;
            }
        }
    }

    fn park(&mut self, channel: Channel, passing: bool, command: Command) {
        let parked = self.parked.make();
        if !parked.held_up.contains(&(channel, passing)) {
            parked.held_up.push((channel, passing));
        }
        self.bytes = self.bytes.saturating_add(parked_bytes(&command));
        parked.commands.push(command);
    }
}

/// Whether the message needs the log, wherever it is routed.
fn needs_log(message: &Message) -> bool {
    let envelope = message.envelope();
    envelope.durable || envelope.retain
}

fn parked_bytes(command: &Command) -> u32 {
    let bytes = command_memory(command).saturating_add(size_of::<Command>());
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Memory of the messages of a publish or a transaction.
fn command_memory(command: &Command) -> usize {
    match command {
        Command::Publish { message, .. } => message.memory(),
        Command::Transaction(transaction) => transaction.commands.iter().map(command_memory).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Outcome, Transaction};
    use crate::message::Envelope;

    fn publish(body: &str) -> Command {
        publish_on(1, body, true, PublishFlags::default())
    }

    fn publish_on(channel: Channel, body: &str, durable: bool, flags: PublishFlags) -> Command {
        let envelope = Envelope {
            durable,
            ..Envelope::default()
        };
        let message = Message::new(envelope, "", "q", b"", body.as_bytes());
        Command::Publish {
            channel,
            flags,
            packet_id: 0,
            message,
        }
    }

    fn settle(number: u64) -> Command {
        Command::Settle {
            channel: 1,
            number,
            multiple: false,
            outcome: Outcome::Accept,
        }
    }

    fn names(commands: &[Command]) -> Vec<String> {
        let name = |c: &Command| match c {
            Command::Publish { message, .. } => String::from_utf8_lossy(message.body()).into_owned(),
            Command::Settle { number, .. } => format!("settle {number}"),
            Command::Echo { token, .. } => format!("echo {token}"),
            other => format!("{other:?}"),
        };
        commands.iter().map(name).collect()
    }

    #[test]
    fn settles_pass_publishes_that_wait() {
        let mut parking = Parking::new(1 << 10);
        parking.set_pressure(Some(Pressure::Disk));
        let mut commands = vec![publish("a"), settle(1), publish("b"), settle(2)];
        parking.sort(&mut commands);
        assert_eq!(names(&commands), ["settle 1", "settle 2"]);
        parking.set_pressure(None);
        let mut commands = vec![publish("c")];
        parking.release(&mut commands);
        assert_eq!(names(&commands), ["a", "b", "c"]);
    }

    /// They waited too, so that nobody settled, and the memory that was short never became free.
    #[test]
    fn transactions_that_only_settle_pass_unless_an_earlier_one_waits() {
        let commit = |channel, commands| Command::Transaction(Box::new(Transaction { channel, commands }));
        let counts = |commands: &[Command]| {
            let count = |c: &Command| match c {
                Command::Transaction(c) => (c.channel, c.commands.len()),
                other => panic!("{other:?}"),
            };
            commands.iter().map(count).collect::<Vec<_>>()
        };
        for pressure in [Pressure::Memory, Pressure::Disk, Pressure::Backlog] {
            let mut parking = Parking::new(1 << 10);
            parking.set_pressure(Some(pressure));
            let both = vec![publish("a"), settle(1)];
            let mut commands = vec![
                commit(1, vec![settle(1)]),
                commit(1, vec![]),
                commit(1, both),
                commit(1, vec![]),
                commit(2, vec![]),
            ];
            parking.sort(&mut commands);
            assert_eq!(counts(&commands), [(1, 1), (1, 0), (2, 0)], "{pressure:?}");
            parking.set_pressure(None);
            let mut commands = Vec::new();
            parking.release(&mut commands);
            assert_eq!(counts(&commands), [(1, 2), (1, 0)], "{pressure:?}");
        }
    }

    #[test]
    fn other_commands_keep_their_place_behind_publishes() {
        let mut parking = Parking::new(1 << 10);
        parking.set_pressure(Some(Pressure::Disk));
        let mut commands = vec![publish("a"), Command::Echo { channel: 1, token: 7 }, publish("b")];
        parking.sort(&mut commands);
        assert_eq!(names(&commands), ["a", "echo 7"]);
        parking.set_pressure(None);
        let mut commands = Vec::new();
        parking.release(&mut commands);
        assert_eq!(names(&commands), ["b"]);
    }

    #[test]
    fn on_a_full_disk_only_those_wait_that_cannot_be_told() {
        let mut parking = Parking::new(1 << 10);
        parking.set_pressure(Some(Pressure::Disk));
        let with = |body, with: PublishFlags| match publish(body) {
            Command::Publish { message, .. } => Command::Publish {
                channel: 1,
                flags: with,
                packet_id: 0,
                message,
            },
            other => other,
        };
        let patient = PublishFlags::CONFIRM | PublishFlags::PATIENT;
        let mut commands = vec![publish("a"), with("b", PublishFlags::CONFIRM), with("c", patient)];
        parking.sort(&mut commands);
        assert!(commands.is_empty());
        parking.set_pressure(Some(Pressure::Full));
        commands.push(settle(1));
        parking.release(&mut commands);
        assert_eq!(names(&commands), ["b", "settle 1"]);
        let mut commands = vec![with("d", PublishFlags::CONFIRM), publish("e"), settle(2)];
        parking.sort(&mut commands);
        assert_eq!(names(&commands), ["d", "settle 2"]);
        parking.set_pressure(None);
        let mut commands = Vec::new();
        parking.release(&mut commands);
        assert_eq!(names(&commands), ["a", "c", "e"]);
    }

    #[test]
    fn publishes_that_need_no_log_do_not_wait_for_it() {
        // With a slow disk, two durable publishers delayed everybody: QoS 0 and transient messages took four seconds.
        for pressure in [Pressure::Backlog, Pressure::Disk, Pressure::Full] {
            let mut parking = Parking::new(1 << 10);
            parking.set_pressure(Some(pressure));
            let mut commands = vec![publish_on(1, "transient", false, PublishFlags::default())];
            parking.sort(&mut commands);
            assert_eq!(names(&commands), ["transient"], "{pressure:?}");
        }
        let mut parking = Parking::new(1 << 10);
        parking.set_pressure(Some(Pressure::Memory));
        let mut commands = vec![publish_on(1, "transient", false, PublishFlags::default())];
        parking.sort(&mut commands);
        assert!(commands.is_empty());
        // Now the log is behind, and memory is free.
        parking.set_pressure(Some(Pressure::Backlog));
        parking.release(&mut commands);
        assert_eq!(names(&commands), ["transient"]);
    }

    #[test]
    fn publishes_that_need_no_log_wait_if_order_requires_it() {
        let mut parking = Parking::new(1 << 20);
        parking.set_pressure(Some(Pressure::Backlog));
        let (none, passing) = (PublishFlags::default(), PublishFlags::PASSING);
        let mut commands = vec![
            publish_on(1, "a", true, none),
            publish_on(1, "b", false, none),
            publish_on(2, "other channel", false, none),
            publish_on(1, "passing", false, passing),
            Command::Echo { channel: 2, token: 1 },
        ];
        parking.sort(&mut commands);
        assert_eq!(names(&commands), ["other channel", "passing", "echo 1"]);
        // A publish of the same kind waits (it is retained, say), and the next one must not overtake it.
        let mut commands = vec![publish_on(1, "c", true, passing), publish_on(1, "d", false, passing)];
        parking.sort(&mut commands);
        assert!(commands.is_empty());
        let mut commands = vec![Command::Echo { channel: 1, token: 2 }];
        parking.sort(&mut commands);
        assert_eq!(names(&commands), ["a", "b", "c", "d", "echo 2"]);
        assert_eq!(parking.bytes(), 0);
        let mut commands = vec![publish_on(1, "e", false, none)];
        parking.sort(&mut commands);
        assert_eq!(names(&commands), ["e"]);
    }

    #[test]
    fn parking_fills_up_and_empties() {
        let mut parking = Parking::new(1 << 10);
        parking.set_pressure(Some(Pressure::Disk));
        assert!(!parking.is_full());
        parking.sort(&mut vec![publish(&"x".repeat(1 << 10))]);
        assert!(parking.is_full());
        parking.set_pressure(None);
        parking.release(&mut Vec::new());
        assert!(!parking.is_full());
    }
}
