//! Exchanges, queues and bindings: declare, check, delete, and remember in the log what survives a restart.

use super::access_checks::Resource;
use super::budget::{Budget, Unfinished};
use super::queues::router_slot;
use super::traced::HopKind;
use super::unfinished::Deleting;
use super::{Engine, Limit, done};
use crate::access::Permission;
use crate::arguments::require_flag;
use crate::binding::{Binding, Destination, Removed};
use crate::catalog;
use crate::command::{
    Bind, BindTarget, Channel as ChannelNumber, Command, DeclareExchange, DeclareQueue, DeleteExchange, DeleteQueue,
};
use crate::event::{Event, Op, QueueSummary};
use crate::fault::{Fault, FaultKind};
use crate::ledger::ObjectKind;
use crate::message::Dialect;
use crate::properties::{Name, Table, Value};
use crate::queue::arguments::Arguments;
use crate::queue::queue_type::Declared;
use crate::queue::{Queue, QueueKind};
use crate::router::memory::{binding_bytes_max, exchange_bytes};
use crate::router::{ALTERNATE, BINDINGS_AT_ONCE, ExchangeSpec};
use crate::slots::{ConsumerKey, Link, QueueKey};
use crate::store::{Record, queue_key};

/// Work units of taking a binding away: it costs several times what a publish does.
const BINDING_WORK: usize = 24;

impl Engine {
    pub(crate) fn declare_exchange(&mut self, link: Link, c: DeclareExchange) {
        let channel = c.channel;
        let reply = c.reply;
        match self.try_declare_exchange(link, c) {
            Ok(gate) => {
                if reply {
                    self.answer(link, channel, done(channel, Op::DeclareExchange), gate);
                }
            }
            Err(fault) => self.fail(link, channel, Op::DeclareExchange, fault),
        }
    }

    fn try_declare_exchange(&mut self, link: Link, c: DeclareExchange) -> Result<Option<u64>, Fault> {
        self.router.check_declare(&c.name, &c.kind, c.passive)?;
        let on = Resource::Exchange(&c.name);
        if c.passive {
            self.permit_look(link, on)?;
            self.router.declare_passive(&c.name)?;
            return Ok(None);
        }
        self.permit(link, Permission::Configure, on)?;
        if self.router.exchange(&c.name).is_none()
            && let Some(alternate) = c.arguments.lookup(ALTERNATE).and_then(Value::as_str)
        {
            self.permit_forward(link, on, alternate)?;
        }
        let spec = ExchangeSpec {
            name: c.name,
            kind: c.kind,
            durable: c.durable,
            auto_delete: c.auto_delete,
            internal: c.internal,
            arguments: c.arguments,
        };
        if self.router.exchange(&spec.name).is_none() {
            self.admit(ObjectKind::Routes, exchange_bytes(&spec))?;
        }
        let declared = self.router.declare_exchange(spec.clone())?;
        if declared.created {
            self.listed_units += self.policies.match_units();
            self.apply_to_exchange(&spec.name);
        }
        if !spec.durable {
            return Ok(None);
        }
        if !declared.created {
            // The creating declare may not be synced yet, so this answer waits too.
            return Ok(self.staging.wait_for_all());
        }
        let (key, value) = catalog::encode_exchange(self.settings.number, &spec);
        self.staging.record(Record::Key {
            key,
            value: Some(value),
        });
        Ok(Some(self.staging.wait()))
    }

    /// Goes on with the deletion of an exchange. Its bindings go first, some in each hold: a client chooses how many there are.
    pub(crate) fn delete_exchange(
        &mut self,
        link: Link,
        c: Box<DeleteExchange>,
        budget: &mut Budget,
    ) -> Result<(), Box<DeleteExchange>> {
        let channel = c.channel;
        if let Some(Deleting::Exchange(_)) = self.take_deleting(link) {
            if !self.router.is_ending(&c.name) {
                // Somebody declared an exchange of that name, which first ended the old one. The new one stays.
                self.answer_deleted(link, c.reply, channel, done(channel, Op::DeleteExchange));
                return Ok(());
            }
        } else {
            let permitted = self.router.refuse_default(&c.name);
            let permitted =
                permitted.and_then(|()| self.permit(link, Permission::Configure, Resource::Exchange(&c.name)));
            if let Err(fault) = permitted {
                self.fail(link, channel, Op::DeleteExchange, fault);
                return Ok(());
            }
        }
        // A fault is found again below.
        while let Ok(Some(removed)) = self.router.thin_exchange(&c.name, c.if_unused) {
            budget.spend(removed.len() * BINDING_WORK);
            self.log_removed(&removed);
            if budget.is_spent() {
                self.note_deleting(link, Deleting::Exchange(c.name.clone()));
                return Err(c);
            }
        }
        match self.router.delete_exchange(&c.name, c.if_unused) {
            Ok(removed) => {
                let gate = self.log_removed(&removed);
                if c.reply {
                    self.answer(link, channel, done(channel, Op::DeleteExchange), gate);
                }
            }
            Err(fault) => self.fail(link, channel, Op::DeleteExchange, fault),
        }
        Ok(())
    }

    /// Logs the deletion of what was durable. Returns what to wait for.
    pub(crate) fn log_removed(&mut self, removed: &[Removed]) -> Option<u64> {
        if self.router.has_doomed() {
            self.timers.set_burial(self.now.monotonic);
        }
        let mut any = false;
        for r in removed {
            let key = match r {
                Removed::Exchange { name, durable: true } => catalog::exchange_key(self.settings.number, name),
                Removed::Binding(b) if b.durable && b.grant.is_none() => self.binding_key(b),
                _ => continue,
            };
            any = true;
            self.staging.record(Record::Key { key, value: None });
        }
        any.then(|| self.staging.wait())
    }

    fn binding_key(&self, b: &Binding) -> Box<[u8]> {
        let queue = match &b.destination {
            Destination::Queue { slot, .. } => self.queues.at(*slot).map(|queue| self.queues[queue].id),
            Destination::Exchange(_) => None,
        };
        catalog::binding_key(self.settings.number, b, queue)
    }

    pub(crate) fn declare_queue(&mut self, link: Link, c: DeclareQueue) {
        let (channel, reply) = (c.channel, c.reply);
        match self.try_declare_queue(link, c) {
            Ok((queue, gate)) => {
                let q = &self.queues[queue];
                let summary = QueueSummary {
                    name: q.name.clone(),
                    messages: q.depth_told(),
                    consumers: u32::try_from(q.consumers.len()).unwrap_or(u32::MAX),
                };
                if let Some(l) = self.links.get_mut(link) {
                    l.channel(channel).last_queue = Some(summary.name.clone());
                }
                if reply {
                    self.answer(
                        link,
                        channel,
                        Event::QueueDeclared {
                            channel,
                            queue: Box::new(summary),
                        },
                        gate,
                    );
                }
            }
            Err(fault) => self.fail(link, channel, Op::DeclareQueue, fault),
        }
    }

    fn try_declare_queue(&mut self, link: Link, c: DeclareQueue) -> Result<(QueueKey, Option<u64>), Fault> {
        if c.passive {
            let queue = self.look_at_queue(link, &c)?;
            return Ok((queue, None));
        }
        if !c.name.is_empty() {
            self.permit(link, Permission::Configure, Resource::Queue(&c.name))?;
            if let Some(queue) = self.queue_named(&c.name)
                && (c.lenient || !c.name.starts_with("amq."))
            {
                self.check_same_queue(link, &c, queue)?;
                self.counters.queues_declared += 1;
                self.use_queue(queue);
                // The creating declare may not be synced yet, so this answer waits too.
                let durable = self.queues[queue].durable;
                let gate = if durable { self.staging.wait_for_all() } else { None };
                return Ok((queue, gate));
            }
        }
        self.check_new_queue(&c)?;
        self.create_queue(link, c)
    }

    /// A passive declare.
    fn look_at_queue(&mut self, link: Link, c: &DeclareQueue) -> Result<QueueKey, Fault> {
        self.permit_look(link, Resource::Queue(&c.name))?;
        let queue = self.queue_named(&c.name).ok_or_else(|| self.no_queue(&c.name))?;
        if !c.lenient {
            self.check_access(link, queue)?;
        }
        self.use_queue(queue);
        Ok(queue)
    }

    fn use_queue(&mut self, queue: QueueKey) {
        let now = self.now.monotonic;
        if let Some(q) = self.queues.get_mut(queue) {
            q.used_at = now;
        }
    }

    /// Checks that a queue that is there is the one that is declared.
    fn check_same_queue(&self, link: Link, c: &DeclareQueue, queue: QueueKey) -> Result<(), Fault> {
        let q = &self.queues[queue];
        // Ownership first: an exclusive queue is its connection's, whatever else differs.
        if (c.exclusive != q.exclusive.is_some() && !c.lenient) || q.exclusive.is_some_and(|owner| owner != link) {
            return Err(self.locked(&c.name));
        }
        if c.lenient {
            return Ok(());
        }
        let text = self.queue_text(&c.name);
        // An exclusive queue is never durable, whatever was asked.
        require_flag(&text, "durable", c.durable && !c.exclusive, q.durable)?;
        require_flag(&text, "auto_delete", c.auto_delete, q.auto_delete)?;
        q.arguments.check_equivalent(&c.arguments, &text)
    }

    /// Checks that there may be a queue of that name, and one more at all.
    fn check_new_queue(&mut self, c: &DeclareQueue) -> Result<(), Fault> {
        if c.name.starts_with("amq.") && !c.lenient {
            let text = format!("queue name '{}' contains reserved prefix 'amq.*'", c.name);
            return Err(Fault::new(FaultKind::AccessRefused, text));
        }
        if c.name.len() > 255 {
            let text = "queue name is longer than 255 bytes";
            return Err(Fault::new(FaultKind::PreconditionFailed, text));
        }
        let max = self.vhost_limits.queues_max.unwrap_or(usize::MAX);
        let max = max.min(self.settings.queues_max);
        if self.queues.len() >= max {
            self.counters.refused_by(Limit::VhostQueues);
            let (name, vhost) = (&c.name, &self.settings.vhost);
            let text = format!("cannot declare queue '{name}': queue limit in vhost '{vhost}' ({max}) is reached");
            return Err(Fault::new(FaultKind::PreconditionFailed, text));
        }
        Ok(())
    }

    /// Returns what the answer waits for, too.
    fn create_queue(&mut self, link: Link, c: DeclareQueue) -> Result<(QueueKey, Option<u64>), Fault> {
        let made_up = c.name.is_empty();
        let name: Name = if made_up { self.name_for_queue(link) } else { c.name };
        if made_up {
            self.permit(link, Permission::Configure, Resource::Queue(&name))?;
        }
        let text = self.queue_text(&name);
        let arguments = Arguments::parse(c.arguments, &text)?;
        if let Some(exchange) = &arguments.dead_letter_exchange {
            self.permit_forward(link, Resource::Queue(&name), exchange)?;
        }
        let declared = Declared {
            name: if made_up { "" } else { &name },
            durable: c.durable,
            exclusive: c.exclusive,
            auto_delete: c.auto_delete,
        };
        arguments.queue_type.check_properties(declared, &text)?;
        self.admit(ObjectKind::Queues, Queue::memory(&name, &arguments.declared, c.durable))?;
        // An exclusive queue goes with its connection: nothing of it need survive a restart.
        let durable = c.durable && !c.exclusive;
        let number = self.queues.new_number();
        let mut q = Queue::new(number, name, QueueKind::Plain, durable, self.now.monotonic);
        q.exclusive = c.exclusive.then_some(link);
        q.auto_delete = c.auto_delete;
        q.arguments = arguments;
        let queue = self.add_queue(q);
        self.count_new_queue();
        if c.exclusive
            && let Some(l) = self.links.get_mut(link)
        {
            l.rare.make().exclusive_queues.push(queue);
        }
        let mut gate = None;
        if durable {
            let (key, value) = catalog::encode_queue(&self.queues[queue], None);
            let value = Some(value);
            self.staging.record(Record::Key { key, value });
            gate = Some(self.staging.wait());
        }
        self.watch_queue_expiry(queue);
        Ok((queue, gate))
    }

    /// Adds a queue to the vhost, reachable by its name.
    pub(crate) fn add_queue(&mut self, mut q: Queue) -> QueueKey {
        let bytes = Queue::memory(&q.name, &q.arguments.declared, q.durable);
        // After a restart it knows already what came back.
        let returned = q.returns_bytes();
        q.charge = self.ledger.charge(ObjectKind::Queues, bytes + returned);
        if let Some(applied) = self.policy_of_queue(&q) {
            q.apply_policy(Some(applied));
        }
        let name = q.name.clone();
        let queue = self.queues.insert(q);
        self.router.add_queue(&name, router_slot(queue));
        queue
    }

    /// Counts a queue that is new, and not found in the log.
    pub(super) fn count_new_queue(&mut self) {
        self.counters.queues_declared += 1;
        self.counters.queues_created += 1;
        // It was held against the patterns of policies.
        self.listed_units += self.policies.match_units();
    }

    /// Checks what is asked of a queue or an exchange without making it. What is there already, and what its maker may do, is
    /// not looked at.
    ///
    /// # Errors
    /// As the declaration's.
    pub fn check_declaration(&self, command: &Command) -> Result<(), Fault> {
        match command {
            Command::DeclareQueue(c) => {
                let text = self.queue_text(&c.name);
                let arguments = Arguments::parse(c.arguments.clone(), &text)?;
                let declared = Declared {
                    name: &c.name,
                    durable: c.durable,
                    exclusive: c.exclusive,
                    auto_delete: c.auto_delete,
                };
                arguments.queue_type.check_properties(declared, &text)
            }
            Command::DeclareExchange(c) => self.router.check_declare(&c.name, &c.kind, c.passive),
            _ => Ok(()),
        }
    }

    /// Whether there is a queue of that name.
    pub fn has_queue(&self, name: &str) -> bool {
        self.router.queue(name).is_some()
    }

    /// Whether there is an exchange of that name.
    pub fn has_exchange(&self, name: &str) -> bool {
        self.router.exchange(name).is_some()
    }

    /// The queue of that name.
    pub(crate) fn queue_named(&self, name: &str) -> Option<QueueKey> {
        self.queues.at(self.router.queue(name)?)
    }

    /// `amq.gen-` and 22 characters of base64url.
    pub(super) fn generated_name(&mut self) -> Name {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bits = (u128::from(self.random()) << 64) | u128::from(self.random());
        let tail = (0..22).map(|i| char::from(ALPHABET[((bits >> (i * 6).min(122)) & 63) as usize]));
        format!("amq.gen-{}", tail.collect::<String>()).into()
    }

    fn locked(&self, name: &str) -> Fault {
        let text = format!(
            "cannot obtain exclusive access to locked {}. It could be originally declared on another connection or \
             the exclusive property value does not match that of the original declaration.",
            self.queue_text(name)
        );
        Fault::new(FaultKind::ResourceLocked, text)
    }

    /// Refuses a queue that another connection owns.
    fn check_access(&self, link: Link, queue: QueueKey) -> Result<(), Fault> {
        let q = &self.queues[queue];
        if q.exclusive.is_some_and(|owner| owner != link) {
            return Err(self.locked(&q.name));
        }
        Ok(())
    }

    /// The name meant by `name`: itself, or the channel's last declared queue if it is empty.
    pub(super) fn meant(&mut self, link: Link, channel: ChannelNumber, name: &Name) -> Result<Name, Fault> {
        if !name.is_empty() {
            return Ok(name.clone());
        }
        self.links
            .get_mut(link)
            .and_then(|l| l.channel(channel).last_queue.clone())
            .ok_or_else(|| Fault::new(FaultKind::NotFound, "no previously declared queue"))
    }

    /// The queue `name` means, if the link may use it, and its user for that.
    pub(crate) fn find_queue(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        name: &Name,
        permission: Permission,
    ) -> Result<QueueKey, Fault> {
        let name = self.meant(link, channel, name)?;
        // Before the look-up: who may not use a queue does not learn whether there is one.
        self.permit(link, permission, Resource::Queue(&name))?;
        self.find_permitted_queue(link, &name)
    }

    /// The queue of that name, if the link may use it.
    pub(super) fn find_permitted_queue(&self, link: Link, name: &Name) -> Result<QueueKey, Fault> {
        let queue = self.queue_named(name).ok_or_else(|| self.no_queue(name))?;
        self.check_access(link, queue)?;
        if self.queues[queue].kind != QueueKind::Plain {
            let text = format!("{} belongs to an MQTT session", self.queue_text(name));
            return Err(Fault::new(FaultKind::AccessRefused, text));
        }
        Ok(queue)
    }

    /// Goes on with the deletion of a queue that a client asked for.
    pub(crate) fn delete_queue_command(
        &mut self,
        link: Link,
        c: &DeleteQueue,
        budget: &mut Budget,
    ) -> Result<(), Unfinished> {
        let channel = c.channel;
        let (queue, messages) = match self.take_deleting(link) {
            Some(Deleting::Queue { queue, messages }) => (queue, messages),
            _ => match self.queue_to_delete(link, c) {
                Ok(Some(queue)) => (queue, self.queues[queue].depth_told()),
                // Deleting what is not there is no fault.
                Ok(None) => {
                    if c.reply {
                        self.answer(link, channel, Event::QueueDeleted { channel, messages: 0 }, None);
                    }
                    return Ok(());
                }
                Err(fault) => {
                    self.fail(link, channel, Op::DeleteQueue, fault);
                    return Ok(());
                }
            },
        };
        if !self.queues.contains(queue) {
            // Somebody declared a queue of that name, which first ended the old one. The new one stays.
            self.answer_deleted(link, c.reply, channel, Event::QueueDeleted { channel, messages });
            return Ok(());
        }
        if let Err(unfinished) = self.unbind_queue(queue, budget) {
            self.note_deleting(link, Deleting::Queue { queue, messages });
            return Err(unfinished);
        }
        let asker = c.reply.then_some((link, channel));
        self.delete_queue_asked(queue, asker);
        Ok(())
    }

    /// The queue that a client asks to delete, if there is one and the client may delete it as it is.
    fn queue_to_delete(&mut self, link: Link, c: &DeleteQueue) -> Result<Option<QueueKey>, Fault> {
        let queue = match self.find_queue(link, c.channel, &c.name, Permission::Configure) {
            Ok(queue) => queue,
            Err(fault) if fault.kind == FaultKind::NotFound && !c.name.is_empty() => return Ok(None),
            Err(fault) => return Err(fault),
        };
        let q = &self.queues[queue];
        let queue_type = q.arguments.queue_type;
        queue_type.refuse_conditional_delete(c.if_empty, c.if_unused, &self.queue_text(&q.name))?;
        let refusal = if q.ending {
            // Its deletion has begun: the conditions held then.
            None
        } else if c.if_empty && q.depth() > 0 {
            Some("not empty")
        } else if c.if_unused && !q.consumers.is_empty() {
            Some("in use")
        } else {
            None
        };
        if let Some(why) = refusal {
            let text = format!("{} {why}", self.queue_text(&q.name));
            return Err(Fault::new(FaultKind::PreconditionFailed, text));
        }
        Ok(Some(queue))
    }

    /// Answers a deletion that something else has finished, perhaps a moment ago: the answer waits for all that is on its way to
    /// the log.
    fn answer_deleted(&mut self, link: Link, reply: bool, channel: ChannelNumber, event: Event) {
        if reply {
            let gate = self.staging.wait_for_all();
            self.answer(link, channel, event, gate);
        }
    }

    /// Deletes a queue with everything in it: bindings, consumers, messages. One with many bindings goes by and by.
    pub(crate) fn delete_queue(&mut self, queue: QueueKey) {
        if self.router.count_bindings_of(router_slot(queue)) <= BINDINGS_AT_ONCE {
            return self.delete_queue_asked(queue, None);
        }
        if let Some(q) = self.queues.get_mut(queue)
            && !q.ending
        {
            q.ending = true;
            self.ending_queues.push_back(queue);
            self.timers.set_burial(self.now.monotonic);
        }
    }

    /// Takes away the bindings of a queue that is being deleted, but for the last few. They go before the queue does, so that
    /// a queue of the same name that is declared afterwards cannot lose its own in the log.
    fn unbind_queue(&mut self, queue: QueueKey, budget: &mut Budget) -> Result<(), Unfinished> {
        // The router knows a queue by its slot: if this one is gone, the bindings there are another queue's.
        while let Some(q) = self.queues.get_mut(queue)
            && self.router.count_bindings_of(router_slot(queue)) > BINDINGS_AT_ONCE
        {
            q.ending = true;
            budget.check()?;
            let removed = self
                .router
                .remove_some_bindings_of(router_slot(queue), BINDINGS_AT_ONCE);
            budget.spend(removed.len() * BINDING_WORK);
            self.log_removed(&removed);
        }
        Ok(())
    }

    /// Notes what the link's first command deletes, for the next hold.
    pub(crate) fn note_deleting(&mut self, link: Link, deleting: Deleting) {
        if let Some(l) = self.links.get_mut(link) {
            l.rare.make().deleting = Some(deleting);
        }
    }

    /// What [`Engine::note_deleting`] has noted.
    pub(crate) fn take_deleting(&mut self, link: Link) -> Option<Deleting> {
        self.links.get_mut(link)?.rare.get_mut()?.deleting.take()
    }

    /// The link goes: what it was deleting is deleted all the same.
    pub(crate) fn delete_without(&mut self, link: Link) {
        match self.take_deleting(link) {
            None => return,
            Some(Deleting::Queue { queue, .. }) => self.ending_queues.push_back(queue),
            Some(Deleting::Messages { queue, .. }) => self.ending_purges.push_back(queue),
            Some(Deleting::Exchange(name)) => self.router.doom(name),
        }
        self.timers.set_burial(self.now.monotonic);
    }

    /// Waits for the end of an exchange of that name whose deletion has begun.
    pub(crate) fn end_exchange_namesake(&mut self, name: &str, budget: &mut Budget) -> Result<(), Unfinished> {
        while self.router.is_ending(name) {
            budget.check()?;
            let removed = match self.router.thin_exchange(name, false) {
                Ok(Some(removed)) => Ok(removed),
                Ok(None) => self.router.delete_exchange(name, false),
                Err(fault) => Err(fault),
            };
            let removed = removed.unwrap_or_default();
            budget.spend(removed.len() * BINDING_WORK);
            self.log_removed(&removed);
        }
        Ok(())
    }

    /// Waits for the end of a queue of that name whose deletion has begun.
    pub(crate) fn end_namesake(&mut self, name: &str, budget: &mut Budget) -> Result<(), Unfinished> {
        let Some(queue) = self.queue_named(name) else {
            return Ok(());
        };
        if self.queues[queue].ending {
            self.unbind_queue(queue, budget)?;
            self.delete_queue_asked(queue, None);
        }
        Ok(())
    }

    /// Goes on with deletions and purges that nobody waits for.
    pub(crate) fn end_deletions(&mut self, budget: &mut Budget) {
        while let Some(&queue) = self.ending_purges.front() {
            if self.go_on_purging(queue, budget).is_err() {
                break;
            }
            self.ending_purges.pop_front();
        }
        while let Some(&queue) = self.ending_queues.front() {
            if self.unbind_queue(queue, budget).is_err() {
                break;
            }
            self.ending_queues.pop_front();
            self.delete_queue_asked(queue, None);
        }
        while !budget.is_spent() && self.router.has_doomed() {
            let removed = self.router.delete_doomed();
            budget.spend(removed.len() * BINDING_WORK);
            self.log_removed(&removed);
        }
        if !(self.ending_queues.is_empty() && self.ending_purges.is_empty()) || self.router.has_doomed() {
            self.timers.set_burial(self.now.monotonic);
        }
    }

    /// Deletes a queue, and answers the channel that asked for it before its own consumers hear of it, as RabbitMQ does:
    /// a client that closes the channel on `basic.cancel` would lose the answer (amqplib's own tests do).
    fn delete_queue_asked(&mut self, queue: QueueKey, asker: Option<(Link, ChannelNumber)>) {
        if !self.queues.contains(queue) {
            return;
        }
        // Together or not at all: bindings of a queue that is not there would be taken for damage.
        let start = self.staging.group_start();
        let removed = self.router.remove_queue(router_slot(queue));
        let mut gate = self.log_removed(&removed);
        self.trace_gone(queue, HopKind::QueueDeleted);
        let Some(mut q) = self.queues.remove(queue) else { return };
        self.forget_spills(&q);
        self.memory.forget_deep(&q, &self.queues);
        self.cancel_queue_timers(queue, &q);
        self.counters.queues_deleted += 1;
        let messages = q.depth_told();
        self.memory.doom(q.take_ready());
        if q.durable {
            let key = queue_key(q.id);
            self.staging.record(Record::Key { key, value: None });
            self.staging.record(Record::QueueDelete { queue: q.id });
            self.staging.group_end(start);
            gate = Some(self.staging.wait());
        }
        if let Some((link, channel)) = asker {
            self.answer(link, channel, Event::QueueDeleted { channel, messages }, gate);
        }
        if !q.consumers.is_empty() {
            // A few at once: most queues have no more.
            self.orphans.extend(q.consumers.iter());
            self.end_orphans(&mut Budget::of_hold(&self.settings));
        }
        if let Some(owner) = q.exclusive
            && let Some(rare) = self.links.get_mut(owner).and_then(|l| l.rare.get_mut())
        {
            rare.exclusive_queues.retain(|e| *e != queue);
        }
        let waiting = self.memory.waiting_gets.extract_if(.., |(of, ..)| *of == queue);
        for (_, link, get) in waiting.collect::<Vec<_>>() {
            self.get_again(link, get);
        }
    }

    /// Ends consumers whose queue is gone: all there are, or as many as there is to spend; the others in the holds that
    /// follow. Until then they are consumers that nothing comes to.
    pub(crate) fn end_orphans(&mut self, budget: &mut Budget) {
        let mut channels = Vec::new();
        while !budget.is_spent()
            && let Some(key) = self.orphans.pop_front()
        {
            let Some(c) = self.consumers.get(key) else { continue };
            let (link, channel, consumer, session) = (c.link, c.channel, c.token, c.session);
            // What was reserved goes with the queue, the consumer before its reservations.
            let units = self.remove_consumer(key);
            budget.spend(units);
            if session.is_none() {
                channels.push((link, channel));
                self.answer(link, channel, Event::ConsumerGone { channel, consumer }, None);
                if let Some(l) = self.links.get_mut(link) {
                    l.wake(&mut self.wakes);
                }
            }
        }
        // Once for each channel, which may have had very many of them.
        channels.sort_unstable_by_key(|(link, channel)| (link.slot, link.generation, *channel));
        channels.dedup();
        for (link, channel) in channels {
            let Engine { links, consumers, .. } = self;
            if let Some(c) = links.get_mut(link).and_then(|l| l.find_channel(channel)) {
                let is_there = |k: &ConsumerKey| consumers.contains(*k);
                c.consumers.retain(is_there);
            }
        }
        if !self.orphans.is_empty() {
            self.timers.set_burial(self.now.monotonic);
        }
    }

    /// Binds, or goes on with the replay of a bind where the last hold stopped.
    pub(crate) fn bind(&mut self, link: Link, c: &Bind, budget: &mut Budget) -> Result<(), Unfinished> {
        let channel = c.channel;
        let mut gate = None;
        if !self.has_bound_replay(link) {
            let refused = self.router.refuse_default(&c.source);
            let bound = refused
                .and_then(|()| self.destination(link, c))
                .and_then(|(destination, key)| {
                    gate = self.try_bind(c, &destination, &key)?;
                    Ok((destination, key))
                });
            match bound {
                Ok((destination, key)) => self.start_bound_replay(link, c, &destination, &key, gate),
                Err(fault) => {
                    self.fail(link, channel, Op::Bind, fault);
                    return Ok(());
                }
            }
        }
        if self.has_bound_replay(link) {
            gate = self.go_on_with_bound_replay(link, budget)?;
        }
        if c.reply {
            self.answer(link, channel, done(channel, Op::Bind), gate);
        }
        Ok(())
    }

    fn try_bind(&mut self, c: &Bind, destination: &Destination, key: &Name) -> Result<Option<u64>, Fault> {
        self.check_binding(&c.source, key, &c.arguments)?;
        if !self.router.is_bound(&c.source, destination, key, &c.arguments) {
            self.admit(ObjectKind::Routes, binding_bytes_max(key, &c.arguments))?;
        }
        if !self
            .router
            .bind(&c.source, destination.clone(), key, c.arguments.clone(), None)?
        {
            return Ok(self.staging.wait_for_all());
        }
        let durable_end = match destination {
            Destination::Queue { durable, .. } => *durable,
            Destination::Exchange(name) => self.router.exchange(name).is_some_and(|e| e.durable),
        };
        if !durable_end || !self.router.exchange(&c.source).is_some_and(|e| e.durable) {
            return Ok(None);
        }
        let value = Some(catalog::encode_bound(destination));
        let binding = Binding {
            source: c.source.clone(),
            destination: destination.clone(),
            key: key.clone(),
            dialect: Dialect::Dot,
            arguments: c.arguments.clone(),
            grant: None,
            durable: true,
        };
        let key = self.binding_key(&binding);
        self.staging.record(Record::Key { key, value });
        Ok(Some(self.staging.wait()))
    }

    /// Refuses a binding that would make every publish through its exchange compare too much.
    fn check_binding(&mut self, source: &str, key: &str, arguments: &Table) -> Result<(), Fault> {
        let refused = |fault: Fault| Fault::new(FaultKind::PreconditionFailed, fault.text);
        let asked = arguments.0.len();
        match self.router.exchange(source).map(|exchange| exchange.kind) {
            Some("topic") => self.check_pattern(key, Dialect::Dot).map_err(refused),
            Some("headers") if asked > self.settings.message_headers_max => {
                self.counters.refused_by(Limit::MessageHeaders);
                let max = self.settings.message_headers_max;
                let text = format!("binding asks for {asked} headers, more than the limit ({max})");
                Err(Fault::new(FaultKind::PreconditionFailed, text))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn unbind(&mut self, link: Link, c: Bind) {
        let (channel, reply) = (c.channel, c.reply);
        let result = self
            .router
            .refuse_default(&c.source)
            .and_then(|()| match self.destination(link, &c) {
                Ok((destination, key)) => self.router.unbind(&c.source, &destination, &key, &c.arguments),
                // Unbinding what is not there is no fault.
                Err(fault) if fault.kind == FaultKind::NotFound && !unnamed(&c.target) => Ok(Vec::new()),
                Err(fault) => Err(fault),
            });
        match result {
            Ok(removed) => {
                self.listed_units += removed.len() * BINDING_WORK;
                let gate = self.log_removed(&removed);
                if reply {
                    self.answer(link, channel, done(channel, Op::Unbind), gate);
                }
            }
            Err(fault) => self.fail(link, channel, Op::Unbind, fault),
        }
    }

    /// Where a binding leads, and its key.
    fn destination(&mut self, link: Link, c: &Bind) -> Result<(Destination, Name), Fault> {
        match &c.target {
            BindTarget::Exchange(name) => {
                self.router.refuse_default(name)?;
                self.permit(link, Permission::Write, Resource::Exchange(name))?;
                self.permit_source(link, &c.source, &c.key, Dialect::Dot)?;
                Ok((Destination::Exchange(name.clone()), c.key.clone()))
            }
            BindTarget::Queue(name) => {
                // Where both are missing, the exchange is the one to report.
                let queue = match self.find_queue(link, c.channel, name, Permission::Write) {
                    Ok(queue) => queue,
                    Err(fault) if fault.kind == FaultKind::AccessRefused => return Err(fault),
                    Err(fault) => {
                        self.permit(link, Permission::Read, Resource::Exchange(&c.source))?;
                        self.router.require_exchange(&c.source)?;
                        return Err(fault);
                    }
                };
                let q = &self.queues[queue];
                if q.ending {
                    return Err(self.no_queue(&q.name));
                }
                let key = if name.is_empty() && c.key.is_empty() {
                    q.name.clone()
                } else {
                    c.key.clone()
                };
                let destination = Destination::Queue {
                    slot: router_slot(queue),
                    name: q.name.clone(),
                    durable: q.durable,
                };
                self.permit_source(link, &c.source, &key, Dialect::Dot)?;
                Ok((destination, key))
            }
        }
    }
}

fn unnamed(target: &BindTarget) -> bool {
    matches!(target, BindTarget::Queue(name) if name.is_empty())
}
