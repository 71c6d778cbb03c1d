//! SCRAM-SHA-256 (RFC 5802, RFC 7677): a client proves that it knows a password without sending it, and the gateway
//! proves that it has the verifier.
//!
//! ```text
//!   client  n,,n=ann,r=<nonce>                      first: [`ClientFirst`]
//!   server  r=<nonce><ours>,s=<salt>,i=<iterations>        [`Exchange::begin`]
//!   client  c=biws,r=<both nonces>,p=<proof>        last:  [`Exchange::finish`]
//!   server  v=<signature>
//! ```
//!
//! - The gateway keeps a [`Verifier`]: salt, iterations, StoredKey, ServerKey. An attacker who steals it can test passwords
//!   against it, but cannot log in with it.
//! - *Channel binding* is not offered: the header is `n` or `y`. `p` is refused.
//! - *Texts.* RFC 5802 prepares names and passwords with SASLprep, which leaves printable ASCII unchanged. We compare them as
//!   the UTF-8 that was sent. A password with other characters works if it is in normal form (NFKC) already, as typed text
//!   usually is.
//! - *Unknown users* get a challenge too, with a salt that is always the same for a name ([`Verifier::decoy`]). They
//!   fail at the proof, like a wrong password.

use super::password::fill_random;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatepost_core::properties::Name;
use ring::{digest, hmac, pbkdf2};
use std::num::NonZeroU32;
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// The name of the mechanism.
pub(crate) const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The minimum of RFC 7677 4.
pub(crate) const ITERATIONS_MIN: u32 = 4096;
pub(crate) const ITERATIONS_MAX: u32 = 10_000_000;

const KEY_BYTES: usize = digest::SHA256_OUTPUT_LEN;
const SALT_BYTES: usize = 16;
const SALT_BYTES_MAX: usize = 128;
const NONCE_BYTES: usize = 18;
/// Maximum bytes of a client's message, and of its nonce.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
const NONCE_BYTES_MAX: usize = 512;

type Key = [u8; KEY_BYTES];

/// The form of a password that the log keeps for this mechanism.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verifier {
    iterations: NonZeroU32,
    salt: Box<[u8]>,
    stored_key: Key,
    server_key: Key,
}

impl Verifier {
    /// Makes the verifier of a password, which takes milliseconds.
    pub(crate) fn make(password: &[u8], iterations: NonZeroU32) -> Verifier {
        let mut salt = [0; SALT_BYTES];
        fill_random(&mut salt);
        Verifier::with_salt(password, &salt, iterations)
    }

    fn with_salt(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Verifier {
        let mut salted = [0; KEY_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, &mut salted);
        Verifier {
            iterations,
            salt: salt.into(),
            stored_key: sha256(&sign(&salted, b"Client Key")),
            server_key: sign(&salted, b"Server Key"),
        }
    }

    /// A verifier for an unknown user, which no password matches. It is always the same for a name; otherwise asking
    /// twice would reveal that the user does not exist. `secret` belongs to the gateway and must be kept over a
    /// restart.
    pub(crate) fn decoy(secret: &[u8], user: &str, iterations: NonZeroU32) -> Verifier {
        let of = |what: &str| sign(secret, [what.as_bytes(), user.as_bytes()].concat().as_slice());
        let salt = of("scram salt ");
        Verifier {
            iterations,
            salt: salt[..SALT_BYTES].into(),
            stored_key: of("scram stored key "),
            server_key: of("scram server key "),
        }
    }

    /// Reads what [`Verifier::text`] wrote.
    pub(crate) fn parse(text: &str) -> Option<Verifier> {
        let (cost, keys) = text.strip_prefix(SCRAM_SHA_256)?.strip_prefix('$')?.split_once('$')?;
        let (iterations, salt) = cost.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text| STANDARD.decode(text).ok()?.try_into().ok();
        let iterations: NonZeroU32 = iterations.parse().ok()?;
        Some(Verifier {
            iterations: Some(iterations).filter(|i| (ITERATIONS_MIN..=ITERATIONS_MAX).contains(&i.get()))?,
            salt: STANDARD
                .decode(salt)
                .ok()
                .filter(|salt| (1..=SALT_BYTES_MAX).contains(&salt.len()))?
                .into(),
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// The form for the log: PostgreSQL's, which begins with the mechanism's name.
    pub(crate) fn text(&self) -> String {
        let b64 = |bytes: &[u8]| STANDARD.encode(bytes);
        let (salt, stored_key, server_key) = (b64(&self.salt), b64(&self.stored_key), b64(&self.server_key));
        format!("{SCRAM_SHA_256}${}:{salt}${stored_key}:{server_key}", self.iterations)
    }
}

/// A client's first message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFirst<'a> {
    pub(crate) user: Name,
    /// The GS2 header: channel binding and authorization identity. The client repeats it in its last message.
    pub(super) header: &'a str,
    /// The message without the header; part of what is signed.
    pub(super) bare: &'a str,
    pub(super) nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    /// Parses the message.
    ///
    /// # Errors
    /// What is wrong with it, for the log.
    pub(crate) fn parse(data: &'a [u8]) -> Result<ClientFirst<'a>, &'static str> {
        let text = message(data)?;
        let (binding, rest) = text.split_once(',').ok_or("no header")?;
        match binding {
            // `y`: the client supports channel binding and believes that we do not, which is right.
            "n" | "y" => {}
            _ if binding.starts_with("p=") => return Err("it asks for channel binding"),
            _ => return Err("no header"),
        }
        let (on_behalf_of, bare) = rest.split_once(',').ok_or("no header")?;
        let header = text.strip_suffix(bare).ok_or("no header")?;
        let mut attributes = bare.split(',');
        // Any other attribute here is a mandatory extension (RFC 5802 5.1, `m`), which must be refused.
        let user = attributes
            .next()
            .and_then(|first| first.strip_prefix("n="))
            .ok_or("no name")?;
        let user = name(user).ok_or("no name")?;
        match on_behalf_of.strip_prefix("a=").map(name) {
            None if on_behalf_of.is_empty() => {}
            Some(Some(other)) if other == user => {}
            _ => return Err("it acts on behalf of somebody else"),
        }
        let nonce = attributes.next().and_then(|second| second.strip_prefix("r="));
        let nonce = nonce.filter(|nonce| is_nonce(nonce)).ok_or("no nonce")?;
        Ok(ClientFirst {
            user: user.as_str().into(),
            header,
            bare,
            nonce,
        })
    }
}

/// A login between our challenge and the client's proof.
pub(crate) struct Exchange {
    user: Name,
    /// Whether the user exists and has a verifier; otherwise `verifier` is a decoy.
    is_known: bool,
    verifier: Arc<Verifier>,
    header: String,
    /// The messages so far, in the form that is signed.
    said: String,
    /// The client's nonce followed by ours.
    nonce: String,
}

impl Exchange {
    /// Begins a login. Also returns the challenge for the client.
    pub(crate) fn begin(first: &ClientFirst<'_>, verifier: Arc<Verifier>, is_known: bool) -> (Box<Exchange>, String) {
        let mut ours = [0; NONCE_BYTES];
        fill_random(&mut ours);
        Exchange::with_nonce(first, verifier, is_known, &STANDARD.encode(ours))
    }

    pub(super) fn with_nonce(
        first: &ClientFirst<'_>,
        verifier: Arc<Verifier>,
        is_known: bool,
        ours: &str,
    ) -> (Box<Exchange>, String) {
        let nonce = format!("{}{ours}", first.nonce);
        let (salt, iterations) = (STANDARD.encode(&verifier.salt), verifier.iterations);
        let question = format!("r={nonce},s={salt},i={iterations}");
        let exchange = Exchange {
            user: first.user.clone(),
            is_known,
            verifier,
            header: first.header.to_owned(),
            said: format!("{},{question}", first.bare),
            nonce,
        };
        (Box::new(exchange), question)
    }

    /// The name that the client gave.
    pub(crate) fn user(&self) -> &Name {
        &self.user
    }

    /// Whether this login checks against that verifier.
    pub(crate) fn is_with(&self, verifier: &Arc<Verifier>) -> bool {
        Arc::ptr_eq(&self.verifier, verifier)
    }

    /// Checks the client's proof. Returns the server's.
    ///
    /// # Errors
    /// Why the proof is refused, for the log.
    pub(crate) fn finish(&self, data: &[u8]) -> Result<String, &'static str> {
        let text = message(data)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or("no proof")?;
        let mut attributes = without_proof.split(',');
        let binding = attributes
            .next()
            .and_then(|first| first.strip_prefix("c="))
            .ok_or("no header")?;
        if binding != STANDARD.encode(&self.header) {
            return Err("the header is not what it was");
        }
        let nonce = attributes.next().and_then(|second| second.strip_prefix("r="));
        if nonce != Some(&self.nonce) {
            return Err("the nonce is not what it was");
        }
        let proof: Key = STANDARD
            .decode(proof)
            .ok()
            .and_then(|proof| proof.try_into().ok())
            .ok_or("no proof")?;
        let said = format!("{},{without_proof}", self.said);
        let signature = sign(&self.verifier.stored_key, said.as_bytes());
        let mut client_key = proof;
        for (byte, signed) in client_key.iter_mut().zip(signature) {
            *byte ^= signed;
        }
        let is_right: bool = sha256(&client_key).ct_eq(&self.verifier.stored_key).into();
        if !(is_right && self.is_known) {
            return Err("the proof is wrong");
        }
        let signature = sign(&self.verifier.server_key, said.as_bytes());
        Ok(format!("v={}", STANDARD.encode(signature)))
    }
}

fn message(data: &[u8]) -> Result<&str, &'static str> {
    if data.len() > MESSAGE_BYTES_MAX {
        return Err("too long");
    }
    std::str::from_utf8(data).map_err(|_| "not text")
}

/// Unescapes a name, in which `,` is written `=2C` and `=` is written `=3D`.
fn name(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        name.push(match code {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        name.push_str(rest);
    }
    let is_one = !name.is_empty() && name.len() <= super::NAME_MAX && !name.contains(char::is_control);
    is_one.then_some(name)
}

/// Whether the text is printable ASCII without a comma.
fn is_nonce(text: &str) -> bool {
    let is_printable = |byte: u8| byte.is_ascii_graphic() && byte != b',';
    !text.is_empty() && text.len() <= NONCE_BYTES_MAX && text.bytes().all(is_printable)
}

fn sign(key: &[u8], message: &[u8]) -> Key {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    let mut signature = [0; KEY_BYTES];
    signature.copy_from_slice(tag.as_ref());
    signature
}

fn sha256(bytes: &[u8]) -> Key {
    let digest = digest::digest(&digest::SHA256, bytes);
    let mut hash = [0; KEY_BYTES];
    hash.copy_from_slice(digest.as_ref());
    hash
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The last message of a client that knows `password`, after its first message (`bare`, without the header) and our
    /// challenge.
    pub(crate) fn respond(password: &str, bare: &str, question: &str) -> String {
        let mut parts = question.split(',').map(|part| &part[2..]);
        let (nonce, salt, iterations) = (parts.next(), parts.next(), parts.next());
        let salt = STANDARD.decode(salt.expect("a salt")).expect("base64");
        let iterations = iterations.and_then(|i| i.parse().ok()).expect("a number");
        let mut salted = [0; KEY_BYTES];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            &salt,
            password.as_bytes(),
            &mut salted,
        );
        let client_key = sign(&salted, b"Client Key");
        let without_proof = format!("c=biws,r={}", nonce.expect("a nonce"));
        let signature = sign(
            &sha256(&client_key),
            format!("{bare},{question},{without_proof}").as_bytes(),
        );
        let proof: Vec<u8> = client_key
            .iter()
            .zip(signature)
            .map(|(key, signed)| key ^ signed)
            .collect();
        format!("{without_proof},p={}", STANDARD.encode(proof))
    }

    fn iterations() -> NonZeroU32 {
        NonZeroU32::new(4096).expect("not 0")
    }

    const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const OURS: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const QUESTION: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const LAST: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    /// As RFC 7677 3 has it.
    fn exchange(first: &[u8], is_known: bool) -> (Box<Exchange>, String) {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let verifier = Verifier::with_salt(b"pencil", &salt, iterations());
        let first = ClientFirst::parse(first).expect("good");
        Exchange::with_nonce(&first, Arc::new(verifier), is_known, OURS)
    }

    #[test]
    fn the_example_of_rfc_7677() {
        let (exchange, question) = exchange(FIRST, true);
        assert_eq!((&**exchange.user(), question.as_str()), ("user", QUESTION));
        let proof = exchange.finish(LAST.as_bytes());
        assert_eq!(proof.as_deref(), Ok("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
    }

    #[test]
    fn what_a_client_says_last_has_to_fit_what_was_said_before() {
        let (known, _) = exchange(FIRST, true);
        let changed = |from: &str, to: &str| LAST.replace(from, to);
        for (last, why) in [
            (String::new(), "no proof"),
            ("p=".to_owned(), "no proof"),
            (changed("dHzb", "dHzc"), "the proof is wrong"),
            (changed("p=dHzb", "p="), "no proof"),
            (changed("p=dHzb", "p=dHzb,"), "no proof"),
            (changed("biws", "eSws"), "the header is not what it was"),
            (changed("c=biws,", ""), "no header"),
            (changed("$k0", ""), "the nonce is not what it was"),
            (changed("$k0", "$k00"), "the nonce is not what it was"),
            (changed("$k0,", "$k0,x=y,"), "the proof is wrong"),
            (format!("{LAST},x=y"), "no proof"),
            ("x".repeat(5000), "too long"),
        ] {
            assert_eq!(known.finish(last.as_bytes()), Err(why), "{last}");
        }
        assert_eq!(known.finish(b"\xff"), Err("not text"));
        // Another header than the one that was signed.
        let (with_binding, _) = exchange(b"y,,n=user,r=rOprNGfwEbeRWgbNEkqO", true);
        assert!(with_binding.finish(LAST.as_bytes()).is_err());
        // An unknown user cannot log in, whatever the proof.
        let (stranger, _) = exchange(FIRST, false);
        assert_eq!(stranger.finish(LAST.as_bytes()), Err("the proof is wrong"));
    }

    #[test]
    fn what_a_client_says_first_is_read() {
        let user = |first: &str| ClientFirst::parse(first.as_bytes()).map(|first| first.user.to_string());
        for (first, expected) in [
            ("n,,n=ann,r=x", "ann"),
            ("y,,n=ann,r=x,ext=y", "ann"),
            ("n,a=ann,n=ann,r=x", "ann"),
            ("n,,n=a=2Cb=3Dc,r=x", "a,b=c"),
            ("n,a=a=2Cb,n=a=2Cb,r=x", "a,b"),
            ("n,,n=käthe,r=x", "käthe"),
        ] {
            assert_eq!(user(first).as_deref(), Ok(expected), "{first}");
        }
        for (first, why) in [
            ("", "no header"),
            ("n", "no header"),
            ("n,", "no header"),
            ("x,,n=ann,r=x", "no header"),
            ("p=tls-unique,,n=ann,r=x", "it asks for channel binding"),
            ("n,a=bob,n=ann,r=x", "it acts on behalf of somebody else"),
            ("n,b=ann,n=ann,r=x", "it acts on behalf of somebody else"),
            ("n,,", "no name"),
            ("n,,n=,r=x", "no name"),
            ("n,,m=ext,n=ann,r=x", "no name"),
            ("n,,n=a=2Db,r=x", "no name"),
            ("n,,n=a=,r=x", "no name"),
            ("n,,n=a\u{1},r=x", "no name"),
            ("n,,n=ann", "no nonce"),
            ("n,,n=ann,r=", "no nonce"),
            ("n,,n=ann,r=a b", "no nonce"),
            ("n,,n=ann,x=y,r=x", "no nonce"),
        ] {
            assert_eq!(user(first), Err(why), "{first}");
        }
        assert!(user(&format!("n,,n={},r=x", "a".repeat(256))).is_err());
        assert!(user(&format!("n,,n=a,r={}", "x".repeat(513))).is_err());
    }

    #[test]
    fn a_verifier_comes_back_from_the_log() {
        let made = Verifier::make(b"pencil", iterations());
        let text = made.text();
        assert!(text.starts_with("SCRAM-SHA-256$4096:"), "{text}");
        assert_eq!(Verifier::parse(&text), Some(made.clone()));
        assert_ne!(made, Verifier::make(b"pencil", iterations()), "salted");
        for wrong in [
            text.replace("SCRAM-SHA-256", "SCRAM-SHA-1"),
            text.replace("$4096:", "$4095:"),
            text.replace("$4096:", "$99999999:"),
            text[..text.len() - 4].to_owned(),
            format!("{text}AAAA"),
            String::new(),
        ] {
            assert_eq!(Verifier::parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_stranger_is_always_asked_the_same() {
        let of = |secret: &[u8], user| Verifier::decoy(secret, user, iterations());
        assert_eq!(of(b"secret", "ann"), of(b"secret", "ann"));
        assert_ne!(of(b"secret", "ann").salt, of(b"secret", "bob").salt);
        assert_ne!(of(b"secret", "ann").salt, of(b"another", "ann").salt);
        let (salt, made) = (of(b"secret", "ann").salt, Verifier::make(b"x", iterations()).salt);
        assert_eq!(salt.len(), made.len(), "as long as a user's");
    }

    #[test]
    fn no_message_makes_it_panic() {
        use crate::directory::fuzz::fuzz_scram as fuzz;
        for first in ["n,,n=user,r=x", "y,a=u,n=u,r=x,e=f", "n,,n=a=2Cb,r=x"] {
            for last in [LAST, "c=biws,r=xnonce,p=AAAA", "", "\u{ff}"] {
                let whole = format!("{first}\n{last}");
                for at in 0..whole.len() {
                    let mut bytes = whole.clone().into_bytes();
                    fuzz(&bytes[..at]);
                    for change in [b',', b'=', 0xFF, b'\n'] {
                        bytes[at] = change;
                        fuzz(&bytes);
                    }
                }
            }
        }
    }
}
