//! What the service manager is told, by the protocol of sd_notify(3): ready, reloading, stopping, alive.
//!
//! Datagrams to the socket that `NOTIFY_SOCKET` names. Without one there is nobody to tell, and all of this does nothing.

use crate::node::Node;
use crate::threads::IoThreads;
use std::env;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// It ends us if it has not heard from us for so long.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The one that started us, if it wants to be told.
    pub(crate) fn of_environment() -> ServiceManager {
        let variable = |name: &str| env::var(name).ok();
        let watchdog = variable("WATCHDOG_USEC")
            .and_then(|usec| usec.parse().ok())
            .map(Duration::from_micros);
        // A child of the service inherits the variables.
        let is_ours = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        ServiceManager {
            socket: variable("NOTIFY_SOCKET").and_then(|path| connect(&path)),
            watchdog: watchdog.filter(|period| is_ours && !period.is_zero()),
        }
    }

    /// Everybody is served.
    pub(crate) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The start goes on: it may take so long from now.
    pub(crate) fn starting(&self, status: &str, patience: Duration) {
        self.tell(&format!(
            "STATUS={status}\nEXTEND_TIMEOUT_USEC={}",
            patience.as_micros()
        ));
    }

    /// The configuration is read again. [`ServiceManager::ready`] follows.
    pub(crate) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let usec = Duration::try_from(now).unwrap_or_default().as_micros();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }

    /// The end has begun.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Says that we are alive, for ever, and only while we are: the main thread runs this, and each time the thread that has
    /// the sockets has to answer first. One that hangs is ended by the service manager, and started again.
    pub(crate) async fn watch(&self, node: &Node, threads: &IoThreads) {
        let Some(period) = self.watchdog.filter(|_| self.socket.is_some()) else {
            return;
        };
        loop {
            let answer = threads.accepting().spawn(async {});
            // Within its patience, or it hears nothing.
            if tokio::time::timeout(period, answer)
                .await
                .is_ok_and(|answer| answer.is_ok())
                || node.is_stopping()
            {
                self.tell("WATCHDOG=1");
            }
            tokio::time::sleep(period / 3).await;
        }
    }

    fn tell(&self, state: &str) {
        if let Some((socket, to)) = &self.socket {
            // It is gone, or its queue is full: it will do what it does about a service that says nothing.
            let _ = socket.send_to_addr(state.as_bytes(), to);
        }
    }
}

fn connect(path: &str) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name).ok()?,
        None => SocketAddr::from_pathname(path).ok()?,
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((socket, address))
}
