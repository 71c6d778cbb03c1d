//! `gatepost cert dev`: makes a private CA, and certificates that it signs.
//!
//! If the CA's files exist, the same CA signs further certificates, so clients that trust it trust those too.

use crate::exit::Failure;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The certificates to make.
#[derive(Clone, Debug, Default)]
pub struct DevelopmentCertificates {
    /// Names and addresses of the server; empty: `localhost`, the loopback addresses and this machine's name.
    pub names: Vec<String>,
    /// A client's certificate for this user, instead of a server's.
    pub client: Option<String>,
}

/// Makes certificates in `directory`, and a CA if there is none. Returns the text for the operator.
///
/// # Errors
/// A name is not valid, or a file cannot be written or used.
pub fn make_development_certificates(directory: &Path, wanted: &DevelopmentCertificates) -> Result<String, Failure> {
    let made = |error: rcgen::Error| Failure::Internal(format!("cannot make a certificate: {error}"));
    fs::create_dir_all(directory).map_err(|error| unwritable(directory, &error))?;
    let (ca, is_new) = authority(directory)?;
    let (file, params) = match &wanted.client {
        Some(user) => (user.as_str(), client(user)?),
        None => ("server", server(&wanted.names)?),
    };
    let key = KeyPair::generate().map_err(made)?;
    let certificate = params.signed_by(&key, &ca).map_err(made)?;
    let path = |end: &str| directory.join(format!("{file}.{end}"));
    write(&path("key"), &key.serialize_pem())?;
    write(&path("pem"), &certificate.pem())?;

    let shown = |file: &str| {
        directory
            .canonicalize()
            .unwrap_or_else(|_| directory.to_owned())
            .join(file)
    };
    let (authority, server) = (shown("ca.pem"), shown("server.pem"));
    let ca_says = if is_new { "a new CA" } else { "the CA that was there" };
    let key = shown("server.key");
    Ok(match &wanted.client {
        Some(user) => format!(
            "Made {user}.pem and {user}.key in {}, signed by {ca_says}.\n\nThe gateway takes them with\n\n  [tls]\n  \
             client_auth = \"optional\"\n  client_ca = {authority:?}\n\nand logs their owner in as the user {user}.\n",
            directory.display()
        ),
        None => format!(
            "Made server.pem and server.key in {}, signed by {ca_says}.\n\nPut into the configuration\n\n  [tls]\n  \
             cert = {server:?}\n  key = {key:?}\n\nand give clients {} (never ca.key), for example\n\n  mosquitto_pub \
             --cafile ca.pem -h HOST -p 8883 -t plant/1/temp -m 21.5\n",
            directory.display(),
            authority.display()
        ),
    })
}

/// Apple's systems refuse server certificates that are valid for longer.
const CERTIFICATE_DAYS: u64 = 825;
const CA_DAYS: u64 = 3650;

/// The CA, and whether it is new.
fn authority(directory: &Path) -> Result<(Issuer<'static, KeyPair>, bool), Failure> {
    let made = |error: rcgen::Error| Failure::Internal(format!("cannot make a CA: {error}"));
    let (certificate, key_file) = (directory.join("ca.pem"), directory.join("ca.key"));
    let mut params = params("Gatepost development CA", CA_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    match fs::read_to_string(&key_file) {
        Ok(text) => {
            let key = KeyPair::from_pem(&text)
                .map_err(|error| Failure::Configuration(format!("{}: {error}", key_file.display())))?;
            if !certificate.exists() {
                write(&certificate, &params.self_signed(&key).map_err(made)?.pem())?;
            }
            Ok((Issuer::new(params, key), false))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = KeyPair::generate().map_err(made)?;
            write(&key_file, &key.serialize_pem())?;
            write(&certificate, &params.self_signed(&key).map_err(made)?.pem())?;
            Ok((Issuer::new(params, key), true))
        }
        Err(error) => Err(Failure::Configuration(format!(
            "{} cannot be read: {error}",
            key_file.display()
        ))),
    }
}

fn server(names: &[String]) -> Result<CertificateParams, Failure> {
    let mut names = names.to_vec();
    if names.is_empty() {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        names.extend(["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), host]);
        names.retain(|name| !name.is_empty());
        names.dedup();
    }
    let wrong = |error: rcgen::Error| Failure::Configuration(format!("{}: {error}", names.join(", ")));
    let mut server = params(names.first().map_or("localhost", String::as_str), CERTIFICATE_DAYS);
    server.subject_alt_names = CertificateParams::new(names.clone()).map_err(wrong)?.subject_alt_names;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(server)
}

fn client(user: &str) -> Result<CertificateParams, Failure> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    if user.is_empty() || user.starts_with('.') || !user.chars().all(is_plain) || matches!(user, "ca" | "server") {
        let what = format!(
            "{user:?} cannot be the name of a file here: letters, digits, -, _, . and @ can, \"ca\" and \"server\" are taken"
        );
        return Err(Failure::Configuration(what));
    }
    let mut client = params(user, CERTIFICATE_DAYS);
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(client)
}

fn params(name: &str, days: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let day = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = date_time_ymd(1970, 1, 1) + now;
    // Valid from yesterday, so that devices whose clock is a little late accept it.
    params.not_before = now - day(1);
    params.not_after = now + day(days);
    params
}

/// Replaces the file, readable only by its owner.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let written = || {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())
    };
    written().map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::DataUnwritable(format!("{} cannot be written: {}", path.display(), error))
}
