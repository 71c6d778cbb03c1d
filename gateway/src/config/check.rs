//! Checks of settings against each other, and of the files that settings name.

use super::schema::{MANAGEMENT, METRICS};
use super::source::Problem;
use super::{Config, HttpStyle, Listener, load};
use crate::directory::outside;
use crate::directory::people::Backend;
use crate::directory::question::About;
use crate::directory::rules;
use crate::directory::scram::SCRAM_SHA_256;
use crate::network::Network;
use crate::outbound::Url;
use crate::{outbound, protocols, tls};
use gatepost_core::keys::{Address, Kind};
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Finds settings that are valid alone but not together.
pub(super) fn together(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    listeners(config, &mut problems);
    for (key, list) in [
        ("protection.exempt", &config.protection.exempt),
        ("protection.banned_addresses", &config.protection.banned_addresses),
    ] {
        for network in list.iter().filter(|network| network.parse::<Network>().is_err()) {
            let what = format!("expected networks such as \"10.0.0.0/8\" or \"192.0.2.7\", found \"{network}\"");
            problems.push(load::problem("", key, what));
        }
    }
    let auth = &config.auth;
    if auth.default_password_file.is_empty() && !matches!(auth.default_user.as_str(), "" | "guest") {
        let user = &auth.default_user;
        let what = format!("user '{user}' needs a password: name the file that holds it");
        problems.push(load::problem("", "auth.default_password_file", what));
    }
    for name in auth
        .backends
        .iter()
        .filter(|name| Backend::ALL.iter().all(|(known, _)| known != name))
    {
        let known: Vec<_> = Backend::ALL.iter().map(|(known, _)| *known).collect();
        let what = format!("expected some of {}, found \"{name}\"", known.join(", "));
        problems.push(load::problem("", "auth.backends", what));
    }
    let file = &config.auth_file;
    if auth.backends.iter().any(|name| name == "file") && file.passwords.is_empty() && file.acl.is_empty() {
        let what = "the back end \"file\" needs it, or auth.file.acl".to_owned();
        problems.push(load::problem("", "auth.file.passwords", what));
    }
    if auth.backends.iter().any(|name| name == "jwt") && config.auth_jwt.jwks.is_empty() {
        let what = "the back end \"jwt\" needs it".to_owned();
        problems.push(load::problem("", "auth.jwt.jwks", what));
    }
    if outbound::is_url(&config.auth_jwt.jwks)
        && let Err(what) = Url::parse(&config.auth_jwt.jwks)
    {
        problems.push(load::problem("", "auth.jwt.jwks", what));
    }
    let speaks_scram = config.mqtt.auth_methods.iter().any(|method| method == SCRAM_SHA_256);
    if speaks_scram && auth.backends.iter().all(|name| name != "internal") {
        let what = format!("{SCRAM_SHA_256} is for users of the back end \"internal\", which is not asked");
        problems.push(load::problem("", "mqtt.auth_methods", what));
    }
    if auth.backends.iter().any(|name| name == "http") {
        http(config, &mut problems);
    }
    for name in config
        .auth_jwt
        .algorithms
        .iter()
        .filter(|name| !matches!(name.as_str(), "RS256" | "ES256"))
    {
        let what = format!("expected some of RS256, ES256, found \"{name}\"");
        problems.push(load::problem("", "auth.jwt.algorithms", what));
    }
    let per_thread = auth.hashing_memory.0 / auth.hashing_threads.max(1) as u64;
    if auth.argon2_memory.0 > per_thread {
        let threads = auth.hashing_threads;
        let what = format!(
            "{threads} threads need auth.argon2_memory ({}) each",
            auth.argon2_memory
        );
        problems.push(load::problem("", "auth.hashing_memory", what));
    }
    problems
}

/// Checks the back end `http`.
fn http(config: &Config, problems: &mut Vec<Problem>) {
    let http = &config.auth_http;
    for (about, url) in outside::urls_of(http) {
        let is_needed = match about {
            About::User => true,
            About::Vhost | About::Resource => http.style == HttpStyle::RabbitMq,
            About::Topic => false,
        };
        let what = match url {
            "" if is_needed => Some("the back end \"http\" needs it".to_owned()),
            "" => None,
            url => Url::parse(url).err(),
        };
        problems.extend(what.map(|what| load::problem("", &format!("auth.http.{}", about.key()), what)));
    }
}

fn listeners(config: &Config, problems: &mut Vec<Problem>) {
    let (mut taken, mut taken_udp): (Vec<(&Address, &str)>, _) = (Vec::new(), Vec::new());
    for (name, listener) in &config.listeners {
        let protocol = listener.protocol.as_str();
        if protocol != METRICS && protocol != MANAGEMENT && protocols::find(protocol).is_none() {
            let known: Vec<_> = protocols::ALL
                .iter()
                .map(|p| p.name)
                .chain([METRICS, MANAGEMENT])
                .collect();
            let what = format!("expected one of {}, found \"{protocol}\"", known.join(", "));
            problems.push(load::problem("", &format!("listeners.{name}.protocol"), what));
        }
        let has_tls = tls::has_certificate(config, name);
        let tls = listener.tls_bind.iter().filter(|_| has_tls).map(|a| ("tls_bind", a));
        let plain = listener.bind.iter().map(|a| ("bind", a));
        let quic = listener.quic_bind.iter().map(|a| ("quic_bind", a));
        for (key, address) in plain.chain(tls).chain(quic).filter(|(_, a)| a.is_exclusive()) {
            let taken = if key == "quic_bind" { &mut taken_udp } else { &mut taken };
            let clash = taken
                .iter()
                .find_map(|(other, at)| Some((overlap(address, other)?, at)));
            if let Some((why, other)) = clash {
                let what = format!("{address} is bound by listeners.{other} already{why}");
                problems.push(load::problem("", &format!("listeners.{name}.{key}"), what));
            }
            taken.push((address, name));
        }
        tls_addresses(config, name, listener, has_tls, problems);
        quic_rules(config, name, listener, has_tls, problems);
        listener_rules(name, listener, problems);
    }
}

/// Whether two addresses cannot both be bound, and the explanation where it is not plain. Sockets of `[::]` take IPv4 too
/// (`listener.rs`), whatever the system's default is.
fn overlap(address: &Address, other: &Address) -> Option<String> {
    if address == other {
        return Some(String::new());
    }
    let (Address::Ip(one), Address::Ip(two)) = (address, other) else {
        return None;
    };
    let covers = |wide: &SocketAddr, narrow: &SocketAddr| match wide.ip() {
        IpAddr::V6(ip) => ip.is_unspecified(),
        IpAddr::V4(ip) => ip.is_unspecified() && narrow.ip().to_canonical().is_ipv4(),
    };
    let wide = [(one, two), (two, one)]
        .into_iter()
        .find(|(wide, narrow)| covers(wide, narrow));
    let (wide, _) = wide.filter(|_| one.port() == two.port())?;
    let of = if wide.is_ipv6() {
        "all addresses, IPv4 too"
    } else {
        "all IPv4 addresses"
    };
    Some(format!(": {wide} means {of}"))
}

/// Checks a listener's rules for its connections against each other.
fn listener_rules(name: &str, listener: &Listener, problems: &mut Vec<Problem>) {
    let mut problem = |key: &str, what: String| {
        problems.push(load::problem("", &format!("listeners.{name}.{key}"), what));
    };
    let protocol = protocols::find(&listener.protocol).and_then(|place| protocols::ALL.get(place));
    if listener.websocket && protocol.is_none_or(|protocol| protocol.websocket.is_none()) {
        problem(
            "websocket",
            format!("{} is not spoken over WebSocket", listener.protocol),
        );
    }
    for origin in &listener.origins {
        let host = origin.split_once("://").map(|(_, host)| host);
        let is_origin = host.is_some_and(|host| !host.is_empty() && !host.contains(['/', ' ', '*']));
        if !is_origin && origin != "null" {
            let expected = "origins such as \"https://panel.example\" (no path, no pattern) or \"null\"";
            problem("origins", format!("expected {expected}, found \"{origin}\""));
        }
    }
    for network in listener.proxy_from.iter().filter(|n| n.parse::<Network>().is_err()) {
        let expected = "networks such as \"10.0.0.0/8\" or \"192.0.2.7\"";
        problem("proxy_from", format!("expected {expected}, found \"{network}\""));
    }
    let on_network = listener.bind.iter().chain(&listener.tls_bind);
    let on_network = on_network.filter(|address| matches!(address, Address::Ip(_))).count() > 0;
    if listener.proxy_protocol && protocol.is_none() {
        problem("proxy_protocol", "HTTP takes no PROXY header".to_owned());
    } else if listener.proxy_protocol && listener.proxy_from.is_empty() && on_network {
        let what = "needs the proxies' networks: whoever may send a PROXY header may claim any address";
        problem("proxy_from", what.to_owned());
    }
}

/// Checks a listener's settings for QUIC.
fn quic_rules(config: &Config, name: &str, listener: &Listener, has_tls: bool, problems: &mut Vec<Problem>) {
    if listener.quic_bind.is_empty() {
        return;
    }
    let protocol = protocols::find(&listener.protocol).and_then(|place| protocols::ALL.get(place));
    let is_unix = |address: &Address| matches!(address, Address::Unix(_));
    let what = if protocol.is_none_or(|protocol| !protocol.quic) {
        format!("{} is not spoken over QUIC", listener.protocol)
    } else if listener.quic_bind.iter().any(is_unix) {
        "QUIC is for the network: a Unix socket stands in bind".to_owned()
    } else if listener.websocket || listener.proxy_protocol {
        "WebSocket and PROXY headers are not spoken over QUIC: give it a listener of its own".to_owned()
    } else if !has_tls {
        "QUIC needs a certificate: set cert and key in [tls] or in the listener's tls section".to_owned()
    } else {
        let (ping, idle) = (config.limits.quic_ping.0, config.limits.quic_idle_timeout.0);
        if !idle.is_zero() && idle <= ping {
            let what = "has to be longer than limits.quic_ping, or 0".to_owned();
            problems.push(load::problem("", "limits.quic_idle_timeout", what));
        }
        return;
    };
    problems.push(load::problem("", &format!("listeners.{name}.quic_bind"), what));
}

/// Checks a listener's addresses for TLS.
fn tls_addresses(config: &Config, name: &str, listener: &Listener, has_tls: bool, problems: &mut Vec<Problem>) {
    let key = format!("listeners.{name}.tls_bind");
    let mut problem = |what: &str| problems.push(load::problem("", &key, what.to_owned()));
    if listener
        .tls_bind
        .iter()
        .any(|address| matches!(address, Address::Unix(_)))
    {
        problem("TLS is for the network: a Unix socket stands in bind");
    }
    // A default address is unused until there is a certificate. An address that was configured without one is a mistake.
    if !has_tls && !listener.tls_bind.is_empty() && !config.is_default(&key) {
        problem("TLS needs a certificate: set cert and key in [tls] or in the listener's tls section");
    }
}

/// Checks that files which keys name can be read, and that the directory of the log file exists. Otherwise the start would fail,
/// or worse, the first use.
pub(super) fn files(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, path) in config.files_named() {
        if let Err(error) = File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut [0])) {
            problems.push(load::problem("", name, format!("{path} cannot be read: {error}")));
        } else if name == rules::PASSWORD_FILE
            && let Err(what) = rules::password_of(path)
        {
            problems.push(load::problem("", name, what));
        }
    }
    // Unreadable files were reported above.
    if problems.is_empty() {
        problems.extend(tls::check(config));
    }
    let target = Path::new(&config.log.target);
    if config.log.target != "stderr" {
        let directory = target
            .parent()
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        if !directory.is_dir() {
            let what = format!(
                "{} is not a directory, so the log cannot be written there",
                directory.display()
            );
            problems.push(load::problem("", "log.target", what));
        } else if target.is_dir() {
            let what = format!("{} is a directory, expected a file", target.display());
            problems.push(load::problem("", "log.target", what));
        }
    }
    problems
}

impl Config {
    /// Whether a key has its default, set or not.
    fn is_default(&self, name: &str) -> bool {
        self.values.value(name) == self.schema.defaults().value(name)
    }

    /// Keys that name a file, with that file, where one is set.
    fn files_named(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().filter_map(|(name, value)| match value {
            gatepost_core::keys::Value::Text(path)
                if !path.is_empty()
                    && !outbound::is_url(path)
                    && matches!(self.schema.kind(name), Some(Kind::File)) =>
            {
                Some((name, path.as_str()))
            }
            _ => None,
        })
    }
}
