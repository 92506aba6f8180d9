//! Translates the core's messages to those of `proto/raft_rpc.proto` and back.

use std::sync::Arc;

use super::divergence::{Checkpoint, Query};
use super::identity::Affiliation;
use super::proto::*;
use crate::raft::{
    self, BadConfiguration, Body, Configuration, Index, MemberId, Message, Payload, Reply, Request,
    Term,
};

/// `Entry.Kind`.
const KIND_COMMAND: u32 = 0;
const KIND_NOOP: u32 = 1;
const KIND_CONFIGURATION: u32 = 2;

/// Why a message from the wire does not reach the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("the message names no sender and receiver: does it come from another system?")]
    NoEnvelope,
    #[error(
        "member {from} is of {}, and this member of {}: is --members the same, to the letter, on \
         all members at their first start?", found.words(), expected.words()
    )]
    OtherCluster { from: MemberId, found: Affiliation, expected: Affiliation },
    #[error("the message is for member {to}, and this is member {own}")]
    OtherMember { to: MemberId, own: MemberId },
    #[error("this member has no data yet, and takes no message before it knows its cluster")]
    NoData,
    #[error("entry {index} has the unknown kind {kind}")]
    UnknownKind { index: u64, kind: u32 },
    #[error("a configuration cannot be read")]
    Configuration(#[source] BadConfiguration),
}

/// The part of a request around its body. It is checked before the core sees the request.
pub(super) struct Head {
    from: MemberId,
    to: MemberId,
    term: Term,
}

impl Head {
    /// Checks that a request is for this member, and from one of the same cluster.
    pub(super) fn check(
        envelope: Option<Envelope>,
        term: u64,
        own: MemberId,
        expected: Affiliation,
    ) -> Result<Head, WireError> {
        let envelope = envelope.ok_or(WireError::NoEnvelope)?;
        let (from, to) = (MemberId(envelope.from), MemberId(envelope.to));
        if to != own {
            return Err(WireError::OtherMember { to, own });
        }
        let found = Affiliation::of(envelope);
        match found.is_compatible(expected) {
            true => Ok(Head { from, to, term: Term(term) }),
            false => Err(WireError::OtherCluster { from, found, expected }),
        }
    }

    /// For a question from another cluster, whose terms mean nothing here.
    pub(super) fn without_term(envelope: Envelope) -> Head {
        let (from, to) = (MemberId(envelope.from), MemberId(envelope.to));
        Head { from, to, term: Term::ZERO }
    }

    pub(super) fn message(self, token: u64, request: Request) -> Message {
        let body = Body::Request(request);
        Message { from: self.from, to: self.to, term: self.term, token, body }
    }
}

impl From<raft::Entry> for Entry {
    fn from(entry: raft::Entry) -> Entry {
        let (kind, command) = match entry.payload {
            Payload::Noop => (KIND_NOOP, Default::default()),
            Payload::Command(command) => (KIND_COMMAND, command),
            Payload::Configuration(it) => (KIND_CONFIGURATION, it.encode().into()),
        };
        Entry { command, term: entry.term.0, index: entry.index.0, kind }
    }
}

fn entry(wire: Entry) -> Result<raft::Entry, WireError> {
    let payload = match wire.kind {
        KIND_COMMAND => Payload::Command(wire.command),
        KIND_NOOP => Payload::Noop,
        KIND_CONFIGURATION => {
            let configuration = Configuration::decode(&wire.command);
            Payload::Configuration(Arc::new(configuration.map_err(WireError::Configuration)?))
        }
        kind => return Err(WireError::UnknownKind { index: wire.index, kind }),
    };
    Ok(raft::Entry { index: Index(wire.index), term: Term(wire.term), payload })
}

impl AppendEntriesArgs {
    pub(super) fn new(
        term: Term,
        request: raft::AppendEntries,
        envelope: Envelope,
    ) -> AppendEntriesArgs {
        AppendEntriesArgs {
            term: term.0,
            prev_log_index: request.prev_log_index.0,
            prev_log_term: request.prev_log_term.0,
            entries: request.entries.into_iter().map(Entry::from).collect(),
            leader_commit: request.leader_commit.0,
            envelope: Some(envelope),
        }
    }

    pub(super) fn into_request(self) -> Result<Request, WireError> {
        Ok(Request::AppendEntries(raft::AppendEntries {
            prev_log_index: Index(self.prev_log_index),
            prev_log_term: Term(self.prev_log_term),
            entries: self.entries.into_iter().map(entry).collect::<Result<_, _>>()?,
            leader_commit: Index(self.leader_commit),
        }))
    }
}

impl AppendEntriesReply {
    pub(super) fn new(term: Term, reply: raft::AppendEntriesReply) -> AppendEntriesReply {
        let mut wire = AppendEntriesReply { term: term.0, ..Default::default() };
        match reply {
            raft::AppendEntriesReply::Matched { match_index } => {
                (wire.success, wire.match_index) = (true, match_index.0);
            }
            raft::AppendEntriesReply::Conflict {
                rejected_index,
                conflict_index,
                conflict_term,
            } => {
                wire.rejected_index = rejected_index.0;
                (wire.conflict_index, wire.conflict_term) = (conflict_index.0, conflict_term.0);
            }
            raft::AppendEntriesReply::Stale => {}
        }
        wire
    }

    /// A refusal without a rejected index means `Stale`: index 0 always matches.
    pub(super) fn into_reply(self) -> Reply {
        Reply::AppendEntries(match self.success {
            true => raft::AppendEntriesReply::Matched { match_index: Index(self.match_index) },
            false if self.rejected_index == 0 => raft::AppendEntriesReply::Stale,
            false => raft::AppendEntriesReply::Conflict {
                rejected_index: Index(self.rejected_index),
                conflict_index: Index(self.conflict_index),
                conflict_term: Term(self.conflict_term),
            },
        })
    }
}

impl InstallSnapshotReply {
    pub(super) fn new(term: Term, reply: raft::AppendEntriesReply) -> InstallSnapshotReply {
        let reply_to = |is_done, match_index| InstallSnapshotReply {
            term: term.0,
            is_done,
            match_index,
            ..Default::default()
        };
        match reply {
            raft::AppendEntriesReply::Matched { match_index } => reply_to(true, match_index.0),
            _ => reply_to(false, 0),
        }
    }
}

impl RequestVoteArgs {
    pub(super) fn new(
        term: Term,
        request: raft::RequestVote,
        envelope: Envelope,
    ) -> RequestVoteArgs {
        RequestVoteArgs {
            term: term.0,
            last_log_index: request.last_log_index.0,
            last_log_term: request.last_log_term.0,
            envelope: Some(envelope),
            pre_vote: request.pre_vote,
            is_transfer: request.is_transfer,
        }
    }

    pub(super) fn into_request(self) -> Request {
        Request::RequestVote(raft::RequestVote {
            pre_vote: self.pre_vote,
            is_transfer: self.is_transfer,
            last_log_index: Index(self.last_log_index),
            last_log_term: Term(self.last_log_term),
        })
    }
}

impl RequestVoteReply {
    pub(super) fn new(term: Term, reply: raft::RequestVoteReply) -> RequestVoteReply {
        RequestVoteReply {
            term: term.0,
            vote_granted: reply.vote_granted,
            pre_vote: reply.pre_vote,
            is_removed: reply.is_removed,
        }
    }

    pub(super) fn into_reply(self) -> Reply {
        let RequestVoteReply { pre_vote, vote_granted, is_removed, .. } = self;
        Reply::RequestVote(raft::RequestVoteReply { pre_vote, vote_granted, is_removed })
    }
}

impl HeartbeatArgs {
    pub(super) fn new(
        term: Term,
        request: raft::Heartbeat,
        query: Query,
        envelope: Envelope,
    ) -> HeartbeatArgs {
        HeartbeatArgs {
            term: term.0,
            leader_commit: request.leader_commit.0,
            envelope: Some(envelope),
            round: request.round,
            asked_index: query.asked.0,
            agreed_index: query.agreed.map_or(0, |agreed| agreed.index.0),
            agreed_digest: query.agreed.map_or(0, |agreed| agreed.digest),
        }
    }

    pub(super) fn query(&self) -> Query {
        let agreed = checkpoint(self.agreed_index, self.agreed_digest);
        Query { asked: Index(self.asked_index), agreed }
    }

    pub(super) fn into_request(self) -> Request {
        Request::Heartbeat(raft::Heartbeat {
            leader_commit: Index(self.leader_commit),
            round: self.round,
        })
    }
}

/// Index 0 means that the sender has no digest to tell. Older members send 0.
fn checkpoint(index: u64, digest: u64) -> Option<Checkpoint> {
    (index != 0).then_some(Checkpoint { index: Index(index), digest })
}

impl HeartbeatReply {
    pub(super) fn new(
        term: Term,
        reply: raft::HeartbeatReply,
        answer: Option<Checkpoint>,
        level_max: u32,
    ) -> HeartbeatReply {
        HeartbeatReply {
            term: term.0,
            round: reply.round,
            promised_us: reply.promised_us,
            cannot_write: reply.cannot_write,
            digest_index: answer.map_or(0, |answer| answer.index.0),
            digest: answer.map_or(0, |answer| answer.digest),
            level_max,
        }
    }

    pub(super) fn answer(&self) -> Option<Checkpoint> {
        checkpoint(self.digest_index, self.digest)
    }

    pub(super) fn into_reply(self) -> Reply {
        let HeartbeatReply { round, promised_us, cannot_write, .. } = self;
        Reply::Heartbeat(raft::HeartbeatReply { round, promised_us, cannot_write })
    }
}

impl ReadIndexReply {
    pub(super) fn new(term: Term, reply: raft::ReadIndexReply) -> ReadIndexReply {
        let (index, commit_term) = reply.committed.unwrap_or_default();
        ReadIndexReply {
            term: term.0,
            batch: reply.batch,
            is_confirmed: reply.committed.is_some(),
            commit_index: index.0,
            commit_term: commit_term.0,
        }
    }

    pub(super) fn into_reply(self) -> Reply {
        let committed = (Index(self.commit_index), Term(self.commit_term));
        let committed = self.is_confirmed.then_some(committed);
        Reply::ReadIndex(raft::ReadIndexReply { batch: self.batch, committed })
    }
}

impl JoinReply {
    pub(super) fn new(term: Term, reply: raft::JoinReply) -> JoinReply {
        let (index, last_term) = reply.last.unwrap_or_default();
        let configuration = reply.configuration.map(|it| it.encode()).unwrap_or_default();
        JoinReply {
            term: term.0,
            question: reply.question,
            is_new: reply.is_new,
            is_leader: reply.last.is_some(),
            last_log_index: index.0,
            last_log_term: last_term.0,
            standpoint: Some(Standpoint {
                cluster_id: reply.cluster_id,
                list_id: reply.list_id,
                configuration: configuration.into(),
                is_settled: reply.is_settled,
                is_needed: reply.is_needed,
                is_removed: reply.is_removed,
            }),
            ..Default::default()
        }
    }

    /// The reply to a member of another cluster that does not send the hash of its list. Nobody
    /// asks question 0, so a still older member drops the reply.
    pub(super) fn naming(Affiliation { cluster_id, list_id }: Affiliation) -> JoinReply {
        JoinReply { cluster_id, list_id, ..Default::default() }
    }

    /// `question` is the one that was asked, by a member of cluster `asker`.
    pub(super) fn into_reply(
        self,
        question: u64,
        asker: Affiliation,
    ) -> Result<Reply, BadConfiguration> {
        let last = (Index(self.last_log_index), Term(self.last_log_term));
        let last = self.is_leader.then_some(last);
        let Some(standpoint) = self.standpoint else {
            return Ok(Reply::Join(self.of_older_version(question, last, asker)));
        };
        let is_recorded = !standpoint.configuration.is_empty();
        let configuration =
            is_recorded.then(|| Configuration::decode(&standpoint.configuration)).transpose()?;
        Ok(Reply::Join(raft::JoinReply {
            question: self.question,
            is_new: self.is_new,
            last,
            cluster_id: standpoint.cluster_id,
            list_id: standpoint.list_id,
            configuration: configuration.map(Arc::new),
            is_settled: standpoint.is_settled,
            is_needed: standpoint.is_needed,
            is_removed: standpoint.is_removed,
        }))
    }

    /// The sender knows no configurations. It names its cluster only where it is not the asker's.
    fn of_older_version(
        &self,
        question: u64,
        last: Option<(Index, Term)>,
        asker: Affiliation,
    ) -> raft::JoinReply {
        let is_other = self.cluster_id != 0;
        let cluster_id = if is_other { self.cluster_id } else { asker.cluster_id };
        raft::JoinReply {
            question: if is_other { question } else { self.question },
            is_new: self.is_new && !is_other,
            last,
            cluster_id,
            // Its list is the first one, unless addresses have changed since.
            list_id: if is_other { self.list_id } else { asker.list_id },
            configuration: None,
            is_settled: true,
            // Its cluster is that of the list, and whoever has data has joined.
            is_needed: !self.is_new,
            is_removed: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_words::{check_all, every_variant};

    #[test]
    fn every_error_says_its_own_part_only() {
        check_all(&every_variant!(WireError:
            NoEnvelope {},
            OtherCluster { from: MemberId(1), found: OTHER, expected: OWN },
            OtherMember { to: MemberId(1), own: MemberId(2) },
            NoData {},
            UnknownKind { index: 5, kind: 9 },
            Configuration(BadConfiguration::Damaged),
        ));
    }

    const ENVELOPE: Envelope = Envelope { cluster_id: 7, from: 1, to: 2, list_id: 3 };
    const OWN: Affiliation = Affiliation { cluster_id: 7, list_id: 3 };
    const OTHER: Affiliation = Affiliation { cluster_id: 8, list_id: 3 };

    #[test]
    fn appends_survive_the_round_trip() {
        let entry = |index, payload| raft::Entry { index: Index(index), term: Term(3), payload };
        let request = raft::AppendEntries {
            prev_log_index: Index(4),
            prev_log_term: Term(2),
            entries: vec![entry(5, Payload::Noop), entry(6, Payload::Command(vec![0, 255].into()))],
            leader_commit: Index(4),
        };
        let wire = AppendEntriesArgs::new(Term(3), request.clone(), ENVELOPE);
        assert_eq!(wire.into_request(), Ok(Request::AppendEntries(request)));
    }

    #[test]
    fn replies_to_appends_survive_the_round_trip() {
        let conflict = raft::AppendEntriesReply::Conflict {
            rejected_index: Index(9),
            conflict_index: Index(0),
            conflict_term: Term(0),
        };
        let matched = raft::AppendEntriesReply::Matched { match_index: Index(0) };
        for reply in [matched, conflict, raft::AppendEntriesReply::Stale] {
            assert_eq!(
                AppendEntriesReply::new(Term(3), reply).into_reply(),
                Reply::AppendEntries(reply)
            );
        }
    }

    #[test]
    fn digests_survive_the_round_trip() {
        let (heartbeat, reply) = (
            raft::Heartbeat { leader_commit: Index(4), round: 5 },
            raft::HeartbeatReply { round: 5, promised_us: 6, cannot_write: true },
        );
        let some = Some(Checkpoint { index: Index(7), digest: u64::MAX });
        for checkpoint in [some, None] {
            let query = Query { asked: Index(9), agreed: checkpoint };
            assert_eq!(HeartbeatArgs::new(Term(3), heartbeat, query, ENVELOPE).query(), query);
            assert_eq!(HeartbeatReply::new(Term(3), reply, checkpoint, 2).answer(), checkpoint);
        }
        assert_eq!(HeartbeatArgs::default().query(), Query::default(), "an older leader's");
        assert_eq!(HeartbeatReply::default().answer(), None, "an older follower's");
    }

    #[test]
    fn where_a_member_stands_survives_the_round_trip() {
        let addrs = [(MemberId(1), "h:1".to_owned())];
        let configuration = Some(Arc::new(Configuration::first(7, 3, addrs)));
        for configuration in [configuration, None] {
            let reply = raft::JoinReply {
                question: 5,
                is_new: true,
                last: Some((Index(2), Term(1))),
                cluster_id: 7,
                list_id: 3,
                configuration,
                is_settled: true,
                is_needed: true,
                is_removed: true,
            };
            let wire = JoinReply::new(Term(1), reply.clone());
            assert_eq!(wire.into_reply(9, OTHER), Ok(Reply::Join(reply)));
        }
    }

    #[test]
    fn an_older_member_names_its_cluster_only_if_it_is_another_one() {
        let named = |reply: JoinReply| match reply.into_reply(9, OWN) {
            Ok(Reply::Join(raft::JoinReply { question, cluster_id, list_id, .. })) => {
                (question, cluster_id, list_id)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(named(JoinReply::naming(OTHER)), (9, 8, 3));
        assert_eq!(named(JoinReply { question: 4, ..Default::default() }), (4, 7, 3));
    }

    #[test]
    fn an_entry_of_an_unknown_kind_is_refused() {
        let unknown = Entry { kind: 9, index: 5, ..Default::default() };
        let wire = AppendEntriesArgs { entries: vec![unknown], ..Default::default() };
        assert_eq!(wire.into_request(), Err(WireError::UnknownKind { index: 5, kind: 9 }));
    }

    #[test]
    fn messages_of_strangers_are_refused() {
        let own = MemberId(2);
        let check = |envelope, expected| {
            assert_eq!(Head::check(envelope, 1, own, OWN).err(), expected);
        };
        check(Some(ENVELOPE), None);
        check(None, Some(WireError::NoEnvelope));
        let other = Envelope { cluster_id: 8, ..ENVELOPE };
        let from = MemberId(1);
        check(Some(other), Some(WireError::OtherCluster { from, found: OTHER, expected: OWN }));
        let (to, misled) = (MemberId(3), Envelope { to: 3, ..ENVELOPE });
        check(Some(misled), Some(WireError::OtherMember { to, own }));
    }
}
