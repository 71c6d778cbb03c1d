//! Secrets of the gateway's own that outlive the process: a file each in the data directory.

use ring::rand::{SecureRandom as _, SystemRandom};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Random bytes that nobody else knows.
pub(crate) type Secret = [u8; 32];

/// A new one, that nobody will remember.
pub(crate) fn fresh() -> Secret {
    let mut secret = [0; 32];
    // Without randomness there is no handshake and no login either.
    let _ = SystemRandom::new().fill(&mut secret);
    secret
}

/// The one in `file`, or a new one that is kept there. `otherwise`: what follows for people if it cannot be kept.
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
