//! Reads a password from a file, standard input, or the terminal without echo.

use crate::exit::Failure;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;

/// Reads a password.
pub(super) fn read(file: Option<&Path>) -> Result<String, Failure> {
    let password = match file {
        Some(file) => {
            let text = fs::read_to_string(file).map_err(|error| {
                Failure::Usage(format!("the password file {} cannot be read: {error}", file.display()))
            })?;
            text.lines().next().unwrap_or_default().to_owned()
        }
        None if io::stdin().is_terminal() => {
            let password = ask("Password: ").map_err(unreadable)?;
            if ask("The same again: ").map_err(unreadable)? != password {
                return Err(Failure::Usage("the two passwords are not the same".to_owned()));
            }
            password
        }
        None => line().map_err(unreadable)?,
    };
    if password.is_empty() {
        return Err(Failure::Usage("the password is empty".to_owned()));
    }
    Ok(password)
}

/// The password of a user who has one already: from a file, or asked for once. Standard input is reserved for the verb
/// itself.
pub(super) fn login(file: Option<&Path>) -> Result<String, Failure> {
    match file {
        Some(_) => read(file),
        None if io::stdin().is_terminal() => ask("Password to log in: ").map_err(unreadable),
        None => Err(Failure::Usage(
            "no terminal to ask for the password on: name a file with --login-file".to_owned(),
        )),
    }
}

fn unreadable(error: io::Error) -> Failure {
    Failure::Usage(format!("the password cannot be read: {error}"))
}

/// Asks on the terminal, without echo.
fn ask(question: &str) -> io::Result<String> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL);
    eprint!("{question}");
    io::stderr().flush()?;
    tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    let answer = line();
    tcsetattr(&stdin, OptionalActions::Flush, &before)?;
    answer
}

fn line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
