//! What there is in a vhost, gathered in holds of bounded length.

use crate::vhost::Vhost;
use gatepost_core::engine::inspect::{Cursor, Item, Kind};

/// Items of one hold: some 50 µs, if none is in the cache.
const ITEMS_PER_HOLD: usize = 256;

/// All of a kind. Between two holds others have their turn, at the engine and on this thread.
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
