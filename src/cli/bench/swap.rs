//! Compare-and-set: [`Swap`], and the [`Revisions`] that it compares.
//!
//! Each client has keys of its own, so a comparison holds unless somebody outside the run writes
//! them. The revisions are read once, before the run. Then each swap is one transaction: if the
//! key's mod revision is the one that its client knows, put; otherwise read the key, so that the
//! client's next swap of it can succeed. A swap that finds another revision has failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use syncraft::clerk::{Clerk, ClerkError};
use syncraft::kv::model::{
    Action, Compare, Entry, KeyRange, OperationAnswer, RangeAnswer, Revision, Txn, TxnAnswer,
};

use super::measured::Failed;

/// The mod revision that each key had when its client last learned it. 0: the key is absent.
#[derive(Clone, Debug)]
pub(super) struct Revisions(Arc<[AtomicU64]>);

impl Revisions {
    /// Those of this many keys, which are absent.
    pub(super) fn of_absent(keys: u64) -> Revisions {
        Revisions((0..keys).map(|_| AtomicU64::new(0)).collect())
    }

    /// Reads all of `keys`. `number` says which number a key has.
    pub(super) fn read(
        &self,
        clerk: &Clerk,
        keys: KeyRange,
        number: impl Fn(&[u8]) -> Option<u64>,
    ) -> Result<(), ClerkError> {
        for entry in clerk.scan(keys).keys_only() {
            let entry = entry?;
            if let Some(number) = number(&entry.key) {
                self.learn(number, entry.mod_revision);
            }
        }
        Ok(())
    }

    fn of(&self, number: u64) -> Revision {
        // A key is used by one client, which has one operation under way: there is no race.
        Revision(self.0[number as usize].load(Ordering::Relaxed))
    }

    fn learn(&self, number: u64, revision: Revision) {
        self.0[number as usize].store(revision.0, Ordering::Relaxed);
    }
}

/// One compare-and-set.
#[derive(Clone, Debug)]
pub(super) struct Swap {
    number: u64,
    expected: Revision,
    key: Bytes,
    value: Bytes,
    revisions: Revisions,
}

impl Swap {
    /// Of the key with this number.
    pub(super) fn new(revisions: &Revisions, number: u64, key: Bytes, value: Bytes) -> Swap {
        let expected = revisions.of(number);
        Swap { number, expected, key, value, revisions: revisions.clone() }
    }

    pub(super) fn txn(&self) -> Txn {
        Txn {
            compare: vec![Compare::mod_revision(self.key.clone(), self.expected)],
            then: vec![Action::put(self.key.clone(), self.value.clone()).into()],
            otherwise: vec![Action::get(self.key.clone()).into()],
        }
    }

    /// Learns from the answer, at the store's `revision`, whether the swap succeeded.
    /// `may_have_run`: an earlier attempt may have taken effect unheard.
    pub(super) fn judge(
        &self,
        revision: Revision,
        answer: &TxnAnswer,
        may_have_run: bool,
    ) -> Result<(), Failed> {
        if answer.held {
            self.revisions.learn(self.number, revision);
            return Ok(());
        }
        let found = found(answer);
        let now = found.map_or(Revision::NONE, |entry| entry.mod_revision);
        self.revisions.learn(self.number, now);
        // Nobody else writes this value.
        match may_have_run && found.is_some_and(|entry| entry.value == self.value) {
            true => Ok(()),
            false => Err(Failed::not_applied(format!(
                "the comparison did not hold: revision {now} of {:?} in place of {}",
                self.key, self.expected
            ))),
        }
    }

    /// Runs it with a Clerk.
    pub(super) fn run(&self, clerk: &Clerk, may_have_run: bool) -> Result<(), Failed> {
        let done = clerk.run(&self.txn())?;
        let answer = TxnAnswer { held: done.held, answers: done.answers };
        self.judge(done.revision, &answer, may_have_run)
    }
}

/// The entry that the answer's read has found.
fn found(answer: &TxnAnswer) -> Option<&Entry> {
    match answer.answers.first()? {
        OperationAnswer::Range(RangeAnswer { entries, .. }) => entries.first(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(held: bool, found: Option<(u64, &'static str)>) -> TxnAnswer {
        let entry = |(revision, value): (u64, &'static str)| Entry {
            key: "k".into(),
            value: value.into(),
            create_revision: Revision(1),
            mod_revision: Revision(revision),
            version: 1,
            lease: Default::default(),
        };
        let entries: Vec<Entry> = found.map(entry).into_iter().collect();
        let count = entries.len() as u64;
        let answers = match held {
            true => vec![OperationAnswer::Put { previous: None }],
            false => vec![OperationAnswer::Range(RangeAnswer { entries, count, more: false })],
        };
        TxnAnswer { held, answers }
    }

    /// A swap of a key at revision 5, judged at revision 9: whether it succeeded, and the revision
    /// that the client's next swap compares.
    fn judged(answer: &TxnAnswer, may_have_run: bool) -> (bool, u64) {
        let revisions = Revisions::of_absent(2);
        revisions.learn(1, Revision(5));
        let swap = Swap::new(&revisions, 1, "k".into(), "new".into());
        assert_eq!(swap.txn().compare, [Compare::mod_revision("k", Revision(5))]);
        let is_done = swap.judge(Revision(9), answer, may_have_run).is_ok();
        assert_eq!(revisions.of(0), Revision::NONE, "the other key");
        (is_done, revisions.of(1).0)
    }

    #[test]
    fn the_next_swap_compares_what_the_last_one_wrote_or_found() {
        assert_eq!(judged(&answer(true, None), false), (true, 9));
        assert_eq!(judged(&answer(false, Some((7, "other"))), false), (false, 7));
        assert_eq!(judged(&answer(false, None), false), (false, 0));
    }

    #[test]
    fn a_swap_that_was_not_heard_of_is_known_by_its_value() {
        assert_eq!(judged(&answer(false, Some((7, "new"))), true), (true, 7));
        assert_eq!(judged(&answer(false, Some((7, "new"))), false), (false, 7));
        assert_eq!(judged(&answer(false, Some((7, "other"))), true), (false, 7));
    }
}
