//! Idle connections: how much memory one takes.

use crate::connect::{self, Connected};
use crate::meter::Meter;
use crate::plan::Endpoint;
use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::thread;
use std::time::Duration;

/// Connections that stay open.
#[derive(Debug)]
pub(crate) struct Idle {
    /// Held for its sockets.
    _connections: Vec<Connected>,
    /// Resident memory of the broker that one connection took, if the broker's process is known.
    pub(crate) rss_bytes_each: Option<f64>,
}

/// How long a broker gets to settle before its memory is read.
const SETTLE: Duration = Duration::from_secs(1);

impl Idle {
    pub(crate) fn open(endpoint: &Endpoint, count: usize, pid: Option<u32>) -> anyhow::Result<Self> {
        let mut meter = pid.map(Meter::new);
        let mut rss = || meter.as_mut().map(|meter| meter.read().rss_bytes);
        let before = rss();
        let connections = (0..count)
            .map(|index| connect::idle(endpoint, index).with_context(|| format!("idle connection {index}")))
            .collect::<anyhow::Result<Vec<_>>>()?;
        thread::sleep(SETTLE);
        let taken = before
            .zip(rss())
            .map(|(before, after)| after.saturating_sub(before) as f64 / count.max(1) as f64);
        Ok(Self {
            _connections: connections,
            rss_bytes_each: taken,
        })
    }
}

/// Lets this process, and the brokers it starts, open as many files as the system allows.
pub(crate) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Without it fewer connections fit, which their opening reports.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}
