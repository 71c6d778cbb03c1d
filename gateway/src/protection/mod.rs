//! Limits that keep a few clients from blocking all others: rates of connections, failed logins, bans, unfinished handshakes,
//! publish quotas, and refusals in the protocol's words when the gateway is full.
//!
//! ```text
//!   accept ──► banned? too fast? ──► full? some are accepted only to be refused ──► opening, login ──► publishes
//!              (addresses, bans)                                                    (half_open)      (quotas)
//! ```
//!
//! Rates count connections and failed logins, never successful logins, because many devices may be behind one address.

mod addresses;
mod bans;
mod half_open;
mod quotas;

pub(crate) use bans::{Ban, Kind as BanKind, Origin as BanOrigin};
pub(crate) use half_open::Entrant;
pub(crate) use quotas::Meters;

use crate::config::{Config, Protection as Keys};
use crate::network::Network;
use addresses::Addresses;
use bans::Bans;
use gatepost_core::properties::Name;
use gatepost_core::time::Time;
use half_open::HalfOpen;
use parking_lot::{Mutex, RwLock};
use quotas::Quotas;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The limits and their counters.
pub(crate) struct Protection {
    rules: RwLock<Arc<Rules>>,
    addresses: Mutex<Addresses>,
    bans: RwLock<Bans>,
    pub(crate) half_open: HalfOpen,
    pub(crate) quotas: Quotas,
    pub(crate) counts: Counts,
    /// Open connections over the connection limit, accepted only to be refused in their protocol's words.
    pub(crate) turned_away: AtomicUsize,
}

/// The configuration keys, with `exempt` parsed.
struct Rules {
    keys: Keys,
    exempt: Vec<Network>,
}

/// Counts of refusals by reason.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Connections from banned addresses, and logins of banned users and clients.
    pub(crate) banned: AtomicU64,
    /// Connections from addresses that open them too fast.
    pub(crate) address_rate: AtomicU64,
    /// How often a listener paused accepting.
    pub(crate) listener_rate: AtomicU64,
    /// Connections closed before login to make room for others.
    pub(crate) half_open: AtomicU64,
    /// Connections over the limit that were refused in their protocol's words.
    pub(crate) told_full: AtomicU64,
    /// Failed logins whose answer was delayed.
    pub(crate) delayed: AtomicU64,
    /// Bans of addresses for failed logins.
    pub(crate) bans: AtomicU64,
    /// Connections closed because their peers did not read.
    pub(crate) slow_readers: AtomicU64,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwelcome {
    /// Its address is banned, by an operator or for failed logins.
    #[error("its address is banned")]
    Banned,
    #[error("its address opens more than protection.address_connections_per_second allows")]
    TooFast,
}

/// The consequence of a failed login.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Consequence {
    /// Delay of the answer.
    pub(crate) delay: Duration,
    /// How long the address is banned from now on.
    pub(crate) ban: Option<Duration>,
}

impl Protection {
    pub(crate) fn new(config: &Config) -> Protection {
        let protection = Protection {
            rules: RwLock::new(Arc::new(Rules::new(config))),
            addresses: Mutex::default(),
            bans: RwLock::default(),
            half_open: HalfOpen::default(),
            quotas: Quotas::default(),
            counts: Counts::default(),
            turned_away: AtomicUsize::new(0),
        };
        protection.configure(config);
        protection
    }

    /// Applies a new configuration.
    pub(crate) fn configure(&self, config: &Config) {
        *self.rules.write() = Arc::new(Rules::new(config));
        self.quotas.configure(&config.protection);
        self.bans.write().configure(&config.protection);
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read())
    }

    /// Checks and counts a new connection. `proven`: the address is not forged. A connection whose address may be forged (QUIC's
    /// first datagram) is not counted, or an attacker could lock out the address's owner.
    ///
    /// # Errors
    /// The connection is refused, and the refusal counted.
    pub(crate) fn admit(&self, now: Time, address: IpAddr, proven: bool) -> Result<(), Unwelcome> {
        let rules = self.rules();
        let answer = if self.bans.read().has_address(now, address) {
            Err(Unwelcome::Banned)
        } else if rules.is_exempt(address) || !proven {
            Ok(())
        } else {
            self.addresses.lock().connect(now, address, &rules.keys)
        };
        match answer {
            Ok(()) => {}
            Err(Unwelcome::Banned) => add(&self.counts.banned),
            Err(Unwelcome::TooFast) => add(&self.counts.address_rate),
        }
        answer
    }

    /// Counts a failed login from that address.
    pub(crate) fn login_failed(&self, now: Time, address: IpAddr) -> Consequence {
        let rules = self.rules();
        let consequence = self
            .addresses
            .lock()
            .failed(now, address, rules.is_exempt(address), &rules.keys);
        if !consequence.delay.is_zero() {
            add(&self.counts.delayed);
        }
        if consequence.ban.is_some() {
            add(&self.counts.bans);
        }
        consequence
    }

    /// Whether the user or client of that name is banned.
    pub(crate) fn bans(&self, now: Time, kind: BanKind, name: &str) -> bool {
        let banned = self.bans.read().has_name(now, kind, name);
        if banned {
            add(&self.counts.banned);
        }
        banned
    }

    /// Addresses banned for failed logins.
    pub(crate) fn addresses_banned(&self, now: Time) -> usize {
        self.addresses.lock().banned(now).count()
    }

    /// The meters of a connection of `user`, if there are quotas.
    pub(crate) fn meters(&self, user: &Name) -> Option<Meters> {
        self.quotas.meters(user)
    }
}

impl Protection {
    /// Sets a ban at run time.
    pub(crate) fn ban(&self, ban: Ban) {
        self.bans.write().add(ban);
    }

    /// Lifts a ban that was set at run time, or one of an address for failed logins. Returns whether there was one.
    pub(crate) fn lift(&self, kind: BanKind, value: &str) -> bool {
        let listed = self.bans.write().remove(kind, value);
        let address = value.parse().ok().filter(|_| kind == BanKind::Address);
        let failed = address.is_some_and(|address| self.addresses.lock().forgive(address));
        listed || failed
    }

    /// All bans.
    pub(crate) fn list(&self, now: Time) -> Vec<Ban> {
        let mut all = self.bans.write().list(now);
        all.extend(self.addresses.lock().banned(now));
        all
    }
}

impl Rules {
    fn new(config: &Config) -> Rules {
        let keys = config.protection.clone();
        let exempt = keys.exempt.iter().filter_map(|network| network.parse().ok());
        Rules {
            exempt: exempt.collect(),
            keys,
        }
    }

    fn is_exempt(&self, address: IpAddr) -> bool {
        self.exempt.iter().any(|network| network.contains(address))
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
