//! Limits of what a client, and all clients of a user together, may publish per second: messages and bytes.
//!
//! A connection over its quota is not read until the quota allows it again. Unused quota is saved for one second.

use crate::config::Protection as Keys;
use gatepost_core::properties::Name;
use gatepost_core::pump::Published;
use gatepost_core::time::Time;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// The configured rates, and the meters of connected users.
#[derive(Default)]
pub(crate) struct Quotas {
    /// Whether any rate is set. An atomic, because each turn of each connection reads it.
    are_set: AtomicBool,
    rates: RwLock<Rates>,
    users: Mutex<HashMap<Name, Weak<Mutex<Meter>>>>,
    /// How often a publisher had to wait.
    waits: AtomicU64,
}

#[derive(Clone, Copy, Default)]
struct Rates {
    client: Rate,
    user: Rate,
}

/// Messages and bytes per second; 0: no limit.
#[derive(Clone, Copy, Default)]
struct Rate {
    messages: u64,
    bytes: u64,
}

/// The meters of one connection: its own, and its user's, which all the user's connections share.
pub(crate) struct Meters {
    client: Meter,
    user: Arc<Mutex<Meter>>,
    /// The user's name.
    pub(crate) name: Name,
    /// Whether the log says already that the connection waits. Once is enough: it may wait many times a second.
    pub(crate) is_told: bool,
}

#[derive(Default)]
struct Meter {
    messages: Bucket,
    bytes: Bucket,
}

/// A token bucket that fills within a second.
#[derive(Clone, Copy, Default)]
struct Bucket {
    /// When the bucket is full again, in microseconds.
    full_us: u64,
}

const SECOND_US: u64 = 1_000_000;

impl Bucket {
    /// Tokens that are left now.
    fn left(self, now: Time, per_second: u64) -> usize {
        if per_second == 0 {
            return usize::MAX;
        }
        let missing_us = self.full_us.saturating_sub(micros(now)).min(SECOND_US);
        let left = u128::from(SECOND_US - missing_us) * u128::from(per_second) / u128::from(SECOND_US);
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// Takes `count` tokens, even more than are left. Returns when the next token is available.
    fn take(&mut self, now: Time, per_second: u64, count: u64) -> Time {
        if per_second == 0 {
            return now;
        }
        let us = |count: u64| {
            let us = u128::from(count) * u128::from(SECOND_US) / u128::from(per_second);
            u64::try_from(us).unwrap_or(u64::MAX)
        };
        self.full_us = self.full_us.max(micros(now)).saturating_add(us(count));
        // When one whole token is available. At zero tokens the connection would wake and could publish nothing.
        let until_us = self.full_us.saturating_add(us(1)).saturating_sub(SECOND_US);
        now.max(Time(until_us.div_ceil(1000)))
    }
}

fn micros(time: Time) -> u64 {
    time.0.saturating_mul(1000)
}

impl Meter {
    fn left(&self, now: Time, rate: Rate) -> usize {
        if self.bytes.left(now, rate.bytes) == 0 {
            return 0;
        }
        self.messages.left(now, rate.messages)
    }

    fn take(&mut self, now: Time, rate: Rate, published: Published) -> Time {
        let messages = self.messages.take(now, rate.messages, u64::from(published.messages));
        messages.max(self.bytes.take(now, rate.bytes, published.bytes))
    }
}

impl Quotas {
    pub(super) fn configure(&self, keys: &Keys) {
        let rates = Rates {
            client: Rate {
                messages: keys.client_publishes_per_second,
                bytes: keys.client_publish_bytes_per_second.0,
            },
            user: Rate {
                messages: keys.user_publishes_per_second,
                bytes: keys.user_publish_bytes_per_second.0,
            },
        };
        let numbers = [
            rates.client.messages,
            rates.client.bytes,
            rates.user.messages,
            rates.user.bytes,
        ];
        *self.rates.write() = rates;
        self.are_set.store(numbers.iter().any(|n| *n > 0), Ordering::Relaxed);
    }

    /// Whether any rate is set.
    pub(crate) fn are_set(&self) -> bool {
        self.are_set.load(Ordering::Relaxed)
    }

    pub(super) fn meters(&self, user: &Name) -> Option<Meters> {
        if !self.are_set() {
            return None;
        }
        let mut users = self.users.lock();
        let shared = users.get(user).and_then(Weak::upgrade).unwrap_or_else(|| {
            users.retain(|_, meter| meter.strong_count() > 0);
            let meter = Arc::default();
            users.insert(user.clone(), Arc::downgrade(&meter));
            meter
        });
        Some(Meters {
            client: Meter::default(),
            user: shared,
            name: user.clone(),
            is_told: false,
        })
    }

    /// Messages that the connection may publish now.
    pub(crate) fn left(&self, now: Time, meters: &Meters) -> usize {
        let rates = *self.rates.read();
        let user = meters.user.lock().left(now, rates.user);
        meters.client.left(now, rates.client).min(user)
    }

    /// Counts what the connection has published. Returns when it may go on, if that is later than now.
    pub(crate) fn take(&self, now: Time, meters: &mut Meters, published: Published) -> Option<Time> {
        let rates = *self.rates.read();
        let user = meters.user.lock().take(now, rates.user, published);
        let until = meters.client.take(now, rates.client, published).max(user);
        (until > now).then(|| {
            self.waits.fetch_add(1, Ordering::Relaxed);
            until
        })
    }

    /// How often a publisher had to wait.
    pub(crate) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn quotas(client: u64, bytes: u64, user: u64) -> Quotas {
        let quotas = Quotas::default();
        quotas.configure(&Keys {
            client_publishes_per_second: client,
            client_publish_bytes_per_second: crate::config::Size(bytes),
            user_publishes_per_second: user,
            ..Config::default().protection
        });
        quotas
    }

    fn published(messages: u32, bytes: u64) -> Published {
        Published { messages, bytes }
    }

    #[test]
    fn without_quotas_nobody_is_metered() {
        assert!(quotas(0, 0, 0).meters(&"u".into()).is_none());
    }

    #[test]
    fn a_second_is_saved_up_and_what_is_more_is_waited_for() {
        let quotas = quotas(10, 0, 0);
        let mut meters = quotas.meters(&"u".into()).expect("metered");
        let at = |ms: u64| Time(100_000 + ms);
        assert_eq!(quotas.left(at(0), &meters), 10);
        assert_eq!(quotas.take(at(0), &mut meters, published(9, 0)), None);
        assert_eq!(quotas.left(at(0), &meters), 1);
        assert_eq!(quotas.take(at(0), &mut meters, published(1, 0)), Some(at(100)));
        assert_eq!((quotas.left(at(99), &meters), quotas.left(at(100), &meters)), (0, 1));
        // More than the quota was taken, so the wait is longer.
        assert_eq!(quotas.take(at(100), &mut meters, published(21, 0)), Some(at(2_200)));
        assert_eq!(quotas.left(at(60_000), &meters), 10);
        assert_eq!(quotas.waits(), 2);
    }

    #[test]
    fn bytes_count_and_a_users_clients_share() {
        let quotas = quotas(0, 1000, 5);
        let at = |ms: u64| Time(100_000 + ms);
        let [mut a, b, mut other] = ["u", "u", "v"].map(|user| quotas.meters(&user.into()).expect("metered"));
        assert_eq!(quotas.take(at(0), &mut a, published(1, 3_000)), Some(at(2_001)));
        assert_eq!(quotas.left(at(2_000), &a), 0);
        assert_eq!((quotas.left(at(0), &b), quotas.left(at(0), &other)), (4, 5));
        assert_eq!(quotas.take(at(0), &mut other, published(5, 10)), Some(at(200)));
        assert_eq!(quotas.left(at(0), &b), 4);
        drop((a, b));
        // The last connection of `u` has closed, so its meter is new.
        assert_eq!(quotas.left(at(0), &quotas.meters(&"u".into()).expect("metered")), 5);
    }
}
