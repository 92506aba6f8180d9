//! Credit: how many bytes of items each side may send. Pure arithmetic, without locks or frames.
//!
//! The receiver of a direction grants credit, and the sender spends it. An item may be sent while
//! credit is above zero, and may overdraw it: so an item longer than the window gets through, and
//! the receiver never holds more than the window and one longest item. The receiver gives credit
//! back as items are consumed, half a window at a time, so that few frames carry credit.

/// What each sender may send before it is granted more, and the smallest window. So the first items
/// need not wait for an answer.
pub(crate) const FIRST_CREDIT_BYTES: usize = 64 << 10;

/// The largest window.
pub(crate) const WINDOW_MAX_BYTES: usize = 64 << 20;

/// An honest receiver never lets credit grow beyond this.
const CREDIT_MAX_BYTES: i64 = 1 << 30;

/// What an item costs beside its length, so that empty items cannot fill the memory.
const ITEM_COST_BYTES: usize = 32;

/// What an item of `len` bytes costs.
pub(crate) fn cost(len: usize) -> usize {
    len + ITEM_COST_BYTES
}

/// The sender's side: what it may still send.
#[derive(Clone, Debug)]
pub(crate) struct SendCredit {
    left: i64,
}

impl SendCredit {
    /// The credit with which a stream begins. More than a receiver may grant counts as the most.
    pub(crate) fn new(bytes: u64) -> SendCredit {
        SendCredit { left: i64::try_from(bytes).unwrap_or(i64::MAX).min(CREDIT_MAX_BYTES) }
    }

    pub(crate) fn may_send(&self) -> bool {
        self.left > 0
    }

    /// Pays for an item.
    pub(crate) fn spend(&mut self, cost: usize) {
        self.left -= cost as i64;
    }

    /// The receiver grants more. False: more than it may.
    #[must_use]
    pub(crate) fn add(&mut self, bytes: u64) -> bool {
        let sum = i64::try_from(bytes).ok().and_then(|bytes| self.left.checked_add(bytes));
        match sum.filter(|sum| *sum <= CREDIT_MAX_BYTES) {
            Some(sum) => {
                self.left = sum;
                true
            }
            None => false,
        }
    }
}

/// The receiver's side: what it has granted, and what it owes.
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    window: usize,
    /// What the sender may still send, as far as it has been told.
    granted: i64,
    /// What has been consumed and not been given back.
    owed: usize,
    /// The part of the window that the sender does not know of.
    rest: usize,
}

impl ReceiveWindow {
    /// A window of which the sender knows the first `granted` bytes. The rest is given with the
    /// first credit that is given back, so that a stream on which nothing happens costs no frame.
    pub(crate) fn new(window: usize, granted: usize) -> ReceiveWindow {
        assert!(granted <= window, "{granted} bytes granted of a window of {window}");
        ReceiveWindow { window, granted: granted as i64, owed: 0, rest: window - granted }
    }

    /// An item has come. False: there was no credit for it.
    #[must_use]
    pub(crate) fn take(&mut self, cost: usize) -> bool {
        let has_credit = self.granted > 0;
        if has_credit {
            self.granted -= cost as i64;
        }
        has_credit
    }

    /// Items of this cost were consumed.
    pub(crate) fn consumed(&mut self, cost: usize) {
        self.owed += cost;
    }

    /// Half a window: as much as is worth a frame.
    fn half(&self) -> usize {
        self.window / 2
    }

    /// The credit to give back now, if it is worth a frame. It counts as given.
    pub(crate) fn take_due(&mut self) -> Option<u64> {
        if self.owed == 0 || self.owed + self.rest < self.half() {
            return None;
        }
        let due = std::mem::take(&mut self.owed) + std::mem::take(&mut self.rest);
        self.granted += due as i64;
        assert!(self.granted <= self.window as i64, "{} bytes granted", self.granted);
        Some(due as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credit_beyond_the_most_is_refused() {
        let mut credit = SendCredit::new(u64::MAX);
        assert!(credit.may_send());
        assert!(!credit.add(1) && !credit.add(u64::MAX));
        credit.spend(1 << 30);
        assert!(!credit.may_send());
        assert!(credit.add(1) && credit.may_send());
    }

    #[test]
    fn an_item_may_overdraw_and_the_next_one_has_to_wait() {
        let mut window = ReceiveWindow::new(FIRST_CREDIT_BYTES, FIRST_CREDIT_BYTES);
        assert!(window.take(cost(10 << 20)));
        assert!(!window.take(cost(0)));
        window.consumed(cost(10 << 20));
        assert_eq!(window.take_due(), Some(cost(10 << 20) as u64));
        assert!(window.take(cost(0)));
    }

    #[test]
    fn what_the_sender_does_not_know_of_the_window_comes_with_the_first_credit() {
        let mut window = ReceiveWindow::new(256 << 10, 64 << 10);
        assert!(window.take(cost(1)));
        window.consumed(cost(1));
        assert_eq!(window.take_due(), Some((192 << 10) + cost(1) as u64));
    }

    proptest! {
        /// A sender that keeps to its credit is never found beyond it, never stops for ever, and
        /// never makes the receiver hold more than the window and an item.
        #[test]
        fn both_sides_agree(
            lens in prop::collection::vec(0usize..200_000, 1..200),
            window in 1usize..9,
        ) {
            let window = window * FIRST_CREDIT_BYTES;
            let mut sender = SendCredit::new(FIRST_CREDIT_BYTES as u64);
            let mut receiver = ReceiveWindow::new(window, FIRST_CREDIT_BYTES);
            let mut held = VecDeque::new();
            for len in lens {
                let cost = cost(len);
                while !sender.may_send() {
                    // It can only go on because the receiver consumes.
                    receiver.consumed(held.pop_front().expect("credit is used up by what is held"));
                    if let Some(due) = receiver.take_due() {
                        prop_assert!(sender.add(due));
                    }
                }
                sender.spend(cost);
                prop_assert!(receiver.take(cost));
                held.push_back(cost);
                prop_assert!(held.iter().sum::<usize>() <= window + cost);
            }
        }
    }
}
