//! A request's connection to a vhost's engine. It is attached like a client's, with the rights of the request's user.

use super::Refusal;
use super::caller::Caller;
use crate::node::Node;
use crate::vhost::Vhost;
use axum::http::StatusCode;
use gatepost_core::command::Command;
use gatepost_core::engine::Wake;
use gatepost_core::event::{Event, Pressure};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::in_process::InProcess;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The channel of its commands.
pub(crate) const CHANNEL: u16 = 1;

/// The connection of one request. Dropping it detaches it: messages that were fetched and not settled are requeued.
pub(crate) struct Errand {
    node: Arc<Node>,
    vhost: Arc<Vhost>,
    connection: InProcess,
    bell: Arc<Bell>,
    /// Its last visit has more to do.
    more: bool,
    /// Whether retained messages that its subscription asked for are still to come.
    replays: bool,
}

#[derive(Default)]
struct Bell(Notify);

impl Wake for Bell {
    fn wake(&self) {
        self.0.notify_one();
    }
}

impl Errand {
    /// A connection with the caller's rights. A caller on the control socket may do everything.
    ///
    /// # Errors
    /// The caller may not use the vhost, or there is no room for another connection.
    pub(crate) fn of(caller: &Caller, node: &Arc<Node>, vhost: &Arc<Vhost>) -> Result<Errand, Fault> {
        let user = (!caller.is_operator()).then(|| caller.name().clone());
        Errand::begin(node, vhost, user.as_deref())
    }

    /// A connection of the node itself, for requests whose caller was checked before.
    ///
    /// # Errors
    /// There is no room for another connection.
    pub(crate) fn of_node(node: &Arc<Node>, vhost: &Arc<Vhost>) -> Result<Errand, Fault> {
        Errand::begin(node, vhost, None)
    }

    fn begin(node: &Arc<Node>, vhost: &Arc<Vhost>, user: Option<&str>) -> Result<Errand, Fault> {
        let bell = Arc::new(Bell::default());
        let now = node.clock.now();
        let connection = vhost.enter(|engine| match user {
            Some(user) => InProcess::attach_woken(engine, now, user, NAME, bell.clone()),
            None => InProcess::attach_as_node_with_wake(engine, now, NAME, bell.clone()),
        })?;
        Ok(Errand {
            node: Arc::clone(node),
            vhost: Arc::clone(vhost),
            connection,
            bell,
            more: true,
            replays: false,
        })
    }

    /// Queues a command for the next visit.
    pub(crate) fn send(&mut self, command: Command) {
        self.connection.send(command);
        self.more = true;
    }

    /// The next answer or delivery. If it had to wait for the log, that has happened when this returns.
    ///
    /// # Errors
    /// The engine ends the connection: the vhost is deleted, or the gateway stops.
    pub(crate) async fn next(&mut self) -> Result<Event, Fault> {
        loop {
            if let Some(event) = self.taken()? {
                return Ok(event);
            }
            self.visit_again().await?;
        }
    }

    /// As [`Errand::next`], after a `Subscribe`: `None` once all retained messages that it asked for have come.
    ///
    /// # Errors
    /// As [`Errand::next`].
    pub(crate) async fn next_of_replay(&mut self) -> Result<Option<Event>, Fault> {
        loop {
            if let Some(event) = self.taken()? {
                return Ok(Some(event));
            }
            if !self.more && !self.replays {
                return Ok(None);
            }
            self.visit_again().await?;
        }
    }

    /// An event of the last visit.
    fn taken(&mut self) -> Result<Option<Event>, Fault> {
        loop {
            match self.connection.poll() {
                Some(Event::Flow(pressure)) => self.meet(pressure)?,
                Some(Event::Closed(why)) => {
                    let text = format!("the vhost does not answer any more: {why:?}");
                    return Err(Fault::new(FaultKind::ResourceError, text));
                }
                event => return Ok(event),
            }
        }
    }

    async fn visit_again(&mut self) -> Result<(), Fault> {
        if self.more {
            // Others get their turns between two holds.
            tokio::task::yield_now().await;
        } else if tokio::time::timeout(SILENCE_MAX, self.bell.0.notified()).await.is_err() {
            let text = "the vhost has not answered in time".to_owned();
            return Err(Fault::new(FaultKind::ResourceError, text));
        }
        self.visit();
        Ok(())
    }

    /// Fails the request if publishers have to wait. Its client can try again; waiting would keep a connection of the
    /// API busy.
    fn meet(&mut self, pressure: Option<Pressure>) -> Result<(), Fault> {
        let why = match pressure {
            Some(Pressure::Memory) => "low on memory",
            Some(Pressure::Disk | Pressure::Full) => "low on disk",
            // It is over before anybody could try again.
            Some(Pressure::Backlog) | None => return Ok(()),
        };
        let left = self.connection.take_back();
        if left.iter().any(|command| matches!(command, Command::Publish { .. })) {
            let text = format!("publishers have to wait: {why}");
            return Err(Fault::new(FaultKind::ResourceError, text));
        }
        left.into_iter().for_each(|command| self.connection.send(command));
        Ok(())
    }

    fn visit(&mut self) {
        let Errand { node, connection, .. } = self;
        let now = node.clock.now();
        let mut asked = None;
        (self.more, self.replays) = self.vhost.enter(|engine| {
            let more = connection.visit(engine, now);
            asked = connection.take_question(engine);
            (more, connection.replays(engine))
        });
        // The answer wakes this connection, and its command is retried.
        if let Some((link, asked)) = asked {
            node.directory.ask_question(&self.vhost, link, *asked, now.monotonic);
        }
    }

    /// Sends one command and returns its answer.
    ///
    /// # Errors
    /// The command failed, or as [`Errand::next`].
    pub(crate) async fn ask(&mut self, command: Command) -> Result<Event, Fault> {
        self.send(command);
        match self.next().await? {
            Event::Failed { fault, .. } => Err(*fault),
            event => Ok(event),
        }
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        self.connection.detach();
        self.more = true;
        while self.more {
            self.visit();
        }
    }
}

/// How long a request waits for the log, or for a back end that knows the user's rights. Then it fails: a person may be
/// waiting for the page.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The name of requests' connections in lists.
const NAME: &str = "management API";

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Refusal {
        let (status, error) = match fault.kind {
            FaultKind::NotFound => (StatusCode::NOT_FOUND, "Object Not Found"),
            // Never 403: RabbitMQ's tools expect 401.
            FaultKind::AccessRefused => (StatusCode::UNAUTHORIZED, "not_authorised"),
            FaultKind::ResourceError => (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable"),
            FaultKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
            _ => (StatusCode::BAD_REQUEST, "bad_request"),
        };
        Refusal::of(status, error, fault.text)
    }
}
