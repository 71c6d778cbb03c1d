//! Completions of the command line for bash, zsh and fish, generated from the command line's own description.

use super::rabbitmqctl;
use clap::{Command, ValueEnum};
use std::fmt::Write as _;

/// A shell.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The script for a shell.
pub fn completions(shell: Shell, command: &Command) -> String {
    let mut cases = Vec::new();
    collect(command, String::new(), &mut cases);
    match shell {
        Shell::Bash => bash(&cases),
        // zsh can load scripts for bash.
        Shell::Zsh => format!(
            "#compdef gatepost gatepostctl\nautoload -U +X bashcompinit && bashcompinit\n{}",
            bash(&cases)
        ),
        Shell::Fish => fish(&cases),
    }
}

/// The words so far, and the words that may follow them.
type Case = (String, Vec<String>);

fn collect(command: &Command, path: String, cases: &mut Vec<Case>) {
    let mut next = Vec::new();
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        next.push(verb.get_name().to_owned());
        collect(
            verb,
            format!("{path} {}", verb.get_name()).trim_start().to_owned(),
            cases,
        );
    }
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        match argument.get_long() {
            Some(long) => next.push(format!("--{long}")),
            None => next.extend(
                argument
                    .get_possible_values()
                    .iter()
                    .map(|value| value.get_name().to_owned()),
            ),
        }
    }
    cases.push((path, next));
}

fn bash(cases: &[Case]) -> String {
    let mut text = "_gatepost() {\n  local word path= words=\n  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n    case \"${path:+$path }$word\" in\n".to_owned();
    for (path, _) in cases.iter().filter(|(path, _)| !path.is_empty()) {
        let _ = writeln!(text, "      '{path}') path='{path}' ;;");
    }
    text.push_str("    esac\n  done\n  case \"$path\" in\n");
    for (path, next) in cases {
        let _ = writeln!(text, "    '{path}') words='{}' ;;", next.join(" "));
    }
    text.push_str("  esac\n");
    let names: Vec<String> = rabbitmqctl::verbs().map(|(name, _)| name).collect();
    let _ = writeln!(
        text,
        "  case \"${{COMP_WORDS[0]##*/}}:$path\" in\n    gatepostctl: | rabbitmqctl:) words=\"$words {}\" ;;\n  esac",
        names.join(" ")
    );
    text.push_str("  COMPREPLY=($(compgen -W \"$words\" -- \"${COMP_WORDS[COMP_CWORD]}\"))\n}\n");
    text.push_str("complete -o default -F _gatepost gatepost gatepostctl\n");
    text
}

fn fish(cases: &[Case]) -> String {
    let mut text = String::new();
    for (path, next) in cases {
        let seen = path
            .split_whitespace()
            .map(|verb| format!("__fish_seen_subcommand_from {verb}"));
        let seen: Vec<String> = seen.collect();
        let condition = if seen.is_empty() {
            "__fish_use_subcommand".to_owned()
        } else {
            seen.join("; and ")
        };
        for program in ["gatepost", "gatepostctl"] {
            let _ = writeln!(text, "complete -c {program} -n '{condition}' -a '{}'", next.join(" "));
        }
    }
    text
}
