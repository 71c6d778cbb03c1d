//! Headers: bindings whose arguments the message's headers meet. AMQP 0-9-1 3.1.3.4, with RabbitMQ's `*-with-x` modes.

use super::BindingId;
use crate::arguments::{equal, text_of, type_name};
use crate::fault::{Fault, FaultKind};
use crate::properties::{Name, Table, Value};
use std::collections::BTreeMap;

/// Bindings with what they ask for, in order of their numbers.
#[derive(Default)]
pub(crate) struct Headers(BTreeMap<BindingId, Criteria>);

/// What a binding asks of the headers.
struct Criteria {
    /// One is enough; else all must be met.
    any: bool,
    pairs: Box<[(Name, Value)]>,
}

/// `x-match`: how many criteria must be met, and whether those named `x-…` count.
#[derive(Clone, Copy)]
struct Mode {
    any: bool,
    with_x: bool,
}

impl Headers {
    pub(crate) fn insert(&mut self, arguments: &Table, id: BindingId) {
        self.0.insert(id, Criteria::new(arguments));
    }

    pub(crate) fn remove(&mut self, id: BindingId) {
        self.0.remove(&id);
    }

    pub(crate) fn matches(&self, headers: &Table, found: &mut Vec<BindingId>) {
        found.extend(
            self.0
                .iter()
                .filter(|(_, criteria)| criteria.met_by(headers))
                .map(|(id, _)| *id),
        );
    }
}

impl Criteria {
    fn new(arguments: &Table) -> Criteria {
        // The arguments were checked when the binding was made; whatever is wrong counts as the default.
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
        let pairs = arguments.0.iter().filter(|(name, _)| counts(name)).cloned().collect();
        Criteria { any: mode.any, pairs }
    }

    /// No criteria at all: `all` is met by everything, `any` by nothing.
    fn met_by(&self, headers: &Table) -> bool {
        let met = |(name, wanted): &(Name, Value)| {
            headers
                .lookup(name)
                .is_some_and(|value| matches!(wanted, Value::Void) || equal(value, wanted))
        };
        if self.any {
            self.pairs.iter().any(met)
        } else {
            self.pairs.iter().all(met)
        }
    }
}

/// Checks a binding's arguments.
pub(crate) fn check_arguments(arguments: &Table) -> Result<(), Fault> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn table(pairs: &[(&str, Value)]) -> Table {
        Table(
            pairs
                .iter()
                .map(|(name, value)| (Name::from(*name), value.clone()))
                .collect(),
        )
    }

    fn met(mode: &str, criteria: &[(&str, Value)], headers: &[(&str, Value)]) -> bool {
        let mut arguments = table(criteria);
        arguments.push("x-match", Value::text(mode));
        let mut exchange = Headers::default();
        exchange.insert(&arguments, 1);
        let mut found = Vec::new();
        exchange.matches(&table(headers), &mut found);
        found == [1]
    }

    #[test]
    fn all_wants_every_criterion_and_any_wants_one() {
        let criteria = [("a", Value::text("1")), ("b", Value::text("2"))];
        let both = [("b", Value::text("2")), ("c", Value::Void), ("a", Value::text("1"))];
        let one = [("a", Value::text("1")), ("b", Value::text("3"))];
        let none = [("a", Value::text("2"))];
        assert!(met("all", &criteria, &both) && !met("all", &criteria, &one) && !met("all", &criteria, &none));
        assert!(met("any", &criteria, &both) && met("any", &criteria, &one) && !met("any", &criteria, &none));
    }

    #[test]
    fn headers_any_empty_matches_none() {
        let headers = [("a", Value::text("1"))];
        assert!(met("all", &[], &headers) && met("all", &[], &[]));
        assert!(!met("any", &[], &headers) && !met("any", &[], &[]));
        // Only `x-` criteria are none at all in the plain modes.
        let x = [("x-kind", Value::text("1"))];
        assert!(met("all", &x, &headers) && !met("any", &x, &x));
    }

    #[test]
    fn the_modes_with_x_count_criteria_named_x() {
        let criteria = [("x-kind", Value::text("1")), ("a", Value::text("1"))];
        let without = [("a", Value::text("1"))];
        let with = [("a", Value::text("1")), ("x-kind", Value::text("1"))];
        assert!(met("all", &criteria, &without));
        assert!(!met("all-with-x", &criteria, &without) && met("all-with-x", &criteria, &with));
        assert!(met("any-with-x", &criteria, &[("x-kind", Value::text("1"))]));
        assert!(!met("any", &criteria, &[("x-kind", Value::text("1"))]));
    }

    #[test]
    fn void_wants_presence_and_integers_compare_by_value() {
        assert!(met("all", &[("a", Value::Void)], &[("a", Value::text("anything"))]));
        assert!(!met("all", &[("a", Value::Void)], &[]));
        assert!(met("all", &[("a", Value::Int(5, 64))], &[("a", Value::Uint(5, 8))]));
        assert!(!met("all", &[("a", Value::Int(1, 32))], &[("a", Value::text("1"))]));
        assert!(!met("all", &[("a", Value::Int(1, 32))], &[("a", Value::Void)]));
        // The first of repeated headers counts.
        assert!(!met(
            "all",
            &[("a", Value::text("2"))],
            &[("a", Value::text("1")), ("a", Value::text("2"))]
        ));
    }

    #[test]
    fn a_bad_x_match_is_refused_in_words() {
        let text = |value| check_arguments(&table(&[("x-match", value)])).expect_err("bad").text;
        assert_eq!(
            &*text(Value::text("foo")),
            "Invalid x-match field value <<\"foo\">>; expected all, any, all-with-x, or any-with-x"
        );
        assert_eq!(
            &*text(Value::Int(5, 32)),
            "Invalid x-match field type signedint (value 5); expected longstr"
        );
        assert!(check_arguments(&Table::default()).is_ok());
    }
}
