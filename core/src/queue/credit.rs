//! Credit: how many more deliveries a consumer, channel or session may have.
//!
//! There are two kinds:
//!
//! - A *window* limits the deliveries that are unsettled at the same time. Each settle makes room for another one. AMQP
//!   0-9-1 calls it prefetch, MQTT receive maximum, STOMP prefetch-count.
//! - A *grant* allows a number of further deliveries. Settling gives nothing back, and what is left can be drained.
//!   AMQP 1.0 calls it link-credit.

/// The credit of a consumer, a channel or a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credit {
    /// Deliveries that count at present: reserved or unsettled.
    used: u32,
    /// The most that may count. `u32::MAX`: unlimited.
    max: u32,
    /// It is a grant: settling gives nothing back.
    granted: bool,
}

impl Credit {
    /// No limit.
    pub(crate) const UNLIMITED: Credit = Credit {
        used: 0,
        max: u32::MAX,
        granted: false,
    };

    /// A window of `size` deliveries; 0: unlimited.
    pub(crate) fn window(size: u32) -> Credit {
        let mut credit = Credit::UNLIMITED;
        credit.resize(size);
        credit
    }
    /// Changes the size of a window. If more than that are unsettled, it has room again when enough are settled.
    pub(crate) fn resize(&mut self, size: u32) {
        self.max = if size == 0 { u32::MAX } else { size };
    }
    /// The size of a window; 0: no limit.
    pub(crate) fn size(&self) -> u32 {
        if self.is_limited() { self.max } else { 0 }
    }
    pub(crate) fn is_limited(&self) -> bool {
        self.max != u32::MAX
    }
    /// Whether no further delivery is allowed now.
    #[inline]
    pub(crate) fn is_spent(&self) -> bool {
        self.used >= self.max
    }
    /// The number of deliveries that count now.
    #[inline]
    pub(crate) fn used(&self) -> u32 {
        self.used
    }
    /// Counts one more delivery.
    #[inline]
    pub(crate) fn spend(&mut self) {
        self.used += 1;
    }
    /// Counts one delivery less. Returns whether there was no room before.
    #[inline]
    pub(crate) fn release(&mut self) -> bool {
        let was_spent = self.is_spent();
        self.used -= 1;
        if self.granted {
            self.max -= 1;
            return false;
        }
        was_spent
    }
    /// Counts no deliveries any more.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }
    /// Allows `more` deliveries from now on, whatever was allowed before.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "AMQP 1.0, which grants credit, is not built yet")
    )]
    pub(crate) fn grant(&mut self, more: u32) {
        self.granted = true;
        self.max = self.used.saturating_add(more).min(u32::MAX - 1);
    }
    /// Withdraws the rest of a grant. Returns how many deliveries that was.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "AMQP 1.0, which drains credit, is not built yet")
    )]
    pub(crate) fn drain(&mut self) -> u32 {
        let left = self.max.saturating_sub(self.used);
        if self.granted {
            self.max = self.used;
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_room_again_when_something_is_settled() {
        let mut credit = Credit::window(2);
        credit.spend();
        credit.spend();
        assert!(credit.is_spent());
        assert!(credit.release());
        assert!(!credit.is_spent() && !credit.release());
        assert_eq!((credit.used(), credit.size()), (0, 2));
    }

    #[test]
    fn a_smaller_window_waits_until_enough_is_settled() {
        let mut credit = Credit::window(0);
        assert_eq!((credit.size(), credit.is_limited()), (0, false));
        (0..3).for_each(|_| credit.spend());
        credit.resize(2);
        assert!(credit.is_spent() && credit.release());
        assert!(credit.is_spent() && credit.release());
        assert!(!credit.is_spent());
    }

    #[test]
    fn settling_returns_nothing_to_a_grant_which_can_be_drained() {
        let mut credit = Credit::UNLIMITED;
        credit.grant(2);
        credit.spend();
        assert!(!credit.release());
        assert_eq!(credit.used(), 0);
        credit.spend();
        assert!(credit.is_spent());
        credit.grant(5);
        credit.spend();
        assert_eq!(credit.drain(), 4);
        assert!(credit.is_spent());
        assert_eq!(credit.used(), 2);
    }
}
