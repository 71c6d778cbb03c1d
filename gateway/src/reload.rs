//! What signals ask of a node that goes on serving: SIGHUP reads the configuration again and opens the log file anew,
//! SIGUSR1 writes the node's state to the log. SIGQUIT and SIGUSR2 are caught, because uncaught they would end the process at once.

use crate::config::{Config, Layers};
use crate::directory;
use crate::directory::Backends;
use crate::logging::{self, Output};
use crate::node::Node;
use crate::service_manager::ServiceManager;
use crate::tls;
use gatepost_core::keys::Applies;
use std::io;
use std::sync::atomic::Ordering;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that do not end the process.
pub(crate) struct Signals {
    hangup: Signal,
    user1: Signal,
    user2: Signal,
    quit: Signal,
    /// Caught so that it does not end the process: a write over the limit on a file's size then fails like any other,
    /// and is told and handled like any other.
    _file_size: Signal,
}

impl Signals {
    /// Takes over the signals. Done before the log is read, which may take long.
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

/// Does what signals ask, for ever.
pub(crate) async fn run(node: &Node, layers: &Layers, log: &Output, manager: &ServiceManager, mut signals: Signals) {
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => {
                manager.reloading();
                reload(node, layers, log);
                manager.ready();
            }
            _ = signals.user1.recv() => dump(node),
            _ = signals.user2.recv() => tracing::info!("SIGUSR2 is ignored"),
            _ = signals.quit.recv() => tracing::info!("SIGQUIT is ignored; SIGTERM stops the gateway"),
        }
    }
}

/// Reads all layers again and puts them into effect, all or nothing.
fn reload(node: &Node, layers: &Layers, log: &Output) {
    // Also where the configuration is refused: the old file has been moved away.
    if let Err(problem) = log.reopen(&node.config().log) {
        tracing::error!("the log goes on in its old file: {problem}");
    }
    match read(node, layers) {
        Ok((config, tls, backends, output)) => {
            if let Some(output) = output {
                log.replace(output);
            }
            node.directory.replace(&config, backends, &node.vhosts.list());
            node.tls.replace(tls);
            log.set_level(&config.log.level);
            node.replace_config(config);
            tracing::info!("the configuration is reloaded");
        }
        Err(problems) => {
            for problem in &problems {
                tracing::error!("{problem}");
            }
            let problems = problems.len();
            tracing::error!(problems, "the configuration is refused: everything stays as it is");
        }
    }
}

/// What takes the place of what there is.
type Next = (Config, tls::Loaded, Backends, Option<logging::Next>);

/// What the layers say now, as far as it applies without a restart. Says what changes.
fn read(node: &Node, layers: &Layers) -> Result<Next, Vec<String>> {
    let texts = |problems: Vec<crate::config::Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    let next = layers.load().map_err(|problems| texts(problems.0))?;
    let current = node.config();
    let config = current.with_what_applies(&next);
    // Parts of two configurations that are each good need not fit together.
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
    for change in current.changes(&next) {
        let (key, from, to) = (change.name, change.from, change.to);
        match change.applies {
            Applies::Now => tracing::info!(key, from, to, "changed"),
            Applies::NewConnections => tracing::info!(key, from, to, "changed for new connections"),
            Applies::Restart => tracing::warn!(key, from, to, "not changed: this needs a restart"),
        }
    }
    Ok((config, tls, backends, output))
}

/// Writes the node's state to the log, for whoever looks at a gateway that behaves oddly.
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
