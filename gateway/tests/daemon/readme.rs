//! The README's example, and the commands of the banner.

use crate::support::{Gatepost, python};

#[test]
fn the_readme_and_the_banner_hold() {
    let mut gatepost = Gatepost::start();
    python(&mut gatepost, "readme.py");
}
