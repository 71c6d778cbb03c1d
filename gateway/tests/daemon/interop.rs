//! The three protocols together.

use crate::support::{Gatepost, python};

#[test]
fn devices_backends_and_pages_meet_on_one_io_thread() {
    python(&mut Gatepost::with(1, ""), "interop_main.py");
}

#[test]
fn devices_backends_and_pages_meet_across_three_io_threads() {
    python(&mut Gatepost::with(3, ""), "interop_main.py");
}

#[test]
fn names_properties_and_promises_survive_the_crossing() {
    python(&mut Gatepost::start(), "interop.py");
}
