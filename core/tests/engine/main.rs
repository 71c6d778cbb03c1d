//! What the engine does, as clients see it: scripts against the engine, the real store on a simulated disk, and a
//! virtual clock.

mod access;
mod asking;
mod bound_replay;
mod budget;
mod clock;
mod consuming;
mod counting;
mod damaged;
mod dead_letters;
mod definitions;
mod durability;
mod flow;
mod full;
mod holding;
mod holds;
mod in_process;
mod inspect;
mod memory;
mod model;
mod paging;
mod policies;
mod publishing;
mod quorum;
mod recovery;
mod replay;
mod retained;
mod retained_world;
mod sessions;
mod shared;
mod simulation;
mod support;
mod will_delays;
mod wills;
mod world;
mod written;
