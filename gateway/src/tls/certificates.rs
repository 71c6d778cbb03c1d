//! The certificates of a listener: a default one, and further ones for clients that ask for a name (SNI).

use super::files::{Files, Trouble};
use super::names;
use crate::config::Tls;
use gatepost_core::command::AlternativeName;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;

/// The certificates of one listener.
#[derive(Debug)]
pub(super) struct Certificates {
    first: Arc<CertifiedKey>,
    /// By DNS name in lower case; `*.plant.example` matches one further level.
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    /// Reads them from the files of a section.
    ///
    /// # Errors
    /// All errors in the files.
    pub(super) fn read(tls: &Tls, provider: &CryptoProvider) -> Result<Certificates, Vec<Trouble>> {
        let mut troubles = Vec::new();
        for (key, other, is_missing) in [
            ("cert", "key", tls.cert.is_empty()),
            ("key", "cert", tls.key.is_empty()),
        ] {
            if is_missing {
                troubles.push(Trouble::new(key, format!("must be set where {other} is")));
            }
        }
        if tls.sni_certs.len() != tls.sni_keys.len() {
            let (certs, keys) = (tls.sni_certs.len(), tls.sni_keys.len());
            let what = format!("there are {keys} keys for {certs} certificates");
            troubles.push(Trouble::new("sni_keys", what));
        }
        if !troubles.is_empty() {
            return Err(troubles);
        }
        let mut read = |(key, cert): (&'static str, &str), (key_key, key_path): (&'static str, &str)| {
            let certified = certified(&Files::new(key, cert), &Files::new(key_key, key_path), provider);
            certified.map_err(|trouble| troubles.push(trouble)).ok()
        };
        let first = read(("cert", &tls.cert), ("key", &tls.key));
        let mut by_name = HashMap::new();
        // If several of them contain a name, the first counts. The listener's own certificate takes precedence over
        // all: see below.
        for (cert, key) in tls.sni_certs.iter().zip(&tls.sni_keys) {
            if let Some(certified) = read(("sni_certs", cert), ("sni_keys", key)) {
                for name in dns_names(&certified) {
                    by_name.entry(name).or_insert_with(|| Arc::clone(&certified));
                }
            }
        }
        match first {
            Some(first) if troubles.is_empty() => {
                for name in dns_names(&first) {
                    by_name.insert(name, Arc::clone(&first));
                }
                Ok(Certificates { first, by_name })
            }
            _ => Err(troubles),
        }
    }

    /// When the first of them expires, in Unix seconds.
    pub(super) fn good_until(&self) -> Option<u64> {
        let all = self.by_name.values().chain([&self.first]);
        let chains = all.flat_map(|certified| &certified.cert);
        chains.filter_map(|certificate| names::expiry(certificate)).min()
    }

    fn named(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        let (_, parent) = name.split_once('.').unwrap_or_default();
        self.by_name
            .get(&name)
            .or_else(|| self.by_name.get(&format!("*.{parent}")))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.named(name));
        Some(Arc::clone(named.unwrap_or(&self.first)))
    }
}

fn certified(cert: &Files<'_>, key: &Files<'_>, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Trouble> {
    let chain = cert.certificates()?;
    // A damaged certificate is reported here: rustls may accept it, and a client would only report "bad certificate".
    if chain.iter().any(|certificate| names::read(certificate).is_none()) {
        return Err(cert.trouble("holds a certificate that is damaged"));
    }
    let private = key.private_key()?;
    CertifiedKey::from_der(chain, private, provider)
        .map(Arc::new)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => key.trouble("is not the key of the certificate"),
            error => key.trouble(&format!("cannot be used: {error}")),
        })
}

fn dns_names(certified: &CertifiedKey) -> Vec<String> {
    let certificate = certified.cert.first().and_then(|certificate| names::read(certificate));
    let names = certificate
        .map(|certificate| certificate.alternative_names)
        .unwrap_or_default();
    names
        .iter()
        .filter_map(|name| match name {
            AlternativeName::Dns(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}
