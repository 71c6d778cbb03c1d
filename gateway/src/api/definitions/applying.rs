//! Applies definitions that were checked.

use super::super::Refusal;
use super::super::errand::{CHANNEL, Errand};
use super::reading::Definitions;
use crate::node::Node;
use gatepost_core::catalog::VhostRecord;
use gatepost_core::command::{Command, SetPolicies};
use gatepost_core::event::Event;
use gatepost_core::fault::FaultKind;
use gatepost_core::properties::Name;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Maximum commands whose answers are awaited at a time.
const AT_ONCE: usize = 256;

impl Definitions {
    /// Creates and changes everything that differs from the document. Each step returns once its changes are synced.
    /// Users and permissions come before the objects that they apply to.
    ///
    /// # Errors
    /// Something has changed since the check, or a limit is reached. Earlier changes stay.
    pub(super) async fn apply(self, node: &Arc<Node>) -> Result<(), Refusal> {
        for vhost in self.vhosts {
            if node.vhost(&vhost.name).is_none() {
                node.create_vhost(vhost).await?;
            } else if !vhost.description.is_empty() || !vhost.tags.is_empty() {
                let change = |record: &mut VhostRecord| {
                    record.description = vhost.description;
                    record.tags = vhost.tags;
                };
                node.change_vhost(&vhost.name, change).await?;
            }
        }
        for user in self.users {
            node.put_user(&user.name, user.credential, user.tags).await?;
            for (name, value) in user.limits {
                node.set_user_limit(&user.name, &name, value).await?;
            }
        }
        for (place, permission) in self.permissions {
            node.set_permission(&place.user, &place.vhost, permission).await?;
        }
        for p in self.topic_permissions {
            node.set_topic_permission(&p.place.user, &p.place.vhost, &p.exchange, &p.write, &p.read)
                .await?;
        }
        for (name, value) in self.globals {
            node.set_global_parameter(&name, value).await?;
        }
        for (vhost, name, value) in self.limits {
            node.set_vhost_limit(&vhost, &name, value).await?;
        }
        let mut commands: BTreeMap<Name, Vec<Command>> = BTreeMap::new();
        // Before the queues, which are created with their policies in effect.
        let mut policies: BTreeMap<Name, Vec<_>> = BTreeMap::new();
        for (vhost, change) in self.policies {
            policies.entry(vhost).or_default().push(change);
        }
        for (vhost, changes) in policies {
            let set = SetPolicies {
                channel: CHANNEL,
                changes,
                reply: true,
            };
            commands
                .entry(vhost)
                .or_default()
                .push(Command::SetPolicies(Box::new(set)));
        }
        for (vhost, command) in self.exchanges.into_iter().chain(self.queues) {
            commands.entry(vhost).or_default().push(command);
        }
        for (vhost, bind) in self.bindings {
            commands.entry(vhost).or_default().push(Command::Bind(Box::new(bind)));
        }
        for (vhost, commands) in commands {
            let vhost = node.vhost(&vhost).ok_or_else(Refusal::not_found)?;
            let mut errand = Errand::of_node(node, &vhost)?;
            run(&mut errand, commands).await?;
        }
        Ok(())
    }
}

/// Runs commands that have one answer each.
async fn run(errand: &mut Errand, commands: Vec<Command>) -> Result<(), Refusal> {
    let mut commands = commands.into_iter();
    loop {
        let mut asked = 0;
        for command in commands.by_ref().take(AT_ONCE) {
            errand.send(command);
            asked += 1;
        }
        if asked == 0 {
            return Ok(());
        }
        for _ in 0..asked {
            let Event::Failed { fault, .. } = errand.next().await? else {
                continue;
            };
            // An existing object stays as it is.
            let is_other = fault.kind == FaultKind::PreconditionFailed && fault.text.starts_with("inequivalent arg");
            if !is_other {
                return Err(Refusal::bad_request(fault.text));
            }
        }
    }
}
