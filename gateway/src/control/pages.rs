//! The manual pages gatepost(1) and gatepostctl(1), and the page of Markdown. All are generated from the command line's
//! own description, so that none can be out of date.

use super::rabbitmqctl;
use super::target::Target;
use crate::config::roff;
use clap::{Arg, Args as _, Command};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// A verb that can be run, or the program without a verb.
struct Verb {
    /// The name, with the words before it.
    name: String,
    /// The rest of the command line.
    synopsis: String,
    /// Its description; each line is a paragraph.
    about: Vec<String>,
    /// Options and other words, with their meanings.
    arguments: Vec<(String, String)>,
}

/// Options of all verbs that connect to a gateway.
fn common() -> Vec<Arg> {
    let all = Target::augment_args(Command::new("common"));
    all.get_arguments().cloned().collect()
}

/// All verbs, with their sub-verbs, in their order.
fn verbs(program: &Command) -> Vec<Verb> {
    let common: BTreeSet<String> = common().iter().map(|argument| argument.get_id().to_string()).collect();
    let mut verbs = Vec::new();
    collect(program, "", &common, &mut verbs);
    verbs
}

fn collect(command: &Command, before: &str, common: &BTreeSet<String>, verbs: &mut Vec<Verb>) {
    let inner: Vec<&Command> = command.get_subcommands().filter(|verb| !verb.is_hide_set()).collect();
    if inner.is_empty() {
        let has_common = command.get_arguments().any(|argument| argument.get_id() == "timeout");
        let own = |argument: &&Arg| !(has_common && common.contains(argument.get_id().as_str()));
        let arguments: Vec<&Arg> = command.get_arguments().filter(own).collect();
        let about = command.get_long_about().or(command.get_about());
        verbs.push(Verb {
            name: before.to_owned(),
            synopsis: synopsis(&arguments),
            about: paragraphs(&about.map(ToString::to_string).unwrap_or_default()),
            arguments: arguments.iter().filter_map(|argument| described(argument)).collect(),
        });
    }
    for verb in inner {
        let name = format!("{before} {}", verb.get_name());
        collect(verb, name.trim_start(), common, verbs);
    }
}

fn paragraphs(text: &str) -> Vec<String> {
    let words = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    text.split("\n\n").map(words).filter(|text| !text.is_empty()).collect()
}

fn synopsis(arguments: &[&Arg]) -> String {
    let (options, words): (Vec<&Arg>, Vec<&Arg>) = arguments.iter().partition(|argument| argument.is_positional());
    let (words, options) = (options, words);
    let options = options.iter().filter(|option| !option.is_hide_set()).map(|option| {
        let text = option_text(option);
        if option.is_required_set() {
            text
        } else {
            format!("[{text}]")
        }
    });
    let words = words.iter().map(|word| {
        let name = value_of(word);
        let many = if takes_many(word) { "..." } else { "" };
        if word.is_required_set() {
            format!("{name}{many}")
        } else {
            format!("[{name}{many}]")
        }
    });
    options.chain(words).collect::<Vec<_>>().join(" ")
}

fn takes_many(word: &Arg) -> bool {
    matches!(word.get_action(), clap::ArgAction::Append)
        || word.get_num_args().is_some_and(|range| range.max_values() > 1)
}

fn value_of(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    names
        .first()
        .map_or_else(|| argument.get_id().to_string(), ToString::to_string)
        .to_uppercase()
}

fn option_text(option: &Arg) -> String {
    let long = option.get_long().unwrap_or_default();
    if option.get_action().takes_values() {
        format!("--{long} {}", value_of(option))
    } else {
        format!("--{long}")
    }
}

/// `None`: its name says everything.
fn described(argument: &Arg) -> Option<(String, String)> {
    if argument.is_hide_set() {
        return None;
    }
    let mut text = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let choices = argument.get_possible_values();
    if argument.get_action().takes_values() && !choices.is_empty() {
        let names: Vec<&str> = choices.iter().map(clap::builder::PossibleValue::get_name).collect();
        let _ = write!(text, " [{}]", names.join(", "));
    }
    if argument.get_action().takes_values() {
        for value in argument.get_default_values() {
            let _ = write!(text, " [default: {}]", value.to_string_lossy());
        }
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        return None;
    }
    let name = if argument.is_positional() {
        value_of(argument)
    } else {
        option_text(argument)
    };
    Some((name, text))
}

const SERVES: &str = "Without a verb it serves, until SIGTERM or SIGINT. SIGHUP has it read its configuration, certificates and log file again; \
     SIGUSR1 writes its state to the log.";
const REACHES: &str = "Verbs find the gateway by its configuration, as the gateway itself does, and speak to the socket control.sock in its data \
     directory. Where none runs, those that read and change what is declared work on the data directory itself. With \
     --url they ask the management API of another machine.";

/// The used exit codes of `sysexits.h`.
const CODES: [(&str, &str); 13] = [
    ("0", "Done."),
    (
        "1, 2, 3",
        "health: warning, critical, unknown. check --repair: 1, there was damage, and it is repaired.",
    ),
    ("64", "Wrong usage, an unknown column included."),
    (
        "65",
        "Refused: something is there already, is not there, or is no good; check: damage.",
    ),
    ("67", "No such user."),
    (
        "69",
        "The gateway does not run, does not let anybody in, or a check fails; a port is taken.",
    ),
    ("70", "A fault of the program."),
    ("73", "The data directory cannot be used."),
    ("74", "The message log cannot be read or written."),
    ("75", "No answer in time; another process uses the data directory."),
    ("78", "The configuration is wrong."),
    ("101", "A panic, which is always a fault of the program."),
    (
        "129, 130, 143",
        "Ended by SIGHUP, SIGINT (Ctrl-C) or SIGTERM: a backup at the first, a gateway at once, at the second.",
    ),
];

/// gatepost(1), in roff.
pub fn manual(program: &Command) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(
        ".TH gatepost 1 \"\" \"Gatepost {version}\"\n.SH NAME\ngatepost \\- edge message gateway for MQTT, STOMP and AMQP\n\
         .SH SYNOPSIS\n.B gatepost\n[OPTIONS] [VERB]\n.SH DESCRIPTION\n{}\n.PP\n{}\n.SH OPTIONS\n",
        roff(SERVES),
        roff(REACHES)
    );
    tags(&mut text, program.get_arguments().filter_map(described));
    text.push_str(".SH VERBS\n");
    for verb in verbs(program) {
        let _ = writeln!(text, ".SS {} {}", roff(&verb.name), roff(&verb.synopsis));
        let _ = writeln!(
            text,
            "{}",
            verb.about
                .iter()
                .map(|part| roff(part))
                .collect::<Vec<_>>()
                .join("\n.PP\n")
        );
        tags(&mut text, verb.arguments.into_iter());
    }
    text.push_str(".SH \"OPTIONS OF VERBS\"\nVerbs that speak with a gateway also take:\n");
    tags(&mut text, common().iter().filter_map(described));
    text.push_str(".SH \"EXIT STATUS\"\n");
    tags(
        &mut text,
        CODES
            .iter()
            .map(|(code, meaning)| ((*code).to_owned(), (*meaning).to_owned())),
    );
    text.push_str(
        ".SH FILES\n.TP\n.B /etc/gatepost/gatepost.toml\nThe configuration, if no other is named.\n\
         .SH \"SEE ALSO\"\n.BR gatepost.toml (5),\n.BR gatepostctl (1)\n",
    );
    text
}

/// gatepostctl(1), in roff.
pub fn ctl_manual() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(
        ".TH gatepostctl 1 \"\" \"Gatepost {version}\"\n.SH NAME\ngatepostctl \\- the verbs of rabbitmqctl for a Gatepost message gateway\n\
         .SH SYNOPSIS\n.B gatepostctl\n[OPTIONS] VERB ...\n.SH DESCRIPTION\n{}\n.SH VERBS\n",
        roff(CTL)
    );
    tags(&mut text, rabbitmqctl::verbs());
    text.push_str(".SH \"VERBS THAT ARE NOT HERE\"\nThey exit with 64, and say this:\n");
    let absent = rabbitmqctl::absent();
    tags(
        &mut text,
        absent.map(|(name, instead)| (name.to_owned(), instead.to_owned())),
    );
    text.push_str(".SH \"SEE ALSO\"\n.BR gatepost (1)\n");
    text
}

const CTL: &str = "gatepost under another name: it also takes the verbs of rabbitmqctl, with their columns and tabs between them, so \
     that scripts go on working. -p names a vhost (/ by default), -s leaves out headings, -t is --timeout, --formatter is \
     --format; -q and -n mean nothing here. Lists are not sorted. Called rabbitmqctl, by a link, it does the same.";

fn tags(text: &mut String, items: impl Iterator<Item = (String, String)>) {
    for (name, meaning) in items {
        let _ = writeln!(text, ".TP\n.B {}\n{}", roff(&name), roff(&meaning));
    }
}

/// A page of Markdown with all verbs.
pub fn reference(program: &Command) -> String {
    let mut text = format!("# Command line\n\n{GENERATED}\n\n`gatepost [OPTIONS] [VERB]`\n\n{SERVES}\n\n");
    table(&mut text, "option", program.get_arguments().filter_map(described));
    let _ = writeln!(text, "## Verbs\n\n{REACHES} They all take:\n");
    table(&mut text, "option", common().iter().filter_map(described));
    for verb in verbs(program) {
        let _ = writeln!(text, "### `gatepost {}`\n", verb.name);
        if !verb.synopsis.is_empty() {
            let _ = writeln!(text, "`{} {}`\n", verb.name, verb.synopsis);
        }
        for part in &verb.about {
            let _ = writeln!(text, "{}\n", escaped(part));
        }
        table(&mut text, "argument", verb.arguments.into_iter());
    }
    let _ = writeln!(text, "## Exit codes\n");
    table(
        &mut text,
        "code",
        CODES
            .iter()
            .map(|(code, meaning)| ((*code).to_owned(), (*meaning).to_owned())),
    );
    let _ = writeln!(text, "## `gatepostctl`\n\n{}\n", escaped(CTL));
    let words = rabbitmqctl::verbs().map(|(name, ours)| (name, format!("`{ours}`")));
    table(&mut text, "verb", words);
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

const GENERATED: &str =
    "<!-- Made by `gatepost --command-reference` from gateway/src/control. A test fails when it is out of date. -->";

fn table(text: &mut String, what: &str, items: impl Iterator<Item = (String, String)>) {
    let rows: Vec<(String, String)> = items.collect();
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(text, "| {what} | meaning |\n|---|---|");
    for (name, meaning) in rows {
        let meaning = if meaning.starts_with('`') {
            meaning
        } else {
            escaped(&meaning)
        };
        let _ = writeln!(
            text,
            "| `{}` | {} |",
            name.replace('|', "\\|"),
            meaning.replace('|', "\\|")
        );
    }
    text.push('\n');
}

/// Escapes `<`, `*` and `_`, which have a meaning in Markdown.
fn escaped(text: &str) -> String {
    text.replace('<', "&lt;").replace('*', "\\*").replace('_', "\\_")
}
