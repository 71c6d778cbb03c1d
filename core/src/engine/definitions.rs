//! Declares, checks and looks up queues by name.

use super::access_checks::Resource;
use super::queues::router_slot;
use super::{Engine, Limit};
use crate::access::Permission;
use crate::arguments::require_flag;
use crate::catalog;
use crate::command::{Channel as ChannelNumber, Command, DeclareQueue};
use crate::event::{Event, Op, QueueSummary};
use crate::fault::{Fault, FaultKind};
use crate::ledger::ObjectKind;
use crate::properties::Name;
use crate::queue::arguments::Arguments;
use crate::queue::{Queue, QueueKind};
use crate::queue_type::Declared;
use crate::slots::{Link, QueueKey};
use crate::store::Record;

impl Engine {
    pub(crate) fn declare_queue(&mut self, link: Link, c: DeclareQueue) {
        let (channel, reply) = (c.channel, c.reply);
        match self.try_declare_queue(link, c) {
            Ok((queue, gate)) => {
                let q = &self.queues[queue];
                let summary = QueueSummary {
                    name: q.name.clone(),
                    messages: q.reported_depth(),
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

    /// Checks that an existing queue agrees with its declaration.
    fn check_same_queue(&self, link: Link, c: &DeclareQueue, queue: QueueKey) -> Result<(), Fault> {
        let q = &self.queues[queue];
        // Ownership is checked first: an exclusive queue belongs to its connection, whatever else differs.
        if (c.exclusive != q.exclusive.is_some() && !c.lenient) || q.exclusive.is_some_and(|owner| owner != link) {
            return Err(self.locked(&c.name));
        }
        if c.lenient {
            return Ok(());
        }
        let text = self.queue_text(&c.name);
        // An exclusive queue is never durable, even if that was requested.
        require_flag(&text, "durable", c.durable && !c.exclusive, q.durable)?;
        require_flag(&text, "auto_delete", c.auto_delete, q.auto_delete)?;
        q.arguments.check_equivalent(&c.arguments, &text)
    }

    /// Checks that a queue with that name may be created.
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

    /// Also returns the batch that the answer waits for.
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
        // An exclusive queue ends with its connection, so it need not survive a restart.
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
        // After a restart, it already knows counts of returns.
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

    /// Counts a queue that is new and was not found in the log.
    pub(super) fn count_new_queue(&mut self) {
        self.counters.queues_declared += 1;
        self.counters.queues_created += 1;
        // Its name was matched with the patterns of policies.
        self.listed_units += self.policies.match_units();
    }

    /// Checks the declaration of a queue or an exchange without making it. Existing objects and the user's rights are
    /// not considered.
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

    /// Whether there is a queue with that name.
    pub fn has_queue(&self, name: &str) -> bool {
        self.router.queue(name).is_some()
    }

    /// The queue with that name.
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

    /// The queue's name: `name`, or the channel's last declared queue if it is empty.
    pub(super) fn meant(&mut self, link: Link, channel: ChannelNumber, name: &Name) -> Result<Name, Fault> {
        if !name.is_empty() {
            return Ok(name.clone());
        }
        self.links
            .get_mut(link)
            .and_then(|l| l.channel(channel).last_queue.clone())
            .ok_or_else(|| Fault::new(FaultKind::NotFound, "no previously declared queue"))
    }

    /// The queue named `name`, if the link may use it and its user has the permission.
    pub(crate) fn find_queue(
        &mut self,
        link: Link,
        channel: ChannelNumber,
        name: &Name,
        permission: Permission,
    ) -> Result<QueueKey, Fault> {
        let name = self.meant(link, channel, name)?;
        // Checked before the look-up: a user without the permission does not learn whether the queue exists.
        self.permit(link, permission, Resource::Queue(&name))?;
        self.find_permitted_queue(link, &name)
    }

    /// The queue with that name, if the link may use it.
    pub(super) fn find_permitted_queue(&self, link: Link, name: &Name) -> Result<QueueKey, Fault> {
        let queue = self.queue_named(name).ok_or_else(|| self.no_queue(name))?;
        self.check_access(link, queue)?;
        if self.queues[queue].kind != QueueKind::Plain {
            let text = format!("{} belongs to an MQTT session", self.queue_text(name));
            return Err(Fault::new(FaultKind::AccessRefused, text));
        }
        Ok(queue)
    }
}
