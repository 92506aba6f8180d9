//! A log with a running hash: equal hashes mean equal logs up to there.

use std::sync::Arc;

use syncraft::raft::{Configuration, Entry, Index, Payload, Term};

#[derive(Debug, Default)]
pub(crate) struct Shadow {
    entries: Vec<(Entry, u64)>,
    /// The configurations among them, in order.
    configurations: Vec<(Index, Arc<Configuration>)>,
}

impl Shadow {
    /// Applies a `Persist`: the first entry replaces everything from its index on. Returns how many
    /// entries were replaced.
    pub(crate) fn write(&mut self, entries: &[Entry]) -> usize {
        let Some(first) = entries.first() else { return 0 };
        let at = first.index.0 as usize - 1;
        assert!(at <= self.entries.len(), "no gaps in a log");
        let replaced = self.entries.len() - at;
        self.entries.truncate(at);
        self.configurations.retain(|(index, _)| *index < first.index);
        for entry in entries {
            if let Payload::Configuration(configuration) = &entry.payload {
                self.configurations.push((entry.index, configuration.clone()));
            }
            let before = self.entries.last().map_or(0, |(_, hash)| *hash);
            self.entries.push((entry.clone(), chain(before, entry)));
        }
        replaced
    }

    /// Replaced by the entries that led to a snapshot.
    pub(crate) fn reset(&mut self, committed: &[Entry]) {
        self.entries.clear();
        self.configurations.clear();
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

    /// All configurations in it, with their indexes.
    pub(crate) fn configurations(&self) -> &[(Index, Arc<Configuration>)] {
        &self.configurations
    }

    /// The configuration in force, and its index.
    pub(crate) fn configuration(&self) -> Option<&(Index, Arc<Configuration>)> {
        self.configurations.last()
    }

    /// The newest configuration up to `index`.
    pub(crate) fn configuration_at(&self, index: Index) -> Option<&(Index, Arc<Configuration>)> {
        self.configurations.iter().rev().find(|(at, _)| *at <= index)
    }

    /// The entry at `index` and the hash of the log up to it.
    pub(crate) fn at(&self, index: Index) -> Option<&(Entry, u64)> {
        self.entries.get(index.0.checked_sub(1)? as usize)
    }
}

fn chain(before: u64, entry: &Entry) -> u64 {
    let mut hash = before ^ entry.term.0.rotate_left(32) ^ entry.index.0;
    let mut mix = |bytes: &[u8], begin: u64| {
        hash ^= bytes
            .iter()
            .fold(begin, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    };
    match &entry.payload {
        Payload::Noop => {}
        Payload::Command(command) => mix(command, 1),
        Payload::Configuration(configuration) => mix(&configuration.encode(), 2),
    }
    (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31)
}
