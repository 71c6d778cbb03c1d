//! Bans of addresses, users and client ids, set by the configuration or at run time.

use crate::config::Protection as Keys;
use crate::network::Network;
use gatepost_core::time::Time;
use std::net::IpAddr;

/// What a ban is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An address or a network.
    Address,
    /// A user's name.
    User,
    /// An MQTT client id, or the name that a client of another protocol gives.
    Client,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Address, Kind::User, Kind::Client];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Address => "address",
            Kind::User => "user",
            Kind::Client => "client",
        }
    }
}

/// Where a ban comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Configuration,
    /// Set at run time; it is lost when the process ends.
    RunTime,
    /// Too many failed logins.
    Failures,
}

/// One ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ban {
    pub(crate) kind: Kind,
    pub(crate) value: String,
    /// When it ends; `None`: it does not end by itself.
    pub(crate) until: Option<Time>,
    pub(crate) origin: Origin,
}

impl Ban {
    fn is_over(&self, now: Time) -> bool {
        self.until.is_some_and(|until| now >= until)
    }
}

/// Maximum bans set at run time; further ones are ignored. Only operators set bans, so this only guards against a
/// faulty script.
const RUN_TIME_MAX: usize = 10_000;

/// All bans, except those of addresses for failed logins.
#[derive(Default)]
pub(super) struct Bans {
    all: Vec<(Ban, Option<Network>)>,
}

impl Bans {
    /// Replaces the bans of the previous configuration.
    pub(super) fn configure(&mut self, keys: &Keys) {
        self.all.retain(|(ban, _)| ban.origin != Origin::Configuration);
        let lists = [
            (Kind::Address, &keys.banned_addresses),
            (Kind::User, &keys.banned_users),
            (Kind::Client, &keys.banned_clients),
        ];
        for (kind, list) in lists {
            for value in list {
                self.push(Ban {
                    kind,
                    value: value.clone(),
                    until: None,
                    origin: Origin::Configuration,
                });
            }
        }
    }

    pub(super) fn add(&mut self, ban: Ban) {
        self.remove(ban.kind, &ban.value);
        if self.all.len() < RUN_TIME_MAX {
            self.push(ban);
        }
    }

    fn push(&mut self, ban: Ban) {
        let network = ban.value.parse().ok().filter(|_| ban.kind == Kind::Address);
        self.all.push((ban, network));
    }

    pub(super) fn remove(&mut self, kind: Kind, value: &str) -> bool {
        let before = self.all.len();
        let is_it = |ban: &Ban| ban.kind == kind && ban.value == value && ban.origin == Origin::RunTime;
        self.all.retain(|(ban, _)| !is_it(ban));
        self.all.len() < before
    }

    pub(super) fn has_address(&self, now: Time, address: IpAddr) -> bool {
        let mut networks = self
            .all
            .iter()
            .filter_map(|(ban, network)| Some((ban, network.as_ref()?)));
        networks.any(|(ban, network)| !ban.is_over(now) && network.contains(address))
    }

    pub(super) fn has_name(&self, now: Time, kind: Kind, name: &str) -> bool {
        let mut bans = self.all.iter().map(|(ban, _)| ban);
        bans.any(|ban| ban.kind == kind && ban.value == name && !ban.is_over(now))
    }

    pub(super) fn list(&mut self, now: Time) -> Vec<Ban> {
        self.all.retain(|(ban, _)| !ban.is_over(now));
        self.all.iter().map(|(ban, _)| ban.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::time::Duration;

    #[test]
    fn bans_of_the_configuration_and_of_the_moment_count_alike() {
        let mut bans = Bans::default();
        let keys = Keys {
            banned_addresses: vec!["198.51.100.0/24".to_owned()],
            banned_users: vec!["old".to_owned()],
            ..Config::default().protection
        };
        bans.configure(&keys);
        let now = Time::default();
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert!(bans.has_address(now, ip("::ffff:198.51.100.7")) && !bans.has_address(now, ip("198.51.101.7")));
        assert!(bans.has_name(now, Kind::User, "old") && !bans.has_name(now, Kind::Client, "old"));
        let until = now + Duration::from_secs(10);
        bans.add(Ban {
            kind: Kind::Client,
            value: "loud".to_owned(),
            until: Some(until),
            origin: Origin::RunTime,
        });
        assert!(bans.has_name(now, Kind::Client, "loud") && !bans.has_name(until, Kind::Client, "loud"));
        // A reload replaces only the bans of the configuration, and those can be lifted only by a reload.
        assert!(!bans.remove(Kind::User, "old"));
        bans.configure(&Config::default().protection);
        assert_eq!(bans.list(now).len(), 1);
        assert!(bans.remove(Kind::Client, "loud") && !bans.remove(Kind::Client, "loud"));
    }
}
