//! The stored form of a password: its hash, and a verifier for SCRAM if that mechanism is enabled.
//!
//! A verifier is weaker than the hash: an attacker with a stolen log can test passwords against it at the speed of PBKDF2, which a
//! graphics card computes fast, instead of argon2id. So it is made only if `mqtt.auth_methods` contains SCRAM. The user's
//! record keeps it under the mechanism's name; a release that does not know the mechanism ignores it.

use super::password::{Cost, PasswordHash, Workspace};
use super::scram::{SCRAM_SHA_256, Verifier};
use gatepost_core::catalog::directory::UserRecord;
use gatepost_core::properties::Value;
use std::num::NonZeroU32;

/// Hash and verifier of one password.
#[derive(Debug)]
pub(crate) struct Kept {
    hash: PasswordHash,
    verifier: Option<Verifier>,
}

impl Kept {
    /// Hashes a password, which takes milliseconds. With `iterations`, also makes a verifier for SCRAM.
    pub(crate) fn make(password: &[u8], cost: Cost, iterations: Option<NonZeroU32>, workspace: &mut Workspace) -> Kept {
        Kept {
            hash: PasswordHash::make(password, cost, workspace),
            verifier: iterations.map(|iterations| Verifier::make(password, iterations)),
        }
    }

    /// A hash that was exported, and the verifier that was exported with it.
    pub(crate) fn imported(hash: PasswordHash, verifier: Option<Verifier>) -> Kept {
        Kept { hash, verifier }
    }

    /// Writes both into a user's record and removes those of the previous password. If the record has the same hash
    /// already, it belongs to the same password, so its verifier stays: a file of definitions may contain the hash
    /// without it.
    pub(crate) fn write(&self, record: &mut UserRecord) {
        let made = self.hash.record();
        let is_same = !made.1.is_empty() && made.1 == record.password_hash && made.0 == record.hashing_algorithm;
        if is_same && self.verifier.is_none() {
            return;
        }
        (record.hashing_algorithm, record.password_hash) = made;
        record.more.0.retain(|(name, _)| **name != *SCRAM_SHA_256);
        if let Some(verifier) = &self.verifier {
            record.more.push(SCRAM_SHA_256, Value::text(&verifier.text()));
        }
    }
}

/// An imported hash. The password is not known, so there is no verifier until the user logs in with it.
impl From<PasswordHash> for Kept {
    fn from(hash: PasswordHash) -> Kept {
        Kept { hash, verifier: None }
    }
}

/// The verifier in a user's record.
pub(super) fn verifier(record: &UserRecord) -> Option<Verifier> {
    Verifier::parse(record.more.lookup(SCRAM_SHA_256)?.as_str()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_password_leaves_nothing_of_the_one_before() {
        let iterations = NonZeroU32::new(4096);
        let cost = Cost {
            memory_kib: 64,
            passes: 1,
        };
        let mut workspace = Workspace::default();
        let mut user = UserRecord::default();
        user.more.push("later", Value::text("kept"));
        Kept::make(b"first", cost, iterations, &mut workspace).write(&mut user);
        let first = (user.password_hash.clone(), verifier(&user).expect("made"));
        Kept::make(b"second", cost, iterations, &mut workspace).write(&mut user);
        let second = verifier(&user).expect("made");
        assert!(user.password_hash != first.0 && second != first.1);
        assert_eq!(user.more.0.len(), 2, "{:?}", user.more);
        // A password without a verifier, and an imported hash: both must remove the earlier verifier.
        Kept::make(b"third", cost, None, &mut workspace).write(&mut user);
        assert_eq!(verifier(&user), None);
        Kept::make(b"fourth", cost, iterations, &mut workspace).write(&mut user);
        Kept::from(PasswordHash::Nothing).write(&mut user);
        assert_eq!((verifier(&user), user.password_hash.len()), (None, 0));
        assert_eq!(user.more.lookup("later").and_then(Value::as_str), Some("kept"));
    }
}
