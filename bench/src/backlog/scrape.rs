//! Reads Gatepost's metrics: bytes of bodies in memory and counts of syncs, which cannot be seen from outside.

use anyhow::{Context, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The samples of one scrape, with their labels.
#[derive(Debug, Default)]
pub(crate) struct Scrape {
    text: String,
}

/// Bytes of queued bodies in memory.
pub(crate) const CACHED_BYTES: &str = "gatepost_message_memory_bytes";
/// Number of the log's syncs.
pub(crate) const SYNCS: &str = "gatepost_store_fsync_seconds_count";
/// Their total duration.
pub(crate) const SYNC_SECONDS: &str = "gatepost_store_fsync_seconds_sum";

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

impl Scrape {
    /// Reads the metrics from a port on the loopback.
    pub(crate) fn of(port: u16) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).context("cannot reach the metrics")?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).context("the metrics do not answer")?;
        Self::read(&String::from_utf8_lossy(&answer))
    }

    fn read(answer: &str) -> anyhow::Result<Self> {
        let (head, body) = answer.split_once("\r\n\r\n").context("the metrics are cut short")?;
        let status = head.lines().next().unwrap_or_default();
        ensure!(status.split(' ').nth(1) == Some("200"), "the metrics answer {status}");
        Ok(Self { text: body.to_owned() })
    }

    /// The sum over all samples of a name; 0 if there are none, since a counter appears when it first counts.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            let rest = match rest.strip_prefix('{') {
                Some(labels) => labels.rsplit_once('}')?.1,
                None => rest,
            };
            rest.strip_prefix(' ')?.split(' ').next()?.parse::<f64>().ok()
        };
        self.text.lines().filter_map(value).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_their_whole_name_and_summed_over_their_labels() {
        let scrape = Scrape::read(include_str!("../../fixtures/metrics.txt")).unwrap();
        assert_eq!(scrape.sum(CACHED_BYTES), 16_770_048.0);
        assert_eq!(scrape.sum(SYNCS), 4_217.0);
        assert!((scrape.sum(SYNC_SECONDS) - 3.75).abs() < 1e-9);
        assert_eq!(scrape.sum("gatepost_connections"), 3.0);
        assert_eq!(scrape.sum("gatepost_nothing"), 0.0);
    }

    #[test]
    fn an_answer_that_is_not_the_metrics_is_an_error() {
        assert!(Scrape::read("HTTP/1.1 503 Service Unavailable\r\n\r\n").is_err());
        assert!(Scrape::read("HTTP/1.1 200 OK\r\n").is_err());
    }
}
