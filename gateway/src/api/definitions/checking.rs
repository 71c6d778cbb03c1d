//! Checks definitions before any of them is applied.

use super::super::Refusal;
use super::reading::{Definitions, Place};
use crate::directory::grants;
use crate::node::Node;
use gatepost_core::command::{BindTarget, Command};
use gatepost_core::policy;
use gatepost_core::properties::Name;
use std::collections::HashSet;

/// The objects of the document, and those that exist.
struct Known<'a> {
    node: &'a Node,
    vhosts: HashSet<&'a Name>,
    users: HashSet<&'a Name>,
    queues: HashSet<(&'a Name, &'a Name)>,
    exchanges: HashSet<(&'a Name, &'a Name)>,
}

impl Definitions {
    /// Checks the whole document.
    ///
    /// # Errors
    /// The first error. Nothing is changed.
    pub(super) fn check(&self, node: &Node) -> Result<(), Refusal> {
        let known = Known {
            node,
            vhosts: self.vhosts.iter().map(|vhost| &vhost.name).collect(),
            users: self.users.iter().map(|user| &user.name).collect(),
            queues: self
                .queues
                .iter()
                .filter_map(|(vhost, c)| Some((vhost, name_of(c)?)))
                .collect(),
            exchanges: self
                .exchanges
                .iter()
                .filter_map(|(vhost, c)| Some((vhost, name_of(c)?)))
                .collect(),
        };
        for vhost in &self.vhosts {
            if vhost.name.is_empty() || vhost.name.len() > 255 {
                return Err(Refusal::bad_request("a vhost's name has 1 to 255 bytes"));
            }
        }
        for user in &self.users {
            node.check_user(&user.name, &user.credential)
                .map_err(|error| Refusal::bad_request(format!("user '{}': {error}", user.name)))?;
            for (name, _) in &user.limits {
                Node::check_user_limit(name)?;
            }
        }
        for (place, permission) in &self.permissions {
            known.place(place)?;
            Node::check_permission(permission)?;
        }
        for permission in &self.topic_permissions {
            known.place(&permission.place)?;
            for patterns in [&permission.write, &permission.read] {
                let user = &permission.place.user;
                grants::parse(patterns)
                    .map_err(|what| Refusal::bad_request(format!("topic permission of user '{user}': {what}")))?;
            }
        }
        for (vhost, name, _) in &self.limits {
            known.vhost(vhost)?;
            Node::check_vhost_limit(name)?;
        }
        for (vhost, change) in &self.policies {
            known.vhost(vhost)?;
            if let Some(record) = &change.policy {
                policy::check(change.kind, &change.name, record).map_err(|what| {
                    Refusal::bad_request(format!("Validation failed\n\n{what}\n (/{vhost}/{})", change.name))
                })?;
            }
        }
        self.check_routes(&known)
    }

    fn check_routes(&self, known: &Known<'_>) -> Result<(), Refusal> {
        let declared = self.exchanges.iter().chain(&self.queues);
        // Declarations are checked the same way in every vhost, so any vhost will do.
        let any = known.node.vhosts.list().first().cloned();
        for (vhost, command) in declared {
            known.vhost(vhost)?;
            if let Some(any) = known.node.vhost(vhost).or_else(|| any.clone()) {
                any.enter(|engine| engine.check_declaration(command))
                    .map_err(|fault| Refusal::bad_request(fault.text))?;
            }
        }
        for (vhost, bind) in &self.bindings {
            known.vhost(vhost)?;
            known.exchange(vhost, &bind.source)?;
            match &bind.target {
                BindTarget::Queue(name) => known.queue(vhost, name)?,
                BindTarget::Exchange(name) => known.exchange(vhost, name)?,
            }
        }
        Ok(())
    }
}

fn name_of(command: &Command) -> Option<&Name> {
    match command {
        Command::DeclareQueue(c) => Some(&c.name),
        Command::DeclareExchange(c) => Some(&c.name),
        _ => None,
    }
}

impl Known<'_> {
    fn vhost(&self, name: &Name) -> Result<(), Refusal> {
        if self.vhosts.contains(name) || self.node.vhost(name).is_some() {
            return Ok(());
        }
        Err(Refusal::bad_request(format!("no_such_vhost: {name}")))
    }

    fn place(&self, place: &Place) -> Result<(), Refusal> {
        self.vhost(&place.vhost)?;
        if self.users.contains(&place.user) || self.node.user(&place.user).is_some() {
            return Ok(());
        }
        Err(Refusal::bad_request(format!("no_such_user: {}", place.user)))
    }

    fn queue(&self, vhost: &Name, name: &Name) -> Result<(), Refusal> {
        let is_there = || {
            self.node
                .vhost(vhost)
                .is_some_and(|v| v.enter(|engine| engine.has_queue(name)))
        };
        if self.queues.contains(&(vhost, name)) || is_there() {
            return Ok(());
        }
        Err(Refusal::bad_request(format!("no queue '{name}' in vhost '{vhost}'")))
    }

    fn exchange(&self, vhost: &Name, name: &Name) -> Result<(), Refusal> {
        let is_there = || {
            self.node
                .vhost(vhost)
                .is_some_and(|v| v.enter(|engine| engine.has_exchange(name)))
        };
        // Every vhost has these, a new one too.
        if self.exchanges.contains(&(vhost, name)) || name.starts_with("amq.") || is_there() {
            return Ok(());
        }
        Err(Refusal::bad_request(format!("no exchange '{name}' in vhost '{vhost}'")))
    }
}
