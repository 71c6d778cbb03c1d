//! The console's pages in a real browser.

use crate::support::{Gatepost, node};

#[test]
fn the_console_works_in_a_browser() {
    let mut gatepost = Gatepost::start();
    node(&mut gatepost, "console.mjs");
}
