//! The command line of the Gatepost daemon.

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use gatepost::config;
use gatepost::{Failure, print};
use std::path::PathBuf;
use std::process::ExitCode;

/// An edge message gateway: MQTT, STOMP and AMQP meet in one durable topic and queue engine.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Configuration file [default: /etc/gatepost/gatepost.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory, instead of the configuration's node.data_dir
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Check the configuration and exit: 0 if it is good, 78 if not
    #[arg(long)]
    check_config: bool,
    /// Print the configuration in effect and exit
    #[arg(long)]
    print_config: bool,
    /// Print a configuration file with all keys, their meaning and their defaults, and exit
    #[arg(long)]
    sample_config: bool,
    /// Print all keys as a page of Markdown and exit
    #[arg(long)]
    config_reference: bool,
    /// Print all verbs as a page of Markdown and exit
    #[arg(long, hide = true)]
    command_reference: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Read all of a data directory that no gateway uses, and report damage
    ///
    /// Exit codes: 0 there is no damage; 65 there is damage; 73 it cannot be used; 74 it cannot be read; 75 a gateway
    /// uses it. With --repair: 0 there was nothing to repair; 1 there was damage, and it is repaired; 65 damage
    /// remains.
    #[command(verbatim_doc_comment)]
    Check {
        /// The data directory
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// Rewrite files that can be derived (checkpoint, headers, footers), and move unusable files to quarantine/.
        /// Intact records are kept
        #[arg(long)]
        repair: bool,
    },
    /// Print the version of this program
    Version,
    /// Check the configuration and print its errors. Exit code 78: there are errors
    CheckConfig {
        /// Configuration file [default: /etc/gatepost/gatepost.toml, if it is there]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Make a data directory from a file that `gatepost backup` wrote
    ///
    /// The directory must be empty, or must not exist yet. The archive is checked before anything is put in place: a
    /// refused restore leaves nothing behind. Run it as the user that runs the gateway. Messages that were consumed
    /// since the backup are in the restored directory again: do not serve both directories to the same clients.
    Restore {
        /// The file, or - for standard input
        file: PathBuf,
        /// The data directory to make
        #[arg(long, visible_alias = "data-dir", value_name = "DIR")]
        data: PathBuf,
    },
    /// Explain the configuration: all keys with their defaults, or a section or a key
    Config {
        /// Such as limits, or limits.max_connections
        key: Option<String>,
    },
    /// Look for problems on this machine that make a gateway slow, lose data or run out of resources, and give advice
    ///
    /// Checks known problems of small boards, the medium of the data directory, the duration of a sync, and limits.
    /// Exit codes: 0 no check failed, warnings included; 69 something will go wrong.
    Doctor,
    /// Print a manual page. Read it with `gatepost man gatepost | man -l -`
    Man {
        /// gatepost(1), gatepostctl(1), or gatepost.toml(5), about the configuration
        #[arg(value_parser = ["gatepost", "gatepostctl", "gatepost.toml"], default_value = "gatepost.toml")]
        page: String,
    },
    /// Make certificates
    Cert {
        #[command(subcommand)]
        kind: Cert,
    },
    /// Print the configuration that is equivalent to a mosquitto.conf, rabbitmq.conf or definitions.json
    ///
    /// Settings without a counterpart are listed in comments at its top.
    Import {
        /// The mosquitto.conf, rabbitmq.conf or definitions.json
        file: PathBuf,
    },
    /// Print a script that completes this command line in a shell
    ///
    /// For example: gatepost completions bash > /etc/bash_completion.d/gatepost
    Completions {
        /// The shell
        shell: gatepost::control::Shell,
    },
    #[command(flatten)]
    Control(Box<gatepost::control::Verb>),
}

#[derive(Subcommand)]
enum Cert {
    /// Make a CA of your own and a server certificate for development and closed networks
    ///
    /// Writes ca.pem, ca.key, server.pem and server.key. If a CA exists already, it signs again, so clients that trust
    /// it trust the new certificate.
    Dev {
        /// Where to put them
        #[arg(long, value_name = "DIR", default_value = "gatepost-tls")]
        dir: PathBuf,
        /// Name or address by which clients reach the gateway; may be given several times [default: localhost, 127.0.0.1,
        /// ::1 and this machine's name]
        #[arg(long, value_name = "NAME")]
        name: Vec<String>,
        /// Make a client's certificate instead, NAME.pem and NAME.key, for the user of that name
        #[arg(long, value_name = "NAME", conflicts_with = "name")]
        client: Option<String>,
    },
}

fn main() -> ExitCode {
    let mut command = Arguments::command();
    // This help has hundreds of lines, so it is generated only when it is asked for.
    if std::env::args_os().any(|argument| argument == "config") {
        command = command.mut_subcommand("config", |config| config.after_long_help(config::help(None)));
    }
    let words = match words() {
        Ok(words) => words,
        Err(failure) => {
            eprintln!("{failure}");
            return failure.code();
        }
    };
    let arguments = command
        .try_get_matches_from(words)
        .and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match arguments {
        Ok(arguments) => arguments,
        Err(error) => {
            // The reader may have closed it. Then the text is not needed.
            let _ = error.print();
            // Help and the version are no errors, and go to standard output.
            return if error.use_stderr() {
                Failure::Usage(String::new()).code()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.to_string();
            if !text.is_empty() {
                eprintln!("{text}");
            }
            failure.code()
        }
    }
}

/// The words of the command line. `gatepostctl` and `rabbitmqctl` also know RabbitMQ's verbs.
///
/// # Errors
/// One of RabbitMQ's verbs that is not here.
fn words() -> Result<Vec<std::ffi::OsString>, Failure> {
    let all: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let name = all.first().and_then(|path| std::path::Path::new(path).file_name());
    if !name.is_some_and(|name| name == "gatepostctl" || name == "rabbitmqctl") {
        return Ok(all);
    }
    // An argument that is not Unicode cannot be a verb.
    let texts: Option<Vec<String>> = all.iter().map(|word| word.to_str().map(str::to_owned)).collect();
    match texts {
        Some(texts) => Ok(gatepost::control::translate(texts)?
            .into_iter()
            .map(Into::into)
            .collect()),
        None => Ok(all),
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    gatepost::keep_files_private();
    match arguments.verb {
        Some(Verb::Check { data, repair }) => return gatepost::check(&data, repair),
        Some(Verb::Restore { file, data }) => return gatepost::control::restore(&file, &data),
        Some(Verb::Cert {
            kind: Cert::Dev { dir, name, client },
        }) => {
            let wanted = gatepost::DevelopmentCertificates { names: name, client };
            return print(&gatepost::make_development_certificates(&dir, &wanted)?);
        }
        Some(Verb::Import { file }) => {
            return print(&gatepost::import(&file)?);
        }
        Some(Verb::Config { key }) => {
            let text = config::help(key.as_deref());
            if text.is_empty() {
                let key = key.unwrap_or_default();
                return Err(Failure::Usage(format!(
                    "{key} is neither a section nor a key; `gatepost config` lists them"
                )));
            }
            return print(&text);
        }
        Some(Verb::Completions { shell }) => {
            return print(&gatepost::control::completions(shell, &Arguments::command()));
        }
        Some(Verb::Man { page }) => {
            return print(&match page.as_str() {
                "gatepost" => gatepost::control::manual(&Arguments::command()),
                "gatepostctl" => gatepost::control::ctl_manual(),
                _ => config::manual(),
            });
        }
        Some(Verb::Version) => return print(concat!("gatepost ", env!("CARGO_PKG_VERSION"), "\n")),
        Some(Verb::Doctor | Verb::CheckConfig { .. } | Verb::Control(_)) | None => {}
    }
    if arguments.command_reference {
        return print(&gatepost::control::reference(&Arguments::command()));
    }
    if arguments.sample_config {
        return print(&config::sample());
    }
    if arguments.config_reference {
        return print(&config::reference());
    }
    let (asked, is_check) = match &arguments.verb {
        Some(Verb::CheckConfig { config }) => (config.clone(), true),
        _ => (None, arguments.check_config),
    };
    let layers = config::Layers {
        file: asked.or(arguments.config),
        environment: environment().collect(),
        data: arguments.data,
    };
    if let Some(Verb::Control(verb)) = arguments.verb {
        return gatepost::control::run(&verb, layers);
    }
    let doctor = matches!(arguments.verb, Some(Verb::Doctor));
    let config = layers
        .load()
        .map_err(|problems| Failure::Configuration(problems.to_string()))?;
    if doctor {
        return print(&gatepost::doctor(&config.node.data_dir)?);
    }
    if arguments.print_config {
        return print(&config.print());
    }
    if is_check {
        for warning in layers.warnings() {
            eprintln!("{warning}");
        }
        return print("the configuration is good\n");
    }
    gatepost::serve(config, layers)
}

/// The environment variables. One that is not Unicode cannot be Gatepost's, and is skipped.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// clap finds such mistakes only when the verb is used for the first time, and then panics.
    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_page_of_the_command_line_is_up_to_date() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/command-line.md");
        let page = std::fs::read_to_string(path).expect("the page");
        assert!(
            page == gatepost::control::reference(&Arguments::command()),
            "docs/command-line.md is out of date: cargo run -p gatepost -- --command-reference > docs/command-line.md"
        );
    }

    /// A line that begins with a dot or an apostrophe is a roff request. A misspelled request vanishes with its text.
    #[test]
    fn the_manual_pages_have_no_requests_but_ours() {
        let pages = [
            gatepost::control::manual(&Arguments::command()),
            gatepost::control::ctl_manual(),
            config::manual(),
        ];
        for page in pages {
            assert!(page.starts_with(".TH gatepost"), "{page}");
            for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
                let request = line.split(' ').next().unwrap_or_default();
                assert!(
                    [".TH", ".SH", ".SS", ".TP", ".B", ".BR", ".PP"].contains(&request),
                    "{line}"
                );
            }
        }
    }
}
