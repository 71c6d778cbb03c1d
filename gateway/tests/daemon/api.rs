//! The management API under the requests that RabbitMQ's tools send.

use crate::support::{Gatepost, python};

#[test]
fn who_comes_in_by_the_management_api_and_who_does_not() {
    let settings = "[management]\ncors_origins = [\"https://panel.example\"]\n";
    python(&mut Gatepost::with(1, settings), "api_door.py");
}

#[test]
fn what_the_management_api_changes_takes_hold() {
    python(&mut Gatepost::with(1, ""), "api_changes.py");
}
