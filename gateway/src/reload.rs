//! Handles signals and requests of the management API that do not end the node. SIGHUP reads the configuration again
//! and reopens the log file; SIGUSR1 writes the node's state to the log. SIGQUIT and SIGUSR2 are caught, because they
//! would end the process otherwise.

use crate::config::{Change, Config, Layers};
use crate::directory;
use crate::directory::Backends;
use crate::logging::{self, Output};
use crate::node::Node;
use crate::service_manager::ServiceManager;
use crate::tls;
use gatepost_core::keys::Applies;
use parking_lot::Mutex;
use std::io;
use std::sync::atomic::Ordering;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};

/// A request of the management API, with the channel for the answer.
#[derive(Debug)]
pub(crate) enum Request {
    /// Reload, as SIGHUP does. The answer is the list of changes, or of errors.
    Reload(oneshot::Sender<Result<Vec<Change>, Vec<String>>>),
    /// Reopen the log file, which is a part of a reload.
    RotateLogs(oneshot::Sender<Result<(), String>>),
    /// Another log level, until the next reload.
    SetLevel(String, oneshot::Sender<()>),
}

/// Requests that wait for [`run`], which handles one after the other.
#[derive(Debug)]
pub(crate) struct Desk {
    requests: mpsc::Sender<Request>,
    taken: Mutex<Option<mpsc::Receiver<Request>>>,
    stop: Notify,
}

/// Maximum waiting requests. Further callers wait until there is room.
const REQUESTS_MAX: usize = 16;

impl Default for Desk {
    fn default() -> Desk {
        let (requests, taken) = mpsc::channel(REQUESTS_MAX);
        Desk {
            requests,
            taken: Mutex::new(Some(taken)),
            stop: Notify::new(),
        }
    }
}

impl Desk {
    /// Sends a request and waits for the answer. `None`: the node stops and does not answer any more.
    pub(crate) async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Asks the node to stop, as SIGTERM does.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    /// Returns once [`Desk::stop`] was called.
    pub(crate) async fn stopped(&self) {
        self.stop.notified().await;
    }
}

/// Signals that do not end the process.
pub(crate) struct Signals {
    hangup: Signal,
    user1: Signal,
    user2: Signal,
    quit: Signal,
    /// SIGXFSZ, caught so that it does not end the process: a write over the limit on file size then returns an error, which is
    /// reported like any other.
    _file_size: Signal,
}

impl Signals {
    /// Installs the handlers. Called before the log is read, which may take long.
    ///
    /// # Errors
    /// The system has no room for a handler.
    pub(crate) fn listen() -> io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            quit: signal(SignalKind::quit())?,
            _file_size: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }
}

/// Handles the signals, and the requests of the management API. Never returns.
pub(crate) async fn run(node: &Node, layers: &Layers, log: &Output, manager: &ServiceManager, mut signals: Signals) {
    let Some(mut requests) = node.desk.taken.lock().take() else {
        return;
    };
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => {
                manager.reloading();
                // The errors are in the log.
                let _ = reload(node, layers, log);
                manager.ready();
            }
            _ = signals.user1.recv() => dump(node),
            _ = signals.user2.recv() => tracing::info!("SIGUSR2 is ignored"),
            _ = signals.quit.recv() => tracing::info!("SIGQUIT is ignored; SIGTERM stops the gateway"),
            Some(request) = requests.recv() => match request {
                // The requester may be gone meanwhile.
                Request::Reload(answer) => {
                    manager.reloading();
                    let _ = answer.send(reload(node, layers, log));
                    manager.ready();
                }
                Request::RotateLogs(answer) => {
                    let _ = answer.send(log.reopen(&node.config().log));
                    tracing::info!("the log's file is opened anew");
                }
                Request::SetLevel(level, answer) => {
                    tracing::info!(level, "log.level is set until the next reload or start");
                    log.set_level(&level);
                    let _ = answer.send(());
                }
            },
        }
    }
}

/// Reads all layers again and applies them, all or nothing. Returns the differences, including those that need a restart.
fn reload(node: &Node, layers: &Layers, log: &Output) -> Result<Vec<Change>, Vec<String>> {
    // Even if the configuration is refused below: logrotate has moved the old file away.
    if let Err(problem) = log.reopen(&node.config().log) {
        tracing::error!("the log goes on in its old file: {problem}");
    }
    match read(node, layers) {
        Ok(Next {
            config,
            changes,
            tls,
            backends,
            output,
        }) => {
            if let Some(output) = output {
                log.replace(output);
            }
            node.directory.replace(&config, backends, &node.vhosts.list());
            node.tls.replace(tls);
            log.set_level(&config.log.level);
            node.replace_config(config);
            tracing::info!("the configuration is reloaded");
            Ok(changes)
        }
        Err(problems) => {
            for problem in &problems {
                tracing::error!("{problem}");
            }
            let count = problems.len();
            tracing::error!(
                problems = count,
                "the configuration is refused: everything stays as it is"
            );
            Err(problems)
        }
    }
}

/// What a reload replaces: the configuration, TLS, back ends, and the log's target if it changed.
struct Next {
    config: Config,
    changes: Vec<Change>,
    tls: tls::Loaded,
    backends: Backends,
    output: Option<logging::Next>,
}

/// Reads the layers, as far as changes apply without a restart. Logs what changes.
fn read(node: &Node, layers: &Layers) -> Result<Next, Vec<String>> {
    let texts = |problems: Vec<crate::config::Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    let next = layers.load().map_err(|problems| texts(problems.0))?;
    let current = node.config();
    let config = current.with_what_applies(&next);
    // Checked again: settings that apply now and settings that need a restart come from two configurations, and may
    // contradict each other.
    let problems = config.check();
    if !problems.is_empty() {
        return Err(texts(problems));
    }
    let backends = directory::load(&config)?;
    let tls = node.tls.reload(&config).map_err(texts)?;
    let (before, after) = (&current.log, &config.log);
    let is_moved = (&before.target, before.format) != (&after.target, after.format);
    let output = if is_moved {
        Some(logging::open(after).map_err(|problem| vec![problem])?)
    } else {
        None
    };
    let changes = current.changes(&next);
    for Change {
        name: key,
        from,
        to,
        applies,
    } in &changes
    {
        match applies {
            Applies::Now => tracing::info!(key, from, to, "changed"),
            Applies::NewConnections => tracing::info!(key, from, to, "changed for new connections"),
            Applies::Restart => tracing::warn!(key, from, to, "not changed: this needs a restart"),
        }
    }
    Ok(Next {
        config,
        changes,
        tls,
        backends,
        output,
    })
}

/// Writes the node's state to the log, for diagnosis.
fn dump(node: &Node) {
    let health = &node.health;
    let (backlog_bytes, backlog_since) = node.log.backlog();
    tracing::info!(
        uptime_s = node.started.elapsed().as_secs(),
        connections = node.connections_open(),
        attached = node.attached.load(Ordering::Relaxed),
        backlog_bytes,
        backlog_ms = backlog_since.as_millis(),
        disk_free = health.disk_free.load(Ordering::Relaxed),
        health = ?health,
        "state of the node"
    );
    for (protocol, counts) in node.protocols.iter().zip(&node.connections) {
        tracing::info!(
            protocol = protocol.name(),
            connections = counts.open(),
            ?counts,
            "state of a protocol"
        );
    }
    for vhost in node.vhosts.list().iter() {
        let counters = vhost.counters();
        tracing::info!(vhost = %vhost.name, ?counters, "state of a vhost");
    }
}
