//! Exchanges: declares, checks and deletes them.

use super::access_checks::Resource;
use super::bindings::BINDING_WORK;
use super::budget::{Budget, Unfinished};
use super::unfinished::Deleting;
use super::{Engine, done};
use crate::access::Permission;
use crate::catalog;
use crate::command::{DeclareExchange, DeleteExchange};
use crate::event::Op;
use crate::fault::Fault;
use crate::ledger::ObjectKind;
use crate::properties::Value;
use crate::router::memory::exchange_bytes;
use crate::router::{ALTERNATE, ExchangeSpec};
use crate::slots::Link;
use crate::store::Record;

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

    /// Continues the deletion of an exchange. Its bindings are removed first, some in each hold, because clients choose
    /// how many there are.
    pub(crate) fn delete_exchange(
        &mut self,
        link: Link,
        c: Box<DeleteExchange>,
        budget: &mut Budget,
    ) -> Result<(), Box<DeleteExchange>> {
        let channel = c.channel;
        if let Some(Deleting::Exchange(_)) = self.take_deleting(link) {
            if !self.router.is_ending(&c.name) {
                // A client declared an exchange with that name, which first finished this deletion. The new exchange
                // stays.
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
        while let Ok(Some(removed)) = self.router.delete_some_bindings(&c.name, c.if_unused) {
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

    /// Finishes the deletion of an exchange with that name, if one has begun.
    pub(crate) fn end_exchange_namesake(&mut self, name: &str, budget: &mut Budget) -> Result<(), Unfinished> {
        while self.router.is_ending(name) {
            budget.check()?;
            let removed = match self.router.delete_some_bindings(name, false) {
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

    /// Whether there is an exchange with that name.
    pub fn has_exchange(&self, name: &str) -> bool {
        self.router.exchange(name).is_some()
    }
}
