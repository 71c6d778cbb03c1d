use super::criteria::criteria;
use super::values::alike;
use super::*;
use crate::properties::Name;

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
    // A removed binding must leave nothing behind.
    exchange.insert(&arguments, 2);
    exchange.remove(2);
    let (headers, mut search, mut found) = (MessageHeaders::new(table(headers)), Search::default(), Vec::new());
    // One step at a time.
    while exchange.matches(&headers, &mut search, &mut 1, &mut found) {}
    exchange.remove(1);
    assert!(exchange.pairs.is_empty() && exchange.always.is_empty() && exchange.numbered.is_empty());
    found == [1]
}

#[test]
fn mode_all_needs_every_criterion_and_any_needs_one() {
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
    // In the plain modes, arguments that all begin with `x-` are no criteria.
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
fn void_requires_presence_and_integers_compare_by_value() {
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
    // If a header is repeated, its first value counts.
    assert!(!met(
        "all",
        &[("a", Value::text("2"))],
        &[("a", Value::text("1")), ("a", Value::text("2"))]
    ));
}

/// Each value against each other, as RabbitMQ 3.10.8 answered: values of one row match each other and no others.
#[test]
fn values_of_different_types_match_as_in_rabbitmq() {
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
fn a_bad_x_match_is_refused_with_the_reason() {
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
fn the_cost_of_a_message_depends_on_its_headers_and_not_on_the_number_of_bindings() {
    // Once, 5,000 bindings of 200 keys and a message of 14,000 headers took 70 s.
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
fn the_index_finds_what_comparing_every_binding_finds() {
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

/// The header `k{n}` with the value `n`.
fn numbered_header(n: i64) -> (Name, Value) {
    (Name::from(format!("k{n}")), Value::Int(n, 64))
}

/// Makes bindings of 200 headers each in mode `any`, and searches for a message of 900 headers that has them. Returns
/// the bindings found, and the steps that the search took.
fn search(bindings: u32, pair: impl Fn(u32, i64) -> i64, unmet: u32, at_once: usize) -> (Vec<u32>, usize) {
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
fn a_binding_that_matches_by_many_headers_is_visited_once() {
    let plenty = 1_000_000;
    // Once, this took 80,000 visits and found each binding 200 times.
    let all: Vec<u32> = (0..400).collect();
    let (found, taken) = search(400, |_, n| n, 0, plenty);
    assert_eq!(found, all);
    // The first header costs seven words of bits. Then all bindings have matched.
    assert_eq!(taken, 2 * 900 + 7 + 400);
    // Each binding also has a header of its own, which the message lacks; and `unmet` bindings match nothing, so the
    // search cannot stop because all have matched.
    let own = |id: u32, n: i64| {
        if n == i64::from(id) % 200 {
            5_000 + i64::from(id)
        } else {
            n
        }
    };
    let (mut found, taken) = search(400, own, 100, plenty);
    found.sort_unstable();
    assert_eq!(found, all);
    assert!(taken <= 2 * 900 + 200 * 7 + 400, "{taken}");
    let (mut in_pieces, _) = search(400, own, 100, 1);
    in_pieces.sort_unstable();
    assert_eq!(in_pieces, all);
}

#[test]
fn a_binding_with_many_values_of_one_header_is_checked_once() {
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
fn a_binding_that_exists_throughout_is_found_once_whatever_changes_between_holds() {
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
    // Eight steps for the look-ups, one for the word, and two for bindings.
    assert!(exchange.matches(&headers, &mut search, &mut 11, &mut found));
    assert_eq!(found, [10, 11]);
    // Two have matched and there are two, but not the same two. The number of the removed one is reused.
    exchange.remove(10);
    assert!(exchange.matches(&headers, &mut search, &mut 1, &mut found));
    exchange.insert(&any(&[3, 9]), 13);
    while exchange.matches(&headers, &mut search, &mut 1, &mut found) {}
    found.retain(|id| *id != 13);
    assert_eq!(found, [10, 11, 12]);
    for id in [11, 12, 13] {
        exchange.remove(id);
    }
    assert!(exchange.pairs.is_empty() && exchange.numbered.is_empty());
}

/// Bindings of mode `all` by 200 headers each were compared header by header: with 400 of them, and a message that had
/// nearly all the headers of each, this took 80,000 steps, which is 20 holds.
#[test]
fn bindings_that_nearly_match_cost_few_steps() {
    let mut exchange = Headers::default();
    for id in 0..400 {
        // The message lacks the same two headers for each of them, and no binding has a header of its own.
        let pairs = (0..198).chain([2_000, 2_001]).map(numbered_header);
        exchange.insert(&Table(pairs.collect()), id);
    }
    let whole = Table((0..198).map(numbered_header).collect());
    exchange.insert(&whole, 400);
    let headers = MessageHeaders::new(Table((0..900).map(numbered_header).collect()));
    let (mut search, mut found, mut taken) = (Search::default(), Vec::new(), 0);
    loop {
        let mut steps = 1_000;
        let more = exchange.matches(&headers, &mut search, &mut steps, &mut found);
        taken += 1_000 - steps;
        if !more {
            break;
        }
    }
    assert_eq!(found, [400]);
    assert!(taken <= 2 * 900 + 401 * (1 + 4), "{taken}");
}

/// The number of a pair whose last binding is removed between two holds of a search may be given to another pair. The
/// binding of that pair must not get the message, and a binding that exists throughout must get it.
#[test]
fn a_pair_number_reused_between_two_holds_matches_nothing_wrong() {
    let mut exchange = Headers::default();
    let all = |pairs: &[i64]| Table(pairs.iter().map(|n| numbered_header(*n)).collect());
    exchange.insert(&all(&[0, 1]), 10);
    exchange.insert(&all(&[1, 2]), 11);
    let headers = MessageHeaders::new(Table((0..3).map(numbered_header).collect()));
    for at in 0..20 {
        let (mut search, mut found) = (Search::default(), Vec::new());
        assert!(exchange.matches(&headers, &mut search, &mut { at + 1 }, &mut found) || at > 6);
        // The number of pair 0 is now that of pair 7, which the message lacks.
        exchange.remove(10);
        exchange.insert(&all(&[7, 1]), 12);
        exchange.insert(&all(&[7]), 13);
        while exchange.matches(&headers, &mut search, &mut 1, &mut found) {}
        found.retain(|id| *id != 10);
        assert_eq!(found, [11], "after {at} steps");
        exchange.remove(12);
        exchange.remove(13);
        exchange.insert(&all(&[0, 1]), 10);
    }
}

/// The work of clearing the bits of an exchange with very many bindings was not counted.
#[test]
fn clearing_bits_is_counted() {
    let (mut bits, mut steps) = (Bitmap::default(), 10_000);
    bits.insert(4_096 * 1_000, &mut steps);
    assert_eq!(10_000 - steps, 1_000);
    bits.insert(5, &mut steps);
    assert_eq!(10_000 - steps, 1_000);
}
