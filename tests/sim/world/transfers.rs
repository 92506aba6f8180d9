//! Snapshots on their way to peers, a chunk at a time: each leaves when the previous one is
//! answered. They are outside the network's order. Chunks and answers can be lost or late like any
//! message, and chunks can come twice or cut short.
//!
//! The sender waits for the core's answer to the whole snapshot, and for the answer to each chunk
//! until a deadline.

use bytes::Bytes;
use syncraft::raft::{
    self, AppendEntriesReply, Body, Event, MemberId, Message, Reply, Request, SnapshotMeta, Term,
};
use syncraft::storage::StorageError;

use super::{What, Who, World};
use crate::member::{Living, Transfer};

/// How long the sender waits for an answer.
const DEADLINE_US: u64 = 1_000_000;
/// How often a peer may send its sender back.
const REPEATS_MAX: u32 = 3;
/// No transfer has many more chunks.
const CHUNKS_MAX: u64 = 16;

/// A piece of a snapshot's file.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    from: Who,
    to: MemberId,
    term: Term,
    token: u64,
    meta: SnapshotMeta,
    file_len: u64,
    offset: u64,
    data: Bytes,
    /// Its answer reaches nobody.
    is_copy: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkAnswer {
    peer: MemberId,
    token: u64,
    /// The peer's.
    term: Term,
    next_offset: u64,
}

impl World {
    pub(super) fn send_snapshot(&mut self, at: usize, to: MemberId, term: Term) {
        let member = &mut self.members[at];
        self.oracle.sends_snapshot(member, term);
        let newest = member.disk.snapshots().and_then(|snapshots| snapshots.newest());
        let snapshot = newest.expect("the oracle has just looked");
        let Some(living) = &mut member.living else { return };
        if let Some(transfer) = living.transfers.get_mut(&to) {
            transfer.is_asked_again = true;
            return self.count("snapshot asked for while one is on its way");
        }
        self.last_token += 1;
        let transfer = Transfer {
            token: self.last_token,
            term,
            snapshot,
            offset: 0,
            chunks: 0,
            repeats: 0,
            is_asked_again: false,
        };
        living.transfers.insert(to, transfer);
        self.count("snapshot sent");
        self.send_chunk(at, to);
    }

    fn send_chunk(&mut self, at: usize, to: MemberId) {
        let who = self.who(at);
        let transfers = self.members[at].living.as_mut().map(|it| &mut it.transfers);
        let Some(transfer) = transfers.and_then(|it| it.get_mut(&to)) else { return };
        transfer.chunks += 1;
        let Transfer { token, term, snapshot, offset, chunks, .. } = transfer;
        let (token, chunks, file_len) = (*token, *chunks, snapshot.len_bytes());
        let len_bytes = self.plan.chunk_len_bytes.max(file_len / CHUNKS_MAX);
        let data = snapshot.read_chunk(*offset, len_bytes as usize);
        let chunk = Chunk {
            from: who,
            to,
            term: *term,
            token,
            meta: snapshot.meta(),
            file_len,
            offset: *offset,
            data: data.expect("an open file is read"),
            is_copy: false,
        };
        let (index, offset) = (chunk.meta.last_included_index, chunk.offset);
        self.trace_of(at, || format!("sends snapshot {index} to {to} from {offset} of {file_len}"));
        if self.snapshot_rng.f64() < self.plan.faults.duplicate {
            let delay_us = self.chunk_us();
            let copy = Chunk { is_copy: true, ..chunk.clone() };
            self.after(delay_us, What::ChunkArrived(copy));
        }
        let delay_us = self.chunk_us();
        self.after(delay_us, What::ChunkArrived(chunk));
        self.after(DEADLINE_US, What::ChunkDeadline(who, to, token, chunks));
    }

    fn chunk_us(&mut self) -> u64 {
        self.snapshot_rng.u64(self.plan.delay_us.clone()) * self.snapshot_rng.u64(1..10)
    }

    fn is_chunk_lost(&mut self, from: MemberId, to: MemberId) -> bool {
        self.network.is_cut(from, to) || self.snapshot_rng.f64() < self.plan.faults.drop
    }

    /// A piece arrives, or the transfer breaks off, which its sender notices.
    pub(super) fn chunk_arrived(&mut self, mut chunk: Chunk) {
        let (from, to, at) = (self.members[chunk.from.at].id, chunk.to, Self::at_of(chunk.to));
        let is_lost = self.is_chunk_lost(from, to) || self.is_chunk_lost(to, from);
        let is_lost = is_lost || !self.are_of_one_cluster(chunk.from.at, at);
        if is_lost || self.members[at].living.is_none() {
            self.count("snapshot lost");
            return self.refuse_chunk(&chunk);
        }
        if self.snapshot_rng.f64() < self.plan.faults.drop {
            self.count("snapshot chunk cut");
            chunk.data.truncate(self.snapshot_rng.usize(0..=chunk.data.len()));
        }
        let is_interrupted = self.draw_death(at);
        let result = self.write_chunk(at, &chunk);
        if is_interrupted {
            self.count("crash while a snapshot arrives");
            self.crash(at);
            return self.refuse_chunk(&chunk);
        }
        match result {
            Ok(next_offset) if next_offset < chunk.file_len => {
                if !chunk.is_copy {
                    self.answer_chunk(at, &chunk, next_offset);
                }
            }
            Ok(_) => self.finish_snapshot(at, from, &chunk),
            Err(error) => self.drop_arriving(at, &chunk, &error),
        }
    }

    /// A member takes nothing from another cluster.
    fn are_of_one_cluster(&self, one: usize, other: usize) -> bool {
        let affiliation = |at: usize| self.members[at].living.as_ref().map(|it| it.affiliation);
        match (affiliation(one), affiliation(other)) {
            (Some(one), Some(other)) => one.is_compatible(other),
            _ => false,
        }
    }

    fn answer_chunk(&mut self, at: usize, chunk: &Chunk, next_offset: u64) {
        let Some(living) = &self.members[at].living else { return };
        let (token, term) = (chunk.token, living.status.role.term);
        let answer = ChunkAnswer { peer: chunk.to, token, term, next_offset };
        let delay_us = self.chunk_us();
        self.after(delay_us, What::ChunkAnswered(chunk.from, answer));
    }

    fn refuse_chunk(&mut self, chunk: &Chunk) {
        if !chunk.is_copy && self.is_alive(chunk.from) {
            self.snapshot_failed(chunk.from.at, chunk.to, chunk.token);
        }
    }

    /// As a node does it: a piece that is not the next one changes nothing, and the answer says
    /// where to go on.
    fn write_chunk(&mut self, at: usize, chunk: &Chunk) -> Result<u64, StorageError> {
        let member = &mut self.members[at];
        let (Some(snapshots), Some(living)) = (member.disk.snapshots(), &mut member.living) else {
            return Ok(0);
        };
        let Chunk { meta, file_len, offset, .. } = *chunk;
        if living.arriving.as_ref().is_none_or(|it| (it.meta(), it.len_bytes()) != (meta, file_len))
        {
            living.arriving = None;
            living.arriving = Some(snapshots.receive(meta, file_len)?);
        }
        let receiver = living.arriving.as_mut().expect("it was just made sure of");
        let is_resumed = offset == 0 && receiver.offset() > 0 && !chunk.is_copy;
        if receiver.offset() == offset && !receiver.is_complete() {
            receiver.write(offset, &chunk.data)?;
        }
        let next_offset = receiver.offset();
        if is_resumed {
            self.count("snapshot resumed where it broke off");
        }
        Ok(next_offset)
    }

    fn finish_snapshot(&mut self, at: usize, from: MemberId, chunk: &Chunk) {
        let Some(Living { arriving, .. }) = &mut self.members[at].living else { return };
        let snapshot = match arriving.take().expect("the one that is complete").finish() {
            Ok(snapshot) => snapshot,
            Err(error) => return self.drop_arriving(at, chunk, &error),
        };
        // A newer snapshot may be there that the core was told of in vain, because its leader's
        // term was over. So the core is told of the newest one on the disk, not of the one that
        // arrived.
        if snapshot.meta() != chunk.meta {
            self.count("snapshot arrived after a newer one");
        }
        let Chunk { to, term, token, .. } = *chunk;
        let body = Body::Request(Request::InstallSnapshot(raft::Snapshot {
            meta: snapshot.meta(),
            configuration: snapshot.configuration().cloned(),
        }));
        self.snapshot_arrived(at, Message { from, to, term, token, body }, snapshot);
    }

    fn drop_arriving(&mut self, at: usize, chunk: &Chunk, error: &StorageError) {
        self.trace_of(at, || format!("does not take {:?}: {error}", chunk.meta));
        self.count("snapshot did not arrive");
        if let Some(living) = &mut self.members[at].living {
            living.arriving = None;
        }
        self.refuse_chunk(chunk);
    }

    /// A peer says where to go on: further; earlier, if it has lost data; or that another member
    /// leads.
    pub(super) fn chunk_answered(&mut self, at: usize, answer: ChunkAnswer) {
        let ChunkAnswer { peer, token, term, next_offset } = answer;
        let transfers = self.members[at].living.as_mut().map(|it| &mut it.transfers);
        let transfer = transfers.and_then(|it| it.get_mut(&peer)).filter(|it| it.token == token);
        let Some(transfer) = transfer else { return };
        if term > transfer.term {
            return self.transfer_is_over(at, answer);
        }
        let is_back = next_offset <= transfer.offset;
        transfer.repeats = if is_back { transfer.repeats + 1 } else { 0 };
        transfer.offset = next_offset;
        let is_hopeless = transfer.repeats > REPEATS_MAX;
        if is_back {
            self.count("snapshot sent from an earlier place");
        }
        match is_hopeless {
            true => self.snapshot_failed(at, peer, token),
            false => self.send_chunk(at, peer),
        }
    }

    /// Two leaders that send at once would send each other's follower back to the beginning,
    /// without end.
    fn transfer_is_over(&mut self, at: usize, ChunkAnswer { peer, token, term, .. }: ChunkAnswer) {
        self.count("snapshot of a leader whose term is over");
        let body = Body::Reply(Reply::AppendEntries(AppendEntriesReply::Stale));
        let to = self.members[at].id;
        self.arrived(at, Message { from: peer, to, term, token, body });
    }

    /// Nobody has answered this chunk.
    pub(super) fn chunk_deadline(&mut self, at: usize, peer: MemberId, token: u64, chunks: u64) {
        let transfers = self.members[at].living.as_ref().map(|it| &it.transfers);
        let transfer = transfers.and_then(|it| it.get(&peer));
        if transfer.is_some_and(|it| (it.token, it.chunks) == (token, chunks)) {
            self.snapshot_failed(at, peer, token);
        }
    }

    fn snapshot_failed(&mut self, at: usize, peer: MemberId, token: u64) {
        if self.end_transfer(at, peer, token).is_some() {
            self.trace_of(at, || format!("has sent {peer} a snapshot in vain"));
            self.count("snapshot waited for in vain");
            self.post(at, Event::Disconnected(peer));
        }
    }

    fn end_transfer(&mut self, at: usize, peer: MemberId, token: u64) -> Option<Transfer> {
        let transfers = &mut self.members[at].living.as_mut()?.transfers;
        transfers.get(&peer).filter(|it| it.token == token)?;
        transfers.remove(&peer)
    }

    /// A message reaches a live member. It may be the answer to a snapshot.
    pub(super) fn arrived(&mut self, at: usize, message: Message) {
        let (from, token) = (message.from, message.token);
        let is_answer = matches!(message.body, Body::Reply(Reply::AppendEntries(_)));
        self.post(at, Event::Message(message));
        let transfer = is_answer.then(|| self.end_transfer(at, from, token)).flatten();
        if transfer.is_some_and(|it| it.is_asked_again) {
            self.post(at, Event::Disconnected(from));
        }
    }
}
