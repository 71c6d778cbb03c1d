//! Collects the items of a vhost in holds of bounded length.

use crate::vhost::Vhost;
use gatepost_core::engine::inspect::{Cursor, Item, Kind};

/// Maximum items of one hold: about 50 µs if none is in the processor's cache.
const ITEMS_PER_HOLD: usize = 256;

/// All items of a kind. Between two holds others get their turn, at the engine and on this thread.
pub(super) async fn collect(vhost: &Vhost, kind: Kind) -> Vec<Item> {
    let mut cursor = Cursor::new(kind);
    let mut items = Vec::new();
    loop {
        items.extend(vhost.enter(|engine| engine.inspect(&mut cursor, ITEMS_PER_HOLD)));
        if cursor.is_done() {
            return items;
        }
        tokio::task::yield_now().await;
    }
}
