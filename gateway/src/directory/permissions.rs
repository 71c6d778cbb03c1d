//! Verbs: permissions in a vhost, and on the topics of an exchange.

use super::people::compile;
use super::{DirectoryError, Put, grants};
use crate::node::Node;
use crate::vhost::Vhost;
use gatepost_core::catalog::directory::{PermissionRecord, TopicPermissionRecord, deletion, record};
use gatepost_core::properties::{Name, Table};
use gatepost_core::store::VhostId;
use std::sync::Arc;

/// What a user may do in a vhost: regular expressions over names of queues and exchanges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Permission {
    pub configure: String,
    pub write: String,
    pub read: String,
}

impl Permission {
    /// Everything, whatever its name.
    pub(crate) fn everything() -> Permission {
        let all = || ".*".to_owned();
        Permission {
            configure: all(),
            write: all(),
            read: all(),
        }
    }
}

/// A user's permission in a vhost, for lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PermissionEntry {
    pub user: Name,
    pub vhost: Name,
    pub permission: Permission,
}

/// A topic permission, for lists; one pattern a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicPermissionEntry {
    pub user: Name,
    pub vhost: Name,
    pub exchange: Name,
    pub write: String,
    pub read: String,
}

impl Node {
    /// Sets a user's permission in a vhost. It applies from each connection's next command.
    ///
    /// # Errors
    /// There is no such user or vhost, or a pattern is not a regular expression.
    pub(crate) async fn set_permission(
        &self,
        user: &str,
        vhost: &str,
        permission: Permission,
    ) -> Result<Put, DirectoryError> {
        let _changing = self.directory.changing.lock().await;
        let (user, vhost) = (self.known_user(user)?, self.known_vhost(vhost)?);
        let Permission { configure, write, read } = permission;
        let value = PermissionRecord {
            configure,
            write,
            read,
            more: Table::default(),
        };
        compile(&value)?;
        self.vhosts
            .log()
            .write(vec![record(&(vhost.number, user.clone()), &value)])
            .await?;
        let key = (user.clone(), vhost.number);
        let before = self.directory.people.write().permissions.insert(key, value);
        self.directory.push_user(&[Arc::clone(&vhost)], &user);
        tracing::info!(%user, vhost = %vhost.name, "permission set");
        Ok(if before.is_some() { Put::Changed } else { Put::Created })
    }

    /// Checks the patterns of a permission.
    ///
    /// # Errors
    /// One is not a regular expression.
    pub(crate) fn check_permission(permission: &Permission) -> Result<(), DirectoryError> {
        let Permission { configure, write, read } = permission.clone();
        let value = PermissionRecord {
            configure,
            write,
            read,
            more: Table::default(),
        };
        compile(&value).map(drop)
    }

    /// Removes a user's permission in a vhost: further commands of its connections there are refused, and so are new
    /// connections.
    ///
    /// # Errors
    /// There is no such user, vhost or permission.
    pub(crate) async fn clear_permission(&self, user: &str, vhost: &str) -> Result<(), DirectoryError> {
        let _changing = self.directory.changing.lock().await;
        let (user, vhost) = (self.known_user(user)?, self.known_vhost(vhost)?);
        let key = (user.clone(), vhost.number);
        if !self.directory.people.read().permissions.contains_key(&key) {
            return Err(DirectoryError::NotSet("permission"));
        }
        let deletion = deletion::<PermissionRecord>(&(vhost.number, user.clone()));
        self.vhosts.log().write(vec![deletion]).await?;
        self.directory.people.write().permissions.remove(&key);
        self.directory.push_user(&[Arc::clone(&vhost)], &user);
        tracing::info!(%user, vhost = %vhost.name, "permission cleared");
        Ok(())
    }

    /// All permissions, by user and vhost.
    pub(crate) fn permissions(&self) -> Vec<PermissionEntry> {
        let vhosts = self.vhosts.list();
        let people = self.directory.people.read();
        let listed = people.permissions.iter().filter_map(|((user, number), record)| {
            Some(PermissionEntry {
                user: user.clone(),
                vhost: name_of(&vhosts, *number)?,
                permission: Permission {
                    configure: record.configure.clone(),
                    write: record.write.clone(),
                    read: record.read.clone(),
                },
            })
        });
        listed.collect()
    }

    /// Limits the topics of an exchange that a user may write to and read from: patterns, one a line; see [`grants`].
    ///
    /// # Errors
    /// There is no such user or vhost, or a line is not a pattern.
    pub(crate) async fn set_topic_permission(
        &self,
        user: &str,
        vhost: &str,
        exchange: &str,
        write: &str,
        read: &str,
    ) -> Result<Put, DirectoryError> {
        let _changing = self.directory.changing.lock().await;
        let (user, vhost) = (self.known_user(user)?, self.known_vhost(vhost)?);
        for text in [write, read] {
            grants::parse(text).map_err(DirectoryError::Pattern)?;
        }
        let value = TopicPermissionRecord {
            write: write.to_owned(),
            read: read.to_owned(),
            more: Table::default(),
        };
        let exchange = Name::from(exchange);
        let id = (vhost.number, user.clone(), exchange.clone());
        self.vhosts.log().write(vec![record(&id, &value)]).await?;
        let key = (user.clone(), vhost.number, exchange);
        let before = self.directory.people.write().topics.insert(key, value);
        self.directory.push_user(&[Arc::clone(&vhost)], &user);
        tracing::info!(%user, vhost = %vhost.name, "topic permission set");
        Ok(if before.is_some() { Put::Changed } else { Put::Created })
    }

    /// Removes a user's topic permission for an exchange; `None`: for all exchanges of the vhost.
    ///
    /// # Errors
    /// There is no such user, vhost or topic permission.
    pub(crate) async fn clear_topic_permission(
        &self,
        user: &str,
        vhost: &str,
        exchange: Option<&str>,
    ) -> Result<(), DirectoryError> {
        let _changing = self.directory.changing.lock().await;
        let (user, vhost) = (self.known_user(user)?, self.known_vhost(vhost)?);
        let is_meant = |(u, v, x): &(Name, VhostId, Name)| {
            *u == user && *v == vhost.number && exchange.is_none_or(|exchange| **x == *exchange)
        };
        let keys: Vec<_> = self
            .directory
            .people
            .read()
            .topics
            .keys()
            .filter(|key| is_meant(key))
            .cloned()
            .collect();
        if keys.is_empty() {
            return Err(DirectoryError::NotSet("topic permission"));
        }
        let ids = keys
            .iter()
            .map(|(user, vhost, exchange)| (*vhost, user.clone(), exchange.clone()));
        let deletions = ids.map(|id| deletion::<TopicPermissionRecord>(&id)).collect();
        self.vhosts.log().write(deletions).await?;
        self.directory.people.write().topics.retain(|key, _| !is_meant(key));
        self.directory.push_user(&[Arc::clone(&vhost)], &user);
        tracing::info!(%user, vhost = %vhost.name, "topic permission cleared");
        Ok(())
    }

    /// All topic permissions, by user, vhost and exchange.
    pub(crate) fn topic_permissions(&self) -> Vec<TopicPermissionEntry> {
        let vhosts = self.vhosts.list();
        let people = self.directory.people.read();
        let listed = people.topics.iter().filter_map(|((user, number, exchange), record)| {
            Some(TopicPermissionEntry {
                user: user.clone(),
                vhost: name_of(&vhosts, *number)?,
                exchange: exchange.clone(),
                write: record.write.clone(),
                read: record.read.clone(),
            })
        });
        listed.collect()
    }
}

impl Node {
    /// The vhost, if there is one of that name.
    pub(super) fn known_vhost(&self, name: &str) -> Result<Arc<Vhost>, DirectoryError> {
        self.vhosts
            .named(name)
            .ok_or_else(|| DirectoryError::NoSuchVhost(name.into()))
    }
}

pub(super) fn name_of(vhosts: &[Arc<Vhost>], number: VhostId) -> Option<Name> {
    vhosts
        .iter()
        .find(|vhost| vhost.number == number)
        .map(|vhost| vhost.name.clone())
}
