//! Applies a link's commands: passes each to the part of the engine that handles it.

use super::budget::{Budget, Unfinished};
use super::link::may_be_answered;
use super::publishing::Publish;
use super::settling::Verdict;
use super::{Applied, Engine, done};
use crate::command::Command;
use crate::durable_session::CHANNEL;
use crate::event::{Event, Op};
use crate::freed;
use crate::slots::Link;
use crate::time::Now;

/// Work units of an exchange, a queue or a binding, without what it takes along. They cost several times what a publish
/// does.
const DEFINITION_WORK: usize = 7;

impl Engine {
    /// Applies commands in order, draining them. Commands of a stale link are dropped.
    pub fn apply(&mut self, now: Now, link: Link, commands: &mut Vec<Command>) -> Applied {
        self.begin(now);
        let mut budget = Budget::of_hold(&self.settings);
        if let Some(l) = self.links.get_mut(link) {
            // Its first command sets it again if that still has to wait.
            l.waits = false;
        }
        let mut done = 0;
        // Draining what is done in each hold would move all later commands each time. Few are ever left over, so the
        // front is removed once, after the loop.
        while done < commands.len() && !budget.is_spent() {
            let command = std::mem::replace(&mut commands[done], Command::DropWill);
            if let Err(unfinished) = self.apply_one(link, command, &mut budget) {
                // The unfinished command is the first of the next hold.
                commands[done] = unfinished;
                if budget.is_spent() {
                    freed::put_together();
                }
                break;
            }
            budget.spend(1 + self.take_listed_units());
            done += 1;
        }
        self.dispatch_touched();
        self.relieve_memory();
        self.note_hold(&budget);
        if done == commands.len() {
            commands.clear();
            Applied::All
        } else {
            commands.drain(..done);
            if self.links.get(link).is_some_and(|l| l.waits || l.is_backed_up()) {
                Applied::Waits
            } else {
                Applied::Some
            }
        }
    }

    /// Applies one command. It is returned if the hold ends before it is done.
    fn apply_one(&mut self, link: Link, command: Command, budget: &mut Budget) -> Result<(), Command> {
        let Some(l) = self.links.get_mut(link) else {
            return Ok(());
        };
        if l.meets(self.pressure, &command) || (l.is_backed_up() && may_be_answered(&command)) {
            return Err(command);
        }
        if l.ignores(&command) {
            self.forget_unfinished(link);
            return Ok(());
        }
        match command {
            Command::Publish {
                channel,
                flags,
                packet_id,
                message,
            } => {
                let publish = Publish {
                    channel,
                    flags,
                    packet_id,
                    message,
                };
                self.apply_publish(link, publish, budget)
            }
            Command::Settle {
                channel,
                number,
                multiple,
                outcome,
            } => {
                let verdict = Verdict {
                    number,
                    multiple,
                    outcome,
                };
                self.settle(link, channel, verdict, budget)
                    .map_err(|Unfinished| command)
            }
            Command::Transaction(c) => self.transaction(link, c, budget).map_err(Command::Transaction),
            Command::DeclareExchange(_)
            | Command::DeleteExchange(_)
            | Command::DeclareQueue(_)
            | Command::DeleteQueue(_)
            | Command::PurgeQueue(_)
            | Command::Bind(_)
            | Command::Unbind(_)
            | Command::SetPolicies(_) => self.checked(link, command, budget, Engine::apply_definition),
            Command::OpenSession(_) | Command::Subscribe(_) => {
                self.checked(link, command, budget, Engine::apply_to_session)
            }
            Command::SessionExpiry(_)
            | Command::Unsubscribe(_)
            | Command::Received { .. }
            | Command::Stray { .. }
            | Command::Release { .. }
            | Command::DropWill => self.apply_to_session(link, command, budget),
            Command::OpenChannel { .. }
            | Command::CloseChannel { .. }
            | Command::Qos { .. }
            | Command::SetMode { .. }
            | Command::Echo { .. }
            | Command::Recover { .. }
            | Command::HoldSettle { .. }
            | Command::ForgetHeld { .. }
            | Command::Cancel { .. } => self.apply_to_channel(link, command, budget),
            Command::Consume(_) | Command::Get(_) | Command::TryPublish(_) => {
                self.checked(link, command, budget, Engine::apply_to_channel)
            }
            Command::Detach => {
                self.dispatch_touched();
                self.detach(link, budget).map_err(|Unfinished| Command::Detach)
            }
            // The directory handles these commands. A driver that passes them on has a bug, but must not stop other
            // links.
            Command::Authenticate(_) | Command::Attach(_) => {
                debug_assert!(false, "handled by the directory");
                Ok(())
            }
        }
    }

    #[inline]
    fn apply_publish(&mut self, link: Link, publish: Publish, budget: &mut Budget) -> Result<(), Command> {
        let (channel, flags, packet_id) = (publish.channel, publish.flags, publish.packet_id);
        let published = self.publish(link, publish, budget);
        published.map_err(|message| Command::Publish {
            channel,
            flags,
            packet_id,
            message,
        })
    }

    /// Exchanges, queues and bindings. Their cost is spent afterwards, so that each hold makes progress.
    fn apply_definition(&mut self, link: Link, command: Command, budget: &mut Budget) -> Result<(), Command> {
        self.define(link, command, budget)?;
        budget.spend(DEFINITION_WORK);
        Ok(())
    }

    fn define(&mut self, link: Link, command: Command, budget: &mut Budget) -> Result<(), Command> {
        match command {
            Command::DeclareExchange(c) => {
                if self.end_exchange_namesake(&c.name, budget).is_err() {
                    return Err(Command::DeclareExchange(c));
                }
                self.declare_exchange(link, *c);
            }
            Command::DeleteExchange(c) => {
                return self.delete_exchange(link, c, budget).map_err(Command::DeleteExchange);
            }
            Command::DeclareQueue(c) => {
                self.settle_touched();
                if self.end_namesake(&c.name, budget).is_err() {
                    return Err(Command::DeclareQueue(c));
                }
                self.declare_queue(link, *c);
            }
            Command::DeleteQueue(c) => {
                self.dispatch_touched();
                if self.delete_queue_command(link, &c, budget).is_err() {
                    return Err(Command::DeleteQueue(c));
                }
            }
            Command::PurgeQueue(c) => {
                self.dispatch_touched();
                if self.purge_queue(link, &c, budget).is_err() {
                    return Err(Command::PurgeQueue(c));
                }
            }
            Command::Bind(c) => {
                if self.bind(link, &c, budget).is_err() {
                    return Err(Command::Bind(c));
                }
            }
            Command::Unbind(c) => self.unbind(link, *c),
            Command::SetPolicies(mut c) => {
                self.dispatch_touched();
                if self.set_policies(link, &mut c, budget).is_err() {
                    return Err(Command::SetPolicies(c));
                }
            }
            _ => debug_assert!(false, "no definition"),
        }
        Ok(())
    }

    /// Commands for the link's durable session, its subscriptions, packet ids and will.
    fn apply_to_session(&mut self, link: Link, command: Command, budget: &mut Budget) -> Result<(), Command> {
        match command {
            Command::OpenSession(mut c) => match self.permit_session(link, &mut c) {
                Ok(()) => match self.end_predecessor(link, &c, budget) {
                    Ok(gate) => self.open_session(link, *c, gate),
                    Err(Unfinished) => return Err(Command::OpenSession(c)),
                },
                Err(fault) => {
                    self.forget_successor(link);
                    self.fail(link, CHANNEL, Op::OpenSession, fault);
                }
            },
            Command::SessionExpiry(expiry) => self.session_expiry(link, expiry),
            Command::Subscribe(mut c) => {
                if self.subscribe(link, &mut c, budget).is_err() {
                    return Err(Command::Subscribe(c));
                }
            }
            Command::Unsubscribe(c) => {
                if self.unsubscribe(link, &c, budget).is_err() {
                    return Err(Command::Unsubscribe(c));
                }
            }
            Command::Received { packet_id } => self.received(link, packet_id),
            Command::Stray { packet_id } => self.stray(link, packet_id),
            Command::Release { packet_id } => self.release(link, packet_id),
            Command::DropWill => {
                if let Some(l) = self.links.get_mut(link) {
                    l.will = None;
                }
            }
            _ => debug_assert!(false, "not a session's"),
        }
        Ok(())
    }

    /// Commands for the link's channels and their consumers.
    fn apply_to_channel(&mut self, link: Link, command: Command, budget: &mut Budget) -> Result<(), Command> {
        match command {
            Command::OpenChannel { channel } => match self.open_channel(link, channel) {
                Ok(()) => self.answer(link, channel, done(channel, Op::OpenChannel), None),
                Err(fault) => self.fail(link, channel, Op::OpenChannel, fault),
            },
            Command::CloseChannel { channel, reply } => {
                self.dispatch_touched();
                if self.close_channel(link, channel, budget).is_err() {
                    return Err(command);
                }
                if reply {
                    self.answer(link, channel, done(channel, Op::CloseChannel), None);
                }
            }
            Command::Qos { channel, count, global } => self.qos(link, channel, count, global),
            Command::SetMode { channel, mode } => {
                if let Some(l) = self.links.get_mut(link) {
                    l.channel(channel).mode = mode;
                }
            }
            Command::Echo { channel, token } => self.answer(link, channel, Event::Echo { channel, token }, None),
            Command::Recover { channel, reply } => {
                if self.recover_channel(link, channel, reply, budget).is_err() {
                    return Err(command);
                }
            }
            Command::HoldSettle {
                channel,
                number,
                multiple,
                outcome,
            } => {
                let verdict = Verdict {
                    number,
                    multiple,
                    outcome,
                };
                self.hold_settle(link, channel, verdict);
            }
            Command::ForgetHeld { channel } => self.forget_held(link, channel),
            Command::Consume(c) => self.consume(link, *c),
            Command::TryPublish(c) => self.try_publish(link, *c),
            Command::Cancel {
                channel,
                consumer,
                reply,
            } => {
                self.dispatch_touched();
                self.cancel(link, channel, consumer, reply);
            }
            Command::Get(c) => {
                self.settle_touched();
                return self.get(link, c).map_err(Command::Get);
            }
            _ => debug_assert!(false, "no channel's"),
        }
        Ok(())
    }
}
