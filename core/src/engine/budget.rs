//! What one hold of the engine's lock may cost.

/// Commands, each with its destinations, that one hold of the lock may cost.
const WORK_UNITS_MAX: usize = 1024;

/// What is left of a hold's work units. The last thing done may cost more than there was: then the hold ends with it.
#[derive(Debug)]
pub(crate) struct Budget(usize);

/// The hold is over and the command is not done: it goes on where it stopped in the next one. What a command needs for that
/// is in what it works on: what is still to be ended is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished;

impl Budget {
    /// Of a new hold.
    pub(crate) fn of_hold() -> Budget {
        Budget(WORK_UNITS_MAX)
    }
    /// For what must not be divided.
    pub(crate) fn whole() -> Budget {
        Budget(usize::MAX)
    }
    pub(crate) fn spend(&mut self, units: usize) {
        self.0 = self.0.saturating_sub(units);
    }
    pub(crate) fn is_spent(&self) -> bool {
        self.0 == 0
    }
    /// Asked before each piece of what may be divided. A new hold has something left, so that there is always progress.
    pub(crate) fn check(&self) -> Result<(), Unfinished> {
        if self.is_spent() { Err(Unfinished) } else { Ok(()) }
    }
    /// What is left, as a number of look-ups.
    pub(crate) fn left(&self) -> usize {
        self.0
    }
}
