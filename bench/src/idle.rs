//! Measures the memory of an idle connection.

use crate::connect::{self, Connected};
use crate::meter::Meter;
use crate::plan::Endpoint;
use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::thread;
use std::time::Duration;

/// Connections that are kept open.
#[derive(Debug)]
pub(crate) struct Idle {
    /// Kept open; not used otherwise.
    _connections: Vec<Connected>,
    /// Resident memory of the broker per connection, if the broker's process is known.
    pub(crate) rss_bytes_each: Option<f64>,
}

/// Pause before the broker's memory is read.
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

/// Raises the limit of open files, for this process and the brokers it starts, as far as the system allows.
pub(crate) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // If this fails, fewer connections fit, and opening them reports it.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}
