//! Hashes of passwords: made as argon2id, and verified in the forms that RabbitMQ and Mosquitto export.
//!
//! | form | what it is | where it comes from |
//! |---|---|---|
//! | `argon2id` | PHC text, `$argon2id$v=19$m=…,t=…,p=…$salt$hash` | made here; Mosquitto 2.1 |
//! | `rabbit_password_hashing_sha256`, `…_sha512`, `…_md5` | salt of 4 bytes, then the digest of salt and password | RabbitMQ |
//! | `mosquitto_sha512` | `$6$salt$hash`: SHA-512 of password and salt | Mosquitto before 2.0 |
//! | `mosquitto_pbkdf2_sha512` | `$7$iterations$salt$hash` | Mosquitto 2.0 |
//!
//! MD5 is verified so that definitions can be imported; the hash is replaced at the user's first login.
//!
//! # Why these parameters
//!
//! A login costs [`PASSES`] passes over [`MEMORY_KIB`]. After a power cut a whole plant reconnects at once: 5,000 devices
//! must log in within a minute on two cores, while those already connected send traffic, and a Raspberry Pi takes
//! four times as long as a PC. So a hash is cheaper than OWASP advises for passwords of people on a web site (at least 7 MiB
//! and 5 passes). It is still ten thousand times as expensive for an attacker with a stolen log as RabbitMQ's salted
//! SHA-256. Give devices long random passwords: those cannot be guessed whatever the hash. `auth.argon2_memory` and
//! `auth.argon2_passes` make a hash more expensive; existing hashes keep their own parameters.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use gatepost_core::catalog::directory::UserRecord;
use gatepost_core::properties::Name;
use md5::Md5;
use ring::pbkdf2;
use ring::rand::{SecureRandom as _, SystemRandom};
use sha2::{Digest, Sha256, Sha512};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use subtle::ConstantTimeEq as _;

/// Memory of a hash made here, in KiB, unless configured.
pub(crate) const MEMORY_KIB: u32 = 4 << 10;
/// Passes over it, unless configured.
pub(crate) const PASSES: u32 = 3;

/// Upper limits for the parameters of an imported hash.
const MEMORY_KIB_MAX: u32 = 64 << 10;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;
const ITERATIONS_MAX: u32 = 10_000_000;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;
/// Salts and digests of imported hashes are no longer than this.
const PART_BYTES_MAX: usize = 128;

/// Maximum bytes of a password. Limits the memory of passwords that wait to be hashed.
pub(crate) const PASSWORD_BYTES_MAX: usize = 1024;

const RABBIT_SALT_BYTES: usize = 4;
const ARGON2ID: &str = "argon2id";
const RABBIT_MD5: &str = "rabbit_password_hashing_md5";
const RABBIT_SHA256: &str = "rabbit_password_hashing_sha256";
const RABBIT_SHA512: &str = "rabbit_password_hashing_sha512";
const MOSQUITTO_SHA512: &str = "mosquitto_sha512";
const MOSQUITTO_PBKDF2: &str = "mosquitto_pbkdf2_sha512";

/// Parameters of a new hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    /// KiB of memory.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
}

impl Default for Cost {
    fn default() -> Cost {
        Cost {
            memory_kib: MEMORY_KIB,
            passes: PASSES,
        }
    }
}

/// The hash of a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PasswordHash {
    /// No password is right.
    Nothing,
    Argon2id {
        memory_kib: u32,
        passes: u32,
        lanes: u32,
        salt: Box<[u8]>,
        hash: Box<[u8]>,
    },
    RabbitMd5 {
        salted: Box<[u8]>,
    },
    RabbitSha256 {
        salted: Box<[u8]>,
    },
    RabbitSha512 {
        salted: Box<[u8]>,
    },
    MosquittoSha512 {
        salt: Box<[u8]>,
        hash: Box<[u8]>,
    },
    MosquittoPbkdf2 {
        iterations: NonZeroU32,
        salt: Box<[u8]>,
        hash: Box<[u8]>,
    },
}

/// Memory for argon2, reused from one password to the next.
#[derive(Default)]
pub(crate) struct Workspace {
    blocks: Vec<Block>,
    /// Bytes that [`Workspace::count`] has added.
    counted: u64,
}

/// Blocks that a workspace reserves; only the blocks it uses are ever touched. glibc maps and unmaps an allocation over 32 MiB
/// on its own. After it has unmapped a smaller one, it raises its threshold: later allocations of that size come from the heap,
/// and each thread's heap keeps twice as much free memory. So a single login used to cost 4 MiB that were never given back.
const BLOCKS_RESERVED: usize = (33 << 20) / size_of::<Block>();

impl Workspace {
    /// Adds to a sum the memory that has come into use since the last time. It never shrinks.
    pub(super) fn count(&mut self, sum: &AtomicU64) {
        let bytes = size_of_val(self.blocks.as_slice()) as u64;
        sum.fetch_add(bytes - self.counted, Ordering::Relaxed);
        self.counted = bytes;
    }

    /// Takes it from the sum again.
    pub(super) fn uncount(self, sum: &AtomicU64) {
        sum.fetch_sub(self.counted, Ordering::Relaxed);
    }

    fn blocks(&mut self, params: &Params) -> &mut [Block] {
        let count = params.block_count();
        if self.blocks.len() < count {
            let capacity = count.max(BLOCKS_RESERVED);
            self.blocks.reserve_exact(capacity - self.blocks.len());
            self.blocks.resize_with(count, Block::new);
        }
        &mut self.blocks[..count]
    }
}

impl PasswordHash {
    /// Hashes a password, which takes milliseconds.
    pub(crate) fn make(password: &[u8], cost: Cost, workspace: &mut Workspace) -> PasswordHash {
        let mut salt = [0; SALT_BYTES];
        fill_random(&mut salt);
        PasswordHash::with_salt(password, &salt, cost, workspace)
    }

    /// Hashes a password as RabbitMQ does by default, for definitions that RabbitMQ is to read.
    pub(crate) fn make_rabbit(password: &[u8]) -> PasswordHash {
        let mut salted = vec![0; RABBIT_SALT_BYTES];
        fill_random(&mut salted);
        let digest = Sha256::new().chain_update(&salted).chain_update(password).finalize();
        salted.extend_from_slice(&digest);
        PasswordHash::RabbitSha256 { salted: salted.into() }
    }

    /// A hash for an unknown user's password, so that the duration of a login does not reveal whether the user exists.
    pub(crate) fn decoy(cost: Cost) -> PasswordHash {
        PasswordHash::Argon2id {
            memory_kib: cost.memory_kib,
            passes: cost.passes,
            lanes: 1,
            salt: [0; SALT_BYTES].into(),
            // No password hashes to zeros.
            hash: [0; HASH_BYTES].into(),
        }
    }

    fn with_salt(password: &[u8], salt: &[u8], cost: Cost, workspace: &mut Workspace) -> PasswordHash {
        let mut hash = [0; HASH_BYTES];
        let Cost { memory_kib, passes } = cost;
        let made = argon2id(password, salt, (memory_kib, passes, 1), &mut hash, workspace);
        debug_assert!(made, "the configuration's limits are argon2's");
        if !made {
            return PasswordHash::Nothing;
        }
        PasswordHash::Argon2id {
            memory_kib,
            passes,
            lanes: 1,
            salt: salt.into(),
            hash: hash.into(),
        }
    }

    /// Reads a hash that another broker exported: RabbitMQ's base64 with the name of its algorithm (empty: SHA-512 or SHA-256,
    /// told apart by the length), or one of Mosquitto's texts, which begin with `$`. The empty text means a user without a
    /// password.
    ///
    /// # Errors
    /// It is not such a hash; the text says why.
    pub(crate) fn import(algorithm: &str, text: &str) -> Result<PasswordHash, String> {
        if text.is_empty() {
            return Ok(PasswordHash::Nothing);
        }
        if text.starts_with('$') {
            return PasswordHash::from_text(text);
        }
        let salted = STANDARD.decode(text).map_err(|_| "the hash is not base64".to_owned())?;
        let algorithm = match algorithm {
            "" if salted.len() == RABBIT_SALT_BYTES + 64 => RABBIT_SHA512,
            "" => RABBIT_SHA256,
            named => named,
        };
        PasswordHash::from_parts(algorithm, &salted)
    }

    /// Reads the hash of a user's record in the log.
    ///
    /// # Errors
    /// The form is unknown or damaged; the text says why.
    pub(crate) fn of(record: &UserRecord) -> Result<PasswordHash, String> {
        if record.password_hash.is_empty() {
            return Ok(PasswordHash::Nothing);
        }
        PasswordHash::from_parts(&record.hashing_algorithm, &record.password_hash)
    }

    fn from_parts(algorithm: &str, bytes: &[u8]) -> Result<PasswordHash, String> {
        let salted = |digest: usize| {
            if bytes.len() == RABBIT_SALT_BYTES + digest {
                Ok(bytes.into())
            } else {
                Err(format!(
                    "a hash of {algorithm} has {} bytes",
                    RABBIT_SALT_BYTES + digest
                ))
            }
        };
        match algorithm {
            RABBIT_MD5 => Ok(PasswordHash::RabbitMd5 { salted: salted(16)? }),
            RABBIT_SHA256 => Ok(PasswordHash::RabbitSha256 { salted: salted(32)? }),
            RABBIT_SHA512 => Ok(PasswordHash::RabbitSha512 { salted: salted(64)? }),
            ARGON2ID | MOSQUITTO_SHA512 | MOSQUITTO_PBKDF2 => {
                let text = std::str::from_utf8(bytes).map_err(|_| "the hash is not text".to_owned())?;
                PasswordHash::from_text(text)
            }
            other => Err(format!("unknown hashing algorithm '{other}'")),
        }
    }

    fn from_text(text: &str) -> Result<PasswordHash, String> {
        let parts: Vec<&str> = text.split('$').collect();
        match parts[..] {
            ["", "argon2id", "v=19", parameters, salt, hash] => {
                let [memory_kib, passes, lanes] = argon2_parameters(parameters)?;
                Ok(PasswordHash::Argon2id {
                    memory_kib,
                    passes,
                    lanes,
                    salt: part(salt, 8)?,
                    hash: part(hash, 16)?,
                })
            }
            ["", "6", salt, hash] => Ok(PasswordHash::MosquittoSha512 {
                salt: part(salt, 1)?,
                hash: part(hash, 64)?,
            }),
            ["", "7", iterations, salt, hash] => {
                let iterations = iterations
                    .parse()
                    .ok()
                    .filter(|i: &NonZeroU32| i.get() <= ITERATIONS_MAX);
                Ok(PasswordHash::MosquittoPbkdf2 {
                    iterations: iterations.ok_or_else(|| format!("iterations are 1 to {ITERATIONS_MAX}"))?,
                    salt: part(salt, 1)?,
                    hash: part(hash, 16)?,
                })
            }
            _ => Err("the hash is none of $argon2id$v=19$, $6$ and $7$".to_owned()),
        }
    }

    /// The form for the log: the algorithm's name, and the bytes.
    pub(crate) fn record(&self) -> (Name, Vec<u8>) {
        let b64 = |bytes: &[u8]| STANDARD_NO_PAD.encode(bytes);
        match self {
            PasswordHash::Nothing => ("".into(), Vec::new()),
            PasswordHash::Argon2id {
                memory_kib,
                passes,
                lanes,
                salt,
                hash,
            } => {
                let (salt, hash) = (b64(salt), b64(hash));
                let text = format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${hash}");
                (ARGON2ID.into(), text.into_bytes())
            }
            PasswordHash::RabbitMd5 { salted } => (RABBIT_MD5.into(), salted.to_vec()),
            PasswordHash::RabbitSha256 { salted } => (RABBIT_SHA256.into(), salted.to_vec()),
            PasswordHash::RabbitSha512 { salted } => (RABBIT_SHA512.into(), salted.to_vec()),
            PasswordHash::MosquittoSha512 { salt, hash } => {
                let text = format!("$6${}${}", STANDARD.encode(salt), STANDARD.encode(hash));
                (MOSQUITTO_SHA512.into(), text.into_bytes())
            }
            PasswordHash::MosquittoPbkdf2 { iterations, salt, hash } => {
                let text = format!("$7${iterations}${}${}", STANDARD.encode(salt), STANDARD.encode(hash));
                (MOSQUITTO_PBKDF2.into(), text.into_bytes())
            }
        }
    }

    /// Whether it is too weak to keep and must be replaced at the next login.
    pub(crate) fn is_obsolete(&self) -> bool {
        matches!(self, PasswordHash::RabbitMd5 { .. })
    }

    /// KiB that a check needs, or 0.
    pub(crate) fn memory_kib(&self) -> u32 {
        match self {
            PasswordHash::Argon2id { memory_kib, .. } => *memory_kib,
            _ => 0,
        }
    }

    /// Whether this is the hash of the password. The time it takes depends on the length of the password only.
    pub(crate) fn matches(&self, password: &[u8], workspace: &mut Workspace) -> bool {
        match self {
            PasswordHash::Nothing => false,
            PasswordHash::Argon2id {
                memory_kib,
                passes,
                lanes,
                salt,
                hash,
            } => {
                let mut made = vec![0; hash.len()];
                argon2id(password, salt, (*memory_kib, *passes, *lanes), &mut made, workspace) && is_equal(&made, hash)
            }
            PasswordHash::RabbitMd5 { salted } => salted_matches::<Md5>(salted, password),
            PasswordHash::RabbitSha256 { salted } => salted_matches::<Sha256>(salted, password),
            PasswordHash::RabbitSha512 { salted } => salted_matches::<Sha512>(salted, password),
            PasswordHash::MosquittoSha512 { salt, hash } => {
                let made = Sha512::new().chain_update(password).chain_update(salt).finalize();
                is_equal(&made, hash)
            }
            PasswordHash::MosquittoPbkdf2 { iterations, salt, hash } => {
                pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, *iterations, salt, password, hash).is_ok()
            }
        }
    }
}

fn salted_matches<D: Digest>(salted: &[u8], password: &[u8]) -> bool {
    let Some((salt, hash)) = salted.split_at_checked(RABBIT_SALT_BYTES) else {
        return false;
    };
    is_equal(&D::new().chain_update(salt).chain_update(password).finalize(), hash)
}

fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// Computes argon2id into `hash`. `false`: the parameters are not valid.
fn argon2id(
    password: &[u8],
    salt: &[u8],
    (memory_kib, passes, lanes): (u32, u32, u32),
    hash: &mut [u8],
    workspace: &mut Workspace,
) -> bool {
    let Ok(params) = Params::new(memory_kib, passes, lanes, Some(hash.len())) else {
        return false;
    };
    let blocks = workspace.blocks(&params);
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    argon2
        .hash_password_into_with_memory(password, salt, hash, blocks)
        .is_ok()
}

/// Reads `m=…,t=…,p=…`, within our limits.
fn argon2_parameters(text: &str) -> Result<[u32; 3], String> {
    let mut values = [0; 3];
    let mut parts = text.split(',');
    let bounds = [("m", MEMORY_KIB_MAX), ("t", PASSES_MAX), ("p", LANES_MAX)];
    for (value, (name, max)) in values.iter_mut().zip(bounds) {
        let read = parts
            .next()
            .and_then(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
        *value = read
            .filter(|v| (1..=max).contains(v))
            .ok_or_else(|| format!("argon2's {name} is 1 to {max}"))?;
    }
    let [memory_kib, passes, lanes] = values;
    if parts.next().is_some() || Params::new(memory_kib, passes, lanes, None).is_err() {
        return Err("argon2's parameters are not valid".to_owned());
    }
    Ok(values)
}

/// Base64 with or without padding.
fn part(text: &str, bytes_min: usize) -> Result<Box<[u8]>, String> {
    let bytes = STANDARD_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|_| "a part of the hash is not base64")?;
    if !(bytes_min..=PART_BYTES_MAX).contains(&bytes.len()) {
        return Err(format!("a part of the hash has {} bytes", bytes.len()));
    }
    Ok(bytes.into())
}

pub(super) fn fill_random(bytes: &mut [u8]) {
    SystemRandom::new().fill(bytes).expect("the system has random numbers");
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost {
        memory_kib: 64,
        passes: 1,
    };

    /// Algorithm and exported text.
    const OTHERS: [(&str, &str); 6] = [
        (RABBIT_SHA256, "kI3GCkwidbNLQtNlauSvDxHDzz3IO+MCqP9YQ8IPMmUonl9G"),
        (
            RABBIT_SHA512,
            "kI3GCky7GMJhP0F/jGJD6y5rh9cUASqnGFQMSVyDfTBLrIj5eJ6HaJSo6uPUnJ0A2/lbJ4uax70J0oFzEuj2PJIVe/4=",
        ),
        (RABBIT_MD5, "kI3GCoeyNuatKbUF3hRPeQ6H5YU="),
        (
            "",
            "$6$OZK02NfWglOfEU/k$MvM2fOu7plw5oWXi1ON+hICppmsA5lsD6ovMTGvgVDqwSMuTmkrxRMaOvHucYwKtnYgidLF1MS24g5Pbr4UqYA==",
        ),
        (
            "",
            "$7$101$kgGgJFGt+JcSZth/$1/8FAJZGBmH1HliJd7qzSX4Zp9F+H9OL4oiH83Ipb4PMXlvZT3+WsnZ8CQiNluaGucU3BIr8xNea1IDtgkFASw==",
        ),
        (
            "",
            "$argon2id$v=19$m=256,t=2,p=2$U3HjprCYfgg0HMiFw27pJQ$TlvGng5aPCqUD71hASo6tV6TdfAPD2WLAYFjjnvbHxw",
        ),
    ];

    fn check(hash: &PasswordHash) {
        let mut workspace = Workspace::default();
        assert!(hash.matches(b"s3cret", &mut workspace), "{hash:?}");
        for wrong in [&b""[..], b"S3cret", b"s3cret "] {
            assert!(!hash.matches(wrong, &mut workspace), "{hash:?} {wrong:?}");
        }
        let (algorithm, bytes) = hash.record();
        let record = UserRecord {
            password_hash: bytes,
            hashing_algorithm: algorithm,
            ..UserRecord::default()
        };
        assert_eq!(PasswordHash::of(&record).as_ref(), Ok(hash));
    }

    #[test]
    fn a_hash_made_here_comes_back_from_the_log() {
        let mut workspace = Workspace::default();
        let made = PasswordHash::make(b"s3cret", CHEAP, &mut workspace);
        check(&made);
        assert_ne!(made, PasswordHash::make(b"s3cret", CHEAP, &mut workspace), "salted");
    }

    /// Each was made by the tool that it is named after, or by Python's hashlib and argon2-cffi.
    #[test]
    fn hashes_of_other_brokers_are_verified() {
        for (algorithm, text) in OTHERS {
            check(&PasswordHash::import(algorithm, text).expect(text));
        }
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for (algorithm, text) in [
            ("", "not base64!"),
            ("", "AAAA"),
            ("rabbit_password_hashing_sha1", "AAAAAAAA"),
            ("", "$5$AAAA$AAAA"),
            ("", "$6$AAAA$AAAA"),
            ("", "$7$0$AAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
            ("", "$7$99999999$AAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
            (
                "",
                "$argon2i$v=19$m=64,t=1,p=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            ),
            (
                "",
                "$argon2id$v=19$m=9999999,t=1,p=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            ),
            (
                "",
                "$argon2id$v=19$m=1,t=1,p=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            ),
            ("", "$argon2id$v=19$m=64,t=1,p=1$AAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
            (
                "",
                "$argon2id$v=19$m=64,t=1,p=1,q=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            ),
        ] {
            assert!(PasswordHash::import(algorithm, text).is_err(), "{algorithm} {text}");
        }
    }

    #[test]
    fn without_a_hash_no_password_is_right() {
        let mut workspace = Workspace::default();
        let nothing = PasswordHash::import("", "").expect("no password");
        for password in [&b""[..], b"x"] {
            assert!(!nothing.matches(password, &mut workspace));
            assert!(!PasswordHash::decoy(CHEAP).matches(password, &mut workspace));
        }
        assert_eq!(PasswordHash::of(&UserRecord::default()), Ok(PasswordHash::Nothing));
    }
}
