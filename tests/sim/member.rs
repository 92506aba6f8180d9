//! One simulated member: its core while it lives, its disk always, and what the oracle knows of its log.

use std::collections::BTreeMap;

use syncraft::raft::{Entry, Event, Index, MemberId, Message, Raft, Status, Term};

use crate::disk::Disk;
use crate::plan::Plan;

pub(crate) struct Member {
    pub(crate) id: MemberId,
    pub(crate) disk: Disk,
    /// Counts starts, so that what was meant for an earlier life can be told apart.
    pub(crate) life: u64,
    pub(crate) living: Option<Living>,
    /// What its core last said of its newest snapshot, in any life.
    pub(crate) snapshot_index: Index,
}

/// What a crash takes away.
pub(crate) struct Living {
    pub(crate) core: Raft,
    pub(crate) status: Status,
    /// The core's log, as its writes have told.
    pub(crate) log: Shadow,
    /// The last entry handed out to be applied.
    pub(crate) applied: Index,
    pub(crate) inbox: Vec<Event>,
    /// Said only after the pause: answers to writes that the disk finished meanwhile.
    pub(crate) outbox: Vec<Message>,
    pub(crate) is_paused: bool,
    pub(crate) is_step_due: bool,
    /// Snapshots on their way to peers.
    pub(crate) transfers: BTreeMap<MemberId, Transfer>,
}

/// A snapshot on its way to a peer: one at a time. Who is asked for another meanwhile says at its end that it was not sent.
pub(crate) struct Transfer {
    pub(crate) token: u64,
    pub(crate) is_asked_again: bool,
}

/// A log with a running hash: equal hashes, equal logs up to there.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    entries: Vec<(Entry, u64)>,
}

impl Member {
    pub(crate) fn new(id: MemberId) -> Member {
        Member { id, disk: Disk::default(), life: 0, living: None, snapshot_index: Index::ZERO }
    }

    /// True if its log had to begin anew behind its snapshot.
    pub(crate) fn start(&mut self, plan: &Plan) -> bool {
        assert!(self.living.is_none(), "only who is down can start");
        self.life += 1;
        let is_reset = self.disk.recover();
        let entries = self.disk.entries();
        let mut log = Shadow::default();
        log.write(entries);
        let snapshot = self.disk.snapshot();
        let applied = self.disk.snapshot_index();
        let behind = entries[applied.0 as usize..].to_vec();
        let config = plan.config(self.id, self.life);
        let core = Raft::new(config, self.disk.hard_state(), snapshot, behind);
        let status = core.status();
        self.living = Some(Living {
            core,
            status,
            log,
            applied,
            inbox: Vec::new(),
            outbox: Vec::new(),
            is_paused: false,
            is_step_due: false,
            transfers: BTreeMap::new(),
        });
        is_reset
    }
}

impl Shadow {
    /// As a `Persist` says: the first entry replaces everything from its index on. Gives how many were replaced.
    pub(crate) fn write(&mut self, entries: &[Entry]) -> usize {
        let Some(first) = entries.first() else { return 0 };
        let at = first.index.0 as usize - 1;
        assert!(at <= self.entries.len(), "no gaps in a log");
        let replaced = self.entries.len() - at;
        self.entries.truncate(at);
        for entry in entries {
            let before = self.entries.last().map_or(0, |(_, hash)| *hash);
            self.entries.push((entry.clone(), chain(before, entry)));
        }
        replaced
    }

    /// Replaced by what led to a snapshot.
    pub(crate) fn reset(&mut self, committed: &[Entry]) {
        self.entries.clear();
        self.write(committed);
    }

    pub(crate) fn last_index(&self) -> Index {
        Index(self.entries.len() as u64)
    }

    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        match index.0 {
            0 => Some(Term::ZERO),
            _ => self.at(index).map(|(entry, _)| entry.term),
        }
    }

    pub(crate) fn terms(&self) -> impl Iterator<Item = Term> + '_ {
        self.entries.iter().map(|(entry, _)| entry.term)
    }

    /// The entry at `index` and the hash of the log up to it.
    pub(crate) fn at(&self, index: Index) -> Option<&(Entry, u64)> {
        self.entries.get(index.0.checked_sub(1)? as usize)
    }
}

fn chain(before: u64, entry: &Entry) -> u64 {
    let mut hash = before ^ entry.term.0.rotate_left(32) ^ entry.index.0;
    if let syncraft::raft::Payload::Command(command) = &entry.payload {
        hash ^= command
            .iter()
            .fold(1, |hash: u64, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    }
    (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31)
}
