//! Headers: bindings whose arguments the message's headers meet. AMQP 0-9-1 3.1.3.4, with RabbitMQ's `*-with-x` modes.

use super::BindingId;
use crate::arguments::{hash_value, text_of, type_name};
use crate::fault::{Fault, FaultKind};
use crate::ledger::hashed;
use crate::properties::{Name, Table, Value};
use crate::topic::Ids;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::hash::BuildHasher;

/// Bindings, found by the pairs of name and value that they ask for. A binding of mode `any` is filed under each of its
/// pairs, one of mode `all` under the one that fewest others are filed under. So a message meets the bindings that one of
/// its own headers leads to, and no others.
#[derive(Default)]
pub(crate) struct Headers {
    /// Never iterated: its order is random.
    bindings: HashMap<BindingId, Criteria, RandomState>,
    /// By [`Headers::pair`]. Bindings whose pairs have the same hash share a file: what is found is checked.
    files: HashMap<u64, Ids, RandomState>,
    /// Those that ask for nothing and are met by everything.
    always: Ids,
    hasher: RandomState,
}

/// What a binding asks of the headers.
struct Criteria {
    /// One is enough; else all must be met.
    any: bool,
    /// By name.
    pairs: Box<[(Name, Value)]>,
    /// Where a binding of mode `all` is filed.
    file: u64,
}

/// `x-match`: how many criteria must be met, and whether those named `x-…` count.
#[derive(Clone, Copy)]
struct Mode {
    any: bool,
    with_x: bool,
}

/// A message's headers, for looking up: of repeated names the first.
pub(crate) struct MessageHeaders {
    table: Table,
    /// Never iterated.
    first: HashMap<Name, u32, RandomState>,
}

/// Where the search for the bindings of a message is.
#[derive(Default)]
pub(crate) struct Search {
    /// 0: those that are always met; then two for each header: by value, by presence.
    file: usize,
    cursor: Option<BindingId>,
}

/// Bindings taken from a file at once: each may have as many criteria as a message may have headers.
const CHECKED_AT_ONCE: usize = 8;

impl MessageHeaders {
    pub(crate) fn new(table: Table) -> MessageHeaders {
        let mut first = HashMap::with_capacity_and_hasher(table.0.len(), RandomState::default());
        for (at, (name, _)) in table.0.iter().enumerate() {
            first.entry(name.clone()).or_insert(at as u32);
        }
        MessageHeaders { table, first }
    }

    /// What it takes in memory.
    pub(crate) fn memory(&self) -> usize {
        self.table.memory() + self.first.capacity() * hashed::<(Name, u32)>()
    }

    fn lookup(&self, name: &str) -> Option<&Value> {
        let at = self.first.get(name)?;
        self.table.0.get(*at as usize).map(|(_, value)| value)
    }

    /// The header in a place, unless an earlier one has its name.
    fn at(&self, place: usize) -> Option<(&str, &Value)> {
        let (name, value) = self.table.0.get(place)?;
        (self.first.get(name) == Some(&(place as u32))).then_some((&**name, value))
    }
}

impl Headers {
    pub(crate) fn insert(&mut self, arguments: &Table, id: BindingId) {
        let mut criteria = Criteria::new(arguments);
        let files = criteria.pairs.iter().map(|(name, wanted)| self.pair(name, wanted));
        if criteria.any {
            for file in files.collect::<Vec<_>>() {
                self.files.entry(file).or_default().insert(id);
            }
        } else {
            let filed = |file: &u64| self.files.get(file).map_or(0, Ids::len);
            match files.min_by_key(filed) {
                Some(file) => {
                    criteria.file = file;
                    self.files.entry(file).or_default().insert(id);
                }
                None => _ = self.always.insert(id),
            }
        }
        self.bindings.insert(id, criteria);
    }

    pub(crate) fn remove(&mut self, id: BindingId) {
        let Some(criteria) = self.bindings.remove(&id) else {
            return;
        };
        self.always.remove(id);
        let files: SmallVec<[u64; 8]> = if criteria.any {
            let pairs = criteria.pairs.iter();
            pairs.map(|(name, wanted)| self.pair(name, wanted)).collect()
        } else {
            [criteria.file].into_iter().collect()
        };
        for file in files {
            if let Some(ids) = self.files.get_mut(&file) {
                ids.remove(id);
                if ids.is_empty() {
                    self.files.remove(&file);
                }
            }
        }
    }

    /// Goes on with a search, a step for each header, each binding found and each criterion checked (the last binding may
    /// take more steps than there are). Returns whether there may be more. A binding can be found more than once.
    pub(crate) fn matches(
        &self,
        headers: &MessageHeaders,
        search: &mut Search,
        steps: &mut usize,
        found: &mut Vec<BindingId>,
    ) -> bool {
        if search.file == 0 {
            if self.always.visit(&mut search.cursor, steps, |id| found.push(id)) {
                return true;
            }
            (search.file, search.cursor) = (1, None);
        }
        while search.file <= 2 * headers.table.0.len() {
            if *steps == 0 {
                return true;
            }
            let place = (search.file - 1) / 2;
            if let Some((name, value)) = headers.at(place) {
                let wanted = if search.file % 2 == 1 { value } else { &Value::Void };
                if let Some(ids) = self.files.get(&self.pair(name, wanted))
                    && self.check_file(ids, headers, name, search, steps, found)
                {
                    return true;
                }
            }
            *steps = steps.saturating_sub(1);
            search.file += 1;
        }
        false
    }

    /// Goes on with the bindings of one file. Returns whether there are more.
    fn check_file(
        &self,
        ids: &Ids,
        headers: &MessageHeaders,
        name: &str,
        search: &mut Search,
        steps: &mut usize,
        found: &mut Vec<BindingId>,
    ) -> bool {
        while *steps > 0 {
            let mut some: SmallVec<[BindingId; CHECKED_AT_ONCE]> = SmallVec::new();
            let mut most = CHECKED_AT_ONCE.min(*steps);
            let more = ids.visit(&mut search.cursor, &mut most, |id| some.push(id));
            *steps -= some.len();
            let mut met = |id: &BindingId| self.bindings.get(id).is_some_and(|c| c.met_by(headers, name, steps));
            found.extend(some.into_iter().filter(|id| met(id)));
            if !more {
                search.cursor = None;
                return false;
            }
        }
        true
    }

    /// Where bindings that ask for this are filed.
    fn pair(&self, name: &str, wanted: &Value) -> u64 {
        let value = match (wanted, Number::of(wanted)) {
            (Value::Void, _) => 0,
            (_, Some(number)) => self.hasher.hash_one(number),
            (wanted, None) if is_empty_list(wanted) => 1,
            (wanted, None) => hash_value(wanted, &self.hasher),
        };
        self.hasher.hash_one((name, matches!(wanted, Value::Void), value))
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
        let mut pairs: Vec<_> = arguments.0.iter().filter(|(name, _)| counts(name)).cloned().collect();
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        Criteria {
            any: mode.any,
            pairs: pairs.into(),
            file: 0,
        }
    }

    /// Whether the headers meet it. `name` is the header that led here: for mode `any` only that one is looked at, so that
    /// a message costs what it has.
    fn met_by(&self, headers: &MessageHeaders, name: &str, steps: &mut usize) -> bool {
        let mut met = |(name, wanted): &(Name, Value)| {
            *steps = steps.saturating_sub(1);
            let value = headers.lookup(name);
            value.is_some_and(|value| matches!(wanted, Value::Void) || alike(value, wanted))
        };
        if self.any {
            let start = self.pairs.partition_point(|(other, _)| **other < *name);
            let mut same = self.pairs.iter().skip(start).take_while(|(other, _)| **other == *name);
            same.any(met)
        } else {
            self.pairs.iter().all(&mut met)
        }
    }
}

/// Whether a header's value is what a binding asks for, as RabbitMQ 3.10 compares them: without a look at the type. So numbers
/// compare by value, whatever their width, floats and timestamps too, and octets by themselves. Decimals are no numbers there,
/// nor are booleans; and within lists and tables the types count.
fn alike(value: &Value, wanted: &Value) -> bool {
    match (Number::of(value), Number::of(wanted)) {
        (Some(value), Some(wanted)) => return value == wanted,
        (None, None) => {}
        _ => return false,
    }
    match (value, wanted) {
        (Value::Text(a) | Value::Binary(a), Value::Text(b) | Value::Binary(b)) => a == b,
        (a, b) => a == b || (is_empty_list(a) && is_empty_list(b)),
    }
}

/// An empty list and an empty table are the same.
fn is_empty_list(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.is_empty(),
        Value::Table(table) => table.is_empty(),
        _ => false,
    }
}

/// A number in one form: equal numbers have the same.
#[derive(PartialEq, Eq, Hash)]
enum Number {
    Whole(i128),
    /// The bits of a number that is not whole, or very large.
    Other(u64),
}

impl Number {
    fn of(value: &Value) -> Option<Number> {
        /// 2^100: far more than any integer has.
        const END: f64 = 1_267_650_600_228_229_401_496_703_205_376.0;
        let float = match value {
            Value::Float(float) => f64::from(*float),
            Value::Double(double) => *double,
            Value::Timestamp(seconds) => return Some(Number::Whole(i128::from(*seconds))),
            other => return other.as_int().map(|int| Number::Whole(int.into())),
        };
        Some(if float.fract() == 0.0 && (-END..END).contains(&float) {
            Number::Whole(float as i128)
        } else {
            Number::Other(float.to_bits())
        })
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
        // One that is removed leaves nothing behind.
        exchange.insert(&arguments, 2);
        exchange.remove(2);
        let (headers, mut search, mut found) = (MessageHeaders::new(table(headers)), Search::default(), Vec::new());
        // In the smallest pieces.
        while exchange.matches(&headers, &mut search, &mut 1, &mut found) {}
        found.dedup();
        exchange.remove(1);
        assert!(exchange.files.is_empty() && exchange.always.is_empty());
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
        for (wanted, value) in [
            (Value::Int(1, 32), Value::Double(1.0)),
            (Value::Float(-3.0), Value::Int(-3, 64)),
            (Value::Float(0.5), Value::Double(0.5)),
            (Value::Double(-0.0), Value::Uint(0, 8)),
            (Value::Double(1e300), Value::Double(1e300)),
        ] {
            for mode in ["all", "any"] {
                assert!(
                    met(mode, &[("a", wanted.clone())], &[("a", value.clone())]),
                    "{wanted:?} {value:?}"
                );
                assert!(
                    met(mode, &[("a", value.clone())], &[("a", wanted.clone())]),
                    "{value:?} {wanted:?}"
                );
            }
        }
        for (wanted, value) in [
            (Value::Int(1, 32), Value::Double(1.5)),
            (Value::Int(i64::MAX, 64), Value::Double(9_223_372_036_854_775_807.0)),
            (Value::Bool(true), Value::Int(1, 8)),
        ] {
            assert!(!met("all", &[("a", wanted)], &[("a", value)]));
        }
        assert!(!met("all", &[("a", Value::Int(1, 32))], &[("a", Value::Void)]));
        // The first of repeated headers counts.
        assert!(!met(
            "all",
            &[("a", Value::text("2"))],
            &[("a", Value::text("1")), ("a", Value::text("2"))]
        ));
    }

    /// Each with each, as RabbitMQ 3.10.8 answered: those in one row meet each other, and nobody else.
    #[test]
    fn values_of_different_types_meet_as_they_do_in_rabbitmq() {
        let list = |value: Value| Value::Array([value].into());
        let nested = |value: Value| Value::Table(table(&[("a", value)]));
        let octets = |text: &str| Value::Binary(text.as_bytes().into());
        let two = |power: i32| 2.0_f64.powi(power);
        let rows: Vec<Vec<Value>> = vec![
            vec![
                Value::Int(1, 8),
                Value::Uint(1, 8),
                Value::Int(1, 16),
                Value::Uint(1, 16),
                Value::Int(1, 32),
                Value::Uint(1, 32),
                Value::Int(1, 64),
                Value::Float(1.0),
                Value::Double(1.0),
                Value::Timestamp(1),
            ],
            vec![Value::Decimal(0, 1)],
            vec![Value::Decimal(1, 10)],
            vec![Value::Bool(true)],
            vec![Value::text("1"), octets("1")],
            vec![Value::text("true")],
            vec![Value::Float(1.5), Value::Double(1.5)],
            vec![Value::Float(0.1)],
            vec![Value::Double(0.1)],
            vec![Value::Double(0.0), Value::Double(-0.0), Value::Int(0, 32)],
            vec![Value::Int(-1, 8), Value::Int(-1, 32), Value::Int(-1, 64)],
            vec![Value::Uint(255, 8)],
            vec![Value::Uint(u32::MAX, 32)],
            vec![Value::Int((1 << 53) + 1, 64)],
            vec![Value::Double(two(53)), Value::Int(1 << 53, 64)],
            vec![Value::Int(i64::MAX, 64)],
            vec![Value::Double(two(63)), Value::Timestamp(1 << 63)],
            vec![Value::Timestamp(u64::MAX)],
            vec![list(Value::Int(1, 32))],
            vec![list(Value::Double(1.0))],
            vec![list(Value::Int(1, 64))],
            vec![nested(Value::Int(1, 32))],
            vec![nested(Value::Int(1, 64))],
            vec![Value::Table(Table::default()), Value::Array([].into())],
        ];
        let all = || {
            rows.iter()
                .enumerate()
                .flat_map(|(row, values)| values.iter().map(move |value| (row, value)))
        };
        for (row, wanted) in all() {
            for (other, value) in all() {
                for mode in ["all", "any"] {
                    let meets = met(mode, &[("k", wanted.clone())], &[("k", value.clone())]);
                    assert_eq!(meets, row == other, "{mode}: {wanted:?} and {value:?}");
                }
            }
        }
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

    #[test]
    fn a_message_costs_what_it_has_and_not_what_all_bindings_ask_for() {
        // 5,000 bindings of 200 keys and a message of 14,000 headers took 70 s.
        let mut exchange = Headers::default();
        let name = |n: usize| Name::from(format!("k{n}"));
        for id in 0..5_000 {
            let mut arguments = Table::default();
            for n in 0..200 {
                arguments.push(name(n), Value::Int(i64::from(id) + n as i64, 64));
            }
            exchange.insert(&arguments, id);
        }
        let headers = (0..14_000).map(|n| (name(n), Value::Int(7 + n as i64, 64))).collect();
        let headers = MessageHeaders::new(Table(headers));
        let (mut search, mut steps, mut found) = (Search::default(), 100_000, Vec::new());
        assert!(!exchange.matches(&headers, &mut search, &mut steps, &mut found));
        assert_eq!(found, [7]);
    }

    #[test]
    fn the_files_find_what_looking_at_every_binding_finds() {
        let mut random = 7_u64;
        let mut below = |n: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % n
        };
        let names = ["a", "b", "c", "x-d", "a"];
        let values = [
            Value::Void,
            Value::Int(1, 32),
            Value::Double(1.0),
            Value::text("1"),
            Value::Bool(true),
        ];
        let mut pairs = |most: u64| {
            let mut table = Table::default();
            for _ in 0..below(most) {
                table.push(names[below(5) as usize], values[below(5) as usize].clone());
            }
            (table, ["all", "any", "all-with-x", "any-with-x"][below(4) as usize])
        };
        for _ in 0..300 {
            let mut exchange = Headers::default();
            let mut all = Vec::new();
            for id in 0..12 {
                let (mut arguments, mode) = pairs(4);
                arguments.push("x-match", Value::text(mode));
                exchange.insert(&arguments, id);
                all.push(arguments);
            }
            let (table, _) = pairs(5);
            let expected: Vec<BindingId> = (0..12)
                .filter(|id| {
                    let criteria = Criteria::new(&all[*id as usize]);
                    let met = |(name, wanted): &(Name, Value)| {
                        let value = table.lookup(name);
                        value.is_some_and(|value| matches!(wanted, Value::Void) || alike(value, wanted))
                    };
                    let mut pairs = criteria.pairs.iter();
                    if criteria.any { pairs.any(met) } else { pairs.all(met) }
                })
                .collect();
            let (mut search, mut found) = (Search::default(), Vec::new());
            let headers = MessageHeaders::new(table);
            while exchange.matches(&headers, &mut search, &mut 2, &mut found) {}
            found.sort_unstable();
            found.dedup();
            assert_eq!(found, expected);
        }
    }
}
