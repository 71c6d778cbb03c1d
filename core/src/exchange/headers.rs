//! Headers: bindings whose arguments the message's headers meet. AMQP 0-9-1 3.1.3.4, with RabbitMQ's `*-with-x` modes.
//!
//! What a message costs is for clients to choose, so here is the most that it can be, in steps:
//! - two for each header: a look by its value, and one by its presence;
//! - for each binding of mode `all` that is filed under one of the headers: one, and one for each criterion up to the first that
//!   is not met. A binding is filed under one criterion only, so it is looked at once;
//! - one for each binding of mode `any` that is met, however many of its criteria are. To find that nothing is left to do under
//!   a header takes a step for each 64 of the exchange's bindings of mode `any`, and none once all of them are met. Without
//!   that, 400 bindings by 200 headers each, and a message that has them all, took 80,000 visits; now less than 2,000.

use super::BindingId;
use super::bits::{Bits, Word};
use crate::arguments::{hash_value, text_of, type_name};
use crate::fault::{Fault, FaultKind};
use crate::ledger::{allocation, hashed};
use crate::properties::{Name, Table, Value};
use crate::topic::Ids;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use slab::Slab;
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
    files: HashMap<u64, File, RandomState>,
    /// Those that ask for nothing and are met by everything.
    always: Ids,
    /// Those that are filed under each of their pairs: these numbers are dense, so that few words have them all.
    numbered: Slab<BindingId>,
    /// Counts the changes of `numbered`.
    changes: u64,
    hasher: RandomState,
}

/// Those that are filed under one pair.
#[derive(Default)]
struct File {
    /// By this pair alone.
    one: Ids,
    /// By others too: places in [`Headers::numbered`].
    each: Bits,
}

/// What a binding asks of the headers.
struct Criteria {
    /// By name, and those of one name by [`Headers::pair`].
    pairs: Box<[(Name, Value)]>,
    filed: Filed,
}

/// Where a binding is filed, which also tells how many of its criteria must be met.
#[derive(Clone, Copy)]
enum Filed {
    /// Nowhere: it asks for nothing, and everything meets it.
    Always,
    /// All of its criteria must be met: under one of them.
    UnderOne(u64),
    /// One is enough: under each, by this number.
    UnderEach(u32),
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
    /// The least number of [`File::each`] that is not looked at yet.
    number: u32,
    met: Met,
}

/// Bindings of mode `any` that the message has met already, by number: a bit for each, up to the last that is met. Few need no
/// room of their own.
#[derive(Default)]
struct Met {
    words: SmallVec<[u64; 4]>,
    count: usize,
    /// [`Headers::changes`] when the first was met.
    changes: u64,
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

impl Search {
    /// Memory beside its own size.
    pub(super) fn memory(&self) -> usize {
        if self.met.words.spilled() {
            allocation(self.met.words.capacity() * size_of::<u64>())
        } else {
            0
        }
    }
}

impl Met {
    fn word(&self, index: u32) -> u64 {
        self.words.get(index as usize).copied().unwrap_or(0)
    }

    fn add(&mut self, index: u32, bit: u64) {
        let index = index as usize;
        if self.words.len() <= index {
            self.words.resize(index + 1, 0);
        }
        self.words[index] |= bit;
        self.count += 1;
    }
}

/// What a table keeps for a binding, beside a copy of its arguments: its entry, its number, and for each of so many criteria a
/// file with a word.
pub(crate) fn binding_bytes(criteria: usize) -> usize {
    let file = hashed::<(u64, File)>() + 2 * size_of::<Word>();
    hashed::<(BindingId, Criteria)>() + 2 * size_of::<(usize, BindingId)>() + criteria * file
}

impl Headers {
    pub(crate) fn insert(&mut self, arguments: &Table, id: BindingId) {
        let (mut pairs, any) = criteria(arguments);
        pairs.sort_by_cached_key(|(name, wanted)| (name.clone(), self.pair(name, wanted)));
        let files: SmallVec<[u64; 8]> = pairs.iter().map(|(name, wanted)| self.pair(name, wanted)).collect();
        // To meet one of one is to meet all: then nothing has to be remembered about it.
        let filed = if any && pairs.len() != 1 {
            let number = self.numbered.insert(id) as u32;
            self.changes += 1;
            for file in files {
                self.files.entry(file).or_default().each.insert(number);
            }
            Filed::UnderEach(number)
        } else {
            let others = |file: &u64| self.files.get(file).map_or(0, |file| file.one.len());
            match files.into_iter().min_by_key(others) {
                Some(file) => {
                    self.files.entry(file).or_default().one.insert(id);
                    Filed::UnderOne(file)
                }
                None => {
                    self.always.insert(id);
                    Filed::Always
                }
            }
        };
        self.bindings.insert(id, Criteria { pairs, filed });
    }

    pub(crate) fn remove(&mut self, id: BindingId) {
        let Some(Criteria { pairs, filed }) = self.bindings.remove(&id) else {
            return;
        };
        match filed {
            Filed::Always => _ = self.always.remove(id),
            Filed::UnderOne(file) => self.change_file(file, |file| _ = file.one.remove(id)),
            Filed::UnderEach(number) => {
                self.numbered.try_remove(number as usize);
                self.changes += 1;
                for (name, wanted) in &pairs {
                    self.change_file(self.pair(name, wanted), |file| file.each.remove(number));
                }
            }
        }
    }

    fn change_file(&mut self, file: u64, change: impl FnOnce(&mut File)) {
        if let Some(found) = self.files.get_mut(&file) {
            change(found);
            if found.one.is_empty() && found.each.is_empty() {
                self.files.remove(&file);
            }
        }
    }

    /// Goes on with a search, by the steps that this file's head tells (the last binding may take more steps than there
    /// are). Returns whether there may be more.
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
            let by_value = search.file % 2 == 1;
            // A header without a value is looked for once: by its presence.
            let header = headers.at(place);
            if let Some((name, value)) = header.filter(|(_, value)| !(by_value && matches!(value, Value::Void))) {
                let wanted = if by_value { value } else { &Value::Void };
                let pair = self.pair(name, wanted);
                if let Some(file) = self.files.get(&pair)
                    && (self.check_each(&file.each, headers, (name, pair), search, steps, found)
                        || self.check_one(&file.one, headers, search, steps, found))
                {
                    return true;
                }
            }
            *steps = steps.saturating_sub(1);
            search.file += 1;
            (search.cursor, search.number) = (None, 0);
        }
        false
    }

    /// Goes on with the bindings of a file that are filed elsewhere too: with those that are not met yet. Returns whether there
    /// are more.
    fn check_each(
        &self,
        each: &Bits,
        headers: &MessageHeaders,
        led_by: (&str, u64),
        search: &mut Search,
        steps: &mut usize,
        found: &mut Vec<BindingId>,
    ) -> bool {
        let met = &mut search.met;
        if met.count == 0 {
            met.changes = self.changes;
        } else if met.count == self.numbered.len() && met.changes == self.changes {
            // All are met. (If some came or went between two holds, the numbers tell nothing.)
            return false;
        }
        for word in each.from(search.number / u64::BITS) {
            if *steps == 0 {
                return true;
            }
            *steps -= 1;
            let first = word.index * u64::BITS;
            let left = u64::MAX << search.number.saturating_sub(first);
            let mut new = word.bits & left & !met.word(word.index);
            while new != 0 {
                let bit = new & new.wrapping_neg();
                new ^= bit;
                let number = first + bit.trailing_zeros();
                search.number = number + 1;
                let id = self.numbered.get(number as usize);
                if let Some(&id) = id
                    && let Some(criteria) = self.bindings.get(&id)
                    && self.is_one_met(criteria, headers, led_by, steps)
                {
                    met.add(word.index, bit);
                    found.push(id);
                }
                // After one at least: the step for the word may have been the last.
                if *steps == 0 && new != 0 {
                    return true;
                }
            }
            search.number = first.saturating_add(u64::BITS);
        }
        false
    }

    /// Whether a binding of mode `any` asks for what led to it: a header's name, and the pair by which it was filed. Only that
    /// is looked at, so that a message costs what it has.
    fn is_one_met(
        &self,
        criteria: &Criteria,
        headers: &MessageHeaders,
        (name, pair): (&str, u64),
        steps: &mut usize,
    ) -> bool {
        let start = criteria.pairs.partition_point(|(other, _)| **other < *name);
        let of_name = |at: usize| criteria.pairs.get(at).filter(|(other, _)| **other == *name);
        if of_name(start + 1).is_none() {
            return of_name(start).is_some_and(|pair| is_met(pair, headers, steps));
        }
        // It asks for several values of that header, as many as it likes. They are in the order of their pairs.
        let behind = &criteria.pairs[start..];
        let start = behind.partition_point(|(other, wanted)| **other == *name && self.pair(name, wanted) < pair);
        let same = behind[start..].iter();
        let mut same = same.take_while(|(other, wanted)| **other == *name && self.pair(name, wanted) == pair);
        same.any(|pair| is_met(pair, headers, steps))
    }

    /// Goes on with the bindings that are filed in one file only. Returns whether there are more.
    fn check_one(
        &self,
        one: &Ids,
        headers: &MessageHeaders,
        search: &mut Search,
        steps: &mut usize,
        found: &mut Vec<BindingId>,
    ) -> bool {
        if one.is_empty() {
            return false;
        }
        while *steps > 0 {
            let mut some: SmallVec<[BindingId; CHECKED_AT_ONCE]> = SmallVec::new();
            let mut most = CHECKED_AT_ONCE.min(*steps);
            let more = one.visit(&mut search.cursor, &mut most, |id| some.push(id));
            *steps -= some.len();
            let mut met = |id: &BindingId| self.bindings.get(id).is_some_and(|c| c.has_all_met(headers, steps));
            found.extend(some.into_iter().filter(|id| met(id)));
            if !more {
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

/// What arguments ask for, and whether one of it is enough.
fn criteria(arguments: &Table) -> (Box<[(Name, Value)]>, bool) {
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
    let pairs = arguments.0.iter().filter(|(name, _)| counts(name)).cloned();
    (pairs.collect(), mode.any)
}

impl Criteria {
    fn has_all_met(&self, headers: &MessageHeaders, steps: &mut usize) -> bool {
        self.pairs.iter().all(|pair| is_met(pair, headers, steps))
    }
}

/// Whether the headers have what a criterion asks for.
fn is_met((name, wanted): &(Name, Value), headers: &MessageHeaders, steps: &mut usize) -> bool {
    *steps = steps.saturating_sub(1);
    let value = headers.lookup(name);
    value.is_some_and(|value| matches!(wanted, Value::Void) || alike(value, wanted))
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
        exchange.remove(1);
        assert!(exchange.files.is_empty() && exchange.always.is_empty() && exchange.numbered.is_empty());
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
                    let (pairs, any) = criteria(&all[*id as usize]);
                    let met = |(name, wanted): &(Name, Value)| {
                        let value = table.lookup(name);
                        value.is_some_and(|value| matches!(wanted, Value::Void) || alike(value, wanted))
                    };
                    let mut pairs = pairs.iter();
                    if any { pairs.any(met) } else { pairs.all(met) }
                })
                .collect();
            let (mut search, mut found) = (Search::default(), Vec::new());
            let headers = MessageHeaders::new(table);
            while exchange.matches(&headers, &mut search, &mut 2, &mut found) {}
            found.sort_unstable();
            assert_eq!(found, expected);
        }
    }

    /// The header `k{n}`, which has the value `n`.
    fn numbered_header(n: i64) -> (Name, Value) {
        (Name::from(format!("k{n}")), Value::Int(n, 64))
    }

    /// Binds by 200 headers each in mode `any`, and gives a message of 900 headers that has them. Returns what is found, and
    /// the steps that it took.
    fn met_over_and_over(
        bindings: u32,
        pair: impl Fn(u32, i64) -> i64,
        unmet: u32,
        at_once: usize,
    ) -> (Vec<u32>, usize) {
        let mut exchange = Headers::default();
        for id in 0..bindings + unmet {
            let first = if id < bindings { 0 } else { 10_000 };
            let mut arguments: Table = Table((first..first + 200).map(|n| numbered_header(pair(id, n))).collect());
            arguments.push("x-match", Value::text("any"));
            exchange.insert(&arguments, id);
        }
        let headers = MessageHeaders::new(Table((0..900).map(numbered_header).collect()));
        let (mut search, mut found, mut taken) = (Search::default(), Vec::new(), 0);
        loop {
            let mut steps = at_once;
            let more = exchange.matches(&headers, &mut search, &mut steps, &mut found);
            taken += at_once - steps;
            if !more {
                return (found, taken);
            }
        }
    }

    #[test]
    fn a_binding_of_which_many_headers_are_met_is_visited_once() {
        let plenty = 1_000_000;
        // 80,000 visits, and each found 200 times.
        let all: Vec<u32> = (0..400).collect();
        let (found, taken) = met_over_and_over(400, |_, n| n, 0, plenty);
        assert_eq!(found, all);
        // Seven words under the first header; then all are met.
        assert_eq!(taken, 2 * 900 + 7 + 400);
        // Each has a header of its own, which the message has not; and some are not met at all, so that never all are.
        let own = |id: u32, n: i64| {
            if n == i64::from(id) % 200 {
                5_000 + i64::from(id)
            } else {
                n
            }
        };
        let (mut found, taken) = met_over_and_over(400, own, 100, plenty);
        found.sort_unstable();
        assert_eq!(found, all);
        assert!(taken <= 2 * 900 + 200 * 7 + 400, "{taken}");
        let (mut in_pieces, _) = met_over_and_over(400, own, 100, 1);
        in_pieces.sort_unstable();
        assert_eq!(in_pieces, all);
    }

    #[test]
    fn a_binding_that_asks_for_many_values_of_one_header_is_looked_at_by_the_one_that_led_to_it() {
        let mut exchange = Headers::default();
        let values = |from: i64| (from..from + 200).map(|n| (Name::from("k"), Value::Int(n, 64)));
        for id in 0..100 {
            let mut arguments = Table(values(i64::from(id)).collect());
            arguments.push("x-match", Value::text("any"));
            exchange.insert(&arguments, id);
        }
        let headers = MessageHeaders::new(Table(vec![(Name::from("k"), Value::Double(199.0))]));
        let (mut search, mut steps, mut found) = (Search::default(), 1_000, Vec::new());
        assert!(!exchange.matches(&headers, &mut search, &mut steps, &mut found));
        assert_eq!(found, Vec::from_iter(0..100));
        assert_eq!(1_000 - steps, 2 + 2 + 100);
    }

    #[test]
    fn what_is_bound_all_the_time_is_found_once_whatever_comes_and_goes_between_holds() {
        let mut exchange = Headers::default();
        let any = |pairs: &[i64]| {
            let mut arguments = Table(pairs.iter().map(|n| numbered_header(*n)).collect());
            arguments.push("x-match", Value::text("any"));
            arguments
        };
        exchange.insert(&any(&[0, 1, 2]), 10);
        exchange.insert(&any(&[0, 2]), 11);
        exchange.insert(&any(&[2, 3]), 12);
        let headers = MessageHeaders::new(Table((0..4).map(numbered_header).collect()));
        let (mut search, mut found) = (Search::default(), Vec::new());
        assert!(exchange.matches(&headers, &mut search, &mut 3, &mut found));
        assert_eq!(found, [10, 11]);
        // Two are met and two are there, but not the same two. The number of the one that went is taken again.
        exchange.remove(10);
        assert!(exchange.matches(&headers, &mut search, &mut 1, &mut found));
        exchange.insert(&any(&[3, 9]), 13);
        while exchange.matches(&headers, &mut search, &mut 1, &mut found) {}
        found.retain(|id| *id != 13);
        assert_eq!(found, [10, 11, 12]);
        for id in [11, 12, 13] {
            exchange.remove(id);
        }
        assert!(exchange.files.is_empty() && exchange.numbered.is_empty());
    }
}
