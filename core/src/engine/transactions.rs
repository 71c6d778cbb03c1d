//! Transactions: publishes and settles that take effect together or not at all.
//!
//! ```text
//!   find the queues of each publish (several holds if needed) ─► check all ─► apply all ─► one group in the log
//!                                                                └──────── one hold ─────────┘
//! ```
//!
//! What is put into queues and settled in that one hold is limited by `transaction_deliveries_max`: 0.11 us a publish,
//! 0.18 a settle. Settles come with the transaction, or were held by the channel before.

use super::budget::Budget;
use super::publishing::extra_keys;
use super::reply_address::reply_addressed;
use super::routing::RouteBy;
use super::settling::Verdict;
use super::unfinished::Committing;
use super::{Engine, Limit, done};
use crate::command::{Channel as ChannelNumber, Command, Outcome, PublishFlags, Transaction};
use crate::event::{Event, Op, Pressure};
use crate::fault::{Fault, FaultKind};
use crate::message::Message;
use crate::router::Target;
use crate::slots::{Link, QueueKey};
use hashbrown::{HashMap, HashSet};

impl Engine {
    fn check_size(&mut self, committing: &Committing) -> Result<(), Fault> {
        let checked = committing.check(self.settings.transaction_deliveries_max);
        checked.inspect_err(|_| self.counters.refused_by(Limit::TransactionDeliveries))
    }

    /// The number of deliveries that a command of a transaction settles.
    fn count_settled(&mut self, link: Link, command: &Command) -> usize {
        let &Command::Settle {
            channel,
            number,
            multiple: true,
            ..
        } = command
        else {
            return 1;
        };
        let channel = self.links.get_mut(link).and_then(|l| l.find_channel(channel));
        let upto = if number == 0 { u64::MAX } else { number };
        channel.map_or(1, |c| c.unsettled.count_upto(upto).max(1))
    }

    /// Continues a transaction. It is returned if the hold ends before all its queues are found.
    pub(crate) fn transaction(
        &mut self,
        link: Link,
        mut transaction: Box<Transaction>,
        budget: &mut Budget,
    ) -> Result<(), Box<Transaction>> {
        if self.links.get(link).is_some_and(|l| l.awaits_walk) && !self.may_walk(link) {
            return Err(transaction);
        }
        let rejects = |c: &Command| matches!(c, Command::Settle { outcome, .. } if *outcome != Outcome::Accept);
        let channel = transaction.channel;
        if self.has_many_internal()
            && (transaction.commands.iter().any(rejects) || self.holds_rejections(link, channel))
        {
            // Messages that it rejects are dead-lettered with it, so wait while many dead letters are to be published.
            // Each hold publishes some.
            return Err(transaction);
        }
        let kept = self
            .links
            .get_mut(link)
            .and_then(|l| l.rare.get_mut()?.committing.take());
        let mut committing = kept.unwrap_or_else(|| {
            let mut begun = Box::<Committing>::default();
            begun.deliveries = self.count_held(link, channel);
            begun
        });
        let found = match self.find_queues(link, &mut transaction, &mut committing, budget) {
            Ok(true) => self.targets_now(committing.found),
            Ok(false) => {
                if self.keep_walk(link, committing.memory())
                    && let Some(l) = self.links.get_mut(link)
                {
                    l.rare.make().committing = Some(committing);
                }
                return Err(transaction);
            }
            Err(fault) => {
                self.end_walk(link);
                self.fail(link, channel, Op::Commit, fault);
                return Ok(());
            }
        };
        self.end_walk(link);
        if let Err(fault) = self.check_transaction(link, &transaction.commands, &found) {
            self.fail(link, channel, Op::Commit, fault);
            budget.spend(transaction.commands.len());
            return Ok(());
        }
        let units = self.apply_transaction(link, *transaction, &found);
        budget.spend(units);
        Ok(())
    }

    /// Continues to find the queues of a transaction's publishes. Returns whether all are found.
    fn find_queues(
        &mut self,
        link: Link,
        transaction: &mut Transaction,
        committing: &mut Committing,
        budget: &mut Budget,
    ) -> Result<bool, Fault> {
        self.check_size(committing)?;
        while let Some(command) = transaction.commands.get_mut(committing.found.len()) {
            if budget.is_spent() {
                return Ok(false);
            }
            budget.spend(1);
            let Command::Publish { flags, message, .. } = command else {
                committing.deliveries += self.count_settled(link, command);
                self.check_size(committing)?;
                committing.found.push(Box::default());
                continue;
            };
            let extra = match committing.stopped {
                Some(_) => Vec::new(),
                None => {
                    // A time to live begins at the commit.
                    message.receive_at(self.now.wall);
                    // A reply goes where its address leads, as outside of a transaction.
                    if let Some(reply) = reply_addressed(message, &self.settings.topic_exchange) {
                        *message = reply;
                    }
                    let extra = extra_keys(&self.codecs, message);
                    self.check_keys(&extra)?;
                    let permitted = self.permit_publish(link, message, &extra, None);
                    if self.awaits_answer(link) {
                        return Ok(false);
                    }
                    permitted?;
                    extra
                }
            };
            let targets = match budget.route(&mut self.router, message, &extra, &mut committing.stopped) {
                Ok(Some(targets)) => targets,
                Ok(None) => return Ok(false),
                Err(fault) if flags.contains(PublishFlags::LENIENT) && fault.kind == FaultKind::NotFound => &[],
                Err(fault) => {
                    self.counters.note_unroutable(&fault);
                    return Err(fault);
                }
            };
            committing.deliveries += targets.len();
            let queues = &self.queues;
            let known = targets
                .iter()
                .filter_map(|target| Some((target.clone(), queues.at(target.queue)?)));
            committing.found.push(known.collect());
            self.check_size(committing)?;
            budget.spend(committing.found.last().map_or(0, |found| found.len()));
        }
        Ok(true)
    }

    /// The targets found whose queues still exist.
    fn targets_now(&self, found: Vec<Box<[(Target, QueueKey)]>>) -> Vec<Vec<Target>> {
        let is_there = |(target, key): (Target, QueueKey)| self.queues.contains(key).then_some(target);
        let found = found.into_iter();
        found
            .map(|found| found.into_iter().filter_map(is_there).collect())
            .collect()
    }

    /// Counts a publish of a transaction that is applied. A transaction is applied as a whole, so no publish that comes
    /// here is refused.
    fn count_publish(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        flags: PublishFlags,
        message: &Message,
        queues: usize,
    ) {
        let Some(l) = self.links.get_mut(link) else {
            return;
        };
        l.publishes = true;
        let traffic = self.counters.of(l.traffic);
        let size = message.body().len();
        traffic.published += 1;
        traffic.published_bytes += size as u64;
        traffic.note_size(size);
        let c = l.channel(channel);
        c.published += 1;
        match queues {
            0 if flags.contains(PublishFlags::MANDATORY) => {
                traffic.unroutable_returned += 1;
                c.seldom.make().unroutable_returned += 1;
            }
            0 => {
                traffic.unroutable_dropped += 1;
                c.seldom.make().unroutable_dropped += 1;
            }
            _ => traffic.routed += 1,
        }
    }

    /// Returns the work units spent.
    fn apply_transaction(&mut self, link: Link, transaction: Transaction, found: &[Vec<Target>]) -> usize {
        let Transaction { channel, commands } = transaction;
        let start = self.staging.group_start();
        let mut work = 1;
        let mut need = None;
        for (command, targets) in commands.into_iter().zip(found) {
            match command {
                Command::Publish {
                    channel,
                    flags,
                    message,
                    ..
                } => {
                    self.count_publish(link, channel, flags, &message, targets.len());
                    let route = RouteBy::Targets(targets);
                    let Ok(Some(enqueued)) = self.route_and_enqueue(link, &message, route, &[]) else {
                        debug_assert!(false, "its queues are known");
                        continue;
                    };
                    if let Some(to) = enqueued.sent_to
                        && let Some(l) = self.links.get_mut(link)
                    {
                        l.note_sent(to, message.body().len());
                    }
                    need = need.max(enqueued.logged);
                    if enqueued.retained {
                        need = need.max(Some(self.staging.durability()));
                    }
                    work += 1 + enqueued.offered;
                    if enqueued.queues == 0 && flags.contains(PublishFlags::MANDATORY) {
                        self.answer(
                            link,
                            channel,
                            Event::Returned {
                                channel,
                                number: 0,
                                message,
                            },
                            None,
                        );
                    }
                }
                Command::Settle {
                    channel,
                    number,
                    multiple,
                    outcome,
                } => {
                    let mut whole = Budget::whole();
                    let verdict = Verdict {
                        number,
                        multiple,
                        outcome,
                    };
                    // With an unlimited budget it always finishes.
                    let _ = self.settle(link, channel, verdict, &mut whole);
                    work += usize::MAX - whole.left();
                }
                _ => debug_assert!(false, "a transaction has publishes and settles"),
            }
        }
        work += self.settle_held(link, channel);
        // Dead letters are published in this hold as far as possible. Of the others, the rejected message is still
        // unsettled after a crash.
        while self.publish_next_internal() {}
        self.stage_acks();
        self.staging.group_end(start);
        let gate = need.map(|need| self.staging.wait_for(need));
        self.answer(link, channel, done(channel, Op::Commit), gate);
        work
    }

    fn check_transaction(&mut self, link: Link, commands: &[Command], found: &[Vec<Target>]) -> Result<(), Fault> {
        // What the transaction itself adds to a queue that refuses when it is full: messages and bytes.
        let mut added: HashMap<QueueKey, (u64, u64)> = HashMap::new();
        // What it has settled so far: single numbers, and all up to a number.
        let mut settled: HashSet<(ChannelNumber, u64)> = HashSet::new();
        let mut settled_upto: HashMap<ChannelNumber, u64> = HashMap::new();
        let full = self.node_pressure == Some(Pressure::Full);
        for (command, targets) in commands.iter().zip(found) {
            match command {
                Command::Publish { message, .. } => {
                    for target in targets {
                        let Some(key) = self.queues.at(target.queue) else {
                            continue;
                        };
                        let queue = &self.queues[key];
                        let ahead = added.entry(key).or_default();
                        let full = full && queue.logs(message.envelope(), message.envelope().qos);
                        if full || queue.refuses(message, *ahead) {
                            return Err(Fault::new(FaultKind::PreconditionFailed, "partial tx completion"));
                        }
                        *ahead = (ahead.0 + 1, ahead.1 + message.body().len() as u64);
                    }
                }
                Command::Settle {
                    channel,
                    number,
                    multiple,
                    ..
                } => {
                    let all = *multiple && *number == 0;
                    let Some(l) = self.links.get_mut(link).filter(|_| !all) else {
                        continue;
                    };
                    let before = settled_upto.entry(*channel).or_default();
                    let known = l.channel(*channel).unsettled.contains(*number)
                        && *number > *before
                        && !settled.contains(&(*channel, *number));
                    if !known {
                        let text = format!("unknown delivery tag {number}");
                        return Err(Fault::new(FaultKind::PreconditionFailed, text));
                    }
                    if *multiple {
                        *before = *number;
                    } else {
                        settled.insert((*channel, *number));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
