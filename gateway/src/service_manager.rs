//! Notifies the service manager by the protocol of sd_notify(3): ready, reloading, stopping, alive.
//!
//! Sends datagrams to the socket in `NOTIFY_SOCKET`. If the variable is not set, all of this does nothing.

use crate::node::Node;
use crate::threads::IoThreads;
use std::env;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager's socket, if there is one.
#[derive(Debug, Default)]
pub(crate) struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// The service manager ends the process if it gets no message for this long.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Reads the variables that a service manager sets.
    pub(crate) fn of_environment() -> ServiceManager {
        let variable = |name: &str| env::var(name).ok();
        let watchdog = variable("WATCHDOG_USEC")
            .and_then(|usec| usec.parse().ok())
            .map(Duration::from_micros);
        // The variables may be inherited from a parent process, whose watchdog it is then.
        let is_ours = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        ServiceManager {
            socket: variable("NOTIFY_SOCKET").and_then(|path| connect(&path)),
            watchdog: watchdog.filter(|period| is_ours && !period.is_zero()),
        }
    }

    /// Reports that clients are served.
    pub(crate) fn ready(&self) {
        self.tell("READY=1");
    }

    /// Reports that the start is in progress and may take `patience` longer.
    pub(crate) fn starting(&self, status: &str, patience: Duration) {
        self.tell(&format!(
            "STATUS={status}\nEXTEND_TIMEOUT_USEC={}",
            patience.as_micros()
        ));
    }

    /// Reports that the configuration is being reloaded. Call [`ServiceManager::ready`] afterwards.
    pub(crate) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let usec = Duration::try_from(now).unwrap_or_default().as_micros();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }

    /// Reports that the process is stopping.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Reports regularly that the process is alive. Never returns. It runs on the main thread and waits for an answer
    /// from the first I/O thread each time, so if one of them hangs, the service manager restarts the process.
    pub(crate) async fn watch(&self, node: &Node, threads: &IoThreads) {
        let Some(period) = self.watchdog.filter(|_| self.socket.is_some()) else {
            return;
        };
        loop {
            let answer = threads.accepting().spawn(async {});
            // Without an answer in time nothing is sent.
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
            // If this fails (for example because its queue is full), the service manager acts as if nothing was sent.
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
