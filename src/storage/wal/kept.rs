//! The segments of the log and which of them are still needed, and the log's length after an entry.

use std::collections::VecDeque;

use crate::raft::Index;

/// The precision of lengths.
const STEP_BYTES: u64 = 64 << 10;

/// The segments of the log, the oldest first. The last one is active: batches are written to it.
#[derive(Debug, Default)]
pub(super) struct KeptSegments(VecDeque<KeptSegment>);

#[derive(Clone, Copy, Debug)]
pub(super) struct KeptSegment {
    pub(super) sequence: u64,
    pub(super) len_bytes: u64,
    /// The last entry in it that was not replaced later; zero if there is none.
    last_needed: Index,
    has_batches: bool,
}

impl KeptSegments {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn first(&self) -> Option<&KeptSegment> {
        self.0.front()
    }

    /// The log goes on in a new segment.
    pub(super) fn begin(&mut self, sequence: u64, len_bytes: u64) {
        let (last_needed, has_batches) = (Index::ZERO, false);
        self.0.push_back(KeptSegment { sequence, len_bytes, last_needed, has_batches });
    }

    /// A batch was written: it replaced everything from `from` on, up to `last`.
    pub(super) fn wrote(&mut self, from: Option<Index>, last: Index) {
        if let Some(from) = from {
            for segment in &mut self.0 {
                segment.last_needed = segment.last_needed.min(from.prev());
            }
        }
        // Batches are written only after `begin`.
        let active = self.0.back_mut().expect("an active segment");
        active.has_batches = true;
        if from.is_some() {
            active.last_needed = last;
        }
    }

    /// How many of the oldest segments can be removed when the entries up to `index` are not
    /// needed. The first segment that stays must have a batch, because the hard state is in it.
    pub(super) fn removable(&self, index: Index) -> usize {
        let older = self.0.len().saturating_sub(1);
        let unneeded =
            self.0.iter().take(older).take_while(|segment| segment.last_needed <= index).count();
        (0..=unneeded).rev().find(|first| self.0[*first].has_batches).unwrap_or(0)
    }

    pub(super) fn remove_first(&mut self) {
        self.0.pop_front();
    }
}

/// How many bytes of batches were written after an entry, known in steps.
#[derive(Debug, Default)]
pub(super) struct Lengths {
    /// An entry, and how many bytes had been written when it was the last one.
    steps: VecDeque<(Index, u64)>,
    before_first: u64,
    total: u64,
}

impl Lengths {
    /// A batch was written: it replaced everything from `from` on, up to `last`.
    pub(super) fn wrote(&mut self, from: Option<Index>, last: Index, len_bytes: u64) {
        if let Some(from) = from {
            let kept = self.steps.partition_point(|(index, _)| *index < from);
            self.steps.truncate(kept);
        }
        if from == Some(Index(1)) {
            self.before_first = self.total;
        }
        self.total += len_bytes;
        let step = self.steps.back().map_or(self.before_first, |(_, before)| *before);
        if self.total - step >= STEP_BYTES {
            self.steps.push_back((last, self.total));
        }
    }

    /// The bytes written after this entry, or up to a step more.
    pub(super) fn after(&self, index: Index) -> u64 {
        let steps = self.steps.partition_point(|(step, _)| *step <= index);
        let before = steps.checked_sub(1).map_or(self.before_first, |step| self.steps[step].1);
        self.total - before
    }

    /// Nobody will ask for the length after an earlier entry than this one.
    pub(super) fn forget_before(&mut self, index: Index) {
        while let Some((step, before)) = self.steps.front()
            && *step <= index
        {
            self.before_first = *before;
            self.steps.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three segments with entries 1 to 10, 11 to 20, 21 to 30. The last one is active.
    fn three() -> KeptSegments {
        let mut kept = KeptSegments::default();
        for (sequence, first) in [(1, 1), (2, 11), (3, 21)] {
            kept.begin(sequence, 4096);
            kept.wrote(Some(Index(first)), Index(first + 9));
        }
        kept
    }

    #[test]
    fn only_whole_segments_and_never_the_last_can_go() {
        for (index, expected) in [(0, 0), (9, 0), (10, 1), (19, 1), (20, 2), (30, 2), (99, 2)] {
            assert_eq!(three().removable(Index(index)), expected, "up to {index}");
        }
    }

    #[test]
    fn what_was_replaced_is_not_needed() {
        let mut kept = three();
        kept.wrote(Some(Index(6)), Index(7));
        assert_eq!([4, 5, 6].map(|index| kept.removable(Index(index))), [0, 2, 2]);
        kept.wrote(Some(Index(1)), Index(50));
        assert_eq!(kept.removable(Index::ZERO), 2, "the log began anew");
    }

    #[test]
    fn the_hard_state_stays() {
        let mut kept = three();
        kept.begin(4, 4096);
        assert_eq!(kept.removable(Index(99)), 2, "there is no batch in the active segment yet");
        kept.wrote(None, Index(30));
        assert_eq!(kept.removable(Index(99)), 3);
    }

    #[test]
    fn lengths_are_right_to_a_step() {
        let mut lengths = Lengths::default();
        for index in 1..=1000 {
            lengths.wrote(Some(Index(index)), Index(index), 1000);
        }
        let check = |lengths: &Lengths, index: u64, expected: u64| {
            let len = lengths.after(Index(index));
            assert!((expected..=expected + STEP_BYTES).contains(&len), "{len} after {index}");
        };
        for index in [0, 1, 500, 999, 1000] {
            check(&lengths, index, (1000 - index) * 1000);
        }
        lengths.forget_before(Index(700));
        check(&lengths, 700, 300_000);
        assert!(lengths.steps.len() < 6);
        lengths.wrote(Some(Index(1)), Index(2000), 48);
        assert_eq!(lengths.after(Index(2000)), 48, "the log began anew");
    }
}
