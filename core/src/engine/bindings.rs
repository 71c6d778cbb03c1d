//! Bindings: adds and removes them, and logs those between durable ends.

use super::access_checks::Resource;
use super::budget::{Budget, Unfinished};
use super::queues::router_slot;
use super::{Engine, Limit, done};
use crate::access::Permission;
use crate::binding::{Binding, Destination, Removed};
use crate::catalog;
use crate::command::{Bind, BindTarget};
use crate::event::Op;
use crate::fault::{Fault, FaultKind};
use crate::ledger::ObjectKind;
use crate::message::Dialect;
use crate::properties::{Name, Table};
use crate::router::memory::binding_bytes_max;
use crate::slots::Link;
use crate::store::Record;

/// Work units of removing a binding, which costs several times what a publish does.
pub(super) const BINDING_WORK: usize = 24;

impl Engine {
    /// Binds, or continues the replay of a bind where the last hold stopped.
    pub(crate) fn bind(&mut self, link: Link, c: &Bind, budget: &mut Budget) -> Result<(), Unfinished> {
        let channel = c.channel;
        let mut gate = None;
        if !self.has_bound_replay(link) {
            let bound = self
                .refuse_source(link, c)
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

    /// Refuses a binding that would make every publish to its exchange compare too much.
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
            .refuse_source(link, &c)
            .and_then(|()| match self.destination(link, &c) {
                Ok((destination, key)) => self.router.unbind(&c.source, &destination, &key, &c.arguments),
                // It is no fault if the binding does not exist.
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

    /// Refuses bindings to the default exchange. That a queue is missing which the client did not name is reported
    /// first, as in RabbitMQ.
    fn refuse_source(&mut self, link: Link, c: &Bind) -> Result<(), Fault> {
        if let BindTarget::Queue(name) = &c.target {
            self.meant(link, c.channel, name)?;
        }
        self.router.refuse_default(&c.source)
    }

    /// The destination and the key of a binding.
    fn destination(&mut self, link: Link, c: &Bind) -> Result<(Destination, Name), Fault> {
        match &c.target {
            BindTarget::Exchange(name) => {
                self.router.refuse_default(name)?;
                self.permit(link, Permission::Write, Resource::Exchange(name))?;
                self.permit_source(link, &c.source, &c.key, Dialect::Dot)?;
                Ok((Destination::Exchange(name.clone()), c.key.clone()))
            }
            BindTarget::Queue(name) => {
                // If both are missing, the exchange is reported; but an empty name must mean a queue before that.
                let meant = self.meant(link, c.channel, name)?;
                let queue = match self.find_queue(link, c.channel, &meant, Permission::Write) {
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

    /// Logs the deletion of durable bindings and exchanges. Returns the batch to wait for.
    pub(crate) fn log_removed(&mut self, removed: &[Removed]) -> Option<u64> {
        if self.router.has_pending_deletions() {
            self.timers.set_deferred(self.now.monotonic);
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
}

fn unnamed(target: &BindTarget) -> bool {
    matches!(target, BindTarget::Queue(name) if name.is_empty())
}
