//! Access checks whose answer only an external server knows.
//!
//! A check without an answer notes its question in the link and refuses the command. The client is not told: the
//! command goes back to the pump and waits. The pump fetches the question ([`Engine::take_question`]) and has it
//! answered. [`Engine::answer_question`] then wakes the link and the command is tried again, until all its checks have
//! answers.
//!
//! So the checks of a command may run several times, and a command must not change anything before its last check. A
//! command that does several things in turn (the filters of a SUBSCRIBE, the publishes of a transaction) remembers how
//! far it got.
//!
//! A will is checked when its session is opened. That answer is used when the will is published, because there is no
//! client left that could wait.

use super::Engine;
use super::access_checks::Resource;
use super::budget::Budget;
use crate::access::{Asked, Permission, Question, Sought, Subject, Verdict};
use crate::command::Command;
use crate::fault::{Fault, FaultKind};
use crate::message::{Dialect, Message};
use crate::properties::Name;
use crate::slots::Link;
use crate::time::Time;
use crate::topic::{Level, Pattern, Spelling, translate};

/// A part of the engine that applies a command.
type Apply = fn(&mut Engine, Link, Command, &mut Budget) -> Result<(), Command>;

impl Engine {
    /// The question that the link's first command waits for, unless it has been taken already. Call it after a visit
    /// whose commands [wait](super::Applied::Waits). The question must be answered eventually, or the link waits for
    /// ever.
    pub fn take_question(&mut self, link: Link) -> Option<Box<Asked>> {
        let access = &mut self.links.get_mut(link)?.access;
        let question = access.asking()?.take_question()?;
        Some(Box::new(Asked {
            user: access.user.clone(),
            question,
            client_id: access.client_id.clone(),
        }))
    }

    /// Answers a question. The answer holds until `until`, which must be long enough for the command to be tried again.
    /// The link may be gone by now.
    pub fn answer_question(&mut self, link: Link, question: Question, is_permitted: bool, until: Time) {
        let Some(l) = self.links.get_mut(link) else { return };
        let waits = l
            .access
            .asking()
            .is_some_and(|asking| asking.answer(question, is_permitted, until));
        if waits {
            l.call(&mut self.wakes);
        }
    }

    /// Whether the link's first command waits for an answer. If so, a refusal by a check is not reported to the client.
    pub(super) fn awaits_answer(&self, link: Link) -> bool {
        self.links.get(link).is_some_and(|l| l.access.awaits_answer())
    }

    /// Applies a command that has access checks. It is returned if one of them has no answer yet.
    pub(super) fn checked(
        &mut self,
        link: Link,
        command: Command,
        budget: &mut Budget,
        apply: Apply,
    ) -> Result<(), Command> {
        let is_asked = |engine: &mut Engine| {
            let access = engine.links.get_mut(link).map(|l| &mut l.access);
            access.is_some_and(|access| access.limits(&engine.rights).is_some() && access.is_asked())
        };
        if !is_asked(self) {
            return apply(self, link, command, budget);
        }
        let again = command.clone();
        let applied = apply(self, link, command, budget);
        if self.awaits_answer(link) {
            // A SUBSCRIBE itself remembers how far it got.
            return Err(applied.err().unwrap_or(again));
        }
        if applied.is_ok() {
            self.go_on(link);
        }
        applied
    }

    /// The link's first command made progress, so the limit on its questions starts again.
    pub(super) fn go_on(&mut self, link: Link) {
        if let Some(asking) = self.links.get_mut(link).and_then(|l| l.access.asking()) {
            asking.go_on();
        }
    }

    /// Generates a name for a queue declared without one. The name stays the same while the command waits for answers,
    /// which are about that name.
    pub(super) fn name_for_queue(&mut self, link: Link) -> Name {
        let made_up = self
            .links
            .get_mut(link)
            .and_then(|l| l.access.asking()?.made_up.clone());
        let name = made_up.unwrap_or_else(|| self.generated_name());
        if let Some(l) = self.links.get_mut(link).filter(|l| l.access.is_asked()) {
            l.access.begin_asking(&self.ledger).made_up = Some(name.clone());
        }
        name
    }

    /// Asks about a permission on a queue or an exchange.
    pub(super) fn ask(&mut self, link: Link, permission: Permission, on: Resource<'_>) -> Result<(), Fault> {
        match self.verdict(link, about(permission, on)) {
            Verdict::Permitted => Ok(()),
            Verdict::Refused => Err(self.refuse_access(permission, on, &self.user_of(link))),
            Verdict::Unknown => Err(unanswered()),
        }
    }

    /// Asks whether the link's user has any permission on an object.
    pub(super) fn ask_look(&mut self, link: Link, on: Resource<'_>) -> Result<(), Fault> {
        for permission in [Permission::Configure, Permission::Write, Permission::Read] {
            match self.verdict(link, about(permission, on)) {
                Verdict::Permitted => return Ok(()),
                Verdict::Refused => {}
                Verdict::Unknown => return Err(unanswered()),
            }
        }
        Err(self.refuse_access(Permission::Configure, on, &self.user_of(link)))
    }

    /// Asks whether messages that match a key or filter may be taken from a topic exchange.
    pub(super) fn ask_source(&mut self, link: Link, exchange: &str, pattern: &Pattern) -> Result<(), Fault> {
        self.ask_topic(link, Permission::Read, exchange, &in_dots(pattern))
    }

    fn ask_topic(&mut self, link: Link, permission: Permission, exchange: &str, key: &str) -> Result<(), Fault> {
        let sought = Sought {
            permission,
            subject: Subject::Topic,
            name: exchange,
            key: Some(key),
        };
        match self.verdict(link, sought) {
            Verdict::Permitted => Ok(()),
            Verdict::Refused => Err(self.refuse_topic(permission, exchange, key, Dialect::Dot, &self.user_of(link))),
            Verdict::Unknown => Err(unanswered()),
        }
    }

    /// Asks about a publish.
    pub(super) fn ask_publish(&mut self, link: Link, message: &Message, extra: &[Name]) -> Result<(), Fault> {
        let exchange = message.exchange();
        self.ask(link, Permission::Write, Resource::Exchange(exchange))?;
        if !self.router.is_topic_exchange(exchange) {
            return Ok(());
        }
        let key = translate(message.key(), message.envelope().dialect, Dialect::Dot);
        for key in key.as_deref().into_iter().chain(extra.iter().map(|key| &**key)) {
            self.ask_topic(link, Permission::Write, exchange, key)?;
        }
        Ok(())
    }

    fn verdict(&mut self, link: Link, sought: Sought<'_>) -> Verdict {
        let Some(l) = self.links.get_mut(link) else {
            return Verdict::Permitted;
        };
        let verdict = l.access.ask(sought, self.now.monotonic, &self.ledger);
        l.waits |= verdict == Verdict::Unknown;
        verdict
    }

    fn user_of(&self, link: Link) -> Name {
        self.links
            .get(link)
            .map_or_else(Name::default, |l| l.access.user.clone())
    }
}

fn about(permission: Permission, on: Resource<'_>) -> Sought<'_> {
    Sought {
        permission,
        subject: match on {
            Resource::Exchange(_) => Subject::Exchange,
            Resource::Queue(_) => Subject::Queue,
        },
        name: on.name(),
        key: None,
    }
}

/// The fault of a check that has no answer yet. Its text is empty, which no other fault's is.
fn unanswered() -> Fault {
    Fault::new(FaultKind::AccessRefused, "")
}

/// Whether the fault means that the command waits for an answer, and is no refusal.
pub(super) fn is_unanswered(fault: &Fault) -> bool {
    fault.text.is_empty()
}

/// The pattern as RabbitMQ spells binding keys.
fn in_dots(pattern: &Pattern) -> String {
    let mut text = String::new();
    for (n, level) in pattern.levels().iter().enumerate() {
        if n > 0 {
            text.push('.');
        }
        match level {
            Level::One => text.push('*'),
            Level::Many => text.push('#'),
            Level::Literal(level) => Spelling::of(Dialect::Dot).write(level, &mut text),
        }
    }
    text
}
