//! Files that the service manager passes: systemd's `LoadCredential=` puts a copy of each into a directory that only the service
//! can read, and names the directory in `$CREDENTIALS_DIRECTORY`.
//!
//! A key that takes a file may name a credential: `key = "broker.key"`. Only a bare name is looked for there, so a path always
//! means the file it says. Without such a credential a bare name is a file in the working directory, as ever.

use super::schema::Schema;
use gatepost_core::keys::{Kind, Value, Values};
use std::path::{Path, PathBuf};

/// The variable that systemd sets.
const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Keys that take a list of files.
const LISTS: [&str; 2] = ["sni_certs", "sni_keys"];

/// Where credentials are, if the service manager passes some.
#[derive(Debug, Default)]
pub(super) struct Credentials(Option<PathBuf>);

impl Credentials {
    pub(super) fn of(environment: &[(String, String)]) -> Credentials {
        let found = environment.iter().find(|(name, _)| name == DIRECTORY);
        Credentials(found.map(|(_, directory)| PathBuf::from(directory)))
    }

    /// The credential of that name, if it is one.
    pub(super) fn find(&self, name: &str) -> Option<String> {
        let is_bare = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0', ':']);
        let path = self.0.as_ref().filter(|_| is_bare)?.join(name);
        path.is_file().then(|| path.display().to_string())
    }

    /// Puts the paths of credentials where keys name them.
    pub(super) fn locate(&self, schema: &Schema, values: &mut Values) {
        if self.0.is_none() {
            return;
        }
        let takes_files = |name: &str| match schema.kind(name) {
            Some(Kind::File) => true,
            Some(Kind::Texts) => LISTS.contains(&name.rsplit('.').next().unwrap_or_default()),
            _ => false,
        };
        let found = |name: &String| self.find(name).unwrap_or_else(|| name.clone());
        let located: Vec<(String, Value)> = values
            .iter()
            .filter(|(name, _)| takes_files(name))
            .filter_map(|(name, value)| match value {
                Value::Text(file) => Some((name.to_owned(), Value::Text(found(file)))),
                Value::Texts(files) => Some((name.to_owned(), Value::Texts(files.iter().map(found).collect()))),
                _ => None,
            })
            .collect();
        for (name, value) in located {
            values.insert(&name, value);
        }
    }

    /// The file that a variable ending in `_FILE` names.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.find(name)
            .map_or_else(|| Path::new(name).to_owned(), PathBuf::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_a_bare_name_of_a_file_is_a_credential() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("broker.key"), "x").expect("a file");
        fs::write(dir.path().join(".hidden"), "x").expect("a file");
        fs::create_dir(dir.path().join("tls")).expect("a directory");
        let directory = dir.path().display().to_string();
        let passed = Credentials::of(&[
            ("HOME".to_owned(), "/".to_owned()),
            (DIRECTORY.to_owned(), directory.clone()),
        ]);
        assert_eq!(passed.find("broker.key"), Some(format!("{directory}/broker.key")));
        for other in [
            "",
            "other.key",
            "/broker.key",
            "./broker.key",
            "../x",
            "..",
            ".hidden",
            "tls",
        ] {
            assert_eq!(passed.find(other), None, "{other}");
        }
        assert_eq!(Credentials::of(&[]).find("broker.key"), None);
    }
}
