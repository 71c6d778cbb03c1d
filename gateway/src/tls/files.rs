//! Reads PEM files. Every error names the file.

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

/// An error in a key of a TLS section.
#[derive(Debug, PartialEq)]
pub(super) struct Trouble {
    /// The key's name in the section.
    pub(super) key: &'static str,
    /// What is wrong.
    pub(super) what: String,
}

impl Trouble {
    pub(super) fn new(key: &'static str, what: String) -> Trouble {
        Trouble { key, what }
    }
}

/// A file that a key names.
pub(super) struct Files<'a> {
    key: &'static str,
    path: &'a str,
}

impl<'a> Files<'a> {
    pub(super) fn new(key: &'static str, path: &'a str) -> Files<'a> {
        Files { key, path }
    }

    pub(super) fn trouble(&self, what: &str) -> Trouble {
        Trouble::new(self.key, format!("{} {what}", self.path))
    }

    /// Certificates in the file's order; at least one.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Trouble> {
        self.all("certificate")
    }

    pub(super) fn revocation_lists(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, Trouble> {
        self.all("list of revoked certificates")
    }

    /// The first private key of the file.
    pub(super) fn private_key(&self) -> Result<PrivateKeyDer<'static>, Trouble> {
        let bytes = self.read()?;
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            pem::Error::NoItemsFound if contains(&bytes, b"BEGIN ENCRYPTED PRIVATE KEY") => {
                self.trouble("holds an encrypted private key: decrypt it with `openssl pkey`")
            }
            error => self.unreadable("private key", &error),
        })
    }

    fn all<T: PemObject>(&self, what: &str) -> Result<Vec<T>, Trouble> {
        let bytes = self.read()?;
        let items: Result<Vec<T>, _> = T::pem_slice_iter(&bytes).collect();
        match items {
            Ok(items) if items.is_empty() => Err(self.unreadable(what, &pem::Error::NoItemsFound)),
            Ok(items) => Ok(items),
            Err(error) => Err(self.unreadable(what, &error)),
        }
    }

    fn read(&self) -> Result<Vec<u8>, Trouble> {
        fs::read(self.path).map_err(|error| self.trouble(&format!("cannot be read: {error}")))
    }

    fn unreadable(&self, what: &str, error: &pem::Error) -> Trouble {
        match error {
            pem::Error::NoItemsFound => self.trouble(&format!("holds no {what} in PEM form")),
            error => self.trouble(&format!("is no good PEM file: {error}")),
        }
    }
}

/// Whether every user of this machine can read the file.
pub(super) fn is_open_to_all(path: &str) -> bool {
    fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o007 != 0)
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}
