//! The console's pages in a real browser.

use crate::support::{Gatepost, node};

#[test]
fn the_console_works_in_a_browser() {
    let mut gatepost = Gatepost::start();
    node(&mut gatepost, "console.mjs");
}

#[test]
fn the_console_shows_queues_and_exchanges_with_names_of_any_characters() {
    node(&mut Gatepost::start(), "console_names.mjs");
}

#[test]
fn the_console_shows_clients_and_users_of_any_name_and_long_lists() {
    node(&mut Gatepost::start(), "console_clients.mjs");
}

#[test]
fn the_console_works_by_keyboard_and_behind_a_proxy() {
    node(&mut Gatepost::start(), "console_ways.mjs");
}

#[test]
fn the_console_is_accessible() {
    node(&mut Gatepost::start(), "console_seen.mjs");
}

#[test]
fn the_console_draws_the_flow_map() {
    let mut gatepost = Gatepost::with(2, "[management]\nflow_interval = \"1s\"\n");
    node(&mut gatepost, "console_flow.mjs");
}

#[test]
fn the_console_follows_a_message() {
    node(&mut Gatepost::start(), "console_trace.mjs");
}
