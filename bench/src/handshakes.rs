//! Measures connections that come and go: how many a broker accepts in a second, and the cost of one.
//!
//! Each is opened, logs in and disconnects, one after the other on every thread. The cost of TLS is the difference to
//! the same run over TCP; the saving of a resumed session is the difference between the two lines.
//! over TCP; what a resumed session saves is the difference between the two lines.

use crate::connect;
use crate::meter::Meter;
use crate::plan::Endpoint;
use anyhow::ensure;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// Opens and closes connections, and reports the cost of one.
#[derive(Debug, clap::Args)]
pub(crate) struct HandshakesOptions {
    /// Where, as `mqtts://host:port`; see `run --uri`
    #[arg(long)]
    uri: String,
    /// Resume the TLS sessions of earlier connections
    #[arg(long)]
    resume: bool,
    /// Duration in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Concurrent connections
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Process id of the broker, to report its cost
    #[arg(long)]
    pid: Option<u32>,
}

/// The results of one thread.
#[derive(Default)]
struct Done {
    connections: u64,
    resumed: u64,
}

/// How often the broker's threads are sampled.
const SAMPLE: Duration = Duration::from_millis(100);

pub(crate) fn handshakes(options: &HandshakesOptions) -> anyhow::Result<bool> {
    ensure!(
        options.seconds > 0.0 && options.threads > 0,
        "at least one thread, for some time"
    );
    let mut endpoint = Endpoint::parse(&options.uri)?;
    endpoint.resumes = options.resume;
    // The first connection has no session to resume, and warms up caches.
    connect::idle(&endpoint, 0)?.close();
    let over = AtomicBool::new(false);
    let mut meter = options.pid.map(Meter::new);
    let began = Instant::now();
    let done = thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads)
            .map(|index| {
                scope.spawn({
                    let (endpoint, over) = (&endpoint, &over);
                    move || open_and_close(endpoint, index, over)
                })
            })
            .collect();
        let span = Duration::from_secs_f64(options.seconds);
        while began.elapsed() < span {
            thread::sleep(SAMPLE.min(span));
            meter.iter_mut().for_each(Meter::sample_cpu);
        }
        over.store(true, Relaxed);
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Ok(Done::default())))
            .collect::<anyhow::Result<Vec<Done>>>()
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let connections: u64 = done.iter().map(|done| done.connections).sum();
    let resumed: u64 = done.iter().map(|done| done.resumed).sum();
    ensure!(connections > 0, "no connection was opened");
    println!("{}: {connections} connections, {resumed} of them resumed", options.uri);
    println!("  {:.0} a second", connections as f64 / seconds);
    if let Some(meter) = &mut meter {
        let cpu_us = meter.read().cpu_ns as f64 / 1000.0;
        println!(
            "  {:.1} us of the broker's processor time each",
            cpu_us / connections as f64
        );
    }
    let all_as_asked = !options.resume || !endpoint.carrier.tls || resumed == connections;
    if !all_as_asked {
        println!("  not all were resumed");
    }
    Ok(all_as_asked)
}

fn open_and_close(endpoint: &Endpoint, index: usize, over: &AtomicBool) -> anyhow::Result<Done> {
    let mut done = Done::default();
    while !over.load(Relaxed) {
        let connected = connect::idle(endpoint, index)?;
        done.connections += 1;
        done.resumed += u64::from(connected.stream.is_resumed());
        connected.close();
    }
    Ok(done)
}
