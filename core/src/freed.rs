//! What the allocator does later with memory that was given back, done now.

use std::hint::black_box;

/// More than the allocator keeps at hand, and few pages.
const LARGE: usize = 4 << 10;

/// Has the allocator put together what was given back in small pieces.
///
/// The C library of GNU only lists small pieces, and goes through all of the list when something large is asked for, or given back. After
/// the deletion of a million bindings that took 150 ms, in the hold of whoever asked next. So a hold that ends because its work units
/// are spent asks for something large itself: what it gave back is bounded. Other allocators notice nothing.
pub(crate) fn put_together() {
    drop(black_box(Vec::<u8>::with_capacity(LARGE)));
}
