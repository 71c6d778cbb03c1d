//! The user of a request, and what it may see and do.
//!
//! Handlers take a [`Caller`]. A request that the caller may not make is answered with 401 in RabbitMQ's words, never
//! with 403.

use super::Refusal;
use crate::node::Node;
use crate::vhost::Vhost;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use gatepost_core::properties::Name;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The user of a request, or a process on the control socket.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    user: Name,
    tags: Arc<[Name]>,
    /// Vhosts in which the user has permissions. `None`: the caller came through the control socket and is no user.
    vhosts: Option<Arc<BTreeSet<Name>>>,
}

const ADMINISTRATOR: &str = "administrator";
const MONITORING: &str = "monitoring";
const POLICYMAKER: &str = "policymaker";
const MANAGEMENT: &str = "management";

impl Caller {
    /// A caller on the control socket: a process that may open its file.
    pub(super) fn operator() -> Caller {
        Caller {
            user: "control socket".into(),
            tags: [ADMINISTRATOR.into()].into(),
            vhosts: None,
        }
    }

    /// A user that has logged in.
    pub(super) fn user_of(node: &Node, user: Name, tags: Vec<Name>) -> Caller {
        let vhosts = node.vhosts_of(&user);
        Caller {
            user,
            tags: tags.into(),
            vhosts: Some(Arc::new(vhosts)),
        }
    }

    /// The user's name.
    pub(super) fn name(&self) -> &Name {
        &self.user
    }

    /// Its tags, from the directory.
    pub(super) fn tags(&self) -> &[Name] {
        &self.tags
    }

    /// Whether the request came through the control socket. Then there is no user, and no permissions apply.
    pub(super) fn is_operator(&self) -> bool {
        self.vhosts.is_none()
    }

    fn has(&self, tag: &str) -> bool {
        self.tags.iter().any(|known| **known == *tag)
    }

    /// Whether it may do everything.
    pub(super) fn is_administrator(&self) -> bool {
        self.has(ADMINISTRATOR)
    }

    /// Whether it may see all connections, queues and statistics.
    pub(super) fn is_monitor(&self) -> bool {
        self.is_administrator() || self.has(MONITORING)
    }

    /// Whether it may set policies and parameters, in vhosts that it may use.
    pub(super) fn is_policymaker(&self) -> bool {
        self.is_administrator() || self.has(POLICYMAKER)
    }

    /// Whether it may use the API at all.
    pub(super) fn is_manager(&self) -> bool {
        self.is_monitor() || self.is_policymaker() || self.has(MANAGEMENT)
    }

    /// Checks that it is an administrator.
    ///
    /// # Errors
    /// It may not.
    pub(super) fn administers(&self) -> Result<(), Refusal> {
        let may = self.is_administrator();
        may.then_some(())
            .ok_or_else(|| Refusal::not_authorised("Not administrator user"))
    }

    /// Checks that it may see all statistics.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn monitors(&self) -> Result<(), Refusal> {
        let may = self.is_monitor();
        may.then_some(())
            .ok_or_else(|| Refusal::not_authorised("Not monitor user"))
    }

    /// Whether it may see the contents of a vhost.
    pub(super) fn sees(&self, vhost: &str) -> bool {
        self.is_monitor() || self.may_use(vhost)
    }

    /// Whether it has permissions in a vhost.
    pub(super) fn may_use(&self, vhost: &str) -> bool {
        self.vhosts.as_ref().is_none_or(|vhosts| vhosts.contains(vhost))
    }

    /// The vhosts whose contents it may see.
    pub(super) fn vhosts(&self, node: &Node) -> Vec<Arc<Vhost>> {
        let all = node.vhosts.list();
        let mut seen: Vec<_> = all.iter().filter(|vhost| self.sees(&vhost.name)).cloned().collect();
        seen.sort_by(|a, b| a.name.cmp(&b.name));
        seen
    }

    /// The vhost of that name, for reading.
    ///
    /// # Errors
    /// There is none, or the caller may not see it.
    pub(super) fn vhost(&self, node: &Node, name: &str) -> Result<Arc<Vhost>, Refusal> {
        let vhost = node.vhost(name).ok_or_else(Refusal::not_found)?;
        if self.sees(name) {
            Ok(vhost)
        } else {
            Err(Refusal::not_authorised(NOT_THERE))
        }
    }

    /// The vhost of that name, for changing it as a user of it. (An administrator without permissions there may only
    /// read.)
    ///
    /// # Errors
    /// There is none, or the caller has no permissions there.
    pub(super) fn vhost_to_use(&self, node: &Node, name: &str) -> Result<Arc<Vhost>, Refusal> {
        let vhost = node.vhost(name).ok_or_else(Refusal::not_found)?;
        if self.may_use(name) {
            Ok(vhost)
        } else {
            Err(Refusal::not_authorised(NOT_THERE))
        }
    }
}

const NOT_THERE: &str = "User not authorised to access virtual host";

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Refusal> {
        let caller = parts.extensions.get::<Caller>();
        // `door` has stored it before the routes were matched.
        caller.cloned().ok_or_else(|| Refusal::not_authorised("Login failed"))
    }
}

/// Lets only administrators through to the routes below.
pub(super) async fn administrators(caller: Caller, request: Request, next: Next) -> Result<Response, Refusal> {
    caller.administers()?;
    Ok(next.run(request).await)
}

/// Lets only users through who may see all connections, queues and statistics.
pub(super) async fn monitors(caller: Caller, request: Request, next: Next) -> Result<Response, Refusal> {
    caller.monitors()?;
    Ok(next.run(request).await)
}
