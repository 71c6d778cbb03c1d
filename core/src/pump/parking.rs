//! Publishes that have to wait, and what may pass them.
//!
//! While the engine holds publishers back, a connection goes on being read: what settles, cancels or closes may stand
//! behind a publish, and is what relieves the pressure. So publishes are set aside, up to a limit; past it the socket is
//! no longer read. When the disk is full, those go on to the engine whose peers can be told that they are refused.

use crate::command::{Command, PublishFlags};
use crate::event::Pressure;

/// See the module.
#[derive(Debug)]
pub(super) struct Parking {
    pressure: Option<Pressure>,
    parked: Vec<Command>,
    /// Memory of what is parked.
    bytes: u32,
    bytes_max: u32,
}

impl Parking {
    pub(super) fn new(bytes_max: usize) -> Parking {
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        Parking {
            pressure: None,
            parked: Vec::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// The engine holds publishers back, or no longer does.
    pub(super) fn set_pressure(&mut self, pressure: Option<Pressure>) {
        self.pressure = pressure;
    }

    /// No more may be parked.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    /// Memory of what is parked.
    pub(super) fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Takes out of `commands` what has to wait.
    pub(super) fn sort(&mut self, commands: &mut Vec<Command>) {
        if self.pressure.is_none() || commands.is_empty() {
            return;
        }
        let mut passing = Vec::new();
        for command in commands.drain(..) {
            match &command {
                Command::Publish { flags, .. } if self.is_refused(*flags) => passing.push(command),
                Command::Publish { .. } => self.park(command_memory(&command), command),
                // It is answered as a whole, so it can always be refused.
                Command::Transaction(_) if self.pressure == Some(Pressure::Full) => passing.push(command),
                Command::Transaction(_) => self.park(command_memory(&command), command),
                // They free memory, and mean the same before and after a publish.
                Command::Settle { .. } | Command::Received { .. } | Command::Stray { .. } => passing.push(command),
                // Everything else keeps its place behind the publishes: they go first, pressure or not.
                _ => {
                    passing.append(&mut self.parked);
                    self.bytes = 0;
                    passing.push(command);
                }
            }
        }
        *commands = passing;
    }

    /// The engine will refuse it (if it needs the disk), and the peer is told so.
    fn is_refused(&self, flags: PublishFlags) -> bool {
        self.pressure == Some(Pressure::Full)
            && flags.contains(PublishFlags::CONFIRM)
            && !flags.contains(PublishFlags::PATIENT)
    }

    /// Puts what need not wait any longer in front of `commands`.
    pub(super) fn release(&mut self, commands: &mut Vec<Command>) {
        if self.parked.is_empty() || !matches!(self.pressure, None | Some(Pressure::Full)) {
            return;
        }
        let mut released = std::mem::take(&mut self.parked);
        self.bytes = 0;
        if self.pressure.is_some() {
            self.sort(&mut released);
        }
        released.append(commands);
        *commands = released;
    }

    fn park(&mut self, bytes: usize, command: Command) {
        let bytes = u32::try_from(bytes.saturating_add(size_of::<Command>())).unwrap_or(u32::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
        self.parked.push(command);
    }
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
    use crate::command::{Outcome, PublishFlags};
    use crate::message::{Envelope, Message};

    fn publish(body: &str) -> Command {
        let message = Message::new(Envelope::default(), "", "q", b"", body.as_bytes());
        Command::Publish {
            channel: 1,
            flags: PublishFlags::default(),
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
