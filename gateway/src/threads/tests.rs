//! Tests of the queue of turns with toy futures.

use super::turns::Turns;
use parking_lot::Mutex;
use std::future::Future;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Waker};

/// A connection that runs a script in each turn.
struct Toy(Box<Script>);

type Script = dyn FnMut(&mut Context<'_>) -> Poll<()> + Send;

impl Toy {
    fn new(script: impl FnMut(&mut Context<'_>) -> Poll<()> + Send + 'static) -> Toy {
        Toy(Box::new(script))
    }
}

impl Future for Toy {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        (self.0)(cx)
    }
}

/// Writes its name in each of its `turns` turns, and wakes itself for the next one.
fn greedy(name: char, mut turns: usize, list: &Arc<Mutex<String>>) -> Toy {
    let list = Arc::clone(list);
    Toy::new(move |cx| {
        list.lock().push(name);
        turns -= 1;
        if turns == 0 {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

/// Keeps its waker in `left`, and counts its turns.
fn sleeper(left: &Arc<Mutex<Option<Waker>>>, turns: &Arc<AtomicUsize>) -> Toy {
    let (left, turns) = (Arc::clone(left), Arc::clone(turns));
    Toy::new(move |cx| {
        left.lock().get_or_insert_with(|| cx.waker().clone());
        turns.fetch_add(1, Ordering::Relaxed);
        Poll::Pending
    })
}

#[test]
fn those_who_fill_and_those_who_empty_take_turns() {
    let turns = Turns::new(0, Vec::new());
    let list = Arc::default();
    for name in ['a', 'b', 'c'] {
        turns.spawn(greedy(name, 3, &list));
    }
    while turns.pass() {}
    assert_eq!(*list.lock(), "abcabcabc");
}

#[test]
fn a_connection_that_always_has_more_to_do_has_one_turn_in_a_pass() {
    // The reactor is polled between two passes, so other connections are read before this one's next turn.
    let turns = Turns::new(0, Vec::new());
    let list = Arc::default();
    turns.spawn(greedy('x', 1_000, &list));
    assert!(turns.pass());
    assert_eq!(*list.lock(), "x");
    turns.spawn(greedy('y', 1, &list));
    assert!(turns.pass());
    assert_eq!(list.lock().len(), 3);
    assert!(list.lock().contains('y'));
}

#[test]
fn a_connection_woken_by_another_has_its_turn_in_the_same_pass() {
    let turns = Turns::new(0, Vec::new());
    let (left, count) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
    turns.spawn(sleeper(&left, &count));
    assert!(!turns.pass());
    turns.spawn(Toy::new(move |_| {
        left.lock().as_ref().expect("asleep").wake_by_ref();
        // A single wake is enough.
        left.lock().as_ref().expect("asleep").wake_by_ref();
        Poll::Ready(())
    }));
    assert!(!turns.pass());
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[test]
fn a_long_queue_does_not_keep_the_owner_from_its_reactor() {
    let turns = Turns::new(0, Vec::new());
    let list = Arc::default();
    for _ in 0..100 {
        turns.spawn(greedy('x', 1, &list));
    }
    assert!(turns.pass());
    let first = list.lock().len();
    assert!(first < 100, "{first} turns");
    assert!(!turns.pass());
    assert_eq!(list.lock().len(), 100);
}

#[test]
fn the_owner_polls_its_reactor_between_two_turns_of_a_busy_connection() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.expect("a runtime");
    let turns = Turns::new(0, Vec::new());
    let count = runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (server, _) = listener.accept().expect("accepted");
        std::io::Write::write_all(&mut client, b"hear me\n").expect("sent");
        server.peek(&mut [0]).expect("it is here");
        server.set_nonblocking(true).expect("not blocking");
        let server = tokio::net::TcpStream::from_std(server).expect("registered");
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        turns.spawn(Toy::new(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        let owner = tokio::spawn(tokio::task::unconstrained(Arc::clone(&turns).own()));
        server.readable().await.expect("heard");
        owner.abort();
        count.load(Ordering::Relaxed)
    });
    turns.stop();
    turns.clear();
    assert!(count <= 4, "{count} turns");
}

/// Stops the helpers when a test ends, even if it fails: the test must not wait for them.
struct Stop<'a>(&'a Turns<Toy>);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[test]
fn a_wake_during_a_turn_elsewhere_brings_another_turn() {
    let turns = Turns::new(1, Vec::new());
    turns.admit(1);
    let (count, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None::<Waker>)));
    std::thread::scope(|scope| {
        let _stop = Stop(&turns);
        let ((began, watched), (release, go_on)) = (channel(), channel::<()>());
        let (counted, leave) = (Arc::clone(&count), Arc::clone(&left));
        turns.spawn(Toy::new(move |cx| {
            leave.lock().get_or_insert_with(|| cx.waker().clone());
            counted.fetch_add(1, Ordering::Relaxed);
            began.send(()).expect("watched");
            go_on.recv().expect("let go");
            Poll::Pending
        }));
        scope.spawn(|| turns.help(1));
        watched.recv().expect("its turn");
        // Wakes from another thread, more often than there are turns.
        for _ in 0..3 {
            left.lock().as_ref().expect("known").wake_by_ref();
        }
        assert!(!turns.pass());
        assert_eq!(count.load(Ordering::Relaxed), 1, "not twice at once");
        release.send(()).expect("let go");
        watched.recv().expect("another turn");
        release.send(()).expect("let go");
    });
    assert_eq!(count.load(Ordering::Relaxed), 2);
    turns.clear();
}

#[test]
fn a_helper_takes_turns_only_while_it_is_admitted() {
    let turns = Turns::new(1, Vec::new());
    let (ran, helped) = channel();
    std::thread::scope(|scope| {
        let _stop = Stop(&turns);
        scope.spawn(|| turns.help(1));
        assert_eq!(turns.helping(), 0);
        turns.admit(1);
        let me = std::thread::current().id();
        // The first turn of the pass waits for another turn, which only another thread can run. There is no time limit:
        // without a helper the test hangs.
        let (tell, told) = channel();
        let reports = ran.clone();
        turns.spawn(Toy::new(move |_| {
            told.recv().expect("another thread's");
            reports.send(std::thread::current().id()).expect("counted");
            Poll::Ready(())
        }));
        for _ in 0..5 {
            let (ran, tell) = (ran.clone(), tell.clone());
            turns.spawn(Toy::new(move |_| {
                let _ = tell.send(());
                ran.send(std::thread::current().id()).expect("counted");
                Poll::Ready(())
            }));
        }
        while turns.pass() {}
        let by_others = (0..6).filter(|_| helped.recv().expect("a turn") != me).count();
        assert!(by_others >= 1);
        turns.admit(0);
        for _ in 0..10 {
            let ran = ran.clone();
            turns.spawn(Toy::new(move |_| {
                ran.send(std::thread::current().id()).expect("counted");
                Poll::Ready(())
            }));
        }
        while turns.pass() {}
        assert!((0..10).all(|_| helped.recv().expect("a turn") == me), "sent away");
    });
}

#[test]
fn no_wake_is_lost_between_many_threads() {
    const CONNECTIONS: usize = 40;
    const ROUNDS: usize = 500;
    let turns = Turns::new(3, Vec::new());
    turns.admit(3);
    // Each wakes the next one in a ring and never itself, so lost wakes stop the ring.
    let ring: Arc<Vec<Mutex<Option<Waker>>>> = Arc::new((0..CONNECTIONS).map(|_| Mutex::default()).collect());
    let (done, ended) = channel();
    for place in 0..CONNECTIONS {
        let (ring, done) = (Arc::clone(&ring), done.clone());
        let mut had = 0;
        turns.spawn(Toy::new(move |cx| {
            had += 1;
            if had == 1 {
                *ring[place].lock() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if had == ROUNDS {
                done.send(()).expect("counted");
            }
            let next = ring[(place + 1) % CONNECTIONS].lock().clone();
            next.expect("known").wake();
            Poll::Pending
        }));
    }
    while turns.pass() {}
    for waker in ring.iter() {
        waker.lock().as_ref().expect("known").wake_by_ref();
    }
    std::thread::scope(|scope| {
        let _stop = Stop(&turns);
        for number in 1..=3 {
            let turns = &turns;
            scope.spawn(move || turns.help(number));
        }
        let mut over = 0;
        while over < CONNECTIONS {
            turns.pass();
            over += ended.try_iter().count();
            std::thread::yield_now();
        }
    });
    turns.clear();
}

#[test]
fn a_stop_runs_nothing_more_and_drops_everything() {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let turns = Turns::new(0, Vec::new());
    let (dropped, ran) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let spawn = || {
        let (counted, ran) = (Counted(Arc::clone(&dropped)), Arc::clone(&ran));
        let mut kept = None;
        turns.spawn(Toy::new(move |cx| {
            // A reference cycle, as sockets and the engine cause it.
            kept.get_or_insert_with(|| cx.waker().clone());
            let _ = &counted;
            ran.fetch_add(1, Ordering::Relaxed);
            Poll::Pending
        }));
    };
    // One connection asleep, one queued, and (below) one spawned too late.
    spawn();
    turns.pass();
    spawn();
    turns.stop();
    assert!(!turns.pass());
    turns.clear();
    spawn();
    assert_eq!((dropped.load(Ordering::Relaxed), ran.load(Ordering::Relaxed)), (3, 1));
    assert_eq!(Arc::strong_count(&turns), 1, "nobody is left who knows it");
}

/// New connections queue after existing ones, each for one turn. So an existing connection gets a turn in every round,
/// however many connect.
#[test]
fn a_storm_of_connections_leaves_the_others_their_turns() {
    const STORM: usize = 2_000;
    let turns = Turns::new(0, Vec::new());
    let list = Arc::default();
    turns.spawn(greedy('x', 20, &list));
    for _ in 0..STORM {
        // Accepted, answered, logged in.
        turns.spawn(greedy('s', 3, &list));
    }
    while turns.pass() {}
    let list = list.lock();
    assert_eq!(list.len(), 3 * STORM + 20, "all have had all of theirs");
    let at: Vec<usize> = list
        .char_indices()
        .filter(|(_, c)| *c == 'x')
        .map(|(at, _)| at)
        .collect();
    let waits = at.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(waits.max() <= Some(STORM + 1), "{:?}", &at[..5]);
    assert!(at[3] <= 3 * (STORM + 1), "the storm had no more turns than it: {at:?}");
}
