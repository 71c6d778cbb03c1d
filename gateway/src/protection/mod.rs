//! What keeps a few from taking the gateway from all: rates of connections, failed logins, bans, handshakes that do not
//! go on, quotas of what is published, and a refusal in the protocol's words where there is no room.
//!
//! ```text
//!   accept ──► banned? too fast? ──► no room? a few are let in to be told ──► opening, login ──► publishes
//!              (addresses, bans)                                              (half_open)      (quotas)
//! ```
//!
//! Nothing here counts against a user who behaves. Rates count connections and failures, never logins that are good: many
//! devices may be behind one address.

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

/// See the module.
pub(crate) struct Protection {
    rules: RwLock<Arc<Rules>>,
    addresses: Mutex<Addresses>,
    bans: RwLock<Bans>,
    pub(crate) half_open: HalfOpen,
    pub(crate) quotas: Quotas,
    pub(crate) counts: Counts,
    /// Connections over all limits, which are there to be told so.
    pub(crate) turned_away: AtomicUsize,
}

/// The keys, and what they name.
struct Rules {
    keys: Keys,
    exempt: Vec<Network>,
}

/// What was refused, and why.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Connections from banned addresses, and logins of banned users and clients.
    pub(crate) banned: AtomicU64,
    /// Connections from addresses that open them too fast.
    pub(crate) address_rate: AtomicU64,
    /// Times that a listener accepted nothing for a while.
    pub(crate) listener_rate: AtomicU64,
    /// Connections that gave way to others before they had logged in.
    pub(crate) half_open: AtomicU64,
    /// Connections over a limit that were told so by their protocol.
    pub(crate) told_full: AtomicU64,
    /// Failed logins whose answer was held back.
    pub(crate) delayed: AtomicU64,
    /// Addresses that were banned for failed logins.
    pub(crate) bans: AtomicU64,
    /// Connections closed because their peers did not read.
    pub(crate) slow_readers: AtomicU64,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwelcome {
    /// An operator, or too many failed logins, have banned its address.
    #[error("its address is banned")]
    Banned,
    #[error("its address opens more than protection.address_connections_per_second allows")]
    TooFast,
}

/// What comes of a failed login.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Consequence {
    /// The answer is held back for so long.
    pub(crate) delay: Duration,
    /// From now on its address is banned for so long.
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

    /// Other settings.
    pub(crate) fn configure(&self, config: &Config) {
        *self.rules.write() = Arc::new(Rules::new(config));
        self.quotas.configure(&config.protection);
        self.bans.write().configure(&config.protection);
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read())
    }

    /// Whether a connection from that address may come in. If it is not `proven` that it comes from there, it does not count
    /// against the address: whoever forges it could lock the owner out.
    ///
    /// # Errors
    /// It may not, which is counted.
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

    /// A login from that address has failed.
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

    /// Whether the user, or the client of that name, is banned.
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
    /// Bans at run time. Until the process ends, or `until`.
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

    /// All bans there are.
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
