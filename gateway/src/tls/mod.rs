//! TLS of the listeners: certificates and keys from files, client certificates, tickets for resumption.
//!
//! The files are read at the start, and again by every reload. A connection keeps the settings that were in force when
//! it began; a reload never changes an open connection. The handshake itself is in `transport::tls`, and for QUIC in
//! `transport::quic`.

mod certificates;
mod files;
pub(crate) mod names;
pub(crate) mod quic;
pub(crate) mod tickets;

use crate::config::{ClientAuth, Config, Identity, Limits, Listener, MANAGEMENT, METRICS, Problem, Tls, TlsVersion};
use crate::protocols;
use certificates::Certificates;
use files::{Files, Trouble};
use gatepost_core::command::{AlternativeName, Certificate};
use gatepost_core::properties::Name;
use parking_lot::RwLock;
use ring::digest;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    NoServerSessionStorage, ResolvesServerCert, ServerConfig, ServerConnection, WebPkiClientVerifier,
};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, RootCertStore, SupportedProtocolVersion};
use std::collections::BTreeSet;
use std::sync::Arc;
use tickets::{Ticketer, Tickets};

/// The TLS side of one listener.
pub(crate) struct Port {
    /// The listener's name.
    name: String,
    settings: RwLock<Settings>,
}

/// Settings for listeners, by their names.
pub(crate) type Loaded = Vec<(String, Settings)>;

/// The settings that new connections of a listener get.
#[derive(Clone)]
pub(crate) struct Settings {
    server: Arc<ServerConfig>,
    /// The same for QUIC, if the listener has it.
    quic: Option<Arc<quinn::ServerConfig>>,
    /// When the first of its certificates expires, in Unix seconds.
    good_until: Option<u64>,
    /// `None`: clients are not asked for certificates.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// The TLS side of all listeners with TLS.
#[derive(Default)]
pub(crate) struct Ports {
    ports: Vec<Arc<Port>>,
    keys: Keys,
}

/// Keys shared by all listeners.
#[derive(Clone, Default)]
pub(crate) struct Keys {
    tickets: Arc<Tickets>,
    quic: quic::Keys,
}

impl Ports {
    /// Opens the ticket and QUIC keys in the data directory. A gateway without TLS needs none.
    ///
    /// # Errors
    /// All errors in the files and their content, with paths.
    pub(crate) fn open(config: &Config) -> Result<Ports, Vec<Problem>> {
        let mut keys = Keys::default();
        if config.listeners.iter().any(|(name, _)| has_certificate(config, name)) {
            keys.tickets = Arc::new(Tickets::open(&config.node.data_dir));
        }
        if config
            .listeners
            .iter()
            .any(|(_, listener)| !listener.quic_bind.is_empty())
        {
            keys.quic = quic::Keys::open(&config.node.data_dir);
        }
        Ports::new(config, keys)
    }

    /// # Errors
    /// As [`Ports::open`].
    pub(crate) fn new(config: &Config, keys: Keys) -> Result<Ports, Vec<Problem>> {
        warn_about_keys(config);
        let ports = load(config, &keys)?
            .into_iter()
            .map(|(name, settings)| {
                Arc::new(Port {
                    name,
                    settings: RwLock::new(settings),
                })
            })
            .collect();
        Ok(Ports { ports, keys })
    }

    /// The TLS side of a listener.
    pub(crate) fn port(&self, name: &str) -> Option<Arc<Port>> {
        self.ports.iter().find(|port| port.name == name).map(Arc::clone)
    }

    /// Reads the files again, for a [`Ports::replace`].
    ///
    /// # Errors
    /// Those of [`Ports::new`]; or an open listener no longer has a certificate.
    pub(crate) fn reload(&self, config: &Config) -> Result<Loaded, Vec<Problem>> {
        let loaded = load(config, &self.keys)?;
        warn_about_keys(config);
        let has = |port: &Port| loaded.iter().any(|(name, _)| *name == port.name);
        let orphans: Vec<_> = self.ports.iter().filter(|port| !has(port)).collect();
        if orphans.is_empty() {
            return Ok(loaded);
        }
        let problem = |port: &Arc<Port>| Problem {
            at: String::new(),
            key: format!("listeners.{}.tls.cert", port.name),
            what: "the listener is open, and needs a certificate until the next start".to_owned(),
        };
        Err(orphans.into_iter().map(problem).collect())
    }

    /// Replaces the settings for new connections.
    pub(crate) fn replace(&self, loaded: Loaded) {
        for (name, settings) in loaded {
            match self.port(&name) {
                Some(port) => *port.settings.write() = settings,
                None => tracing::warn!(
                    listener = name,
                    "there is a certificate now: the listener's TLS addresses are bound at the next start"
                ),
            }
        }
    }

    /// Listeners, and when the first of the certificates that they use for new connections expires, in Unix seconds.
    pub(crate) fn good_until(&self) -> impl Iterator<Item = (String, u64)> {
        let ports = self.ports.iter();
        ports.filter_map(|port| Some((port.name.clone(), port.settings.read().good_until?)))
    }

    /// Keys for tickets.
    pub(crate) fn tickets(&self) -> &Arc<Tickets> {
        &self.keys.tickets
    }

    /// Keys of QUIC.
    pub(crate) fn quic(&self) -> &quic::Keys {
        &self.keys.quic
    }
}

impl Port {
    /// The server side of a new connection.
    ///
    /// # Errors
    /// rustls cannot use these settings. The peer did nothing wrong.
    pub(crate) fn accept(&self) -> Result<(ServerConnection, Settings), rustls::Error> {
        let settings = self.settings.read().clone();
        ServerConnection::new(Arc::clone(&settings.server)).map(|connection| (connection, settings))
    }

    /// The settings of a new QUIC connection. `None`: the listener has no QUIC.
    pub(crate) fn accept_quic(&self) -> Option<(Arc<quinn::ServerConfig>, Settings)> {
        let settings = self.settings.read().clone();
        let quic = settings.quic.clone()?;
        Some((quic, settings))
    }

    /// The listener's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Settings {
    /// The content of the peer's certificate, once the handshake is done.
    ///
    /// # Errors
    /// The session was resumed, and its certificate has expired or was revoked since.
    pub(crate) fn proved(&self, connection: &ServerConnection) -> Result<Option<Arc<Certificate>>, rustls::Error> {
        let chain = connection.peer_certificates().unwrap_or_default();
        self.proved_by(chain, connection.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// The content of a verified chain of certificates. A ticket contains the chain of the first handshake, which may
    /// have expired since; so if the session `may_be_resumed`, the chain is verified again.
    ///
    /// # Errors
    /// The chain has expired or was revoked.
    pub(crate) fn proved_by(
        &self,
        chain: &[CertificateDer<'_>],
        may_be_resumed: bool,
    ) -> Result<Option<Arc<Certificate>>, rustls::Error> {
        let Some((first, others)) = chain.split_first() else {
            return Ok(None);
        };
        if may_be_resumed && let Some(verifier) = &self.verifier {
            verifier.verify_client_cert(first, others, UnixTime::now())?;
        }
        Ok(Some(Arc::new(names::read(first).unwrap_or(Certificate {
            common_name: None,
            alternative_names: Box::default(),
        }))))
    }
}

/// The user that a certificate names.
pub(crate) fn identity(certificate: &Certificate, identity: Identity) -> Option<&Name> {
    let mut others = certificate.alternative_names.iter();
    match identity {
        Identity::None => None,
        Identity::CommonName => certificate.common_name.as_ref(),
        Identity::Dns => others.find_map(|name| match name {
            AlternativeName::Dns(name) => Some(name),
            _ => None,
        }),
        Identity::Uri => others.find_map(|name| match name {
            AlternativeName::Uri(name) => Some(name),
            _ => None,
        }),
        Identity::Email => others.find_map(|name| match name {
            AlternativeName::Email(name) => Some(name),
            _ => None,
        }),
    }
}

/// Whether a listener has a certificate, its own or that of `[tls]`.
pub(crate) fn has_certificate(config: &Config, listener: &str) -> bool {
    let own = config.listeners_tls.iter().find(|(name, _)| name == listener);
    own.is_some_and(|(_, own)| !Effective::new(config, listener, own).certificates.0.cert.is_empty())
}

/// All errors in the TLS files that the configuration names.
pub(crate) fn check(config: &Config) -> Vec<Problem> {
    load(config, &Keys::default()).err().unwrap_or_default()
}

/// The certificate files of listeners, with the time at which they expire, in Unix seconds. Files that cannot be read
/// are left out.
pub(crate) fn expiries(config: &Config) -> Vec<(String, u64)> {
    let sections = config.listeners_tls.iter().map(|(_, own)| own).chain([&config.tls]);
    let paths = sections.flat_map(|tls| tls.sni_certs.iter().chain([&tls.cert]));
    let paths: BTreeSet<&String> = paths.filter(|path| !path.is_empty()).collect();
    let read = |path: &&String| {
        let chain = Files::new("cert", path).certificates().ok()?;
        let first = chain
            .iter()
            .filter_map(|certificate| names::expiry(certificate))
            .min()?;
        Some(((*path).clone(), first))
    };
    paths.iter().filter_map(read).collect()
}

/// Warns about private keys that every user can read. (In a container secrets often can be, and there it is harmless.)
fn warn_about_keys(config: &Config) {
    let sections = config.listeners_tls.iter().map(|(_, own)| own).chain([&config.tls]);
    let keys: BTreeSet<&String> = sections.flat_map(|tls| tls.sni_keys.iter().chain([&tls.key])).collect();
    let keys = keys.into_iter().map(|path| (path, "this private key"));
    let passwords = [
        (&config.auth.default_password_file, "this password"),
        (&config.auth_file.passwords, "these hashes of passwords"),
    ];
    for (path, what) in keys.chain(passwords).filter(|(path, _)| files::is_open_to_all(path)) {
        tracing::warn!("{path}: every user of this machine can read {what}; chmod 600 {path}");
    }
}

/// The settings of all listeners that have a certificate and an address for it.
fn load(config: &Config, keys: &Keys) -> Result<Loaded, Vec<Problem>> {
    let (mut loaded, mut problems) = (Vec::new(), Vec::new());
    for ((name, listener), (_, own)) in config.listeners.iter().zip(&config.listeners_tls) {
        if protocols::find(&listener.protocol).is_none()
            && listener.protocol != METRICS
            && listener.protocol != MANAGEMENT
        {
            continue;
        }
        let tls = Effective::new(config, name, own);
        match settings(&tls, listener, &config.limits, keys) {
            Ok(Some(settings)) if !(listener.tls_bind.is_empty() && listener.quic_bind.is_empty()) => {
                loaded.push((name.clone(), settings));
            }
            Ok(_) => {}
            Err(troubles) => problems.extend(troubles.into_iter().map(|trouble| Problem {
                at: String::new(),
                key: format!("{}.{}", tls.section(trouble.key), trouble.key),
                what: trouble.what,
            })),
        }
    }
    // Errors in `[tls]` would be repeated for each listener.
    problems.sort_by(|a: &Problem, b| (&a.key, &a.what).cmp(&(&b.key, &b.what)));
    problems.dedup();
    if problems.is_empty() { Ok(loaded) } else { Err(problems) }
}

/// The TLS keys of one listener: its own, and those of `[tls]` where it has none.
struct Effective<'a> {
    listener: &'a str,
    /// The section that `cert`, `key`, `sni_certs` and `sni_keys` are taken from.
    certificates: (&'a Tls, bool),
    /// The section that `client_ca` and `client_crl` are taken from.
    authorities: (&'a Tls, bool),
    client_auth: (ClientAuth, bool),
    min_version: TlsVersion,
}

impl<'a> Effective<'a> {
    fn new(config: &'a Config, listener: &'a str, own: &'a Tls) -> Effective<'a> {
        let (own_certificates, own_authorities) = (!own.cert.is_empty(), !own.client_ca.is_empty());
        let pick = |is_own: bool| if is_own { (own, true) } else { (&config.tls, false) };
        Effective {
            listener,
            certificates: pick(own_certificates),
            authorities: pick(own_authorities),
            client_auth: match own.client_auth {
                ClientAuth::Inherited => (config.tls.client_auth, false),
                set => (set, true),
            },
            min_version: match own.min_version {
                TlsVersion::Inherited => config.tls.min_version,
                set => set,
            },
        }
    }

    /// The section that a key is taken from.
    fn section(&self, key: &str) -> String {
        let own = match key {
            "client_ca" | "client_crl" => self.authorities.1,
            "client_auth" => self.client_auth.1,
            _ => self.certificates.1,
        };
        if own {
            format!("listeners.{}.tls", self.listener)
        } else {
            "tls".to_owned()
        }
    }
}

/// `None`: there is no certificate.
fn settings(
    tls: &Effective<'_>,
    listener: &Listener,
    limits: &Limits,
    keys: &Keys,
) -> Result<Option<Settings>, Vec<Trouble>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (certificates, authorities) = (tls.certificates.0, tls.authorities.0);
    if certificates.cert.is_empty() && certificates.key.is_empty() && certificates.sni_certs.is_empty() {
        return Ok(None);
    }
    let certificates = Certificates::read(certificates, &provider);
    let client = client_verifier(tls.client_auth.0, authorities, &provider);
    let (certificates, client) = match (certificates, client) {
        (Ok(certificates), Ok(client)) => (certificates, client),
        (certificates, client) => {
            let mut troubles = certificates.err().unwrap_or_default();
            troubles.extend(client.err());
            return Err(troubles);
        }
    };
    let versions: &[_] = match tls.min_version {
        TlsVersion::Tls13 => &[&TLS13],
        TlsVersion::Tls12 | TlsVersion::Inherited => &[&TLS13, &TLS12],
    };
    let (verifier, fingerprint) = client.map_or((None, Vec::new()), |(verifier, f)| (Some(verifier), f));
    let good_until = certificates.good_until();
    let certificates = Arc::new(certificates);
    let config = |versions: &[&'static SupportedProtocolVersion], carrier: &[u8], has_tickets: bool| {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| vec![Trouble::new("min_version", error.to_string())])?;
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_cert_resolver(Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>);
        // A client that offers only other protocols is refused, as RFC 7301 3.2 demands. One that offers none is
        // accepted (except over QUIC, where RFC 9001 8.1 requires one).
        let is_http = listener.websocket || matches!(listener.protocol.as_str(), METRICS | MANAGEMENT);
        // A WebSocket begins with HTTP, so that is what browsers offer.
        server.alpn_protocols = vec![match is_http && carrier.is_empty() {
            true => b"http/1.1".to_vec(),
            false => listener.protocol.as_bytes().to_vec(),
        }];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 1;
        // A ticket is accepted only by its own listener, and only if that listener still demands the same of the
        // client.
        if has_tickets {
            let context = [tls.listener.as_bytes(), b"\0", carrier, &fingerprint].concat();
            server.ticketer = Arc::new(Ticketer::new(Arc::clone(&keys.tickets), &context));
        }
        Ok::<_, Vec<Trouble>>(server)
    };
    let quic = if listener.quic_bind.is_empty() {
        None
    } else {
        let server = config(&[&TLS13], b"quic\0", !listener.quic_early_data)?;
        let quic = quic::server(server, listener.quic_early_data, limits, &keys.quic);
        Some(quic.map_err(|what| vec![Trouble::new("cert", what)])?)
    };
    Ok(Some(Settings {
        server: Arc::new(config(versions, b"", true)?),
        quic,
        good_until,
        verifier,
    }))
}

/// Verifies clients' certificates, and a fingerprint of everything it demands.
type Verifier = (Arc<dyn ClientCertVerifier>, Vec<u8>);

fn client_verifier(
    client_auth: ClientAuth,
    tls: &Tls,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Verifier>, Trouble> {
    if matches!(client_auth, ClientAuth::None | ClientAuth::Inherited) {
        return Ok(None);
    }
    if tls.client_ca.is_empty() {
        let what = "clients' certificates need a CA that they are held against: set client_ca";
        return Err(Trouble::new("client_auth", what.to_owned()));
    }
    let mut roots = RootCertStore::empty();
    let mut fingerprint = digest::Context::new(&digest::SHA256);
    fingerprint.update(&[u8::from(client_auth == ClientAuth::Required)]);
    let files = Files::new("client_ca", &tls.client_ca);
    for certificate in files.certificates()? {
        fingerprint.update(&certificate);
        let added = roots.add(certificate);
        added.map_err(|error| files.trouble(&format!("holds a certificate that cannot be used: {error}")))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if !tls.client_crl.is_empty() {
        let lists = Files::new("client_crl", &tls.client_crl).revocation_lists()?;
        lists.iter().for_each(|list| fingerprint.update(list));
        builder = builder.with_crls(lists);
    }
    if client_auth == ClientAuth::Optional {
        builder = builder.allow_unauthenticated();
    }
    let verifier = builder.build().map_err(|error| {
        let (key, path) = match tls.client_crl.as_str() {
            "" => ("client_ca", &tls.client_ca),
            _ => ("client_crl", &tls.client_crl),
        };
        Trouble::new(key, format!("{path} cannot be used: {error}"))
    })?;
    Ok(Some((verifier, fingerprint.finish().as_ref().to_vec())))
}
