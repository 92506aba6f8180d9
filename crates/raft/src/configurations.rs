//! The configurations that a member knows: the one of its snapshot, and those in its log behind it.
//!
//! The newest one is in force from the moment it is appended (thesis §4.1). If its entry is
//! removed, the one before it is in force again. A member that knows none, because the cluster has
//! just begun or is of an older version, uses the list that it was started with.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::configuration::Configuration;
use super::membership::Membership;
use super::types::{Entry, Index, MemberId, Payload};

#[derive(Debug)]
pub(super) struct Configurations {
    /// In force while no configuration is known.
    listed: Membership,
    /// In order of their entries. The first may be of a snapshot, with the index of its last entry.
    known: VecDeque<(Index, Arc<Configuration>)>,
    /// Whether the shell has been told of all changes.
    is_reported: bool,
    /// The commit index of the last report.
    reported_commit: Index,
}

/// The configurations that the shell needs: see
/// [`Effect::Reconfigured`](super::Effect::Reconfigured).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    /// The newest configuration in the log or the snapshot, which is in force. `None` if there is
    /// none yet.
    pub latest: Option<Arc<Configuration>>,
    /// The index of its entry, or of the last entry of the snapshot that carries it; 0 if there is
    /// none.
    pub index: Index,
    /// The newest one that is committed.
    pub committed: Option<Arc<Configuration>>,
}

impl Configurations {
    pub(super) fn new(listed: Membership) -> Configurations {
        Configurations {
            listed,
            known: VecDeque::new(),
            is_reported: true,
            reported_commit: Index::ZERO,
        }
    }

    /// Who the members are, now.
    pub(super) fn membership(&self) -> &Membership {
        self.known.back().map_or(&self.listed, |(_, configuration)| &configuration.membership)
    }

    /// The configuration in force and the index of its entry.
    pub(super) fn latest(&self) -> Option<&(Index, Arc<Configuration>)> {
        self.known.back()
    }

    /// The newest configuration with an entry up to `commit_index`.
    pub(super) fn committed(&self, commit_index: Index) -> Option<&Arc<Configuration>> {
        let known = self.known.iter().rev().find(|(index, _)| *index <= commit_index);
        known.map(|(_, configuration)| configuration)
    }

    /// Whether the configuration in force is committed, or there is none.
    pub(super) fn is_settled(&self, commit_index: Index) -> bool {
        self.known.back().is_none_or(|(index, _)| *index <= commit_index)
    }

    /// Whether this member may be elected: the configuration in force names it a voter, or is not
    /// known to be committed, and the one before it does. Such a leader does not count itself. It
    /// may be the only one whose log is long enough to win (thesis §4.2.2).
    pub(super) fn may_lead(&self, id: MemberId, commit_index: Index) -> bool {
        let mut newest_first = self.known.iter().rev();
        let Some((index, latest)) = newest_first.next() else { return self.listed.is_voter(id) };
        let before = newest_first.next().map_or(&self.listed, |(_, before)| &before.membership);
        latest.membership.is_voter(id) || *index > commit_index && before.is_voter(id)
    }

    /// Whether this member is in every quorum of each configuration that may be in force: of the
    /// newest that is known to be committed, and of those behind it.
    pub(super) fn is_needed(&self, id: MemberId, commit_index: Index) -> bool {
        let committed = self.known.iter().rposition(|(index, _)| *index <= commit_index);
        let later = self.known.range(committed.unwrap_or(0)..).map(|(_, it)| &it.membership);
        let listed = committed.is_none().then_some(&self.listed);
        let alone = BTreeSet::from([id]);
        listed.into_iter().chain(later).all(|membership| membership.is_blocked_by(&alone))
    }

    /// Whether a committed configuration says that this id was removed.
    pub(super) fn was_removed(&self, id: MemberId, commit_index: Index) -> bool {
        self.committed(commit_index).is_some_and(|it| it.removed.contains(&id))
    }

    /// An entry has been appended to the log.
    pub(super) fn appended(&mut self, entry: &Entry) {
        if let Payload::Configuration(configuration) = &entry.payload {
            let last = self.known.back().map_or(Index::ZERO, |(index, _)| *index);
            assert!(entry.index > last, "configurations are in the order of the log");
            self.known.push_back((entry.index, configuration.clone()));
            self.is_reported = false;
        }
    }

    /// The entries from `from` on have been removed, and what they said with them.
    pub(super) fn truncated(&mut self, from: Index) {
        while self.known.pop_back_if(|(index, _)| *index >= from).is_some() {
            self.is_reported = false;
        }
    }

    /// A snapshot replaces the log up to `index`: only its configuration is known.
    pub(super) fn installed(&mut self, index: Index, configuration: Option<Arc<Configuration>>) {
        let is_news = !self.known.is_empty() || configuration.is_some();
        self.known = configuration.map(|it| (index, it)).into_iter().collect();
        self.is_reported &= !is_news;
    }

    /// The log begins behind `index`: of the configurations up to it, the newest is enough.
    pub(super) fn forget_before(&mut self, index: Index) {
        while self.known.get(1).is_some_and(|(second, _)| *second <= index) {
            self.known.pop_front();
        }
    }

    /// What has changed since the last report, if anything has.
    pub(super) fn report(&mut self, commit_index: Index) -> Option<Configured> {
        let is_newly_committed = commit_index > self.reported_commit
            && self
                .known
                .iter()
                .any(|(index, _)| (self.reported_commit.next()..=commit_index).contains(index));
        self.reported_commit = self.reported_commit.max(commit_index);
        if std::mem::replace(&mut self.is_reported, true) && !is_newly_committed {
            return None;
        }
        self.forget_before(commit_index);
        let index = self.known.back().map_or(Index::ZERO, |(index, _)| *index);
        let latest = self.known.back().map(|(_, configuration)| configuration.clone());
        Some(Configured { latest, index, committed: self.committed(commit_index).cloned() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::Term;
    use super::*;

    fn configuration(voters: &[u64]) -> Arc<Configuration> {
        let addrs = voters.iter().map(|&id| (MemberId(id), format!("h{id}:1")));
        Arc::new(Configuration::first(1, 2, addrs))
    }

    fn append(configurations: &mut Configurations, index: u64, voters: &[u64]) {
        let payload = Payload::Configuration(configuration(voters));
        configurations.appended(&Entry { index: Index(index), term: Term(1), payload });
    }

    fn check(configurations: &Configurations, voters: &[u64]) {
        let found: Vec<u64> = configurations.membership().voters().map(|id| id.0).collect();
        assert_eq!(found, voters);
    }

    #[test]
    fn the_newest_in_the_log_is_in_force_and_is_taken_back_with_its_entry() {
        let mut known = Configurations::new(Membership::new([MemberId(1)]));
        check(&known, &[1]);
        append(&mut known, 3, &[1, 2]);
        append(&mut known, 5, &[1, 2, 3]);
        check(&known, &[1, 2, 3]);
        assert_eq!(known.committed(Index(4)), Some(&configuration(&[1, 2])));
        known.truncated(Index(4));
        check(&known, &[1, 2]);
        known.truncated(Index(1));
        check(&known, &[1]);
    }

    #[test]
    fn whoever_is_removed_may_lead_until_that_is_committed() {
        let mut known = Configurations::new(Membership::new([MemberId(1)]));
        append(&mut known, 3, &[1, 2]);
        append(&mut known, 5, &[2]);
        assert!(known.may_lead(MemberId(1), Index(4)));
        assert!(!known.may_lead(MemberId(1), Index(5)));
        append(&mut known, 7, &[2, 3]);
        assert!(!known.may_lead(MemberId(1), Index(5)));
    }

    #[test]
    fn of_those_before_the_log_the_newest_is_kept() {
        let mut known = Configurations::new(Membership::new([MemberId(1)]));
        [(2, [1, 2]), (4, [1, 3]), (6, [1, 4])].iter().for_each(|(i, v)| append(&mut known, *i, v));
        known.forget_before(Index(5));
        known.truncated(Index(6));
        check(&known, &[1, 3]);
    }

    #[test]
    fn each_change_is_reported_once_and_again_when_it_is_committed() {
        let mut known = Configurations::new(Membership::new([MemberId(1)]));
        assert_eq!(known.report(Index(0)), None);
        append(&mut known, 3, &[1, 2]);
        let of = |committed: Option<_>| {
            Some(Configured { latest: Some(configuration(&[1, 2])), index: Index(3), committed })
        };
        assert_eq!(known.report(Index(2)), of(None));
        assert_eq!(known.report(Index(2)), None);
        assert_eq!(known.report(Index(3)), of(Some(configuration(&[1, 2]))));
        assert_eq!(known.report(Index(9)), None);
    }
}
