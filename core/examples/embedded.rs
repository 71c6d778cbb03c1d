//! The engine inside a program: a durable queue, a publisher and a consumer, without a socket or a thread.
//! `cargo run -p gatepost-core --example embedded -- DIRECTORY` keeps its log there.
#![expect(clippy::disallowed_methods, reason = "a program has clocks of its own")]

use gatepost_core::access::Rights;
use gatepost_core::command::Outcome;
use gatepost_core::engine::Settings;
use gatepost_core::event::Event;
use gatepost_core::in_process::{InProcess, Local};
use gatepost_core::message::{Envelope, Message};
use gatepost_core::store::disk::RealDisk;
use gatepost_core::time::{Now, Time, Wall};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let started = Instant::now();
    let now = || {
        let wall = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let (monotonic, wall) = (started.elapsed().as_millis() as u64, wall.as_millis() as u64);
        Now {
            monotonic: Time(monotonic),
            wall: Wall(wall),
        }
    };
    let directory = std::env::args().nth(1).ok_or("usage: embedded DIRECTORY")?;
    let users = [("app".into(), Arc::new(Rights::all()))];
    let mut broker = Local::open(
        Arc::new(RealDisk::new(directory)?),
        Settings::default(),
        users,
        now().wall.0,
        now(),
    )?;
    let mut app = broker.run(now(), |engine| InProcess::attach(engine, now(), "app", "example"))??;
    app.declare_queue("jobs");
    let envelope = Envelope {
        durable: true,
        ..Envelope::default()
    };
    app.publish(Message::new(envelope, "", "jobs", &[], b"hello"));
    app.consume("jobs", 7);
    broker.visit(now(), &mut app)?;
    while let Some(event) = app.poll() {
        match event {
            Event::Confirmed { upto, .. } => println!("publish {upto} is on the medium"),
            Event::Deliver(d) => {
                println!("got {}", String::from_utf8_lossy(d.message.body()));
                app.settle(&d, Outcome::Accept);
            }
            other => println!("{other:?}"),
        }
    }
    app.detach();
    broker.visit(now(), &mut app)?;
    Ok(broker.close(now())?)
}
