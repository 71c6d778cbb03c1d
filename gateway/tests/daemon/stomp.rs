//! STOMP 1.0, 1.1 and 1.2 under stomp.py and stompjs, and on bare sockets.

use crate::support::{Gatepost, node, python};

#[test]
fn destinations_acknowledgements_and_transactions_do_what_they_say() {
    python(&mut Gatepost::start(), "stomp_messaging.py");
}

#[test]
fn the_wire_format_is_exact_and_faults_get_their_texts() {
    python(&mut Gatepost::start(), "stomp_wire.py");
}

#[test]
fn stompjs_works() {
    node(&mut Gatepost::start(), "stomp.mjs");
}
