//! Members that break a promise on purpose: the simulator must notice.

use std::sync::Mutex;

use crate::overrides::Overrides;
use crate::runner::first_violation;

/// What a member does wrong throughout a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// It reports writes that are not yet on its disk.
    EarlyAnswers,
    /// A leader answers reads without asking whether it still leads.
    UnconfirmedReads,
    /// Clerks do not number their writes.
    NoSessions,
    /// Its state sometimes misses an entry.
    SkippedEntries,
    /// It starts without the vote that it gave.
    ForgottenVotes,
}

/// Each must be noticed within this many seeds.
const SEEDS: u64 = 400;

/// One at a time: each takes all cores.
static TURN: Mutex<()> = Mutex::new(());

fn check(lie: Lie, words: &[&str]) {
    let _turn = TURN.lock();
    let overrides = Overrides { lie: Some(lie), ..Overrides::default() };
    let found = first_violation(SEEDS, &overrides);
    let (seed, found) = found.unwrap_or_else(|| panic!("{lie:?} was not noticed"));
    let is_expected = words.iter().any(|words| found.contains(words));
    assert!(is_expected, "{lie:?} was noticed by seed {seed} in other words: {found}");
}

#[test]
fn an_answer_before_its_write_is_noticed() {
    check(Lie::EarlyAnswers, &["on its disk"]);
}

#[test]
fn a_read_without_confirmation_is_noticed() {
    check(Lie::UnconfirmedReads, &["stale answer"]);
}

#[test]
fn a_retry_without_a_number_is_noticed() {
    check(Lie::NoSessions, &["what no copy of it came to"]);
}

#[test]
fn an_entry_that_a_state_misses_is_noticed() {
    check(Lie::SkippedEntries, &["entry", "states differ", "applied in order", "stale read"]);
}

#[test]
fn a_vote_that_was_forgotten_is_noticed() {
    check(Lie::ForgottenVotes, &["the vote changes", "a vote on disk stands"]);
}
