//! Limits how many lines about single connections are logged. Each kind of line has its own rate, so that many
//! connections that come and go do not displace a refused login. Omitted lines are counted, and the counts are logged.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// The kinds of lines about connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineKind {
    /// A connection was accepted and its protocol is known.
    Connected,
    /// It is logged in.
    LoggedIn,
    /// It ended normally, or we closed it.
    Closed,
    /// It was lost: the peer vanished without closing it properly, or an error occurred.
    Lost,
    /// It ended before it had logged in.
    NoLogin,
    /// Its login failed.
    LoginRefused,
    /// The HTTP back end denied something, or did not answer.
    Outside,
    /// It was told of an error and stays open.
    Complaint,
    /// It was refused before it sent anything.
    Refused,
    /// It uses a protocol that its listener does not serve.
    WrongProtocol,
    /// The TLS handshake failed.
    Tls,
    /// The WebSocket upgrade failed.
    WebSocket,
    /// The QUIC handshake failed.
    Quic,
    /// Its PROXY header is invalid.
    Proxy,
    /// Its address is banned for failed logins.
    Banned,
    /// It was closed before login to make room for others.
    GaveWay,
    /// The listener pauses, because too many connect at once.
    Paced,
    /// Accepting a connection failed.
    NotAccepted,
    /// It publishes more than its quota.
    Slowed,
}

impl LineKind {
    const ALL: [LineKind; 19] = [
        LineKind::Connected,
        LineKind::LoggedIn,
        LineKind::Closed,
        LineKind::Lost,
        LineKind::NoLogin,
        LineKind::LoginRefused,
        LineKind::Outside,
        LineKind::Complaint,
        LineKind::Refused,
        LineKind::WrongProtocol,
        LineKind::Tls,
        LineKind::WebSocket,
        LineKind::Quic,
        LineKind::Proxy,
        LineKind::Banned,
        LineKind::GaveWay,
        LineKind::Paced,
        LineKind::NotAccepted,
        LineKind::Slowed,
    ];

    /// The subject of such lines in the plural, for reports of omitted lines.
    pub(crate) fn about(self) -> &'static str {
        match self {
            LineKind::Connected => "clients that connected",
            LineKind::LoggedIn => "logins",
            LineKind::Closed => "connections that were closed",
            LineKind::Lost => "connections that were lost",
            LineKind::NoLogin => "connections that ended before a login",
            LineKind::LoginRefused => "refused logins",
            LineKind::Outside => "denials of the HTTP back end",
            LineKind::Complaint => "errors that clients were told",
            LineKind::Refused => "refused connections",
            LineKind::WrongProtocol => "clients that speak another protocol than the listener",
            LineKind::Tls => "failed TLS handshakes",
            LineKind::WebSocket => "failed WebSocket requests",
            LineKind::Quic => "failed QUIC connections",
            LineKind::Proxy => "bad PROXY headers",
            LineKind::Banned => "banned addresses",
            LineKind::GaveWay => "connections that gave way to others",
            LineKind::Paced => "listeners that wait",
            LineKind::NotAccepted => "connections that could not be accepted",
            LineKind::Slowed => "clients that publish more than their quota",
        }
    }
}

/// Maximum lines of a kind at once.
const BURST: u32 = 60;
/// Maximum lines of a kind per second in the long run.
const PER_SECOND: u32 = 20;
/// How often the number of omitted lines is logged while lines are being omitted.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// The limits of all kinds. Its size is constant.
#[derive(Debug)]
pub(crate) struct Lines {
    kinds: [Mutex<Budget>; LineKind::ALL.len()],
}

#[derive(Debug)]
struct Budget {
    /// Lines that may be written now.
    left: u32,
    /// When `left` was last increased.
    filled: Instant,
    /// Lines omitted since the last report.
    left_out: u64,
    /// When that report was, or when the first line since was omitted.
    reported: Instant,
}

impl Lines {
    pub(crate) fn new(now: Instant) -> Lines {
        Lines {
            kinds: LineKind::ALL.map(|_| {
                Mutex::new(Budget {
                    left: BURST,
                    filled: now,
                    left_out: 0,
                    reported: now,
                })
            }),
        }
    }

    /// Whether to write a line of that kind now.
    pub(crate) fn admit(&self, kind: LineKind) -> bool {
        self.admit_at(kind, Instant::now())
    }

    fn admit_at(&self, kind: LineKind, now: Instant) -> bool {
        let Some(budget) = self.kinds.get(kind as usize) else {
            return false;
        };
        let mut budget = budget.lock();
        budget.fill(now);
        if let Some(left) = budget.left.checked_sub(1) {
            budget.left = left;
            return true;
        }
        if budget.left_out == 0 {
            budget.reported = now;
        }
        budget.left_out += 1;
        false
    }

    /// Numbers of omitted lines by kind, when a report is due: after the last omitted line, and every few seconds while lines are
    /// omitted. Call it about once a second.
    pub(crate) fn left_out(&self, now: Instant) -> Vec<(LineKind, u64)> {
        let mut report = Vec::new();
        for (kind, budget) in LineKind::ALL.into_iter().zip(&self.kinds) {
            let mut budget = budget.lock();
            if budget.left_out == 0 {
                continue;
            }
            budget.fill(now);
            let is_over = budget.left >= PER_SECOND;
            if is_over || now.saturating_duration_since(budget.reported) >= REPORT_EVERY {
                budget.reported = now;
                report.push((kind, std::mem::take(&mut budget.left_out)));
            }
        }
        report
    }
}

impl Budget {
    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.filled);
        let earned = (since.as_secs_f64() * f64::from(PER_SECOND)) as u32;
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.filled = now;
        }
    }
}

/// Logs how many lines were omitted. Never returns.
pub(crate) async fn report(lines: &Lines) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for (kind, count) in lines.left_out(Instant::now()) {
            tracing::info!(count, "{count} more lines about {} were not logged", kind.about());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_crowd_gets_its_share_of_lines_and_no_more() {
        let start = Instant::now();
        let lines = Lines::new(start);
        let admitted = |at| (0..1_000).filter(|_| lines.admit_at(LineKind::Connected, at)).count();
        assert_eq!(admitted(start), BURST as usize);
        assert_eq!(admitted(after(start, 500)), PER_SECOND as usize / 2);
        assert_eq!(admitted(after(start, 100_000)), BURST as usize);
    }

    /// The bug: with one rate for all lines, many reconnecting clients hid the one refused login.
    #[test]
    fn a_crowd_of_one_kind_leaves_others_their_lines() {
        let start = Instant::now();
        let lines = Lines::new(start);
        while lines.admit_at(LineKind::Lost, start) {}
        assert!(lines.admit_at(LineKind::LoginRefused, start));
    }

    #[test]
    fn what_is_left_out_is_reported_when_the_crowd_is_over_and_while_it_goes_on() {
        let start = Instant::now();
        let lines = Lines::new(start);
        let crowd = |at| (0..100).filter(|_| !lines.admit_at(LineKind::Lost, at)).count() as u64;
        let first = crowd(start);
        assert_eq!(lines.left_out(start), [], "it goes on");
        assert_eq!(lines.left_out(after(start, 1_000)), [(LineKind::Lost, first)]);
        assert_eq!(lines.left_out(after(start, 1_000)), [], "once");
        let mut more = 0;
        for second in 2..=11 {
            assert_eq!(lines.left_out(after(start, second * 1_000 - 1)), [], "second {second}");
            more += crowd(after(start, second * 1_000));
            more += crowd(after(start, second * 1_000 + 990));
        }
        let mut reported = lines.left_out(after(start, 11_999));
        reported.extend(lines.left_out(after(start, 12_000)));
        assert_eq!(reported, [(LineKind::Lost, more)]);
    }

    #[test]
    fn every_kind_has_its_own_place() {
        for (place, kind) in LineKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place, "{kind:?}");
        }
    }
}
