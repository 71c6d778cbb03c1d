//! `gatepost definitions`.

use super::Listed;
use super::client::Client;
use crate::exit::Failure;
use clap::Subcommand;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum Definitions {
    /// Write all definitions to a file
    Export {
        /// -: standard output
        file: PathBuf,
        /// Of one vhost, without users
        #[arg(long)]
        vhost: Option<String>,
    },
    /// Import definitions from a file, which may be RabbitMQ's. Deletes nothing. If the file is not valid, nothing is changed
    Import {
        /// -: standard input
        file: PathBuf,
        /// Into one vhost
        #[arg(long)]
        vhost: Option<String>,
    },
}

pub(super) async fn act(verb: &Definitions, client: &mut Client) -> Result<Listed, Failure> {
    match verb {
        Definitions::Export { file, vhost } => export(file, vhost.as_deref(), client).await?,
        Definitions::Import { file, vhost } => import(file, vhost.as_deref(), client).await?,
    }
    Ok(None)
}

/// The file name that means standard input or output.
const STANDARD: &str = "-";

/// Writes all definitions, including password hashes, to a file that only its owner can read.
async fn export(file: &Path, vhost: Option<&str>, client: &mut Client) -> Result<(), Failure> {
    let document = match vhost {
        Some(vhost) => client.get(&["definitions", vhost]).await?,
        None => client.get(&["definitions"]).await?,
    };
    let text = format!("{document:#}\n");
    let written = if file.as_os_str() == STANDARD {
        std::io::stdout().write_all(text.as_bytes())
    } else {
        std::fs::write(file, text)
    };
    written.map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
}

/// Imports definitions from a file. If something in it is not valid, nothing is changed.
async fn import(file: &Path, vhost: Option<&str>, client: &mut Client) -> Result<(), Failure> {
    let mut text = Vec::new();
    let read = if file.as_os_str() == STANDARD {
        std::io::stdin().read_to_end(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut text))
    };
    read.map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    let document = serde_json::from_slice(&text)
        .map_err(|error| Failure::DataDamaged(format!("{}: no JSON: {error}", file.display())))?;
    match vhost {
        Some(vhost) => client.post(&["definitions", vhost], &document).await,
        None => client.post(&["definitions"], &document).await,
    }
}
