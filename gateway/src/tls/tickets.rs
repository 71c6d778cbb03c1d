//! Tickets with which clients resume a session instead of doing a full handshake (RFC 5077, RFC 8446 4.6.1).
//!
//! All state is in the ticket, sealed with a key of ours. The keys are kept in the data directory, so that after a
//! restart a fleet of devices reconnects without as many signatures. Each key seals new tickets for [`LIFETIME`] and
//! opens tickets for as long again. Then it is erased, and nobody can open what it sealed.

use parking_lot::RwLock;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{aead, hmac};
use rustls::server::ProducesTickets;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a key seals new tickets, and the minimum time for which a ticket is accepted.
const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);
/// How often the age of the key is checked.
const LOOK: Duration = Duration::from_secs(10 * 60);
/// File name in the data directory.
const FILE: &str = "tls-ticket-keys";

/// The keys, the newest first.
#[derive(Default)]
pub(crate) struct Tickets {
    keys: RwLock<Vec<Key>>,
    /// Where they are stored; `None`: only in memory.
    file: Option<PathBuf>,
}

#[derive(Clone)]
struct Key {
    /// Seconds since 1970.
    made: u64,
    secret: [u8; 32],
}

impl Tickets {
    /// Reads the keys from the data directory. Damaged keys do not prevent the start: new ones are made.
    pub(crate) fn open(data: &Path) -> Tickets {
        let file = data.join(FILE);
        let keys = match fs::read_to_string(&file) {
            Ok(text) => parse(&text).unwrap_or_else(|| {
                tracing::warn!(file = %file.display(), "not a file of TLS ticket keys: they are made anew");
                Vec::new()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "the TLS ticket keys cannot be read: they are made anew");
                Vec::new()
            }
        };
        let tickets = Tickets {
            keys: RwLock::new(keys),
            file: Some(file),
        };
        tickets.rotate(now());
        tickets
    }

    /// Makes a new key if the newest is too old, and erases keys that are too old to open tickets.
    fn rotate(&self, now: u64) {
        let mut keys = self.keys.read().clone();
        let age = |key: &Key| now.checked_sub(key.made);
        let before = keys.len();
        // A key from the future: the clock was set back, so its age is unknown.
        keys.retain(|key| age(key).is_some_and(|age| age < 2 * LIFETIME.as_secs()));
        let is_old = keys.first().and_then(age).is_none_or(|age| age >= LIFETIME.as_secs());
        if !is_old && keys.len() == before {
            return;
        }
        if is_old {
            let mut secret = [0; 32];
            if SystemRandom::new().fill(&mut secret).is_err() {
                return;
            }
            keys.insert(0, Key { made: now, secret });
        }
        keys.truncate(2);
        if let Some(file) = &self.file
            && let Err(error) = write(file, &keys)
        {
            tracing::warn!(file = %file.display(), %error, "the TLS ticket keys cannot be kept: after a restart, clients make whole handshakes");
        }
        *self.keys.write() = keys;
    }

    /// Renews and erases keys on time; never returns while there is TLS.
    pub(crate) async fn run(&self) {
        if self.file.is_none() {
            // No listener has TLS.
            return;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            self.rotate(now());
        }
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

const HEADER: &str = "gatepost TLS ticket keys 1";

/// One line per key: the time it was made, and the secret.
fn parse(text: &str) -> Option<Vec<Key>> {
    let mut lines = text.lines();
    if lines.next()? != HEADER {
        return None;
    }
    let key = |line: &str| {
        let (made, secret) = line.split_once(' ')?;
        let mut bytes = [0; 32];
        if secret.len() != 64 || !secret.is_ascii() {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(secret.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Key {
            made: made.parse().ok()?,
            secret: bytes,
        })
    };
    lines.map(key).collect()
}

fn write(file: &Path, keys: &[Key]) -> io::Result<()> {
    let mut text = format!("{HEADER}\n");
    for key in keys {
        let _ = write!(text, "{} ", key.made);
        for byte in key.secret {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    let new = file.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(&new, file)
}

/// The tickets of one listener.
pub(super) struct Ticketer {
    tickets: Arc<Tickets>,
    /// What the listener demands of its clients. It is mixed into the keys, so a ticket is valid only where the same is
    /// demanded.
    context: Vec<u8>,
}

const NAME_BYTES: usize = 16;
/// Maximum length of a ticket in bytes. A ticket contains the client's certificate chain; a longer one is not ours.
const TICKET_BYTES_MAX: usize = 16 << 10;

impl Ticketer {
    pub(super) fn new(tickets: Arc<Tickets>, context: &[u8]) -> Ticketer {
        Ticketer {
            tickets,
            context: context.to_vec(),
        }
    }

    /// The name by which a ticket identifies its key, and that key.
    fn derive(&self, key: &Key) -> Option<([u8; NAME_BYTES], aead::LessSafeKey)> {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &key.secret);
        let part = |label: &[u8]| hmac::sign(&secret, &[label, &self.context].concat());
        let name = part(b"name\0").as_ref().first_chunk().copied()?;
        let sealing = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, part(b"key\0").as_ref()).ok()?;
        Some((name, aead::LessSafeKey::new(sealing)))
    }
}

impl std::fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticketer").finish_non_exhaustive()
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX)
    }

    /// The key's name, a random nonce, the sealed state with its tag.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.tickets.keys.read();
        let (name, key) = self.derive(keys.first()?)?;
        let mut nonce = [0; aead::NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        key.seal_in_place_append_tag(
            aead::Nonce::assume_unique_for_key(nonce),
            aead::Aad::from(name),
            &mut sealed,
        )
        .ok()?;
        let ticket = [&name[..], &nonce, &sealed].concat();
        (ticket.len() <= TICKET_BYTES_MAX).then_some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (said, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<{ aead::NONCE_LEN }>()?;
        let keys = self.tickets.keys.read();
        let mut derived = keys.iter().filter_map(|key| self.derive(key));
        let (name, key) = derived.find(|(name, _)| name == said)?;
        let mut sealed = sealed.to_vec();
        let nonce = aead::Nonce::assume_unique_for_key(*nonce);
        let len = key.open_in_place(nonce, aead::Aad::from(name), &mut sealed).ok()?.len();
        sealed.truncate(len);
        Some(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticketer(data: &Path, context: &[u8]) -> Ticketer {
        Ticketer::new(Arc::new(Tickets::open(data)), context)
    }

    #[test]
    fn tickets_outlive_a_restart_and_stay_with_their_listener() {
        let data = tempfile::tempdir().expect("a directory");
        let ticket = ticketer(data.path(), b"mqtt").encrypt(b"state").expect("sealed");
        assert_eq!(
            ticketer(data.path(), b"mqtt").decrypt(&ticket).as_deref(),
            Some(&b"state"[..])
        );
        assert_eq!(ticketer(data.path(), b"amqp").decrypt(&ticket), None);
        let mode = {
            use std::os::unix::fs::PermissionsExt as _;
            fs::metadata(data.path().join(FILE))
                .expect("the file")
                .permissions()
                .mode()
        };
        assert_eq!(mode & 0o777, 0o600);
        for at in 0..ticket.len() {
            let mut other = ticket.clone();
            other[at] ^= 1;
            assert_eq!(ticketer(data.path(), b"mqtt").decrypt(&other), None, "byte {at}");
            assert_eq!(
                ticketer(data.path(), b"mqtt").decrypt(&ticket[..at]),
                None,
                "{at} bytes"
            );
        }
        assert_eq!(Ticketer::new(Arc::default(), b"mqtt").encrypt(b"state"), None);
    }

    #[test]
    fn a_key_is_replaced_in_time_and_erased_in_time() {
        let data = tempfile::tempdir().expect("a directory");
        let ticketer = ticketer(data.path(), b"mqtt");
        let (began, lifetime) = (now(), LIFETIME.as_secs());
        let first = ticketer.encrypt(b"first").expect("sealed");
        let rotate = |hours: u64| ticketer.tickets.rotate(began + hours * 3600);
        let names = || {
            fs::read_to_string(data.path().join(FILE))
                .expect("the file")
                .lines()
                .count()
                - 1
        };
        rotate(11);
        assert_eq!(names(), 1);
        rotate(13);
        assert_eq!(names(), 2);
        assert!(ticketer.decrypt(&first).is_some());
        let second = ticketer.encrypt(b"second").expect("sealed");
        assert_ne!(first[..NAME_BYTES], second[..NAME_BYTES]);
        rotate(2 * lifetime / 3600 + 1);
        assert_eq!((ticketer.decrypt(&first), names()), (None, 2));
        assert!(ticketer.decrypt(&second).is_some());
        // The clock was set back.
        ticketer.tickets.rotate(began - 1);
        assert_eq!((ticketer.decrypt(&second), names()), (None, 1));
    }

    #[test]
    fn a_damaged_file_is_replaced() {
        let data = tempfile::tempdir().expect("a directory");
        for text in [
            "",
            "gatepost",
            "gatepost TLS ticket keys 1\n1 äö",
            "gatepost TLS ticket keys 1\n1 00\n",
        ] {
            fs::write(data.path().join(FILE), text).expect("written");
            let ticketer = ticketer(data.path(), b"");
            let ticket = ticketer.encrypt(b"state").expect("sealed");
            assert!(ticketer.decrypt(&ticket).is_some());
        }
    }
}
