//! How fast the consensus core is: `Raft::step` alone, without disk, network and clock.
//!
//! ```text
//! cargo bench --bench core
//! cargo bench --bench core -- leader/16
//! ```
//!
//! | benchmark | one round | steps | rate |
//! |---|---|---|---|
//! | `leader/N` | N proposals at the leader of three, written, answered, applied | 3 | proposals |
//! | `follower/N` | N entries in an `AppendEntries`, written; those before applied | 2 | entries |
//! | `read_index/N` | N reads at the leader, a round of heartbeats, the answers | 2 | reads |
//!
//! A command has 256 bytes, which the core shares and never copies. A snapshot is reported after
//! every 16,384 entries, and the log keeps 1 MiB before it, so that the core is as large as that of
//! a member that has run for long.

mod support;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use support::{VALUE_LEN_BYTES, entry};
use syncraft::raft::*;

const BATCHES: [u64; 3] = [1, 16, 256];

const COMMAND: Bytes = Bytes::from_static(&[b'c'; VALUE_LEN_BYTES]);

/// Entries between two snapshots.
const SNAPSHOT_EVERY: u64 = 16_384;

fn main() {
    support::run(&[leader, follower, read_index]);
}

fn leader(c: &mut Criterion) {
    let mut group = c.benchmark_group("leader");
    for batch in BATCHES {
        let mut member = Member::leading();
        group.throughput(Throughput::Elements(batch));
        group.bench_function(batch.to_string(), |b| {
            b.iter(|| {
                let applied = member.applied;
                let id = |at| RequestId(applied + at);
                member.run((0..batch).map(|at| Event::Propose { id: id(at), command: COMMAND }));
                assert_eq!(member.applied, applied + batch, "all are committed and applied");
            });
        });
    }
}

fn follower(c: &mut Criterion) {
    let mut group = c.benchmark_group("follower");
    for batch in BATCHES {
        let (mut member, mut last) = (Member::following(), 0);
        group.throughput(Throughput::Elements(batch));
        group.bench_function(batch.to_string(), |b| {
            let next = || {
                let message = append(last, batch);
                last += batch;
                message
            };
            let take = |message| {
                let acknowledged = member.acknowledged;
                member.run([Event::Message(message)]);
                assert_eq!(member.acknowledged, acknowledged + 1, "it is written and answered");
            };
            // Few at a time: a message is still warm when it is taken, as one that just came from a
            // socket.
            b.iter_batched(next, take, BatchSize::LargeInput);
        });
    }
}

fn read_index(c: &mut Criterion) {
    let mut group = c.benchmark_group("read_index");
    for batch in BATCHES {
        let mut member = Member::leading();
        group.throughput(Throughput::Elements(batch));
        group.bench_function(batch.to_string(), |b| {
            b.iter(|| {
                let ready = member.reads_ready;
                member.run((0..batch).map(|at| Event::Read { id: RequestId(ready + at) }));
                assert_eq!(member.reads_ready, ready + batch, "all are confirmed");
            });
        });
    }
}

/// Member 1 of three, with a shell that never waits: writes become durable, peers answer and
/// commands are applied in the next step.
struct Member {
    raft: Raft,
    /// Commands.
    applied: u64,
    reads_ready: u64,
    /// Messages that waited for a write.
    acknowledged: u64,
    next_snapshot: Index,
}

impl Member {
    fn new(hard_state: HardState) -> Member {
        let mut config = Config::new(MemberId(1), (1..=3).map(MemberId));
        config.log_tail_bytes_max = 1 << 20;
        Member {
            raft: Raft::new(config, hard_state, None, Vec::new()),
            applied: 0,
            reads_ready: 0,
            acknowledged: 0,
            next_snapshot: Index(SNAPSHOT_EVERY),
        }
    }

    /// In term 1, which has no leader yet.
    fn following() -> Member {
        Member::new(HardState { current_term: Term(1), voted_for: None })
    }

    /// Elected, its first entry committed.
    fn leading() -> Member {
        let mut member = Member::new(HardState::default());
        while member.raft.status().role.role != RoleName::Leader {
            member.run([Event::Tick]);
        }
        assert_eq!(member.raft.status().commit_index, member.raft.status().last_index);
        member
    }

    /// Steps until there is nothing left to do.
    fn run(&mut self, events: impl IntoIterator<Item = Event>) {
        let mut effects = self.raft.step(events);
        loop {
            let mut events = Vec::new();
            effects.into_iter().for_each(|effect| self.carry_out(effect, &mut events));
            if events.is_empty() {
                return;
            }
            effects = self.raft.step(events);
        }
    }

    fn carry_out(&mut self, effect: Effect, events: &mut Vec<Event>) {
        match effect {
            Effect::Send(message) => events.extend(answer(&message)),
            Effect::Persist(persist) => {
                self.acknowledged += persist.then.len() as u64;
                events.push(Event::Persisted(persist.id));
                events.extend(persist.then.iter().filter_map(answer));
            }
            Effect::Apply(entries) => self.apply(&entries, events),
            Effect::ReadReady(ids) => self.reads_ready += ids.len() as u64,
            Effect::Rejected { reason, .. } => panic!("nothing is refused: {reason:?}"),
            _ => {}
        }
    }

    fn apply(&mut self, entries: &[Entry], events: &mut Vec<Event>) {
        let is_command = |entry: &&Entry| matches!(entry.payload, Payload::Command(_));
        self.applied += entries.iter().filter(is_command).count() as u64;
        let last = entries.last().expect("something is applied");
        events.push(Event::Applied(last.index));
        if last.index >= self.next_snapshot {
            self.next_snapshot = Index(last.index.0 + SNAPSHOT_EVERY);
            events.push(Event::SnapshotTaken(SnapshotMeta {
                last_included_index: last.index,
                last_included_term: last.term,
            }));
        }
    }
}

/// The answer of a peer that agrees with everything and has a fast disk.
fn answer(message: &Message) -> Option<Event> {
    let body = match &message.body {
        Body::Request(Request::RequestVote(request)) => {
            let pre_vote = request.pre_vote;
            Body::Reply(Reply::RequestVote(RequestVoteReply {
                pre_vote,
                vote_granted: true,
                is_removed: false,
            }))
        }
        Body::Request(Request::AppendEntries(request)) => {
            let match_index = Index(request.prev_log_index.0 + request.entries.len() as u64);
            Body::Reply(Reply::AppendEntries(AppendEntriesReply::Matched { match_index }))
        }
        Body::Request(Request::Heartbeat(request)) => {
            let round = request.round;
            Body::Reply(Reply::Heartbeat(HeartbeatReply {
                round,
                promised_us: 0,
                cannot_write: false,
            }))
        }
        _ => return None,
    };
    let (from, to) = (message.to, message.from);
    Some(Event::Message(Message { from, to, term: message.term, token: message.token, body }))
}

/// The leader of term 1, member 2, sends `count` entries after `last`, which is committed.
fn append(last: u64, count: u64) -> Message {
    let body = Body::Request(Request::AppendEntries(AppendEntries {
        prev_log_index: Index(last),
        prev_log_term: Term(u64::from(last > 0)),
        entries: (last + 1..=last + count).map(|index| entry(index, COMMAND)).collect(),
        leader_commit: Index(last),
    }));
    Message { from: MemberId(2), to: MemberId(1), term: Term(1), token: 0, body }
}
