//! The gateway's own secrets that must survive a restart: one file each in the data directory.

use ring::rand::{SecureRandom as _, SystemRandom};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Random secret bytes.
pub(crate) type Secret = [u8; 32];

/// A new secret, which is not stored.
pub(crate) fn fresh() -> Secret {
    let mut secret = [0; 32];
    // If this fails, handshakes and logins fail too, so nothing depends on this secret.
    let _ = SystemRandom::new().fill(&mut secret);
    secret
}

/// Reads the secret in `file`, or makes a new one and stores it there. `otherwise`: the consequence if it cannot be
/// stored, for the log.
pub(crate) fn open(file: &Path, otherwise: &str) -> Secret {
    if let Ok(bytes) = fs::read(file)
        && let Ok(secret) = bytes.as_slice().try_into()
    {
        return secret;
    }
    let secret = fresh();
    if let Err(error) = keep(&secret, file) {
        tracing::warn!(file = %file.display(), %error, "a secret cannot be kept: {otherwise}");
    }
    secret
}

fn keep(secret: &Secret, file: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(file)?.write_all(secret)
}
