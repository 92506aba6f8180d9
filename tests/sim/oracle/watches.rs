//! A watch that moves from member to member, and must miss nothing.

use syncraft::kv::model::{Change, KeyRange, Reason, Revision, WatchRange};

use crate::machine::Machine;
use crate::reference::Reference;

/// The watch looks at the member that applies an entry whose index is a multiple of this.
const LOOK_PERIOD: u64 = 7;

pub(super) struct Watches {
    /// What it has not been told.
    range: WatchRange,
}

impl Default for Watches {
    fn default() -> Watches {
        Watches { range: from(Revision::EMPTY_STORE.next()) }
    }
}

/// A watch of everything.
fn from(from: Revision) -> WatchRange {
    WatchRange { from, previous: true, ..WatchRange::of(KeyRange::all()) }
}

impl Watches {
    /// A member has applied one more entry.
    pub(super) fn applied(&mut self, machine: &Machine, reference: &Reference) {
        let revision = machine.stats().revision;
        if machine.applied().0.is_multiple_of(LOOK_PERIOD) && self.range.from <= revision {
            check(&self.range, machine, reference);
            self.range.from = revision.next();
        }
    }

    /// A snapshot has become a member's state.
    pub(super) fn loaded(&mut self, machine: &Machine, reference: &Reference) {
        check(&from(machine.stats().compacted.next()), machine, reference);
        check(&self.range, machine, reference);
    }
}

/// Checks what a member tells of its own state.
fn check(range: &WatchRange, machine: &Machine, reference: &Reference) {
    let (index, stats) = (machine.applied(), machine.stats());
    match machine.changes(range) {
        Ok(told) => {
            let expected: Vec<Change> = reference.changes(range.from, stats.revision);
            assert_eq!(told, expected, "what changed from {} on, at entry {index}", range.from);
        }
        Err(refusal) => {
            assert!(range.from <= stats.compacted, "a watch from {} ends", range.from);
            let expected = (Reason::Compacted, stats.compacted.next().0);
            assert_eq!((refusal.reason, refusal.value), expected, "where a watch can begin anew");
        }
    }
}
