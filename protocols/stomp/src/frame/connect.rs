//! CONNECT (or STOMP) and CONNECTED. Neither is escaped (STOMP 1.2 "Value Encoding").

use super::escape::escape;
use super::{Headers, Version, push_decimal, push_end};
use crate::error::Refusal;
use std::time::Duration;

/// A parsed CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connect<'a> {
    /// The highest version that both sides speak.
    pub(crate) version: Version,
    /// The virtual host. Many clients put the server's address here.
    pub(crate) host: Option<&'a str>,
    pub(crate) login: Option<&'a str>,
    pub(crate) passcode: Option<&'a str>,
    /// ActiveMQ's header: the client's part of the name of a durable subscription.
    pub(crate) client_id: Option<&'a str>,
    pub(crate) heart_beat: HeartBeat,
}

/// The heart-beats that one side of a connection offers, in milliseconds; 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeartBeat {
    /// It can send something this often.
    pub(crate) sends_ms: u64,
    /// It wants to receive something this often.
    pub(crate) wants_ms: u64,
}

impl<'a> Connect<'a> {
    /// Parses the headers of a CONNECT.
    pub(crate) fn parse(headers: &'a Headers) -> Result<Connect<'a>, Refusal> {
        let version = match headers.lookup("accept-version") {
            Some(offered) => negotiate(offered).ok_or_else(Refusal::version_mismatch)?,
            // STOMP 1.2 "Protocol Negotiation": a client that names no version speaks 1.0.
            None => Version::V1_0,
        };
        let lookup = |name| {
            headers
                .lookup(name)
                .map(|value| if version == Version::V1_0 { value.trim() } else { value })
        };
        Ok(Connect {
            version,
            host: lookup("host").filter(|host| !host.is_empty()),
            login: lookup("login"),
            passcode: lookup("passcode"),
            client_id: lookup("client-id").filter(|id| !id.is_empty()),
            heart_beat: headers
                .lookup("heart-beat")
                .map(HeartBeat::parse)
                .transpose()?
                .unwrap_or_default(),
        })
    }
}

/// The highest common version. The order of the list does not matter.
fn negotiate(offered: &str) -> Option<Version> {
    [Version::V1_2, Version::V1_1, Version::V1_0]
        .into_iter()
        .find(|version| offered.split(',').any(|entry| entry.trim() == version.number()))
}

impl HeartBeat {
    fn parse(value: &str) -> Result<HeartBeat, Refusal> {
        let number = |text: &str| -> Option<u64> {
            let text = text.trim();
            (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().unwrap_or(u64::MAX))
        };
        value
            .split_once(',')
            .and_then(|(sends, wants)| {
                Some(HeartBeat {
                    sends_ms: number(sends)?,
                    wants_ms: number(wants)?,
                })
            })
            .ok_or_else(|| Refusal::invalid_header("CONNECT", "heart-beat"))
    }

    /// The server's offer to a client that offers `self`: the client's values with the directions swapped, within the
    /// server's range.
    pub(crate) fn answer(self, min: Duration, max: Duration) -> HeartBeat {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let (min, max) = (millis(min), millis(max).max(millis(min)));
        let within = |ms: u64| if ms == 0 { 0 } else { ms.clamp(min, max) };
        HeartBeat {
            sends_ms: within(self.wants_ms),
            wants_ms: within(self.sends_ms),
        }
    }

    /// The interval at which the side that offers `self` must send to the side that offers `other`. STOMP 1.2
    /// "Heart-beating": the larger of both values, or never if either is 0.
    pub(crate) fn interval(self, other: HeartBeat) -> Option<Duration> {
        let ms = self.sends_ms.max(other.wants_ms);
        (self.sends_ms != 0 && other.wants_ms != 0).then(|| Duration::from_millis(ms))
    }
}

/// Appends a CONNECTED frame. A 1.0 client gets a `heart-beat` too: stompjs splits the header without checking that it
/// exists.
pub(crate) fn push_connected(out: &mut Vec<u8>, version: Version, session: &str, heart_beat: HeartBeat) {
    out.extend_from_slice(b"CONNECTED\nversion:");
    out.extend_from_slice(version.number().as_bytes());
    out.extend_from_slice(b"\nheart-beat:");
    push_decimal(out, heart_beat.sends_ms);
    out.push(b',');
    push_decimal(out, heart_beat.wants_ms);
    out.extend_from_slice(b"\nsession:");
    escape(session.as_bytes(), Version::V1_0, out);
    out.extend_from_slice(b"\nserver:Gatepost/");
    out.extend_from_slice(env!("CARGO_PKG_VERSION").as_bytes());
    out.extend_from_slice(b"\n\n");
    push_end(out);
}

#[cfg(test)]
mod tests {
    use super::super::tests::headers;
    use super::*;

    fn version(offered: &str) -> Option<Version> {
        Connect::parse(&headers("CONNECT", &[("accept-version", offered)]))
            .ok()
            .map(|c| c.version)
    }

    #[test]
    fn the_highest_common_version_wins_in_any_order() {
        assert_eq!(version("1.0,1.1,1.2"), Some(Version::V1_2));
        assert_eq!(version("1.1, 1.0,2.0"), Some(Version::V1_1));
        assert_eq!(version("1.0"), Some(Version::V1_0));
        assert_eq!(version("1.3"), None);
        assert_eq!(version(""), None);
        assert_eq!(
            Connect::parse(&headers("CONNECT", &[])).map(|c| c.version),
            Ok(Version::V1_0)
        );
    }

    #[test]
    fn only_1_0_credentials_are_trimmed() {
        let padded = [("login", " me "), ("accept-version", "1.2")];
        assert_eq!(
            Connect::parse(&headers("CONNECT", &padded)).map(|c| c.login),
            Ok(Some(" me "))
        );
        assert_eq!(
            Connect::parse(&headers("CONNECT", &padded[..1])).map(|c| c.login),
            Ok(Some("me"))
        );
    }

    #[test]
    fn heart_beats_are_two_whole_numbers() {
        assert_eq!(
            HeartBeat::parse("1500, 0"),
            Ok(HeartBeat {
                sends_ms: 1500,
                wants_ms: 0
            })
        );
        for bad in ["", "1", "1,2,3", "-1,0", "1.5,0", "a,b", "1,"] {
            assert!(HeartBeat::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn heart_beats_keep_milliseconds_within_the_range() {
        let range = |client: HeartBeat| client.answer(Duration::from_secs(1), Duration::from_secs(60));
        let client = HeartBeat {
            sends_ms: 1500,
            wants_ms: 2700,
        };
        assert_eq!(
            range(client),
            HeartBeat {
                sends_ms: 2700,
                wants_ms: 1500
            }
        );
        assert_eq!(client.interval(range(client)), Some(Duration::from_millis(1500)));
        let client = HeartBeat {
            sends_ms: 10,
            wants_ms: u64::MAX,
        };
        assert_eq!(
            range(client),
            HeartBeat {
                sends_ms: 60_000,
                wants_ms: 1000
            }
        );
        assert_eq!(range(HeartBeat::default()), HeartBeat::default());
        assert_eq!(HeartBeat::default().interval(client), None);
    }

    #[test]
    fn connected_names_version_heart_beat_session_and_server() {
        let mut out = Vec::new();
        push_connected(&mut out, Version::V1_0, "session-1", HeartBeat::default());
        let expected = concat!(
            "CONNECTED\nversion:1.0\nheart-beat:0,0\nsession:session-1\nserver:Gatepost/",
            env!("CARGO_PKG_VERSION"),
            "\n\n\0\n"
        );
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
