//! Reads the layers of the configuration: files, environment, command line.

use super::Config;
use super::credentials::Credentials;
use super::reader::layer;
use super::schema::Schema;
use super::source::{PREFIX, Problem, Problems, Source};
use super::{syntax, variables};
use crate::protocols;
use gatepost_core::keys::{Kind, Value, Values};
use std::fs;
use std::path::{Path, PathBuf};
use toml::de::DeValue;

/// The configuration file of a packaged gateway.
const DEFAULT_FILE: &str = "/etc/gatepost/gatepost.toml";

/// Where settings come from. Kept while the node runs, because a reload reads them again.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The file given on the command line; `None`: the packaged one, if it exists.
    pub file: Option<PathBuf>,
    /// Environment variables. Only those that begin with `GATEPOST__` are read, and where credentials are.
    pub environment: Vec<(String, String)>,
    /// The data directory given on the command line.
    pub data: Option<PathBuf>,
}

impl Layers {
    /// Warnings about environment variables that are not read but probably were meant to be, each with what to write instead.
    pub fn warnings(&self) -> Vec<String> {
        let names = self.environment.iter().map(|(name, _)| name.as_str());
        variables::warnings(&Schema::new(protocols::ALL), names)
    }

    /// Reads all layers, including `conf.d` beside the file.
    ///
    /// # Errors
    /// All errors in all layers.
    pub fn load(&self) -> Result<Config, Problems> {
        let (config, mut problems) = self.read();
        // While single settings are wrong, errors about combinations would be noise. Missing files are still reported.
        problems.extend(if problems.is_empty() {
            config.check()
        } else {
            config.check_files()
        });
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(Problems(problems))
        }
    }

    /// The data directory, as far as the layers can be read: for commands that want to reach a running gateway.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.read().0.node.data_dir
    }

    /// The valid settings, and the problems.
    fn read(&self) -> (Config, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut schema = Schema::new(protocols::ALL);
        let mut values = schema.defaults();
        for path in files(self.file.as_deref()) {
            let name = path.display().to_string();
            let text = fs::read(&path).map_err(|error| format!("cannot be read: {error}"));
            let text = text.and_then(|bytes| {
                String::from_utf8(bytes).map_err(|error| syntax::no_text(error.as_bytes()).to_owned())
            });
            match text {
                Ok(text) => problems.extend(layer(&mut schema, &mut values, &Source::File { name, text })),
                Err(what) => problems.push(problem(&name, "", what)),
            }
        }
        let credentials = Credentials::of(&self.environment);
        let ours = self.environment.iter().filter(|(name, _)| name.starts_with(PREFIX));
        let mut variables: Vec<_> = ours.collect();
        // `PROTOCOL` first: a listener with a new name exists only once its protocol is set.
        variables.sort_by_key(|(name, _)| (!name.ends_with("__PROTOCOL"), name));
        for (name, value) in variables {
            problems.extend(variable(&mut schema, &mut values, &credentials, (name, value)));
        }
        credentials.locate(&schema, &mut values);
        if let Some(data) = &self.data {
            values.insert("node.data_dir", Value::Text(data.display().to_string()));
        }
        (Config::new(schema, values), problems)
    }
}

const FROM_FILE: &str = "_file";

/// The given file, or the packaged one if it exists; then `conf.d/*.toml` beside it.
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

/// `GATEPOST__LIMITS__MAX_CONNECTIONS=500`: a value is TOML if it parses as TOML, otherwise a string.
fn variable(
    schema: &mut Schema,
    values: &mut Values,
    credentials: &Credentials,
    (name, value): (&str, &str),
) -> Vec<Problem> {
    let mut key = name
        .strip_prefix(PREFIX)
        .unwrap_or(name)
        .to_ascii_lowercase()
        .replace("__", ".");
    let mut value = value.to_owned();
    // `..._FILE` reads the value from a file, unless the key's own name ends like that. Where the key takes a file it is that file
    // itself that is meant: to read it would take a private key for a path, and print it as one that is not there.
    let names_file =
        schema.row(&key).is_none() && key.strip_suffix(FROM_FILE).is_some_and(|key| schema.row(key).is_some());
    if names_file {
        key.truncate(key.len() - FROM_FILE.len());
    }
    if names_file && !matches!(schema.kind(&key), Some(Kind::File)) {
        value = match fs::read_to_string(credentials.path(&value)) {
            Ok(text) => text.trim_end_matches(['\r', '\n']).to_owned(),
            Err(error) => return vec![problem(name, &key, format!("{value} cannot be read: {error}"))],
        };
    }
    set(schema, values, name, &key, &value)
}

/// Gives a key the value that a variable has for it.
fn set(schema: &mut Schema, values: &mut Values, name: &str, key: &str, value: &str) -> Vec<Problem> {
    if !key
        .split('.')
        .all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    {
        return vec![problem(name, key, "unknown key".to_owned())];
    }
    let quoted = super::value::quoted(value);
    let literal = if DeValue::parse(value).is_ok() { value } else { &quoted };
    let mut read = |literal: &str| {
        let source = Source::Environment {
            name: name.to_owned(),
            text: format!("{key} = {literal}"),
        };
        layer(schema, values, &source)
    };
    let problems = read(literal);
    // The value may be a text that looks like a number. If it is not valid as a string either, report the first problem.
    if !problems.is_empty() && literal != quoted && read(&quoted).is_empty() {
        return Vec::new();
    }
    problems
}

pub(super) fn problem(at: &str, key: &str, what: String) -> Problem {
    Problem {
        at: at.to_owned(),
        key: key.to_owned(),
        what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::Takes;
    use crate::config::{Budget, Durability, Period, Size};
    use crate::tls;

    fn read(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("gatepost.toml");
        fs::write(&path, text).expect("a file");
        let layers = Layers {
            file: Some(path),
            ..Layers::default()
        };
        layers
            .load()
            .map_err(|p| p.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    fn environment(variables: &[(&str, &str)]) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("gatepost.toml");
        fs::write(&path, "").expect("a file");
        let layers = Layers {
            file: Some(path),
            environment: variables
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
            data: None,
        };
        layers.load().map_err(|p| p.to_string())
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
cert = \"/nowhere/cert.pem\"
[mqtt]
default_vhost = \"plant\"
colour = 1
";
        let expected = "\
gatepost.toml:2:14: node.io_threads: expected a whole number up to 256, found -1
gatepost.toml:4:1: limits.max_conections: unknown key, did you mean max_connections?
gatepost.toml:5:20: limits.max_message_size: expected a size such as \"16MiB\" or a number of bytes from 1B to 1GiB, found \"16 megs\"
gatepost.toml:6:13: limits.heartbeat: expected a duration such as \"30s\", \"5m\" or \"24h\", or a number of seconds up to 65535s, found true
gatepost.toml:8:14: store.durability: expected one of \"always\", \"interval\", \"os\", found \"sometimes\"
gatepost.toml:10:8: listeners.amqp.bind: expected a list of IP addresses with ports such as [\"[::]:5672\"], which is every address, or [\"127.0.0.1:5672\"], found [\"localhost:5672\"]
gatepost.toml:12:2: listners: unknown key, did you mean listeners?
gatepost.toml:17:17: mqtt.default_vhost: expected \"/\" (set a listener's `vhost` for another one), found \"plant\"
gatepost.toml:18:1: mqtt.colour: unknown key; known here: anonymous, anonymous_user, auth_methods, connect_size_max, default_vhost, exchange, keep_alive_max, max_inflight, maximum_qos, receive_maximum, retain_available, reveal_denied, session_expiry_max, sys_interval
tls.cert: /nowhere/cert.pem cannot be read: No such file or directory (os error 2)";
        assert_eq!(read(text).expect_err("wrong"), expected);
    }

    /// What newcomers write, and what they are told.
    #[test]
    fn common_slips_are_told_what_to_write_instead() {
        for (text, told) in [
            (
                "[node]\nname = edge # ours\n",
                "2:8: a text stands in quotation marks: \"edge\"",
            ),
            (
                "[node]\nname = \u{201c}edge\u{201d}\n",
                "2:8: these quotation marks are typographic; straight ones are meant: \"edge\"",
            ),
            (
                "[mqtt]\nmax_inflight = 5\nmax_inflight = 6\n",
                "3:1: max_inflight is set already, above",
            ),
            (
                "[mqtt]\nmax_inflight = 5\n[log]\n[mqtt]\n",
                "4:2: this section is there already, above: its keys belong together",
            ),
            (
                "max_connections = 5\n",
                "1:1: max_connections: unknown key here, did you mean limits.max_connections or listeners.NAME.max_connections?",
            ),
            (
                "[mqtt]\nmax_connections = 5\n",
                "2:1: mqtt.max_connections: unknown key here, did you mean limits.max_connections or listeners.NAME.max_connections?",
            ),
            (
                "[mqtt]\nkeepalive = 60\n",
                "2:1: mqtt.keepalive: unknown key, did you mean keep_alive_max?",
            ),
            (
                "[mqtt]\ncert = \"x\"\n",
                "2:1: mqtt.cert: unknown key here, did you mean listeners.NAME.tls.cert or tls.cert?",
            ),
            (
                "log_level = \"debug\"\n",
                "1:1: log_level: unknown key here, did you mean log.level?",
            ),
        ] {
            assert_eq!(read(text).expect_err("wrong"), format!("gatepost.toml:{told}"));
        }
        let error = read("[listeners.site2]\nbind = [\"[::]:1884\"]\n").expect_err("no protocol");
        assert!(
            error.ends_with("; a listener of your own, site2, says what is spoken there: protocol = \"mqtt\""),
            "{error}"
        );
        let error = read("{\"mqtt\": {\"max_inflight\": 5}}").expect_err("JSON");
        assert!(
            error.starts_with("gatepost.toml: this is JSON, and the configuration is TOML: "),
            "{error}"
        );
        let error = environment(&[("GATEPOST__LOG_LEVEL", "debug")]).expect_err("one underscore");
        assert_eq!(
            error,
            "GATEPOST__LOG_LEVEL: log_level: unknown key here, did you mean GATEPOST__LOG__LEVEL?"
        );
    }

    #[test]
    fn one_text_is_a_list_of_one() {
        let config =
            read("[listeners.mqtt]\nbind = \"127.0.0.1:1883\"\n[auth]\nbackends = \"internal\"\n").expect("valid");
        let bound = |config: &Config| {
            let (_, mqtt) = config.listeners.iter().find(|(name, _)| name == "mqtt").expect("mqtt");
            mqtt.bind.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(bound(&config), ["127.0.0.1:1883"]);
        let config = environment(&[("GATEPOST__LISTENERS__MQTT__BIND", "0.0.0.0:2883")]).expect("valid");
        assert_eq!(bound(&config), ["0.0.0.0:2883"]);
    }

    #[test]
    fn a_file_that_is_no_utf_8_is_told_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("gatepost.toml");
        for (bytes, told) in [
            (&b"\xFF\xFE[\0"[..], "is UTF-16"),
            (b"\x7FELF\x80", "is no text in UTF-8"),
        ] {
            fs::write(&path, bytes).expect("a file");
            let layers = Layers {
                file: Some(path.clone()),
                ..Layers::default()
            };
            let error = layers.load().expect_err("no text").to_string();
            assert!(error.contains(&format!("gatepost.toml: {told}")), "{error}");
        }
    }

    /// The key itself was read as the path of a key, and printed as one that is not there.
    #[test]
    fn a_variable_for_a_file_names_that_file_and_does_not_print_what_is_in_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key.pem");
        fs::write(&path, "-----BEGIN PRIVATE KEY-----\n").expect("a file");
        let path = path.display().to_string();
        let error = environment(&[("GATEPOST__TLS__KEY_FILE", &path)]).expect_err("no certificate");
        assert_eq!(error, "tls.cert: must be set where key is");
        let config = environment(&[("GATEPOST__AUTH__FILE__PASSWORDS_FILE", &path)]).expect("valid");
        assert_eq!(config.auth_file.passwords, path);
    }

    /// The bug: another broker's file caused hundreds of errors that did not help the operator.
    #[test]
    fn the_configuration_of_another_broker_is_told_how_to_come_over() {
        for (text, whose) in [
            ("listener 1883\nallow_anonymous true\npersistence true\n", "Mosquitto"),
            (
                "listeners.tcp.default = 5672\nloopback_users = none\nmqtt.exchange = amq.topic\n",
                "RabbitMQ",
            ),
        ] {
            let error = read(text).expect_err("not ours");
            let expected = format!(
                "gatepost.toml: this is a configuration of {whose}; `gatepost import gatepost.toml > gatepost.toml` translates it"
            );
            assert_eq!(error, expected);
        }
        read("mqtt.max_inflight = 7\n").expect("ours, though RabbitMQ has such keys");
    }

    #[test]
    fn slips_of_syntax_are_reported_with_their_places() {
        let error = read("[node]\nname = \n[log\nlevel = \"info\"\n").expect_err("wrong");
        assert!(error.starts_with("gatepost.toml:2:"), "{error}");
        assert!(error.contains("\ngatepost.toml:3:"), "{error}");
    }

    #[test]
    fn a_file_that_is_missing_is_an_error() {
        let layers = Layers {
            file: Some(PathBuf::from("/nowhere/gatepost.toml")),
            ..Layers::default()
        };
        let error = layers.load().expect_err("missing").to_string();
        assert!(error.starts_with("/nowhere/gatepost.toml: cannot be read: "), "{error}");
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(read("").expect("defaults").values, Config::default().values);
    }

    #[test]
    fn defaults_of_what_is_not_built_may_be_written_down() {
        let text = "\
[limits]
consumer_timeout = \"1800s\"
[listeners.management]
bind = [\"127.0.0.1:15672\"]
[auth.jwt]
algorithms = [\"RS256\",\"ES256\"]
";
        assert_eq!(read(text).expect("defaults").values, Config::default().values);
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let config = read("[memory]\nbudget = \"256MiB\"\n[store]\ndurability = \"os\"\nsegment_size = \"8MiB\"\n")
            .expect("valid");
        assert_eq!(config.memory.budget, Budget::Fixed(Size(256 << 20)));
        assert_eq!(config.store.durability, Durability::Os);
        let printed = config.print();
        assert_eq!(read(&printed).expect("valid").values, config.values);
        // Changed values are marked, and every key is explained.
        for line in [
            "# What a confirm guarantees.\ndurability = \"os\"  # changed; the default is \"always\"\n",
            "# Time between syncs with `interval`.\ninterval = \"1s\"\n",
            " 3 of ",
        ] {
            assert!(printed.contains(line), "{line} in:\n{printed}");
        }
    }

    /// The page is committed for readers without a gateway. (An optional protocol adds its own keys.)
    #[cfg(not(feature = "nats"))]
    #[test]
    fn the_page_in_docs_is_what_the_table_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == crate::config::reference(),
            "docs/configuration.md is out of date: cargo run -p gatepost -- --config-reference > docs/configuration.md"
        );
    }

    #[test]
    fn help_tells_all_keys_or_those_of_a_name() {
        let all = crate::config::help(None);
        for row in Schema::new(protocols::ALL)
            .rows()
            .filter(|row| matches!(row.takes, Takes::A(..)))
        {
            let key = row.name.rsplit('.').next().unwrap_or_default();
            assert!(all.contains(&format!("\n  {key} = ")), "{}", row.name);
            assert!(
                crate::config::manual().contains(&key.replace('-', "\\-")),
                "{}",
                row.name
            );
            assert!(!crate::config::help(Some(&row.name)).is_empty(), "{}", row.name);
        }
        let one = crate::config::help(Some("limits.heartbeat"));
        assert!(one.starts_with("[limits]\n  heartbeat = \"60s\"\n"), "{one}");
        assert_eq!(one.matches(" = ").count(), 1, "{one}");
        assert_eq!(crate::config::help(Some("limits.hartbeat")), "");
    }

    #[test]
    fn later_files_win_in_order_of_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let main = dir.path().join("gatepost.toml");
        fs::create_dir(dir.path().join("conf.d")).expect("a directory");
        fs::write(&main, "[limits]\nheartbeat = \"10s\"\nchannel_max = 7\n").expect("a file");
        fs::write(dir.path().join("conf.d/20-b.toml"), "[limits]\nheartbeat = \"30s\"\n").expect("a file");
        fs::write(dir.path().join("conf.d/10-a.toml"), "[limits]\nheartbeat = \"20s\"\n").expect("a file");
        let layers = Layers {
            file: Some(main),
            ..Layers::default()
        };
        let config = layers.load().expect("valid");
        assert_eq!(config.limits.heartbeat, Period::secs(30));
        assert_eq!(config.values.read::<u16>("limits.channel_max"), Some(7));
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
        assert_eq!(
            config.values.read("listeners.amqp.bind"),
            Some(Vec::<gatepost_core::keys::Address>::new())
        );
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
        // This key's own name ends in `_FILE`, so its value is the path itself.
        let config = environment(&[("GATEPOST__AUTH__DEFAULT_PASSWORD_FILE", &path)]).expect("valid");
        assert_eq!(config.auth.default_password_file, path);
    }

    /// systemd's `LoadCredential=`, whose files only the service can read.
    #[test]
    fn a_key_or_a_variable_may_name_a_credential() {
        let dir = tempfile::tempdir().expect("a directory");
        let directory = dir.path().display().to_string();
        fs::write(dir.path().join("guest.password"), "s3cret\n").expect("a file");
        fs::write(dir.path().join("name"), "edge-7\n").expect("a file");
        let config = environment(&[
            ("CREDENTIALS_DIRECTORY", &directory),
            ("GATEPOST__NODE__NAME_FILE", "name"),
            ("GATEPOST__AUTH__DEFAULT_PASSWORD_FILE", "guest.password"),
        ])
        .expect("valid");
        assert_eq!(config.node.name, "edge-7");
        assert_eq!(config.auth.default_password_file, format!("{directory}/guest.password"));
        assert!(
            config
                .print()
                .contains(&format!("default_password_file = \"{directory}/guest.password\""))
        );
        // Lists of files, too; and what is no credential is a file as it says.
        let config = environment(&[
            ("CREDENTIALS_DIRECTORY", &directory),
            ("GATEPOST__TLS__SNI_KEYS", "[\"name\", \"other\"]"),
        ])
        .expect("valid");
        assert_eq!(config.tls.sni_keys, [format!("{directory}/name"), "other".to_owned()]);
        let error = environment(&[
            ("CREDENTIALS_DIRECTORY", &directory),
            ("GATEPOST__AUTH__DEFAULT_PASSWORD_FILE", "absent.password"),
        ]);
        assert_eq!(
            error.expect_err("no such file"),
            "auth.default_password_file: absent.password cannot be read: No such file or directory (os error 2)"
        );
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

    /// These passed the check, and the start failed with "Address already in use".
    #[test]
    fn addresses_that_include_each_other_are_refused() {
        let bind = |addresses: &str| read(&format!("[listeners.mqtt]\nbind = {addresses}\n"));
        for (addresses, expected) in [
            (
                r#"["[::]:1883", "0.0.0.0:1883"]"#,
                "0.0.0.0:1883 is bound by listeners.mqtt already: [::]:1883 means all addresses, IPv4 too",
            ),
            (
                r#"["0.0.0.0:1883", "[::]:1883"]"#,
                "[::]:1883 is bound by listeners.mqtt already: [::]:1883 means all addresses, IPv4 too",
            ),
            (
                r#"["0.0.0.0:1883", "127.0.0.1:1883"]"#,
                "127.0.0.1:1883 is bound by listeners.mqtt already: 0.0.0.0:1883 means all IPv4 addresses",
            ),
            (
                r#"["127.0.0.1:5672"]"#,
                "127.0.0.1:5672 is bound by listeners.amqp already: [::]:5672 means all addresses, IPv4 too",
            ),
        ] {
            let error = bind(addresses).expect_err("they cannot both be bound");
            assert_eq!(error, format!("listeners.mqtt.bind: {expected}"));
        }
        for addresses in [
            r#"["127.0.0.1:1883", "[::1]:1883"]"#,
            r#"["0.0.0.0:1883", "[::1]:1883"]"#,
            r#"["127.0.0.1:0", "0.0.0.0:0"]"#,
        ] {
            bind(addresses).unwrap_or_else(|error| panic!("{addresses}: {error}"));
        }
    }

    #[test]
    fn the_sample_sets_nothing_and_its_defaults_are_the_defaults() {
        let sample = crate::config::sample();
        assert_eq!(read(&sample).expect("comments only").values, Config::default().values);
        let set: String = sample
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.starts_with(' ') => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        assert_eq!(read(&set).expect("all keys").values, Config::default().values);
        // The bug: it was repeated for each of eight listeners, 500 lines in all.
        for text in [
            "Addresses to listen on; empty: off",
            "Networks of the proxies",
            "PEM file with its private key",
        ] {
            let expected = if text.starts_with("PEM") { 2 } else { 1 };
            assert_eq!(sample.matches(text).count(), expected, "{text}");
            let printed = Config::default().print();
            assert_eq!(printed.matches(text).count(), expected, "{text}");
        }
        assert!(sample.contains("#bind = [\"[::]:61613\"]\n"), "{sample}");
        for key in ["channel_max", "max_inflight", "durability"] {
            assert!(sample.contains(&format!("\n#{key} = ")), "{key} in:\n{sample}");
            assert!(crate::config::reference().contains(&format!("| `{key}` |")), "{key}");
        }
    }

    #[test]
    fn a_listener_may_have_any_name_if_it_says_its_protocol() {
        let config = read("[listeners.plant]\nprotocol = \"mqtt\"\nbind = [\"127.0.0.1:1884\"]\n").expect("valid");
        let (name, listener) = config.listeners.last().expect("listeners");
        assert_eq!((name.as_str(), listener.protocol.as_str()), ("plant", "mqtt"));
        assert_eq!(listener.backlog, 128);
        assert_eq!(read(&config.print()).expect("valid").values, config.values);
        let config = environment(&[
            ("GATEPOST__LISTENERS__PLANT__BIND", "[\"127.0.0.1:1884\"]"),
            ("GATEPOST__LISTENERS__PLANT__PROTOCOL", "mqtt"),
        ])
        .expect("valid");
        assert_eq!(config.listeners.last().expect("listeners").1.bind.len(), 1);

        let error = read("[listeners.mqqt]\nbind = []\n").expect_err("a typing mistake");
        assert!(
            error.starts_with("gatepost.toml:1:12: listeners.mqqt: unknown key, did you mean mqtt?"),
            "{error}"
        );
        let error = read("[listeners.plant]\nprotocol = \"mqqt\"\n").expect_err("no such protocol");
        assert!(
            error.starts_with("listeners.plant.protocol: expected one of amqp, mqtt, stomp, "),
            "{error}"
        );
    }

    #[test]
    fn tls_listens_where_there_is_a_certificate_and_nowhere_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        fs::write(path("cert.pem"), signed.cert.pem()).expect("written");
        fs::write(path("key.pem"), signed.signing_key.serialize_pem()).expect("written");
        let pair = format!("cert = {:?}\nkey = {:?}\n", path("cert.pem"), path("key.pem"));
        let ports = |config: &Config| {
            let ports = tls::Ports::new(config, tls::Keys::default()).expect("good files");
            let names = ["amqp", "mqtt", "stomp", "metrics", "plant"];
            names.map(|name| ports.port(name).is_some())
        };
        assert_eq!(ports(&read("").expect("valid")), [false; 5]);
        let everywhere = read(&format!("[tls]\n{pair}[listeners.stomp]\ntls_bind = []\n")).expect("valid");
        assert_eq!(ports(&everywhere), [true, true, false, false, false]);
        let bind = &everywhere.listeners[1].1.tls_bind;
        assert_eq!(bind, &["[::]:8883".parse().expect("an address")]);
        let one = read(&format!("[listeners.mqtt.tls]\n{pair}min_version = \"1.3\"\n")).expect("valid");
        assert_eq!(ports(&one), [false, true, false, false, false]);
        assert_eq!(read(&one.print()).expect("valid").values, one.values);

        let plant = "[listeners.plant]\nprotocol = \"mqtt\"\ntls_bind = [\"127.0.0.1:8884\"]\n";
        let error = read(plant).expect_err("no certificate");
        assert!(
            error.starts_with("listeners.plant.tls_bind: TLS needs a certificate"),
            "{error}"
        );
        let own = read(&format!("{plant}[listeners.plant.tls]\n{pair}")).expect("valid");
        assert_eq!(ports(&own), [false, false, false, false, true]);
        let taken = format!("[tls]\n{pair}[listeners.mqtt]\nbind = [\"[::]:5671\"]\n");
        let error = read(&taken).expect_err("twice");
        assert_eq!(
            error,
            "listeners.mqtt.bind: [::]:5671 is bound by listeners.amqp already"
        );
        let unix = format!("[tls]\n{pair}[listeners.mqtt]\ntls_bind = [\"unix:/run/mqtt.sock\"]\n");
        assert!(
            read(&unix)
                .expect_err("no network")
                .starts_with("listeners.mqtt.tls_bind: TLS is for the network")
        );
        let http = format!("[tls]\n{pair}[listeners.metrics]\ntls_bind = [\"[::]:15691\"]\n");
        assert_eq!(ports(&read(&http).expect("valid")), [true, true, true, true, false]);
        let quic = "[listeners.mqtt]\nquic_bind = [\"[::]:14567\"]\n";
        for (config, error) in [
            (quic.to_owned(), "listeners.mqtt.quic_bind: QUIC needs a certificate"),
            (
                format!("[tls]\n{pair}{}", quic.replace("mqtt", "stomp")),
                "listeners.stomp.quic_bind: stomp is not spoken over QUIC",
            ),
            (
                format!("[tls]\n{pair}{quic}[limits]\nquic_idle_timeout = \"15s\"\n"),
                "limits.quic_idle_timeout: has to be longer than limits.quic_ping",
            ),
        ] {
            let found = read(&config).expect_err("refused");
            assert!(found.starts_with(error), "{found}");
        }
        // A UDP port may have the number of a TCP port.
        read(&format!("[tls]\n{pair}{}", quic.replace("14567", "8883"))).expect("valid");
    }

    /// The bug: a missing password file passed the check, and so did a log in a directory that does not exist.
    #[test]
    fn files_that_keys_name_must_be_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("password");
        let auth = format!("[auth]\ndefault_user = \"edge\"\ndefault_password_file = {path:?}\n");
        let error = read(&auth).expect_err("missing");
        let expected = format!("auth.default_password_file: {} cannot be read: ", path.display());
        assert!(error.starts_with(&expected), "{error}");
        fs::write(&path, "\n").expect("a file");
        let error = read(&auth).expect_err("empty");
        assert!(error.ends_with("holds no password in its first line"), "{error}");
        fs::write(&path, "secret\n").expect("a file");
        read(&auth).expect("valid");

        let error = read("[log]\ntarget = \"/nowhere/gatepost.log\"\n").expect_err("no directory");
        assert!(error.starts_with("log.target: /nowhere is not a directory"), "{error}");
        let error = read("[log]\nlevel = \"loud\"\n").expect_err("no level");
        assert!(
            error.starts_with("gatepost.toml:2:9: log.level: expected error, warn (or warning), info"),
            "{error}"
        );
    }

    #[test]
    fn a_reload_takes_what_can_change_and_keeps_the_rest() {
        let before = read("[limits]\nheartbeat = \"10s\"\n[store]\nopen_files = 5\n").expect("valid");
        let next =
            read("[limits]\nheartbeat = \"20s\"\nmax_connections = 7\n[store]\nopen_files = 6\n").expect("valid");
        let after = before.with_what_applies(&next);
        assert_eq!((after.limits.max_connections, after.store.open_files), (7, 5));
        assert_eq!(
            after.values.read("limits.heartbeat"),
            Some(std::time::Duration::from_secs(20))
        );
        let changes: Vec<_> = before
            .changes(&next)
            .into_iter()
            .map(|c| (c.name, c.from, c.to))
            .collect();
        let change = |name: &str, from: &str, to: &str| (name.to_owned(), from.to_owned(), to.to_owned());
        let expected = [
            change("limits.heartbeat", "\"10s\"", "\"20s\""),
            change("limits.max_connections", "0", "7"),
            change("store.open_files", "5", "6"),
        ];
        assert_eq!(changes, expected);
    }
}
