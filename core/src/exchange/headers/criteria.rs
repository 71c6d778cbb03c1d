//! Reads and checks the arguments of a binding to a headers exchange.

use crate::arguments::{text_of, type_name};
use crate::fault::{Fault, FaultKind};
use crate::properties::{Name, Table, Value};

/// The value of `x-match`: whether one criterion is enough or all must match, and whether names that begin with `x-`
/// count.
#[derive(Clone, Copy)]
struct Mode {
    any: bool,
    with_x: bool,
}

/// The criteria among a binding's arguments, and whether one match is enough.
pub(super) fn criteria(arguments: &Table) -> (Box<[(Name, Value)]>, bool) {
    // The arguments were checked when the binding was made. A record of the log that has bad ones counts as the default
    // mode.
    let mode = mode(arguments).unwrap_or(Mode {
        any: false,
        with_x: false,
    });
    let counts = |name: &str| {
        if mode.with_x {
            name != "x-match"
        } else {
            !name.starts_with("x-")
        }
    };
    let pairs = arguments.0.iter().filter(|(name, _)| counts(name)).cloned();
    (pairs.collect(), mode.any)
}

/// Checks a binding's arguments.
pub(in crate::exchange) fn check_arguments(arguments: &Table) -> Result<(), Fault> {
    mode(arguments).map(|_| ())
}

fn mode(arguments: &Table) -> Result<Mode, Fault> {
    let refused = |text: String| Err(Fault::new(FaultKind::PreconditionFailed, text));
    match arguments.lookup("x-match") {
        None => Ok(Mode {
            any: false,
            with_x: false,
        }),
        Some(Value::Text(text)) => match &**text {
            b"all" => Ok(Mode {
                any: false,
                with_x: false,
            }),
            b"any" => Ok(Mode {
                any: true,
                with_x: false,
            }),
            b"all-with-x" => Ok(Mode {
                any: false,
                with_x: true,
            }),
            b"any-with-x" => Ok(Mode {
                any: true,
                with_x: true,
            }),
            other => refused(format!(
                "Invalid x-match field value <<\"{}\">>; expected all, any, all-with-x, or any-with-x",
                String::from_utf8_lossy(other)
            )),
        },
        Some(other) => refused(format!(
            "Invalid x-match field type {} (value {}); expected longstr",
            type_name(other),
            text_of(other)
        )),
    }
}
