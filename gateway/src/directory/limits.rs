//! Verbs: limits of users and vhosts.

use super::DirectoryError;
use super::people::{MAX_CHANNELS, MAX_CONNECTIONS, MAX_QUEUES};
use super::permissions::name_of;
use crate::node::Node;
use gatepost_core::catalog::directory::{LimitOf, LimitRecord, deletion, record};
use gatepost_core::properties::Name;

/// The limits of a user or vhost for lists: its name, and each limit with its value. A negative value means no limit.
pub(crate) type LimitEntry = (Name, Vec<(Name, i64)>);

impl Node {
    /// Checks the name of a user's limit.
    ///
    /// # Errors
    /// There is no such limit.
    pub(crate) fn check_user_limit(name: &str) -> Result<(), DirectoryError> {
        is_one_of(name, &[MAX_CONNECTIONS, MAX_CHANNELS])
    }

    /// Checks the name of a vhost's limit.
    ///
    /// # Errors
    /// There is no such limit.
    pub(crate) fn check_vhost_limit(name: &str) -> Result<(), DirectoryError> {
        is_one_of(name, &[MAX_CONNECTIONS, MAX_QUEUES])
    }

    /// Sets a limit of a user: `max-connections` or `max-channels`. Open connections and channels stay.
    ///
    /// # Errors
    /// There is no such user or limit.
    pub(crate) async fn set_user_limit(&self, user: &str, name: &str, value: i64) -> Result<(), DirectoryError> {
        Node::check_user_limit(name)?;
        self.change_user_limit(user, name, Some(value)).await
    }

    /// Removes a limit of a user.
    ///
    /// # Errors
    /// There is no such user, or the limit is not set.
    pub(crate) async fn clear_user_limit(&self, user: &str, name: &str) -> Result<(), DirectoryError> {
        self.change_user_limit(user, name, None).await
    }

    /// Sets a limit of a vhost: `max-connections` or `max-queues`. Existing connections and queues stay.
    ///
    /// # Errors
    /// There is no such vhost or limit.
    pub(crate) async fn set_vhost_limit(&self, vhost: &str, name: &str, value: i64) -> Result<(), DirectoryError> {
        Node::check_vhost_limit(name)?;
        self.change_vhost_limit(vhost, name, Some(value)).await
    }

    /// Removes a limit of a vhost.
    ///
    /// # Errors
    /// There is no such vhost, or the limit is not set.
    pub(crate) async fn clear_vhost_limit(&self, vhost: &str, name: &str) -> Result<(), DirectoryError> {
        self.change_vhost_limit(vhost, name, None).await
    }

    /// Users that have limits.
    pub(crate) fn user_limits(&self) -> Vec<LimitEntry> {
        let people = self.directory.people.read();
        let listed = people.limits.iter().filter_map(|(of, record)| match of {
            LimitOf::User(user) => Some((user.clone(), record.limits.clone())),
            LimitOf::Vhost(_) => None,
        });
        listed.collect()
    }

    /// Vhosts that have limits.
    pub(crate) fn vhost_limits(&self) -> Vec<LimitEntry> {
        let vhosts = self.vhosts.list();
        let people = self.directory.people.read();
        let listed = people.limits.iter().filter_map(|(of, record)| match of {
            LimitOf::Vhost(number) => Some((name_of(&vhosts, *number)?, record.limits.clone())),
            LimitOf::User(_) => None,
        });
        listed.collect()
    }

    async fn change_user_limit(&self, user: &str, name: &str, value: Option<i64>) -> Result<(), DirectoryError> {
        let _changing = self.directory.changing.lock().await;
        let user = self.known_user(user)?;
        self.change_limit(&LimitOf::User(user.clone()), name, value).await?;
        self.directory.people.read().apply_limits(&user);
        tracing::info!(%user, limit = name, value, "limit changed");
        Ok(())
    }

    async fn change_vhost_limit(&self, vhost: &str, name: &str, value: Option<i64>) -> Result<(), DirectoryError> {
        let _changing = self.directory.changing.lock().await;
        let vhost = self.known_vhost(vhost)?;
        self.change_limit(&LimitOf::Vhost(vhost.number), name, value).await?;
        let people = self.directory.people.read();
        let limits = people.vhost_limits(vhost.number);
        vhost.enter(|engine| engine.set_vhost_limits(limits));
        tracing::info!(vhost = %vhost.name, limit = name, value, "limit changed");
        Ok(())
    }

    /// Sets a limit; `None`: removes it.
    async fn change_limit(&self, of: &LimitOf, name: &str, value: Option<i64>) -> Result<(), DirectoryError> {
        let mut limits = self.directory.people.read().limits.get(of).cloned().unwrap_or_default();
        let before = limits.limits.len();
        limits.limits.retain(|(limit, _)| **limit != *name);
        match value {
            Some(value) => limits.limits.push((name.into(), value)),
            None if limits.limits.len() == before => return Err(DirectoryError::NotSet("limit")),
            None => {}
        }
        let change = if limits.limits.is_empty() {
            deletion::<LimitRecord>(of)
        } else {
            record(of, &limits)
        };
        self.vhosts.log().write(vec![change]).await?;
        let mut people = self.directory.people.write();
        if limits.limits.is_empty() {
            people.limits.remove(of);
        } else {
            people.limits.insert(of.clone(), limits);
        }
        Ok(())
    }
}

fn is_one_of(name: &str, names: &[&str]) -> Result<(), DirectoryError> {
    if names.contains(&name) {
        return Ok(());
    }
    Err(DirectoryError::Limit(format!(
        "there is no limit '{name}'; there are {}",
        names.join(" and ")
    )))
}
