//! The invariants (Raft figure 3, thesis §3.8, §6.4). The oracle sees everything at once, and
//! panics at a violation.
//!
//! Each check touches only what has just changed: a log has a running hash, so comparing two
//! prefixes means comparing two numbers.

mod configurations;
mod requests;
mod states;
mod times;
mod watches;

use std::collections::{BTreeMap, HashMap};

use syncraft::kv::{Outcome, SessionLimits};
use syncraft::raft::{
    AppendEntriesReply, Body, Effect, Entry, Index, MemberId, Message, Reply, Request, RequestId,
    RequestVote, RequestVoteReply, RoleName, SnapshotMeta, Status, Term,
};

use crate::machine::Machine;
use crate::member::{Living, Member};
use crate::reference::Reference;
use configurations::Configurations;
use requests::Requests;
use states::States;
use times::Times;
use watches::Watches;

pub(crate) struct Oracle {
    /// Election safety: who has led each term.
    leaders: BTreeMap<Term, MemberId>,
    /// The terms in the log that each leader began with.
    inherited: BTreeMap<Term, Vec<Term>>,
    /// Everything that was ever committed, in order.
    committed: Vec<Committed>,
    /// The same, entry by entry: the content of snapshots.
    canonical: Vec<Entry>,
    /// Log matching: the hash of every log that ever ended with this index and term.
    prefixes: HashMap<(Index, Term), u64>,
    pub(crate) configurations: Configurations,
    pub(crate) requests: Requests,
    pub(crate) states: States,
    pub(crate) times: Times,
    /// The rate of the fastest clock.
    clock_rate: f64,
    watches: Watches,
    /// What each committed entry must do.
    reference: Reference,
}

struct Committed {
    hash: u64,
    /// The term of the leader that committed it.
    by: Term,
}

impl Oracle {
    /// Of a cluster that begins with these members, whose stores remember this much of their
    /// clients, and whose fastest clock has this rate.
    pub(crate) fn new(
        first_members: Vec<MemberId>,
        limits: SessionLimits,
        clock_rate: f64,
    ) -> Oracle {
        Oracle {
            leaders: BTreeMap::new(),
            inherited: BTreeMap::new(),
            committed: Vec::new(),
            canonical: Vec::new(),
            prefixes: HashMap::new(),
            configurations: Configurations::new(first_members),
            requests: Requests::default(),
            states: States::default(),
            times: Times::default(),
            clock_rate,
            watches: Watches::default(),
            reference: Reference::new(limits),
        }
    }

    pub(crate) fn reference(&self) -> &Reference {
        &self.reference
    }

    /// A member's state now holds `entry` too, which came to `outcome`.
    pub(crate) fn applied(&mut self, machine: &Machine, entry: &Entry, outcome: &Option<Outcome>) {
        self.states.applied(machine, entry, outcome, &self.reference);
        self.watches.applied(machine, &self.reference);
    }

    /// A member's state is a snapshot's.
    pub(crate) fn loaded(&mut self, machine: &Machine) {
        self.states.loaded(machine, &self.reference);
        self.watches.loaded(machine, &self.reference);
    }

    pub(crate) fn committed_index(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// The entries that led to a snapshot of `index`.
    pub(crate) fn canonical(&self, index: Index) -> &[Entry] {
        &self.canonical[..index.0 as usize]
    }

    pub(crate) fn all_committed(&self) -> &[Entry] {
        &self.canonical
    }

    /// The end of a snapshot of the state at `index`.
    pub(crate) fn snapshot_at(&self, index: Index) -> SnapshotMeta {
        let last_included_term = self.canonical[index.0 as usize - 1].term;
        SnapshotMeta { last_included_index: index, last_included_term }
    }

    /// A snapshot replaces the state: it is on the disk, ends with a committed entry, and is ahead.
    pub(crate) fn installs(&self, member: &Member, snapshot: SnapshotMeta) {
        let living = member.living.as_ref().expect("only who lives installs");
        let index = snapshot.last_included_index;
        assert!(index <= self.committed_index(), "a snapshot holds committed entries only");
        assert_eq!(snapshot, self.snapshot_at(index), "a snapshot ends with a committed entry");
        assert!(index > living.machine.applied(), "the state never goes back");
        assert!(member.disk.snapshot_index() >= index, "a snapshot is on the disk first");
        let held = member.disk.snapshots().and_then(|it| it.newest());
        if let Some(held) = held.filter(|held| held.meta() == snapshot) {
            let expected = self.configurations.at(index);
            assert_eq!(held.configuration(), expected, "the configuration of a snapshot");
        }
    }

    /// A leader sends a snapshot that it holds, and the peer can continue from its end.
    pub(crate) fn sends_snapshot(&self, member: &Member, term: Term) {
        let living = member.living.as_ref().expect("only who lives sends");
        let Status { role, snapshot_index, .. } = living.status;
        assert_eq!((role.role, role.term), (RoleName::Leader, term), "only a leader sends one");
        assert!(snapshot_index > Index::ZERO, "the core knows of a snapshot");
        assert!(member.disk.snapshot_index() >= snapshot_index, "it is on the disk");
    }

    pub(crate) fn asked_to_read(&mut self, id: RequestId, member: MemberId) {
        self.requests.asked_to_read(id, member, self.committed_index());
    }

    /// Log matching: logs that agree on an entry's index and term agree on everything up to it.
    pub(crate) fn wrote(&mut self, living: &Living, entries: &[Entry]) {
        for entry in entries {
            let (_, hash) = living.log.at(entry.index).expect("it was just written");
            let known = self.prefixes.entry((entry.index, entry.term)).or_insert(*hash);
            assert_eq!(known, hash, "log matching: {}/{}", entry.index, entry.term);
        }
    }

    /// The effects of a step, before any of them counts.
    pub(crate) fn ordered(&self, living: &Living, effects: &[Effect]) {
        self.configurations.helps(&living.configured, effects);
        let is_said = |effect: &Effect| matches!(effect, Effect::Send(_) | Effect::Persist(_));
        let is_silent = !living.is_removed || !effects.iter().any(is_said);
        assert!(is_silent, "{} was removed, and knows, and speaks", living.status.id);
    }

    /// A member has taken a step: `before` and `after` it. Members that have left or do not know
    /// each other may talk nonsense.
    pub(crate) fn stepped(
        &mut self,
        members: &[Member],
        at: usize,
        before: Status,
        may_change: bool,
    ) {
        let member = &members[at];
        let living = member.living.as_ref().expect("only who lives takes a step");
        let after = living.status;
        assert!(after.role.term >= before.role.term, "a term never falls");
        assert!(after.commit_index >= before.commit_index, "a commit index never falls");
        assert!(after.durable_index <= after.last_index && after.commit_index <= after.last_index);
        assert_eq!(after.last_index, living.log.last_index(), "all new entries are persisted");
        assert!(after.snapshot_index >= member.snapshot_index, "a snapshot index never falls");
        assert!(after.snapshot_index <= after.commit_index, "what a snapshot holds is committed");
        assert!(may_change || after.nonsense_count == 0, "honest members never send nonsense");
        self.configurations.reported(living);
        if after.role.role == RoleName::Leader {
            self.leads(member.id, living, before);
        }
        if after.commit_index > before.commit_index {
            // It may have led only at the beginning of the batch.
            let led = [after.role, before.role].into_iter().find(|it| it.role == RoleName::Leader);
            self.commits(members, at, led.map(|role| role.term));
        }
    }

    /// Election safety and leader completeness.
    fn leads(&mut self, id: MemberId, living: &Living, before: Status) {
        let term = living.status.role.term;
        let leader = *self.leaders.entry(term).or_insert(id);
        assert_eq!(leader, id, "election safety: two leaders in term {term}");
        if before.role.role == RoleName::Leader && before.role.term == term {
            return;
        }
        self.configurations.elected(id, living);
        self.inherited.insert(term, living.log.terms().take_while(|it| *it < term).collect());
        for (at, committed) in self.committed.iter().enumerate() {
            let index = Index(at as u64 + 1);
            let is_held = living.log.at(index).is_some_and(|(_, hash)| *hash == committed.hash);
            assert!(
                is_held || committed.by >= term,
                "leader completeness: {id} leads term {term} without the committed entry {index}"
            );
        }
    }

    /// A commit index has risen, at a member that led the term `led`, or at a follower.
    fn commits(&mut self, members: &[Member], at: usize, led: Option<Term>) {
        let living = members[at].living.as_ref().expect("only who lives commits");
        let Status { id, commit_index, .. } = living.status;
        if commit_index > self.committed_index() {
            let Some(term) = led else { panic!("{id} commits {commit_index} before any leader") };
            self.check_commit_rule(members, living, term);
            self.extend_committed(living, term);
        }
        let (_, hash) = living.log.at(commit_index).expect("a committed entry is in the log");
        let committed = &self.committed[commit_index.0 as usize - 1];
        assert_eq!(*hash, committed.hash, "state machine safety at {commit_index}");
    }

    fn extend_committed(&mut self, living: &Living, by: Term) {
        let from = self.committed_index();
        if let Some(last) = self.committed.last() {
            let (_, hash) = living.log.at(from).expect("what was committed before is in the log");
            assert_eq!(*hash, last.hash, "committed entries never change");
        }
        for index in from.0 + 1..=living.status.commit_index.0 {
            let (entry, hash) = living.log.at(Index(index)).expect("it is in the log");
            self.configurations.committed(entry);
            self.requests.committed(entry);
            self.times.committed(entry, self.clock_rate);
            self.reference.apply(entry);
            self.canonical.push(entry.clone());
            self.committed.push(Committed { hash: *hash, by });
        }
    }

    /// Entries are applied in order, once a life, and only if they are committed.
    pub(crate) fn applies(&self, living: &Living, entries: &[Entry]) {
        let mut last = living.machine.applied();
        for entry in entries {
            assert_eq!(entry.index, last.next(), "entries are applied in order");
            last = entry.index;
            assert!(last <= living.status.commit_index, "only what is committed is applied");
            let committed = &self.canonical[last.0 as usize - 1];
            assert_eq!(committed, entry, "what is applied at {last}");
        }
    }

    /// The term of the entry at `index` in the log of the leader of `led`.
    fn leaders_term_at(&self, led: Term, index: Index) -> Option<Term> {
        let inherited = self.inherited.get(&led)?;
        match index.0.checked_sub(1) {
            None => Some(Term::ZERO),
            Some(at) => Some(*inherited.get(at as usize).unwrap_or(&led)),
        }
    }

    /// Durable before said (thesis §3.8): when a message leaves, its promises are on its sender's
    /// disk.
    pub(crate) fn sends(&mut self, member: &Member, message: &Message) {
        self.configurations.voted(message);
        let on_disk = member.disk.hard_state();
        let is_past = on_disk.current_term > message.term;
        let is_now = on_disk.current_term == message.term;
        let says = || format!("{} says {message:?} with {on_disk:?} on its disk", member.id);
        match message.body {
            // These name a term that has not begun.
            Body::Request(Request::RequestVote(RequestVote { pre_vote: true, .. }))
            | Body::Reply(Reply::RequestVote(RequestVoteReply {
                pre_vote: true,
                vote_granted: true,
                ..
            })) => {}
            Body::Request(Request::RequestVote(_)) => {
                assert!(is_past || is_now && on_disk.voted_for == Some(member.id), "{}", says());
            }
            Body::Reply(Reply::RequestVote(RequestVoteReply { vote_granted: true, .. })) => {
                assert!(is_past || is_now && on_disk.voted_for == Some(message.to), "{}", says());
            }
            Body::Reply(Reply::AppendEntries(AppendEntriesReply::Matched { match_index })) => {
                let is_held = member.disk.term_at(match_index)
                    == self.leaders_term_at(message.term, match_index);
                // It was there when its write ended. Before this answer left, the member may have
                // stored a snapshot of a later term: it replaces the entries up to its index, and
                // contradicts those behind it. Then the answer is late, as any message may be: what
                // it names can never be committed in its term.
                let is_replaced = member
                    .disk
                    .snapshot()
                    .is_some_and(|snapshot| snapshot.last_included_term > message.term);
                assert!(is_past || is_now && (is_held || is_replaced), "{}", says());
            }
            _ => assert!(is_past || is_now, "{}", says()),
        }
    }

    /// Only a leader decides, by entries of its own term (§5.4.2), on the disks of a quorum.
    fn check_commit_rule(&self, members: &[Member], living: &Living, led: Term) {
        let Status { commit_index, id, .. } = living.status;
        let term = living.log.term_at(commit_index);
        assert_eq!(term, Some(led), "{id} commits {commit_index}, of an old term, by counting");
        // A member that has lost the entry since then had acknowledged it, and does not vote before
        // it has it again.
        let had = |other: &Member| term.is_some_and(|term| other.disk.had(commit_index, term));
        let holds = |other: &Member| other.disk.term_at(commit_index) == term || had(other);
        assert!(
            self.configurations.has_quorum(living, members, holds),
            "{id} commits {commit_index}, which no quorum has on its disks"
        );
    }
}
