//! State machine safety, checked on the states: equal digests at equal index, and each write in
//! them at most once.

use std::collections::HashMap;

use syncraft::kv::{Change, Command};
use syncraft::raft::{Entry, Index, Payload};

use crate::machine::Machine;

#[derive(Default)]
pub(crate) struct States {
    /// The digest after each entry, as the first member had it.
    digests: HashMap<Index, u64>,
}

impl States {
    /// A member's state now holds `entry` too.
    pub(crate) fn applied(&mut self, machine: &Machine, entry: &Entry) {
        if !self.digests.contains_key(&entry.index) {
            check_at_most_once(machine, entry);
        }
        self.check_digest(machine);
    }

    /// A member's state is a snapshot's. Whoever wrote it had applied the same entries.
    pub(crate) fn loaded(&mut self, machine: &Machine) {
        assert!(self.digests.contains_key(&machine.applied()), "a snapshot of what was applied");
        self.check_digest(machine);
    }

    fn check_digest(&mut self, machine: &Machine) {
        let (index, digest) = (machine.applied(), machine.digest());
        let known = *self.digests.entry(index).or_insert(digest);
        assert_eq!(digest, known, "states differ after entry {index}");
    }
}

/// Values that clerks write are unique, and occur once in a state.
fn check_at_most_once(machine: &Machine, entry: &Entry) {
    let Payload::Command(command) = &entry.payload else { return };
    let command = Command::decode(command).expect("clerks propose commands");
    let Command { identity, change: Change::Append { key, value } } = command else { return };
    if identity.client_id.is_empty() {
        return;
    }
    let state = machine.value(&key).unwrap_or_default();
    let count = state.windows(value.len()).filter(|part| *part == value).count();
    assert!(count <= 1, "entry {}: {value:?} was appended {count} times", entry.index);
}
