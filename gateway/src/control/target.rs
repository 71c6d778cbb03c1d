//! The gateway that a verb is about, and the format of the output.

use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// The gateway, and the output format.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// Configuration file of the gateway [default: /etc/gatepost/gatepost.toml, if it is there]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Data directory of the gateway, instead of the configuration's node.data_dir
    #[arg(long, value_name = "DIR", global = true)]
    pub data: Option<PathBuf>,
    /// Ask the management API at this address instead, such as https://10.0.0.5:15671. The configuration is not read then
    #[arg(long, alias = "uri", value_name = "URL", global = true)]
    pub(super) url: Option<String>,
    /// User that logs in at --url
    #[arg(long, value_name = "USER", global = true, requires = "url")]
    pub(super) login: Option<String>,
    /// The first line of this file is that user's password. Without it, the password is asked for on the terminal
    #[arg(long, value_name = "FILE", global = true, requires = "login")]
    pub(super) login_file: Option<PathBuf>,
    /// PEM file with the authorities that may have signed the certificate of an https:// URL [default: the system's]
    #[arg(long, value_name = "FILE", global = true, requires = "url")]
    pub(super) ca: Option<PathBuf>,
    /// Seconds to wait for each answer. Exit code 75: none came
    #[arg(long, value_name = "SECONDS", global = true, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: Option<u64>,
    /// Print lists as JSON, with all fields unless columns are named. Nothing else goes to standard output
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// How lists are printed
    #[arg(
        long,
        alias = "formatter",
        value_name = "FORMAT",
        global = true,
        default_value = "columns",
        conflicts_with = "json"
    )]
    format: Format,
    /// Print lists without the line of headings
    #[arg(long, alias = "no-table-headers", global = true)]
    pub(super) no_headers: bool,
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns
    #[value(alias = "pretty_table")]
    Columns,
    /// Values with tabs between them, for scripts
    Table,
    /// Values with commas between them (RFC 4180)
    Csv,
    /// One array of objects
    Json,
}

/// Default time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(60);

impl Target {
    pub(super) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }

    /// Time limit of one answer.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout.map_or(TIMEOUT, Duration::from_secs)
    }
}
