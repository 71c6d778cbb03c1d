//! Puts the layers together: files, environment, and the checks that concern several settings.

use super::section::Reader;
use super::source::{Problem, Problems, Source};
use super::{Config, Listener};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Where a packaged gateway keeps its configuration.
const DEFAULT_FILE: &str = "/etc/gatepost/gatepost.toml";

/// Reads the configuration: `file` (or the packaged one, if it is there), `conf.d` beside it, and those of
/// `environment`'s variables that begin with `GATEPOST__`.
///
/// # Errors
/// Everything that is wrong, in all layers.
pub fn load(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Config, Problems> {
    let mut problems = Vec::new();
    let mut config = Config::default();
    for path in files(file) {
        match fs::read_to_string(&path) {
            Ok(text) => problems.extend(
                layer(
                    &mut config,
                    &Source::File {
                        name: path.display().to_string(),
                        text,
                    },
                )
                .0,
            ),
            Err(error) => problems.push(problem(
                &path.display().to_string(),
                "",
                format!("cannot be read: {error}"),
            )),
        }
    }
    let variables: BTreeMap<_, _> = environment
        .into_iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    if !variables.is_empty() {
        let known = known_keys();
        for (name, value) in variables {
            problems.extend(variable(&mut config, &known, &name, value));
        }
    }
    if problems.is_empty() {
        problems.extend(check(&config));
    }
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(Problems(problems))
    }
}

const PREFIX: &str = "GATEPOST__";
const FROM_FILE: &str = "_file";

/// The file asked for, or the packaged one if it exists; then `conf.d/*.toml` beside it.
fn files(file: Option<&Path>) -> Vec<PathBuf> {
    let main = match file {
        Some(file) => file.to_owned(),
        None if Path::new(DEFAULT_FILE).exists() => PathBuf::from(DEFAULT_FILE),
        None => return Vec::new(),
    };
    let mut parts: Vec<PathBuf> = fs::read_dir(main.with_file_name("conf.d"))
        .map(|dir| dir.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    parts.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    parts.sort();
    std::iter::once(main).chain(parts).collect()
}

/// Reads one layer over `config`; returns what is wrong with it and the keys there could have been.
fn layer(config: &mut Config, source: &Source) -> (Vec<Problem>, BTreeSet<String>) {
    let (table, errors) = DeTable::parse_recoverable(source.text());
    let reader = Reader::new(source);
    for error in &errors {
        reader.problem(&error.span().unwrap_or(0..0), "", error.message().replace('\n', ", "));
    }
    // After a slip of syntax the tree is a guess: its unknown keys would be noise.
    if errors.is_empty() {
        config.read(&reader, table.get_ref());
    }
    reader.finish()
}

fn known_keys() -> BTreeSet<String> {
    layer(
        &mut Config::default(),
        &Source::File {
            name: String::new(),
            text: String::new(),
        },
    )
    .1
}

/// `GATEPOST__LIMITS__MAX_CONNECTIONS=500`: a value is TOML if it reads as TOML, else a string.
fn variable(config: &mut Config, known: &BTreeSet<String>, name: &str, value: String) -> Vec<Problem> {
    let mut key = name
        .strip_prefix(PREFIX)
        .unwrap_or(name)
        .to_ascii_lowercase()
        .replace("__", ".");
    let mut value = value;
    // `..._FILE` reads the value from a file, except where that is the key's own name.
    if !known.contains(&key) && key.strip_suffix(FROM_FILE).is_some_and(|k| known.contains(k)) {
        key.truncate(key.len() - FROM_FILE.len());
        value = match fs::read_to_string(&value) {
            Ok(text) => text.trim_end_matches(['\r', '\n']).to_owned(),
            Err(error) => return vec![problem(name, &key, format!("{value} cannot be read: {error}"))],
        };
    }
    if !key
        .split('.')
        .all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    {
        return vec![problem(name, &key, "unknown key".to_owned())];
    }
    let quoted = toml::Value::String(value.clone()).to_string();
    let literal = if DeValue::parse(&value).is_ok() {
        &value
    } else {
        &quoted
    };
    let read = |config: &mut Config, literal: &str| {
        let source = Source::Environment {
            name: name.to_owned(),
            text: format!("{key} = {literal}"),
        };
        layer(config, &source).0
    };
    let problems = read(config, literal);
    // A name may look like a number. Should a string not fit either, the first complaint is the better one.
    if !problems.is_empty() && *literal != quoted && read(config, &quoted).is_empty() {
        return Vec::new();
    }
    problems
}

/// What concerns several settings together.
fn check(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let auth = &config.auth;
    if auth.default_password_file.is_empty() && !matches!(auth.default_user.as_str(), "" | "guest") {
        let what = format!(
            "user '{}' needs a password: name the file that holds it",
            auth.default_user
        );
        problems.push(problem("", "auth.default_password_file", what));
    }
    let l = &config.listeners;
    let all: [(&str, &Listener); 4] = [
        ("amqp", &l.amqp),
        ("mqtt", &l.mqtt),
        ("stomp", &l.stomp),
        ("metrics", &l.metrics),
    ];
    let mut taken = BTreeMap::new();
    for (name, listener) in all {
        for address in listener.bind.iter().filter(|a| a.port() != 0) {
            if let Some(other) = taken.insert(*address, name) {
                let what = format!("{address} is bound by listeners.{other} already");
                problems.push(problem("", &format!("listeners.{name}.bind"), what));
            }
        }
    }
    problems
}

fn problem(at: &str, key: &str, what: String) -> Problem {
    Problem {
        at: at.to_owned(),
        key: key.to_owned(),
        what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Budget, Durability, Period, Size};

    fn read(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("gatepost.toml");
        fs::write(&path, text).expect("a file");
        let loaded = load(Some(&path), []);
        loaded.map_err(|p| p.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    fn environment(variables: &[(&str, &str)]) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("gatepost.toml");
        fs::write(&path, "").expect("a file");
        let variables = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        load(Some(&path), variables).map_err(|p| p.to_string())
    }

    #[test]
    fn all_errors_are_reported_with_their_places() {
        let text = "\
[node]
io_threads = -1
[limits]
max_conections = 5
max_message_size = \"16 megs\"
heartbeat = true
[store]
durability = \"sometimes\"
[listeners.amqp]
bind = [\"localhost:5672\"]
tls_bind = [\"[::]:5671\"]
[listners.mqtt]
bind = []
[tls]
cert = \"/etc/cert.pem\"
[mqtt]
default_vhost = \"plant\"
colour = 1
";
        let expected = "\
gatepost.toml:2:14: node.io_threads: expected a whole number from 0 (one per core) to 256, found -1
gatepost.toml:4:1: limits.max_conections: unknown key, did you mean max_connections?
gatepost.toml:5:20: limits.max_message_size: expected a size such as \"16MiB\" or a number of bytes up to 1GiB, found \"16 megs\"
gatepost.toml:6:13: limits.heartbeat: expected a duration such as \"30s\" or a number of seconds up to 65535s; 0: none, found true
gatepost.toml:8:14: store.durability: expected one of \"always\", \"interval\", \"os\", found \"sometimes\"
gatepost.toml:10:8: listeners.amqp.bind: expected a list of addresses such as [\"[::]:5672\"] or [\"127.0.0.1:5672\"], found [\"localhost:5672\"]
gatepost.toml:11:12: listeners.amqp.tls_bind: not supported yet: the only value is [], so leave the key out
gatepost.toml:12:2: listners: unknown key, did you mean listeners?
gatepost.toml:15:8: tls.cert: not supported yet: the only value is \"\", so leave the key out
gatepost.toml:17:17: mqtt.default_vhost: expected \"/\" (other vhosts are not supported yet), found \"plant\"
gatepost.toml:18:1: mqtt.colour: unknown key; known here: anonymous, anonymous_user, connect_size_max, default_vhost, exchange, max_inflight, receive_maximum, retained_max, session_expiry_max, vhost_by_cert, vhost_by_port";
        assert_eq!(read(text).expect_err("wrong"), expected);
    }

    #[test]
    fn slips_of_syntax_are_reported_with_their_places() {
        let error = read("[node]\nname = \n[log\nlevel = \"info\"\n").expect_err("wrong");
        assert!(error.starts_with("gatepost.toml:2:"), "{error}");
        assert!(error.contains("\ngatepost.toml:3:"), "{error}");
    }

    #[test]
    fn a_file_that_is_missing_is_an_error() {
        let error = load(Some(Path::new("/nowhere/gatepost.toml")), [])
            .expect_err("missing")
            .to_string();
        assert!(error.starts_with("/nowhere/gatepost.toml: cannot be read: "), "{error}");
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(read("").expect("defaults"), Config::default());
    }

    #[test]
    fn defaults_of_what_is_not_built_may_be_written_down() {
        let text = "\
[limits]
consumer_timeout = \"1800s\"
[listeners.management]
bind = [\"[::]:15672\"]
[auth.jwt]
algorithms = [\"RS256\",\"ES256\"]
";
        assert_eq!(read(text).expect("defaults"), Config::default());
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let config = read("[memory]\nbudget = \"256MiB\"\n[store]\ndurability = \"os\"\nsegment_size = \"8MiB\"\n")
            .expect("valid");
        assert_eq!(config.memory.budget, Budget::Fixed(Size(256 << 20)));
        assert_eq!(config.store.durability, Durability::Os);
        let printed = toml::to_string(&config).expect("printable");
        assert_eq!(read(&printed).expect("valid"), config);
    }

    #[test]
    fn later_files_win_in_order_of_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let main = dir.path().join("gatepost.toml");
        fs::create_dir(dir.path().join("conf.d")).expect("a directory");
        fs::write(&main, "[limits]\nheartbeat = \"10s\"\nchannel_max = 7\n").expect("a file");
        fs::write(dir.path().join("conf.d/20-b.toml"), "[limits]\nheartbeat = \"30s\"\n").expect("a file");
        fs::write(dir.path().join("conf.d/10-a.toml"), "[limits]\nheartbeat = \"20s\"\n").expect("a file");
        let config = load(Some(&main), []).expect("valid");
        assert_eq!(
            (config.limits.heartbeat, config.limits.channel_max),
            (Period::secs(30), 7)
        );
    }

    #[test]
    fn the_environment_wins_over_files() {
        let config = environment(&[
            ("GATEPOST__LIMITS__MAX_CONNECTIONS", "500"),
            ("GATEPOST__LIMITS__HEARTBEAT", "30s"),
            ("GATEPOST__LISTENERS__AMQP__BIND", "[]"),
            ("GATEPOST__NODE__NAME", "7"),
            ("GATEPOST_AMQP", "not ours: one underscore"),
        ])
        .expect("valid");
        assert_eq!(config.limits.max_connections, 500);
        assert_eq!(config.limits.heartbeat, Period::secs(30));
        assert!(config.listeners.amqp.bind.is_empty());
        assert_eq!(config.node.name, "7");
    }

    #[test]
    fn an_unknown_variable_is_an_error() {
        let error = environment(&[("GATEPOST__LIMITS__MAX_CONECTIONS", "500")]).expect_err("unknown");
        let expected =
            "GATEPOST__LIMITS__MAX_CONECTIONS: limits.max_conections: unknown key, did you mean max_connections?";
        assert_eq!(error, expected);
        let error = environment(&[("GATEPOST__LIMITS__HEARTBEAT", "soon")]).expect_err("wrong");
        assert!(
            error.starts_with("GATEPOST__LIMITS__HEARTBEAT: limits.heartbeat: expected a duration"),
            "{error}"
        );
    }

    #[test]
    fn a_variable_may_name_a_file_that_holds_the_value() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("name");
        fs::write(&path, "edge-7\n").expect("a file");
        let path = path.display().to_string();
        let config = environment(&[("GATEPOST__NODE__NAME_FILE", &path)]).expect("valid");
        assert_eq!(config.node.name, "edge-7");
        // A key whose own name ends like that is meant literally.
        let config = environment(&[("GATEPOST__AUTH__DEFAULT_PASSWORD_FILE", &path)]).expect("valid");
        assert_eq!(config.auth.default_password_file, path);
    }

    #[test]
    fn a_user_without_a_password_and_an_address_bound_twice_are_refused() {
        let error = read("[auth]\ndefault_user = \"admin\"\n").expect_err("no password");
        assert!(
            error.starts_with("auth.default_password_file: user 'admin' needs a password"),
            "{error}"
        );
        let error = read("[listeners.mqtt]\nbind = [\"[::]:5672\"]\n").expect_err("twice");
        assert_eq!(
            error,
            "listeners.mqtt.bind: [::]:5672 is bound by listeners.amqp already"
        );
    }
}
