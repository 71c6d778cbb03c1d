//! Certificates for one test, and a daemon that uses them.

use super::daemon::free_port;
use super::raw::tcp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A CA, and a directory for the certificates that it signs.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: tempfile::TempDir,
    pub(crate) amqps: u16,
    pub(crate) mqtts: u16,
    pub(crate) stomps: u16,
}

impl Authority {
    /// With `ca.pem`, `server.pem` and `server.key` for `localhost` and 127.0.0.1.
    pub(crate) fn new() -> Authority {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.distinguished_name.push(DnType::CommonName, "a test's CA");
        let issuer = CertifiedIssuer::self_signed(ca, KeyPair::generate().expect("a key")).expect("a CA");
        let authority = Authority {
            issuer,
            directory: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory"),
            amqps: free_port(),
            mqtts: free_port(),
            stomps: free_port(),
        };
        fs::write(authority.path("ca.pem"), authority.issuer.pem()).expect("written");
        authority.sign("server", &["localhost", "127.0.0.1"], 1);
        authority
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes `NAME.pem` and `NAME.key`: a certificate for `name` as its common name, with these alternative names. One
    /// that begins with `urn:` is a URI, one with an `@` an e-mail address.
    pub(crate) fn sign(&self, name: &str, alternative: &[&str], serial: u64) {
        self.sign_for(name, alternative, serial, None);
    }

    /// The same, valid for a limited time.
    pub(crate) fn sign_for(&self, name: &str, alternative: &[&str], serial: u64, lifetime: Option<Duration>) {
        let (uris, others): (Vec<&str>, Vec<&str>) = alternative.iter().partition(|name| name.contains([':', '@']));
        let names: Vec<String> = others.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(names).expect("names");
        for name in uris {
            let text = name.to_owned().try_into().expect("ASCII");
            let san = if name.contains('@') {
                SanType::Rfc822Name(text)
            } else {
                SanType::URI(text)
            };
            params.subject_alt_names.push(san);
        }
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from(serial));
        if let Some(lifetime) = lifetime {
            params.not_after = (SystemTime::now() + lifetime).into();
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("written");
        let file = self.path(&format!("{name}.key"));
        fs::write(&file, key.serialize_pem()).expect("written");
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("a private file");
    }

    /// Writes `crl.pem`, which revokes these certificates.
    pub(crate) fn revoke(&self, serials: &[u64]) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2050, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("signed");
        fs::write(self.path("crl.pem"), list.pem().expect("PEM")).expect("written");
    }

    /// Tables of configuration: listeners with TLS on the three ports, with `more` lines in their `tls` sections.
    pub(crate) fn settings(&self, more: &str) -> String {
        let (cert, key) = (self.path("server.pem"), self.path("server.key"));
        [("amqp", self.amqps), ("mqtt", self.mqtts), ("stomp", self.stomps)]
            .map(|(name, port)| {
                format!(
                    "[listeners.{name}s]\nprotocol = \"{name}\"\ntls_bind = [\"127.0.0.1:{port}\"]\n\
                     [listeners.{name}s.tls]\ncert = {cert:?}\nkey = {key:?}\n{more}\n"
                )
            })
            .concat()
    }

    /// A listener for a protocol over WebSocket and TLS, with `rules` of its own and `more` lines in its `tls` section.
    pub(crate) fn websocket(&self, protocol: &str, port: u16, rules: &str, more: &str) -> String {
        let (cert, key) = (self.path("server.pem"), self.path("server.key"));
        format!(
            "[listeners.wss_{protocol}]\nprotocol = \"{protocol}\"\nwebsocket = true\n{rules}\n\
             tls_bind = [\"127.0.0.1:{port}\"]\n[listeners.wss_{protocol}.tls]\ncert = {cert:?}\nkey = {key:?}\n{more}\n"
        )
    }

    /// A client's configuration that trusts the CA and shows `identity`'s certificate, if any.
    pub(crate) fn client(
        &self,
        identity: Option<&str>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a CA");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        match identity {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).expect("a certificate");
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).expect("a key");
                builder
                    .with_client_auth_cert(vec![chain], key)
                    .expect("a certificate and its key")
            }
        }
    }
}

/// A connection over TLS, whose handshake is done with its first read or write.
pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

pub(crate) fn connect(config: &Arc<ClientConfig>, name: &str, port: u16) -> TlsStream {
    let name = name.to_owned().try_into().expect("a name");
    let session = ClientConnection::new(Arc::clone(config), name).expect("a client");
    StreamOwned::new(session, tcp(port))
}

/// The same, with bytes before the handshake.
pub(crate) fn connect_behind(config: &Arc<ClientConfig>, header: &[u8], port: u16) -> TlsStream {
    let mut stream = connect(config, "localhost", port);
    stream.sock.write_all(header).expect("sent");
    stream
}
