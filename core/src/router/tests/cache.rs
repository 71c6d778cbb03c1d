//! The route cache answers what a walk of the bindings would find.

use super::*;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

/// Whatever changes, the cache answers what a new walk finds.
#[test]
fn a_cached_route_is_never_stale() {
    const EXCHANGES: [&str; 6] = ["t1", "t2", "d1", "d2", "f1", "f2"];
    const PATTERNS: [&str; 9] = ["a.b", "a.*", "*.b", "#", "a.#", "b", "c.d", "", "#.b"];
    const FILTERS: [&str; 6] = ["a/b", "a/+", "+/b", "#", "c/d", "b"];
    const KEYS: [&str; 7] = ["a.b", "a.c", "b", "c.d", "", "a", "x.b"];
    let kind = |name: &str| match &name[..1] {
        "t" => "topic",
        "d" => "direct",
        _ => "fanout",
    };
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut router = router();
        let mut hits = 0;
        for step in 0..1500 {
            let (name, second) = (random.pick(&EXCHANGES), random.pick(&EXCHANGES));
            let slot = random.below(6) as u32;
            // Some of these are refused (missing exchanges and the like), which is fine.
            match random.below(14) {
                0 => {
                    let mut spec = spec(name, kind(name));
                    spec.auto_delete = random.below(4) == 0;
                    if random.below(2) == 0 {
                        spec.arguments.push(ALTERNATE, Value::text(second));
                    }
                    let _ = router.declare_exchange(spec);
                }
                1 if random.below(4) == 0 => drop(router.delete_exchange(name, false)),
                2 if random.below(2) == 0 => drop(router.remove_queue(QueueSlot(slot))),
                3 => drop(router.bind(name, queue(slot), random.pick(&PATTERNS), Table::default(), None)),
                4 => drop(router.unbind(name, &queue(slot), random.pick(&PATTERNS), &Table::default())),
                5 => drop(router.bind(name, other(second), random.pick(&PATTERNS), Table::default(), None)),
                6 => drop(router.unbind(name, &other(second), random.pick(&PATTERNS), &Table::default())),
                7 => {
                    let id = random.below(2) as u32;
                    let grant = Grant {
                        qos: random.below(3) as u8,
                        subscription_id: Some(id),
                        ..Grant::default()
                    };
                    let _ = router.subscribe(name, queue(slot), random.pick(&FILTERS), grant);
                }
                8 => drop(router.unsubscribe(name, QueueSlot(slot), random.pick(&FILTERS))),
                _ => {}
            }
            let key = random.pick(&KEYS);
            let message = match random.below(3) {
                0 if !key.is_empty() => message(name, &key.replace('.', "/"), Slash),
                _ => message(name, key, Dot),
            };
            hits += usize::from(router.cache.find(&message, &router.generations).is_some());
            let cached = router.route(&message, &[]).map(<[Target]>::to_vec);
            let walked = router
                .route_by_walk(&message, &[], &mut None, &mut { usize::MAX })
                .map(|found| found.unwrap_or(&[]))
                .map(<[Target]>::to_vec);
            assert_eq!(cached, walked, "seed {seed}, step {step}, {message:?}");
            // In pieces, as a walk continues over several holds of the lock.
            let (mut stopped, piece) = (None, 4 + random.below(5));
            let in_pieces = loop {
                match router.route_by_walk(&message, &[], &mut stopped, &mut piece.clone()) {
                    Ok(None) => {}
                    Ok(Some(targets)) => break Ok(targets.to_vec()),
                    Err(fault) => break Err(fault),
                }
            };
            assert_eq!(in_pieces, walked, "seed {seed}, step {step}, {message:?}");
        }
        assert!(hits > 100, "seed {seed}: the cache was hardly used ({hits} hits)");
    }
}

#[test]
fn the_cache_is_limited_and_keeps_most_routes_used_in_turn() {
    let mut router = router();
    router.tie("amq.topic", queue(1), "#");
    let topics: Vec<Message> = (0..20_000)
        .map(|n| message("amq.topic", &format!("plant.{n}"), Dot))
        .collect();
    let mut hits = 0;
    for round in 0..4 {
        for topic in &topics {
            hits += usize::from(round == 3 && router.cache.find(topic, &router.generations).is_some());
            assert_eq!(router.route(topic, &[]).expect("routed").len(), 1);
        }
    }
    assert!(hits > 10_000, "{hits} of 20,000");
    assert!(router.cache.len() <= 16_384);
}

#[test]
fn a_change_of_one_first_level_leaves_others_in_the_cache() {
    let mut router = router();
    router.tie("amq.topic", queue(1), "a.#");
    router.tie("amq.topic", queue(2), "b.#");
    let (a, b) = (message("amq.topic", "a.x", Dot), message("amq.topic", "b.x", Dot));
    router.slots_of(&a);
    router.slots_of(&b);
    router
        .subscribe("amq.topic", queue(3), "b/+", Grant::default())
        .expect("subscribed");
    router.tie("amq.fanout", queue(3), "");
    assert!(router.cache.find(&a, &router.generations).is_some());
    assert!(router.cache.find(&b, &router.generations).is_none());
    router.tie("amq.topic", queue(3), "*.x");
    assert!(router.cache.find(&a, &router.generations).is_none());
}
