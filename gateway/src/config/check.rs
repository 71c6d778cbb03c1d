//! What concerns several settings together, and what they say about the world: files that must be there.

use super::schema::METRICS;
use super::source::Problem;
use super::{Config, load};
use crate::{auth, protocols};
use gatepost_core::keys::Kind;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// What is wrong with several settings together.
pub(super) fn together(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    listeners(config, &mut problems);
    let auth = &config.auth;
    if auth.default_password_file.is_empty() && !matches!(auth.default_user.as_str(), "" | "guest") {
        let user = &auth.default_user;
        let what = format!("user '{user}' needs a password: name the file that holds it");
        problems.push(load::problem("", "auth.default_password_file", what));
    }
    problems
}

fn listeners(config: &Config, problems: &mut Vec<Problem>) {
    let mut taken = BTreeMap::new();
    for (name, listener) in &config.listeners {
        let protocol = listener.protocol.as_str();
        if protocol != METRICS && protocols::find(protocol).is_none() {
            let known: Vec<_> = protocols::ALL.iter().map(|p| p.name).chain([METRICS]).collect();
            let what = format!("expected one of {}, found \"{protocol}\"", known.join(", "));
            problems.push(load::problem("", &format!("listeners.{name}.protocol"), what));
        }
        for address in listener.bind.iter().filter(|a| a.is_exclusive()) {
            if let Some(other) = taken.insert(address.clone(), name) {
                let what = format!("{address} is bound by listeners.{other} already");
                problems.push(load::problem("", &format!("listeners.{name}.bind"), what));
            }
        }
    }
}

/// A file that a key names must be readable, and one that is written needs its directory. The start would fail
/// otherwise, or worse: the first use would.
pub(super) fn files(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, path) in config.files_named() {
        if let Err(error) = File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut [0])) {
            problems.push(load::problem("", name, format!("{path} cannot be read: {error}")));
        } else if name == auth::PASSWORD_FILE
            && let Err(what) = auth::password_of(path)
        {
            problems.push(load::problem("", name, what));
        }
    }
    let target = Path::new(&config.log.target);
    if config.log.target != "stderr" {
        let directory = target
            .parent()
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        if !directory.is_dir() {
            let what = format!(
                "{} is not a directory, so the log cannot be written there",
                directory.display()
            );
            problems.push(load::problem("", "log.target", what));
        } else if target.is_dir() {
            let what = format!("{} is a directory, expected a file", target.display());
            problems.push(load::problem("", "log.target", what));
        }
    }
    problems
}

impl Config {
    /// Keys that name a file, and the file, where there is one.
    fn files_named(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().filter_map(|(name, value)| match value {
            gatepost_core::keys::Value::Text(path)
                if !path.is_empty() && matches!(self.schema.kind(name), Some(Kind::File)) =>
            {
                Some((name, path.as_str()))
            }
            _ => None,
        })
    }
}
