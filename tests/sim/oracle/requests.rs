//! The fate of each proposal and each read.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use syncraft::kv::Store;
use syncraft::node::StateMachine;
use syncraft::raft::{Entry, Index, MemberId, Payload, RequestId, STAMP_LEN_BYTES, Term};

#[derive(Default)]
pub(crate) struct Requests {
    proposals: HashMap<RequestId, Proposal>,
    /// The places where leaders put them.
    places: HashMap<(Index, Term), RequestId>,
    reads: BTreeMap<RequestId, Read>,
}

struct Proposal {
    command: Bytes,
    is_rejected: bool,
    is_placed: bool,
    is_committed: bool,
}

struct Read {
    member: MemberId,
    /// What was committed when the read was asked: its answer must reflect at least that.
    floor: Index,
}

impl Requests {
    pub(crate) fn is_committed(&self, id: RequestId) -> bool {
        self.proposals.get(&id).is_some_and(|proposal| proposal.is_committed)
    }

    /// Reads that still wait for an answer of one of `members`.
    pub(crate) fn reads_open_at(&self, members: &[MemberId]) -> usize {
        self.reads.values().filter(|read| members.contains(&read.member)).count()
    }

    pub(crate) fn asked_to_propose(&mut self, id: RequestId, command: Bytes) {
        let proposal =
            Proposal { command, is_rejected: false, is_placed: false, is_committed: false };
        let before = self.proposals.insert(id, proposal);
        assert!(before.is_none(), "no id is used twice");
    }

    pub(super) fn asked_to_read(&mut self, id: RequestId, member: MemberId, floor: Index) {
        self.reads.insert(id, Read { member, floor });
    }

    pub(crate) fn proposed(&mut self, id: RequestId, index: Index, term: Term) {
        let proposal = self.proposals.get_mut(&id).expect("only what was proposed is answered");
        assert!(!proposal.is_placed && !proposal.is_rejected, "a proposal has one answer");
        proposal.is_placed = true;
        let other = self.places.insert((index, term), id);
        assert_eq!(other, None, "{id:?} stands at {index}, and so does another");
    }

    pub(crate) fn rejected(&mut self, id: RequestId) {
        if self.reads.remove(&id).is_some() {
            return;
        }
        let proposal = self.proposals.get_mut(&id).expect("only what was asked is rejected");
        assert!(!proposal.is_placed && !proposal.is_rejected, "a proposal has one answer");
        proposal.is_rejected = true;
    }

    /// Linearizable reads: the state that is read reflects everything committed before the read was
    /// asked.
    pub(crate) fn read_ready(&mut self, id: RequestId, member: MemberId, applied: Index) {
        let read = self.reads.remove(&id).expect("a read has one answer");
        assert_eq!(read.member, member, "a read is answered where it was asked");
        assert!(
            applied >= read.floor,
            "stale read: {id:?} at {member} sees {applied}, but {} was committed before",
            read.floor
        );
    }

    /// The member's unanswered reads are gone with it.
    pub(crate) fn crashed(&mut self, member: MemberId) {
        self.reads.retain(|_, read| read.member != member);
    }

    /// A proposal takes effect at the reported place, at most once, and never after a refusal,
    /// which has no place.
    pub(super) fn committed(&mut self, entry: &Entry) {
        let Payload::Command(command) = &entry.payload else { return };
        let id = self.places.get(&(entry.index, entry.term));
        let id = *id.unwrap_or_else(|| panic!("nobody was told of entry {}", entry.index));
        let proposal = self.proposals.get_mut(&id).expect("it has a place");
        let stamp_len = if Store::is_stamped(command) { STAMP_LEN_BYTES } else { 0 };
        let proposed = &command[..command.len() - stamp_len];
        assert_eq!(proposal.command, *proposed, "{id:?} is another at {}", entry.index);
        assert!(!proposal.is_committed, "{id:?} is committed twice");
        proposal.is_committed = true;
    }
}
