//! Access checks: whether a user may do what its command asks for. Every command that creates, fills or empties
//! something is checked here before it changes anything.
//!
//! | command | permission |
//! |---|---|
//! | declare, delete an exchange or a queue | configure it; with an alternate or a dead-letter exchange, if it is new: read it, write there |
//! | passive declare | any permission on it |
//! | bind, unbind | write its end, read its source; of a topic exchange: read the key |
//! | publish, transactions | write the exchange; of a topic exchange: write the key, and each further one |
//! | set policies | everything, or to be the node |
//! | consume, get, purge | read the queue |
//! | consume, get, purge | read the queue |
//! | a will | as a publish, when its connection opens its session and when it is published |
//!
//! Dead letters, which the engine itself publishes, are not checked. `asking.rs` explains how rights are checked that
//! only an external server knows.

use super::Engine;
use super::counters::Limit;
use crate::access::{Access, Permission, Rights, Who};
use crate::command::{Channel as ChannelNumber, OpenSession, Subscription, Will};
use crate::durable_session::{queue_name, shared_queue_name};
use crate::fault::{Fault, FaultKind};
use crate::message::{Dialect, Message};
use crate::properties::Name;
use crate::quota::{Quota, VhostLimits};
use crate::router::{KnownRoute, Router};
use crate::slots::{Link, SessionKey};
use crate::topic::{Pattern, translate};
use std::sync::Arc;

/// The object that a permission is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resource<'a> {
    Exchange(&'a str),
    Queue(&'a str),
}

impl<'a> Resource<'a> {
    /// The name that permissions are matched against. The default exchange has the name `amq.default`.
    pub(super) fn name(&self) -> &'a str {
        match self {
            Resource::Exchange("") => "amq.default",
            Resource::Exchange(name) | Resource::Queue(name) => name,
        }
    }
    fn kind(&self) -> &'static str {
        match self {
            Resource::Exchange(_) => "exchange",
            Resource::Queue(_) => "queue",
        }
    }
}

impl Engine {
    /// Sets what `user` may do. The directory calls it when rights change. Existing consumers and subscriptions stay.
    pub fn set_rights(&mut self, user: Name, rights: Arc<Rights>) {
        self.rights.set(user, rights);
    }

    /// The user is deleted, or may not use this vhost any more: whatever its connections do next is refused.
    pub fn remove_rights(&mut self, user: &str) {
        self.rights.remove(user);
    }

    /// Sets the limits of `user` on connections and channels. The quota is shared by all engines, so that it counts per
    /// user and not per vhost.
    pub fn set_quota(&mut self, user: Name, quota: Arc<Quota>) {
        self.rights.set_quota(user, quota);
    }

    /// Sets whether users' rights come from outside (tokens, the HTTP back end) and may be missing at times. If so, a
    /// session whose owner has no rights at the moment keeps its owner.
    pub fn set_users_come_and_go(&mut self, come_and_go: bool) {
        self.rights.come_and_go = come_and_go;
    }

    /// Sets the limits of the vhost. Connections and queues beyond a lower limit stay.
    pub fn set_vhost_limits(&mut self, limits: VhostLimits) {
        self.vhost_limits = limits;
    }

    /// Opens a channel, if its user may have one more.
    pub(super) fn open_channel(&mut self, link: Link, channel: ChannelNumber) -> Result<(), Fault> {
        let Some(l) = self.links.get_mut(link) else {
            return Ok(());
        };
        let user = &l.access.user;
        let seat = match self.rights.quota(user).map(Quota::open_channel) {
            None => None,
            Some(Ok(seat)) => Some(seat),
            Some(Err(max)) => {
                let text = format!(
                    "number of channels opened for user '{user}' has reached the maximum allowed user limit of ({max})"
                );
                self.counters.refused_by(Limit::UserChannels);
                return Err(Fault::new(FaultKind::NotAllowed, text));
            }
        };
        let channel = l.channel(channel);
        channel.strict = true;
        channel.seat = seat;
        self.counters.channels_opened += 1;
        Ok(())
    }

    /// The rights of the link's user; `None` if it may do everything.
    fn limits(&mut self, link: Link) -> Option<(&Rights, Name)> {
        let access = &mut self.links.get_mut(link)?.access;
        let user = access.user.clone();
        access.limits(&self.rights).map(|rights| (rights, user))
    }

    /// Checks a permission on a queue or an exchange.
    pub(crate) fn permit(&mut self, link: Link, permission: Permission, on: Resource<'_>) -> Result<(), Fault> {
        match self.limits(link) {
            Some((rights, _)) if rights.are_asked() => self.ask(link, permission, on),
            Some((rights, user)) if !rights.permit(permission, on.name()) => {
                Err(self.refuse_access(permission, on, &user))
            }
            _ => Ok(()),
        }
    }

    /// Checks for full permissions, which policies need because they change queues of all users.
    pub(crate) fn permit_everything(&mut self, link: Link) -> Result<(), Fault> {
        let Some((_, user)) = self.limits(link) else {
            return Ok(());
        };
        self.counters.access_refused += 1;
        let text = format!("policies of vhost '{}' refused for user '{user}'", self.settings.vhost);
        Err(Fault::new(FaultKind::AccessRefused, text))
    }

    /// Checks for any permission on an object: that is enough to learn that it exists.
    pub(crate) fn permit_look(&mut self, link: Link, on: Resource<'_>) -> Result<(), Fault> {
        let any = [Permission::Configure, Permission::Write, Permission::Read];
        match self.limits(link) {
            Some((rights, _)) if rights.are_asked() => self.ask_look(link, on),
            Some((rights, user)) if !any.iter().any(|p| rights.permit(*p, on.name())) => {
                Err(self.refuse_access(Permission::Configure, on, &user))
            }
            _ => Ok(()),
        }
    }

    /// Checks the permissions needed to forward messages of `from` to `exchange`, as its alternate or dead-letter
    /// exchange.
    pub(crate) fn permit_forward(&mut self, link: Link, from: Resource<'_>, exchange: &str) -> Result<(), Fault> {
        self.permit(link, Permission::Read, from)?;
        self.permit(link, Permission::Write, Resource::Exchange(exchange))
    }

    /// Checks whether messages that match `key` may be taken from an exchange.
    pub(crate) fn permit_source(
        &mut self,
        link: Link,
        exchange: &str,
        key: &str,
        dialect: Dialect,
    ) -> Result<(), Fault> {
        self.permit(link, Permission::Read, Resource::Exchange(exchange))?;
        let Some(access) = self.limited_topics(link, exchange) else {
            return Ok(());
        };
        let Ok(pattern) = Pattern::parse(key, dialect) else {
            return Ok(());
        };
        if access.1.are_asked() {
            return self.ask_source(link, exchange, &pattern);
        }
        let permitted = access
            .1
            .permit_filter(Permission::Read, exchange, &pattern, access.0.who(&access.2));
        if permitted {
            return Ok(());
        }
        let user = access.0.user.clone();
        Err(self.refuse_topic(Permission::Read, exchange, key, dialect, &user))
    }

    /// The link, its user's rights and the vhost, if topic rules apply to the exchange.
    fn limited_topics(&mut self, link: Link, exchange: &str) -> Option<(&Access, &Rights, Name)> {
        if !self.router.is_topic_exchange(exchange) {
            return None;
        }
        let access = &mut self.links.get_mut(link)?.access;
        access.limits(&self.rights)?;
        let vhost = self.settings.vhost.clone();
        let (access, rights) = access.with_rights()?;
        rights.limits_topics(exchange).then_some((access, rights, vhost))
    }

    /// Checks a subscription by filter.
    pub(crate) fn permit_subscription(
        &mut self,
        link: Link,
        session: SessionKey,
        sub: &Subscription,
    ) -> Result<(), Fault> {
        if self.limits(link).is_none() {
            return Ok(());
        }
        let queue = match (&sub.share, self.sessions.get(session)) {
            (Some(share), _) => shared_queue_name(share, &sub.filter),
            (None, Some(session)) => queue_name(&session.client_id),
            (None, None) => return Ok(()),
        };
        for permission in [Permission::Configure, Permission::Write, Permission::Read] {
            self.permit(link, permission, Resource::Queue(&queue))?;
        }
        let exchange = self.settings.topic_exchange.clone();
        self.permit_source(link, &exchange, &sub.filter, Dialect::Slash)
    }

    /// Checks a publish. `extra`: its further keys. `route`: its route, if it is remembered.
    #[inline]
    pub(crate) fn permit_publish(
        &mut self,
        link: Link,
        message: &Message,
        extra: &[Name],
        route: Option<KnownRoute>,
    ) -> Result<(), Fault> {
        match self.links.get_mut(link) {
            Some(l)
                if !l
                    .access
                    .knows(&self.rights, route.map(|route| (route.id, route.permitted))) =>
            {
                self.permit_publish_in_full(link, message, extra, route)
            }
            // A message that the engine itself publishes has no user.
            _ => Ok(()),
        }
    }

    #[inline(never)]
    fn permit_publish_in_full(
        &mut self,
        link: Link,
        message: &Message,
        extra: &[Name],
        route: Option<KnownRoute>,
    ) -> Result<(), Fault> {
        let Some(l) = self.links.get_mut(link) else {
            return Ok(());
        };
        let access = &mut l.access;
        match access.limits(&self.rights) {
            None => return Ok(()),
            Some(rights) if rights.are_asked() => {
                let permitted = self.ask_publish(link, message, extra);
                if !self.awaits_answer(link) {
                    self.go_on(link);
                }
                return permitted;
            }
            Some(_) => {}
        }
        let (router, vhost) = (&self.router, &self.settings.vhost);
        let asked = Asked {
            message,
            extra,
            wrote: access.wrote_to(message.exchange_bytes()),
        };
        let refused = match access.with_rights() {
            Some((access, rights)) => asked.refused(router, rights, access.who(vhost)),
            None => Some(Refused::Exchange),
        };
        let Some(refused) = refused else {
            let permitted = access.remember(&self.rights, message, route.map(|route| route.id));
            if let Some(route) = route {
                self.router.permit_route(route, permitted);
            }
            return Ok(());
        };
        let user = access.user.clone();
        Err(self.refuse_publish(refused, message, &user))
    }

    /// Checks a publish on behalf of a user who need not be connected: a will, or a message written down earlier.
    fn permit_publish_as(&mut self, user: &Name, client_id: &str, message: &Message) -> Result<(), Fault> {
        let asked = Asked {
            message,
            extra: &[],
            wrote: false,
        };
        let who = Who {
            user,
            client_id: Some(client_id),
            vhost: &self.settings.vhost,
        };
        let refused = match self.rights.of(user) {
            Some(rights) => asked.refused(&self.router, rights, who),
            None => Some(Refused::Exchange),
        };
        match refused {
            Some(refused) => Err(self.refuse_publish(refused, message, user)),
            None => Ok(()),
        }
    }

    /// Checks whether the link may open the session, and publish its will. A session whose user was deleted ends,
    /// because nobody else may get its messages. Where rights come from outside, a user without rights is not known to
    /// be deleted. The node itself may open every session, to end it for an operator.
    pub(crate) fn permit_session(&mut self, link: Link, c: &mut OpenSession) -> Result<(), Fault> {
        let Some(l) = self.links.get_mut(link) else {
            return Ok(());
        };
        l.access.set_client_id(&c.client_id);
        if l.access.is_of_node() {
            return Ok(());
        }
        let user = l.access.user.clone();
        let session = self.sessions.named(&c.client_id);
        let owner = session.and_then(|s| self.sessions.get(s)).map(|s| &s.owner);
        let others = owner.filter(|owner| !owner.is_empty() && **owner != user);
        if !self.rights.come_and_go && others.is_some_and(|owner| self.rights.of(owner).is_none()) {
            c.clean_start = true;
        } else if others.is_some() {
            // A client may try again and again, so this is logged by the driver of the connection, which limits its
            // lines.
            let vhost = &self.settings.vhost;
            tracing::debug!(%vhost, %user, client_id = %c.client_id, "refused another user's session");
            self.counters.access_refused += 1;
            return Err(Fault::new(FaultKind::AccessRefused, "the session is another user's"));
        }
        match &c.will {
            Some(will) if self.limits(link).is_some_and(|(rights, _)| rights.are_asked()) => {
                self.ask_publish(link, &will.message, &[])
            }
            Some(will) => self.permit_publish_as(&user, &c.client_id, &will.message),
            None => Ok(()),
        }
    }

    /// Whether a will is still permitted that was when its session was opened. Nobody is connected to be told.
    pub(crate) fn permits_will(&mut self, session: SessionKey, will: &Will) -> bool {
        let Some(s) = self.sessions.get(session) else {
            return false;
        };
        // A session from an older log has no owner. Its will was checked when it was opened.
        let (owner, client_id) = (s.owner.clone(), s.client_id.clone());
        if owner.is_empty() || s.will_granted {
            return true;
        }
        let permitted = self.permit_publish_as(&owner, &client_id, &will.message);
        if let Err(fault) = &permitted {
            let vhost = &self.settings.vhost;
            tracing::info!(%vhost, user = %owner, %client_id, %fault, "dropped a will");
        }
        permitted.is_ok()
    }

    pub(super) fn refuse_access(&mut self, permission: Permission, on: Resource<'_>, user: &str) -> Fault {
        self.counters.access_refused += 1;
        let (kind, name, vhost) = (on.kind(), on.name(), &self.settings.vhost);
        let text = format!("{permission} access to {kind} '{name}' in vhost '{vhost}' refused for user '{user}'");
        Fault::new(FaultKind::AccessRefused, text)
    }

    pub(super) fn refuse_topic(
        &mut self,
        p: Permission,
        exchange: &str,
        key: &str,
        dialect: Dialect,
        user: &str,
    ) -> Fault {
        self.counters.access_refused += 1;
        let vhost = &self.settings.vhost;
        // The dot dialect for all protocols, as in RabbitMQ's texts.
        let key = translate(key, dialect, Dialect::Dot).unwrap_or_default();
        let text = format!(
            "{p} access to topic '{key}' in exchange '{exchange}' in vhost '{vhost}' refused for user '{user}'"
        );
        Fault::new(FaultKind::AccessRefused, text)
    }

    fn refuse_publish(&mut self, refused: Refused, message: &Message, user: &str) -> Fault {
        let exchange = message.exchange();
        match refused {
            Refused::Exchange => self.refuse_access(Permission::Write, Resource::Exchange(exchange), user),
            Refused::Key => {
                let dialect = message.envelope().dialect;
                self.refuse_topic(Permission::Write, exchange, message.key(), dialect, user)
            }
            Refused::Extra(key) => self.refuse_topic(Permission::Write, exchange, &key, Dialect::Dot, user),
        }
    }
}

/// A publish being checked.
struct Asked<'a> {
    message: &'a Message,
    extra: &'a [Name],
    /// The exchange is known to be permitted.
    wrote: bool,
}

/// The part of a publish that is not permitted.
enum Refused {
    Exchange,
    Key,
    Extra(Name),
}

impl Asked<'_> {
    fn refused(&self, router: &Router, rights: &Rights, who: Who<'_>) -> Option<Refused> {
        let may_write = || rights.permit(Permission::Write, Resource::Exchange(self.message.exchange()).name());
        if !self.wrote && !may_write() {
            return Some(Refused::Exchange);
        }
        let exchange = self.message.exchange_bytes();
        let permits = |key, dialect| rights.permit_topic(Permission::Write, exchange, (key, dialect), who);
        let refused = if !permits(self.message.key_bytes(), self.message.envelope().dialect) {
            Some(Refused::Key)
        } else {
            let refused = self.extra.iter().find(|key| !permits(key.as_bytes(), Dialect::Dot));
            refused.cloned().map(Refused::Extra)
        };
        // Asked last: most messages are permitted, and then it does not matter.
        refused.filter(|_| router.is_topic_exchange(self.message.exchange()))
    }
}
