//! Counts connections and failed logins of each address.
//!
//! An IPv6 client has 2^64 addresses of its own, so a /64 network counts as one address. The table is bounded. An
//! address for which there is no room is not limited: otherwise an attacker could fill the table to lock others out.

use super::bans::{Ban, Kind};
use super::{Consequence, Unwelcome};
use crate::config::Protection as Keys;
use gatepost_core::time::Time;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Maximum addresses in the table. Each takes about 64 bytes.
const ADDRESSES_MAX: usize = 16_384;
/// A full table is swept at most this often, because a sweep visits all entries.
const SWEEP: Duration = Duration::from_secs(1);

/// The table of addresses.
#[derive(Default)]
pub(super) struct Addresses {
    known: HashMap<u128, Record>,
    swept: Time,
}

#[derive(Clone, Copy, Default)]
struct Record {
    /// A token bucket as a time, in microseconds: each connection moves it ahead by one interval of the allowed rate, and it
    /// may be ahead of the clock by the allowed burst.
    paid_us: u64,
    /// Failed logins since `failing_since`.
    failures: u32,
    failing_since: Time,
    banned_until: Time,
}

impl Addresses {
    /// Counts a new connection, or refuses it.
    pub(super) fn connect(&mut self, now: Time, address: IpAddr, keys: &Keys) -> Result<(), Unwelcome> {
        let per_second = keys.address_connections_per_second;
        let place = place(address);
        if per_second == 0 && !self.known.contains_key(&place) {
            return Ok(());
        }
        let Some(record) = self.record(now, place, keys) else {
            return Ok(());
        };
        if now < record.banned_until {
            return Err(Unwelcome::Banned);
        }
        if per_second == 0 {
            return Ok(());
        }
        let each_us = (1_000_000 / per_second).max(1);
        let burst_us = each_us.saturating_mul(keys.address_connections_burst.max(1));
        let now_us = now.0.saturating_mul(1000);
        let paid_us = record.paid_us.max(now_us) + each_us;
        if paid_us > now_us.saturating_add(burst_us) {
            return Err(Unwelcome::TooFast);
        }
        record.paid_us = paid_us;
        Ok(())
    }

    /// Counts a failed login. An `exempt` address is delayed, but never banned.
    pub(super) fn failed(&mut self, now: Time, address: IpAddr, exempt: bool, keys: &Keys) -> Consequence {
        let Some(record) = self.record(now, place(address), keys) else {
            return Consequence::default();
        };
        if now >= record.failing_since + keys.login_failures_window.0 {
            record.failing_since = now;
            record.failures = 0;
        }
        record.failures = record.failures.saturating_add(1);
        let failures = u64::from(record.failures);
        let mut consequence = Consequence::default();
        if failures > keys.login_failures_free {
            consequence.delay = keys.login_failure_delay.0;
        }
        let is_over = keys.login_failures_max > 0 && failures >= keys.login_failures_max;
        if is_over && !exempt && now >= record.banned_until && !keys.login_ban.0.is_zero() {
            record.banned_until = now + keys.login_ban.0;
            record.failures = 0;
            consequence.ban = Some(keys.login_ban.0);
        }
        consequence
    }

    /// Ends a ban. Returns whether there was one.
    pub(super) fn forgive(&mut self, address: IpAddr) -> bool {
        self.known
            .remove(&place(address))
            .is_some_and(|record| record.banned_until > Time::default())
    }

    /// Addresses that are banned now.
    pub(super) fn banned(&self, now: Time) -> impl Iterator<Item = Ban> {
        let banned = self.known.iter().filter(move |(_, record)| now < record.banned_until);
        banned.map(|(place, record)| Ban {
            kind: Kind::Address,
            value: Ipv6Addr::from(*place).to_canonical().to_string(),
            until: Some(record.banned_until),
            origin: super::bans::Origin::Failures,
        })
    }

    /// The address's record. `None`: the table is full.
    fn record(&mut self, now: Time, place: u128, keys: &Keys) -> Option<&mut Record> {
        if self.known.len() >= ADDRESSES_MAX && !self.known.contains_key(&place) {
            if now < self.swept + SWEEP {
                return None;
            }
            self.swept = now;
            let window = keys.login_failures_window.0;
            self.known.retain(|_, record| {
                let fails = record.failures > 0 && now < record.failing_since + window;
                fails || now.0 * 1000 < record.paid_us || now < record.banned_until
            });
            if self.known.len() >= ADDRESSES_MAX {
                return None;
            }
        }
        Some(self.known.entry(place).or_default())
    }
}

/// The key of an address: IPv4 mapped to IPv6, and the first 64 bits of IPv6.
fn place(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits() & (u128::MAX << 64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn keys() -> Keys {
        Keys {
            address_connections_per_second: 10,
            address_connections_burst: 3,
            login_failures_free: 2,
            login_failures_max: 5,
            ..Config::default().protection
        }
    }

    fn at(seconds: f64) -> Time {
        Time::default() + Duration::from_secs(100) + Duration::from_secs_f64(seconds)
    }

    const A: &str = "192.0.2.1";

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_may_burst_and_then_has_its_rate() {
        let (mut addresses, keys) = (Addresses::default(), keys());
        let mut admitted = |seconds: f64, address: &str| addresses.connect(at(seconds), ip(address), &keys).is_ok();
        assert_eq!([0.0; 4].map(|s| admitted(s, A)), [true, true, true, false]);
        assert!(admitted(0.0, "192.0.2.2"), "another address");
        assert_eq!([0.11, 0.12].map(|s| admitted(s, A)), [true, false]);
        // After an hour without connections one burst is saved up, not more.
        assert_eq!([3600.0; 4].map(|s| admitted(s, A)), [true, true, true, false]);
        // One network of 64 bits is one client.
        let six = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"];
        assert_eq!(six.map(|address| admitted(0.0, address)), [true, true, true, false]);
        assert!(admitted(0.0, "2001:db8:0:1::1"));
    }

    #[test]
    fn failures_wait_and_then_are_banned_for_a_while() {
        let (mut addresses, keys) = (Addresses::default(), keys());
        let failed = |addresses: &mut Addresses, seconds| addresses.failed(at(seconds), ip(A), false, &keys);
        let mut delays = Vec::new();
        for _ in 0..5 {
            let consequence = failed(&mut addresses, 0.0);
            delays.push(consequence.delay.as_secs());
            assert_eq!(consequence.ban.is_some(), delays.len() == 5);
        }
        assert_eq!(delays, [0, 0, 1, 1, 1]);
        assert_eq!(addresses.connect(at(1.0), ip(A), &keys), Err(Unwelcome::Banned));
        assert_eq!(addresses.banned(at(1.0)).map(|ban| ban.value).collect::<Vec<_>>(), [A]);
        assert_eq!(addresses.connect(at(61.0), ip(A), &keys), Ok(()));
        assert_eq!(addresses.banned(at(61.0)).count(), 0);
        // A failure from time to time, for example by a device with an old password, does not ban the address.
        for minute in 2..100 {
            for _ in 0..4 {
                assert_eq!(failed(&mut addresses, f64::from(minute) * 61.0).ban, None);
            }
        }
        // A ban can be lifted, and an exempt address never gets one.
        for _ in 0..5 {
            failed(&mut addresses, 10_000.0);
        }
        assert!(addresses.forgive(ip(A)) && !addresses.forgive(ip(A)));
        assert_eq!(addresses.connect(at(10_001.0), ip(A), &keys), Ok(()));
        let exempt = (0..50).map(|_| addresses.failed(at(0.0), ip("127.0.0.1"), true, &keys));
        assert!(
            exempt
                .last()
                .is_some_and(|last| last.ban.is_none() && !last.delay.is_zero())
        );
    }

    #[test]
    fn a_full_table_locks_nobody_out() {
        let (mut addresses, keys) = (Addresses::default(), keys());
        let flood = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..20_000 {
            assert_eq!(addresses.connect(at(0.0), flood(n), &keys), Ok(()));
        }
        assert!(addresses.known.len() <= ADDRESSES_MAX);
        // Entries that no longer matter are swept.
        assert_eq!(addresses.connect(at(2.0), flood(30_000), &keys), Ok(()));
        assert_eq!(addresses.known.len(), 1);
    }
}
