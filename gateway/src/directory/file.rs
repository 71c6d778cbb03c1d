//! The back end `file`: users and topic permissions from Mosquitto's password and ACL files.
//!
//! ```text
//!   # passwords                          # acl
//!   plant-1:$7$101$salt$hash             topic read public/#
//!                                        user plant-1
//!                                        topic readwrite plant/1/#
//!                                        topic deny plant/1/secret
//!                                        pattern write %u/%c/state
//! ```
//!
//! - Both files are read at the start and on SIGHUP, all or nothing.
//! - `topic` and `pattern` lines mean the same as in Mosquitto: `topic` lines before the first `user` are for clients
//!   without a name, `pattern` lines for everybody; a topic that no line grants is refused. Without an ACL file every topic
//!   is permitted.
//! - `deny`: a filter that matches such a topic is refused, because rights are checked once for a subscription and not for each
//!   message. Mosquitto accepts the filter and drops the messages.
//! - Besides topics, these users may use the queues that a subscription needs, whose names the gateway chooses.

use super::password::PasswordHash;
use crate::config::Config;
use gatepost_core::access::{NamePattern, Rights, TopicPattern};
use gatepost_core::message::Dialect;
use gatepost_core::properties::Name;
use gatepost_core::quota::Quota;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A user of the password file.
pub(crate) struct FileUser {
    pub hash: Arc<PasswordHash>,
    pub rights: Arc<Rights>,
    pub quota: Arc<Quota>,
}

/// The content of the two files.
#[derive(Default)]
pub(crate) struct FilePeople {
    pub users: BTreeMap<Name, FileUser>,
    /// Rights of clients without a name, if there is an ACL file.
    pub nameless: Option<Arc<Rights>>,
}

/// The lines of an ACL file for one user, for clients without a name, or for everybody.
#[derive(Clone, Default)]
pub(super) struct Lines {
    pub write: Vec<TopicPattern>,
    pub read: Vec<TopicPattern>,
    pub denied: Vec<TopicPattern>,
}

impl Lines {
    fn with(&self, more: &Lines) -> Lines {
        let join = |a: &[TopicPattern], b: &[TopicPattern]| a.iter().chain(b).cloned().collect();
        Lines {
            write: join(&self.write, &more.write),
            read: join(&self.read, &more.read),
            denied: join(&self.denied, &more.denied),
        }
    }

    pub(super) fn rights(self, exchange: &str) -> Arc<Rights> {
        let Lines { write, read, denied } = self;
        let rights = names(exchange).with_topics(exchange, write, read);
        Arc::new(rights.without_topics(exchange, denied.clone(), denied, true))
    }
}

/// An ACL file.
#[derive(Default)]
struct Acl {
    nameless: Lines,
    users: BTreeMap<Name, Lines>,
    everybody: Lines,
}

impl FilePeople {
    /// Reads the files. One of them is enough: without passwords, the ACL says what clients without a name may do.
    ///
    /// # Errors
    /// All errors in them, with file and line.
    pub(crate) fn load(config: &Config) -> Result<FilePeople, Vec<String>> {
        let file = &config.auth_file;
        let exchange = &config.mqtt.exchange;
        let per_thread = config.auth.hashing_memory.0 / config.auth.hashing_threads.max(1) as u64;
        let mut problems = Vec::new();
        let acl = match file.acl.as_str() {
            "" => None,
            path => read(path, &mut problems).map(|text| acl(&text, path, &mut problems)),
        };
        let mut people = FilePeople::default();
        let rights = |name: &Name| match &acl {
            None => Arc::new(names(exchange)),
            Some(acl) => {
                let own = acl.users.get(name).cloned().unwrap_or_default();
                own.with(&acl.everybody).rights(exchange)
            }
        };
        let passwords = match file.passwords.as_str() {
            "" => None,
            path => read(path, &mut problems),
        };
        if let Some(text) = passwords {
            for (n, line) in numbered(&text) {
                match password(line, per_thread) {
                    Ok((name, hash)) => {
                        let user = FileUser {
                            hash: Arc::new(hash),
                            rights: rights(&name),
                            quota: Arc::default(),
                        };
                        people.users.insert(name, user);
                    }
                    Err(what) => problems.push(format!("{}:{n}: {what}", file.passwords)),
                }
            }
        }
        people.nameless = acl
            .as_ref()
            .map(|acl| acl.nameless.with(&acl.everybody).rights(exchange));
        if problems.is_empty() { Ok(people) } else { Err(problems) }
    }
}

/// The rights of these users besides topics.
fn names(exchange: &str) -> Rights {
    let own = "mqtt-subscription-|mqtt-share-|stomp-subscription-|amq\\.gen-";
    let topics: String = exchange
        .chars()
        .flat_map(|c| (!c.is_alphanumeric()).then_some('\\').into_iter().chain([c]))
        .collect();
    let parse = |text: String| NamePattern::parse(&text).unwrap_or_default();
    Rights::new(
        parse(format!("^({own})")),
        parse(format!("^({own}|{topics}$)")),
        parse(format!("^({own}|{topics}$)")),
    )
}

fn read(path: &str, problems: &mut Vec<String>) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) => {
            problems.push(format!("{path} cannot be read: {error}"));
            None
        }
    }
}

/// Lines with their numbers, without empty lines and comments.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text
        .lines()
        .enumerate()
        .map(|(n, line)| (n + 1, line.trim_end_matches('\r')));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn password(line: &str, memory_max: u64) -> Result<(Name, PasswordHash), String> {
    let (name, hash) = line.split_once(':').ok_or("expected a name, a colon and a hash")?;
    if name.is_empty() {
        return Err("a user without a name".to_owned());
    }
    if !hash.starts_with('$') {
        return Err(format!(
            "the password of '{name}' is not hashed: mosquitto_passwd -U does it"
        ));
    }
    let hash = PasswordHash::import("", hash).map_err(|what| format!("user '{name}': {what}"))?;
    if u64::from(hash.memory_kib()) << 10 > memory_max {
        return Err(format!(
            "the hash of '{name}' needs more memory than a login may use (auth.hashing_memory)"
        ));
    }
    Ok((name.into(), hash))
}

fn acl(text: &str, path: &str, problems: &mut Vec<String>) -> Acl {
    let mut acl = Acl::default();
    let mut user: Option<Name> = None;
    for (n, line) in numbered(text) {
        let (word, rest) = line.trim().split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = rest.trim();
        let done = match word {
            "user" if !rest.is_empty() => {
                acl.users.entry(rest.into()).or_default();
                user = Some(rest.into());
                Ok(())
            }
            "topic" => match &user {
                Some(user) => rule(acl.users.entry(user.clone()).or_default(), rest, false),
                None => rule(&mut acl.nameless, rest, false),
            },
            "pattern" => rule(&mut acl.everybody, rest, true),
            _ => Err("expected user, topic or pattern".to_owned()),
        };
        if let Err(what) = done {
            problems.push(format!("{path}:{n}: {what}"));
        }
    }
    acl
}

/// `[read|write|readwrite|deny] TOPIC`; a topic may contain spaces.
fn rule(lines: &mut Lines, text: &str, has_placeholders: bool) -> Result<(), String> {
    let (access, topic) = match text.split_once([' ', '\t']) {
        Some((word @ ("read" | "write" | "readwrite" | "deny"), topic)) => (word, topic.trim_start()),
        _ => ("readwrite", text),
    };
    let filled = topic.replace("%u", "{username}").replace("%c", "{client_id}");
    let topic = if has_placeholders { &filled } else { topic };
    let pattern = TopicPattern::parse(topic, Dialect::Slash).map_err(|_| format!("'{topic}' is no topic filter"))?;
    if matches!(access, "write" | "readwrite") {
        lines.write.push(pattern.clone());
    }
    if matches!(access, "read" | "readwrite") {
        lines.read.push(pattern.clone());
    }
    if access == "deny" {
        lines.denied.push(pattern);
    }
    Ok(())
}

/// The body of a fuzz target: reads `text` as an ACL file or as a password file.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_as(text: &str, is_acl: bool) {
    let mut problems = Vec::new();
    if is_acl {
        let acl = acl(text, "acl", &mut problems);
        let rules = acl.users.values().map(|lines| lines.with(&acl.everybody));
        for lines in rules.chain([acl.nameless.with(&acl.everybody)]) {
            lines.rights("amq.topic");
        }
        assert!(problems.len() <= text.lines().count(), "one for each line at most");
        return;
    }
    for (_, line) in numbered(text) {
        if let Ok((name, hash)) = password(line, 8 << 20) {
            let (algorithm, bytes) = hash.record();
            let record = gatepost_core::catalog::directory::UserRecord {
                hashing_algorithm: algorithm,
                password_hash: bytes,
                ..Default::default()
            };
            assert_eq!(PasswordHash::of(&record), Ok(hash), "{name}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepost_core::access::Permission;

    fn load(passwords: &str, acl: &str) -> Result<FilePeople, Vec<String>> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("passwords"), passwords).expect("written");
        std::fs::write(path("acl"), acl).expect("written");
        let mut config = Config::default();
        config.auth_file.passwords = path("passwords");
        config.auth_file.acl = path("acl");
        let problems = |found: Vec<String>| found.iter().map(|p| p.replace(&path(""), "")).collect::<Vec<_>>();
        FilePeople::load(&config).map_err(problems)
    }

    const HASH: &str = "$7$101$kgGgJFGt+JcSZth/$1/8FAJZGBmH1HliJd7qzSX4Zp9F+H9OL4oiH83Ipb4PMXlvZT3+WsnZ8CQiNluaGucU3BIr8xNea1IDtgkFASw==";

    #[test]
    fn the_files_of_mosquitto_are_read() {
        let people = load(
            &format!("# users\nplant-1:{HASH}\r\nplant-2:{HASH}\n"),
            "topic read public/#\nuser plant-1\ntopic plant/1/#\ntopic deny plant/1/a secret\npattern write %u/state\n",
        );
        let people = people.expect("good files");
        assert_eq!(
            people.users.keys().map(|n| &**n).collect::<Vec<_>>(),
            ["plant-1", "plant-2"]
        );
        let rights = &people.users["plant-1"].rights;
        assert!(rights.permit(Permission::Configure, "mqtt-subscription-x"));
        assert!(rights.permit(Permission::Write, "amq.topic"));
        assert!(!rights.permit(Permission::Write, "amqXtopic"));
        assert!(!rights.permit(Permission::Configure, "orders"));
        assert!(people.nameless.is_some());
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let found = load(
            "plant-1:plain\n\n:x\nplant\n",
            "topic a/#/b\nusers x\nuser\npattern read\n",
        );
        assert_eq!(
            found.err().expect("mistakes"),
            [
                "acl:1: 'a/#/b' is no topic filter",
                "acl:2: expected user, topic or pattern",
                "acl:3: expected user, topic or pattern",
                "passwords:1: the password of 'plant-1' is not hashed: mosquitto_passwd -U does it",
                "passwords:3: a user without a name",
                "passwords:4: expected a name, a colon and a hash",
            ]
        );
    }
}
