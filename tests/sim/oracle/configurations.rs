//! The rules of configurations (thesis §4.1 to §4.3), computed from logs alone: what a core says of
//! its members is compared with them, never used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use syncraft::raft::{
    Body, Configuration, Configured, Effect, Entry, Index, MemberId, Membership, Message, Payload,
    Reply, RequestVoteReply, RoleName, Status, Term,
};

use crate::member::{Living, Member};

pub(crate) struct Configurations {
    /// In force where a log has no configuration.
    listed: Membership,
    /// All that were committed, in order.
    committed: Vec<(Index, Arc<Configuration>)>,
    /// Who has voted for whom.
    votes: BTreeMap<(Term, MemberId), BTreeSet<MemberId>>,
}

impl Configurations {
    pub(super) fn new(first_members: Vec<MemberId>) -> Configurations {
        Configurations {
            listed: Membership::new(first_members),
            committed: Vec::new(),
            votes: BTreeMap::new(),
        }
    }

    /// The newest one that is committed.
    pub(crate) fn newest(&self) -> Option<&Arc<Configuration>> {
        self.committed.last().map(|(_, configuration)| configuration)
    }

    pub(crate) fn newest_with_index(&self) -> Option<&(Index, Arc<Configuration>)> {
        self.committed.last()
    }

    /// The newest one up to this index, which a snapshot of it carries.
    pub(crate) fn at(&self, index: Index) -> Option<&Arc<Configuration>> {
        let found = self.committed.iter().rev().find(|(at, _)| *at <= index);
        found.map(|(_, configuration)| configuration)
    }

    fn membership_of<'a>(&'a self, found: Option<&'a Arc<Configuration>>) -> &'a Membership {
        found.map_or(&self.listed, |it| &it.membership)
    }

    pub(super) fn voted(&mut self, message: &Message) {
        if let Body::Reply(Reply::RequestVote(RequestVoteReply {
            pre_vote: false,
            vote_granted: true,
            ..
        })) = message.body
        {
            self.votes.entry((message.term, message.to)).or_default().insert(message.from);
        }
    }

    /// An entry is committed.
    pub(super) fn committed(&mut self, entry: &Entry) {
        let Payload::Configuration(next) = &entry.payload else { return };
        match self.newest() {
            None => self.check_first(next),
            Some(last) => check_step(last, next),
        }
        self.committed.push((entry.index, next.clone()));
    }

    fn check_first(&self, first: &Configuration) {
        assert_eq!(first.membership, self.listed, "the first configuration is the list");
        assert!(first.removed.is_empty(), "nobody was removed before the first configuration");
        assert_ne!(first.cluster_id, 0, "the first configuration names the cluster");
    }

    /// Whoever is elected has the votes of a quorum of the configuration in its log. It may have
    /// been removed, if it does not know that this is committed (thesis §4.2.2): by leader
    /// completeness, its own log says so, and it hands over once it knows.
    pub(super) fn elected(&self, id: MemberId, living: &Living) {
        let term = living.status.role.term;
        let own_from = living.log.terms().take_while(|it| *it < term).count() as u64;
        let found = living.log.configuration_at(Index(own_from)).map(|(_, it)| it);
        let membership = self.membership_of(found);
        let votes = self.votes.get(&(term, id)).cloned().unwrap_or_default();
        let votes: BTreeSet<MemberId> = votes.into_iter().chain([id]).collect();
        assert!(
            membership.is_quorum(votes.iter().copied()),
            "{id} leads term {term} with the votes of {votes:?}, no quorum of {membership:?}"
        );
    }

    /// What a core reports is what its log says.
    pub(super) fn reported(&self, living: &Living) {
        let (log, commit_index) = (&living.log, living.status.commit_index);
        let of = |found: Option<&(Index, Arc<Configuration>)>| found.map(|(_, it)| it.clone());
        let index = log.configuration().map_or(Index::ZERO, |(index, _)| *index);
        // That of a snapshot counts from the snapshot's end.
        let reported = living.configured.index;
        assert!(reported == index || index < reported && reported <= commit_index);
        let expected = Configured {
            latest: of(log.configuration()),
            index: reported,
            committed: of(log.configuration_at(commit_index)),
        };
        assert_eq!(living.configured, expected, "the configurations of {}", living.status.id);
    }

    /// A leader changes the members one step at a time, and only when it knows what is committed.
    pub(crate) fn appended(&self, members: &[Member], living: &Living, entry: &Entry) {
        let Payload::Configuration(next) = &entry.payload else { return };
        let Status { role, commit_index, id, .. } = living.status;
        if role.role != RoleName::Leader || entry.term != role.term {
            return;
        }
        let Some((at, last)) = living.log.configuration_at(entry.index.prev()) else {
            return self.check_first(next);
        };
        assert!(
            *at <= commit_index,
            "one change at a time: {id} appends {next:?} behind {last:?}, which is not committed"
        );
        check_step(last, next);
        let noop = living.log.terms().take_while(|it| *it < role.term).count() as u64 + 1;
        let goes_on = last.membership.is_joint();
        assert!(
            goes_on || commit_index >= Index(noop),
            "{id} changes the members before an entry of its term is committed"
        );
        // What was committed two heartbeats ago is the no-op at least.
        let is_new =
            |it: &&Member| next.membership.will_vote(it.id) && !last.membership.is_voter(it.id);
        for member in members.iter().filter(is_new) {
            let (noop, disk) = (Index(noop), &member.disk);
            let is_held = disk.term_at(noop) == Some(role.term) || disk.had(noop, role.term);
            assert!(is_held, "{} is promoted before it has caught up", member.id);
        }
    }

    /// Nobody helps a member of which it knows that it was removed.
    pub(super) fn helps(&self, before: &Configured, effects: &[Effect]) {
        let Some(committed) = &before.committed else { return };
        let helped = |effect: &Effect| match effect {
            Effect::Send(Message {
                to,
                body: Body::Reply(Reply::RequestVote(RequestVoteReply { vote_granted: true, .. })),
                ..
            }) => committed.removed.contains(to),
            _ => false,
        };
        assert!(!effects.iter().any(helped), "a member that was removed is helped to lead");
    }

    /// A core says that its member was removed.
    pub(crate) fn says_removed(&self, id: MemberId) {
        let is_removed = self.newest().is_some_and(|newest| newest.removed.contains(&id));
        assert!(is_removed, "{id} says that it was removed, and was not");
    }

    /// By its log, a leader commits with the disks of a quorum: of the configuration before the
    /// step, or of one that it appended in it.
    pub(super) fn has_quorum(
        &self,
        living: &Living,
        members: &[Member],
        holds: impl Fn(&Member) -> bool,
    ) -> bool {
        let holders: Vec<MemberId> =
            members.iter().filter(|it| holds(it)).map(|it| it.id).collect();
        let is_quorum = |found: &Option<Arc<Configuration>>| {
            self.membership_of(found.as_ref()).is_quorum(holders.iter().copied())
        };
        living.in_force.iter().any(is_quorum)
    }
}

/// One configuration follows the other by one step (thesis §4.3).
fn check_step(last: &Configuration, next: &Configuration) {
    let says = || format!("{next:?} follows {last:?}");
    assert_eq!((next.cluster_id, next.list_id), (last.cluster_id, last.list_id), "{}", says());
    assert!(next.removed.is_superset(&last.removed), "{}", says());
    let members = |it: &Configuration| -> BTreeSet<MemberId> { it.membership.iter().collect() };
    let (before, after) = (members(last), members(next));
    assert_eq!(next.places.keys().copied().collect::<BTreeSet<_>>(), after, "{}", says());
    assert!(next.removed.is_disjoint(&after), "{}", says());
    let gone: BTreeSet<MemberId> = before.difference(&after).copied().collect();
    let newly_removed: BTreeSet<MemberId> = &next.removed - &last.removed;
    assert_eq!(gone, newly_removed, "{}", says());
    let voters = |it: &Configuration| -> BTreeSet<MemberId> { it.membership.voters().collect() };
    let (old, new) = (voters(last), voters(next));
    let outgoing: BTreeSet<MemberId> = next.membership.outgoing().collect();
    let came = after.difference(&before).count();
    match (last.membership.is_joint(), next.membership.is_joint()) {
        (true, true) => panic!("{}", says()),
        (true, false) => assert!(old == new && came == 0, "{}", says()),
        (false, true) => {
            let changed = old.symmetric_difference(&new).count();
            assert!(outgoing == old && changed == 1 && before == after, "{}", says());
        }
        (false, false) => {
            let moved = last
                .places
                .iter()
                .filter(|(id, place)| next.places.get(id).is_some_and(|it| it != *place));
            assert!(old == new && came + gone.len() + moved.count() == 1, "{}", says());
        }
    }
}
