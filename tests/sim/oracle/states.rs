//! State machine safety, checked on the states: equal digests at equal index, and what the
//! [`Reference`] has there.

use std::collections::HashMap;

use syncraft::kv::Outcome;
use syncraft::kv::model::{Entry as StoredEntry, KeyRange, Revision};
use syncraft::raft::{Entry, Index};

use crate::machine::Machine;
use crate::reference::Reference;

/// How many earlier states are compared when a snapshot is loaded.
const PAST_STATES_MAX: u64 = 6;

#[derive(Default)]
pub(crate) struct States {
    /// The digest after each entry, as the first member had it.
    digests: HashMap<Index, u64>,
}

impl States {
    /// A member's state now holds `entry` too, which came to `outcome`. What it changed is checked,
    /// and how much the store holds.
    pub(super) fn applied(
        &mut self,
        machine: &Machine,
        entry: &Entry,
        outcome: &Option<Outcome>,
        reference: &Reference,
    ) {
        let expected = reference.at(entry.index);
        assert_eq!(*outcome, expected.outcome, "the outcome of entry {}", entry.index);
        assert_eq!(
            machine.stats(),
            expected.stats,
            "how much there is after entry {}",
            entry.index
        );
        for key in &expected.changed {
            let found = machine.entries(KeyRange::key(key.clone()), Revision::NONE);
            let held = reference.held_at(key, expected.stats.revision);
            assert_eq!(found.first(), held, "what {key:?} holds after entry {}", entry.index);
        }
        self.check_digest(machine);
    }

    /// A member's state is a snapshot's. Whoever wrote it had applied the same entries.
    pub(super) fn loaded(&mut self, machine: &Machine, reference: &Reference) {
        assert!(self.digests.contains_key(&machine.applied()), "a snapshot of what was applied");
        self.check_digest(machine);
        self.check_all(machine, reference);
    }

    /// Checks all entries of a state, and some of its past.
    pub(crate) fn check_all(&self, machine: &Machine, reference: &Reference) {
        let index = machine.applied();
        let expected = reference.at(index).stats;
        assert_eq!(machine.stats(), expected, "how much there is at {index}");
        let check = |at: Revision, revision: Revision| {
            let held: Vec<StoredEntry> = reference.contents(revision).into_values().collect();
            assert_eq!(
                machine.entries(KeyRange::all(), at),
                held,
                "{revision} after entry {index}"
            );
        };
        check(Revision::NONE, expected.revision);
        let oldest = expected.compacted.0.max(Revision::EMPTY_STORE.0);
        let step = (expected.revision.0 - oldest) / PAST_STATES_MAX + 1;
        for at in (oldest..expected.revision.0).step_by(step as usize).map(Revision) {
            check(at, at);
        }
    }

    fn check_digest(&mut self, machine: &Machine) {
        let (index, digest) = (machine.applied(), machine.digest());
        let known = *self.digests.entry(index).or_insert(digest);
        assert_eq!(digest, known, "states differ after entry {index}");
    }
}
