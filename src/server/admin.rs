//! The service `adminRpc`: where a member stands, and what an operator may ask it to do.

use std::sync::Arc;

use super::backup::backup;
use super::members::{MemberChanges, Wish, view};
use super::proto::{
    AddMemberArgs, AdminRpc, BackupArgs, BackupReply, ChangeOutcome, ChangeReply, MembersArgs,
    MembersReply, MoveMemberArgs, PromoteMemberArgs, RemoveMemberArgs, SnapshotArgs, SnapshotReply,
    StatusArgs, StatusReply, TransferArgs, TransferReply,
};
use crate::kv::Store;
use crate::kv::api::Api;
use crate::members::{MembersError, check_addr, parse_id};
use crate::node::{NodeHandle, ReadMode};
use crate::raft::{Index, MemberId, RoleName};
use crate::rpc::{Done, Outgoing, Status, StatusCode};

/// `StatusReply.disk` of a member whose disk works.
pub const DISK_OK: &str = "ok";

/// `StatusReply.state` of a member whose state is, as far as it knows, the same as the others'.
pub const STATE_OK: &str = "ok";

/// `StatusReply.state` of a member whose state differs from that of a majority. It does not serve.
pub const STATE_DIVERGED: &str = "diverged";

/// `StatusReply.durability`. There is no other mode.
const DURABILITY: &str = "fdatasync on a majority of the members before a write is acknowledged";

/// `adminRpc` of one member.
pub(super) struct Admin {
    pub(super) node: NodeHandle<Store>,
    pub(super) api: Api,
    pub(super) read_mode: ReadMode,
    /// The random number of the data directory.
    pub(super) directory: u64,
    /// A random number of this start.
    pub(super) instance: u64,
    pub(super) changes: Arc<MemberChanges>,
}

impl AdminRpc for Admin {
    fn status(&self, _args: StatusArgs, done: Done<StatusReply>) {
        let status = self.node.status();
        let (applied_index, digest) = applied(&self.node);
        let waits_for = self.node.waits_to_be_added();
        let state = if self.node.divergence().is_some() { STATE_DIVERGED } else { STATE_OK };
        done.run(StatusReply {
            id: status.id.0,
            role: status.role.role.as_str().to_owned(),
            term: status.role.term.0,
            leader: status.role.leader.map_or(0, |leader| leader.0),
            last_index: status.last_index.0,
            commit_index: status.commit_index.0,
            applied_index: applied_index.0,
            snapshot_index: status.snapshot_index.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            digest,
            state: state.to_owned(),
            different_members: self.node.different_members().iter().map(|id| id.0).collect(),
            is_joining: status.is_joining,
            disk: disk(&self.node).to_owned(),
            members: self.node.addresses().len() as u32,
            durability: DURABILITY.to_owned(),
            read_mode: self.read_mode.as_str().to_owned(),
            joining_words: self.node.joining_words().unwrap_or_default(),
            // While the member joins, the id may be one that no other member has confirmed.
            cluster_id: if status.is_joining { 0 } else { self.node.cluster_id() },
            pid: std::process::id(),
            level: self.node.level().unwrap_or(0),
            level_max: self.node.level_max(),
            directory: self.directory,
            instance: self.instance,
            waits_to_be_added: waits_for.is_some(),
            heard_clusters: waits_for.into_iter().flatten().collect(),
            configuration: Some(view(&self.node)),
        });
    }

    fn transfer(&self, args: TransferArgs, done: Done<TransferReply>) {
        let to = MemberId(args.to);
        let members = self.node.addresses();
        if members.addr(to).is_none() {
            let words = format!("there is no member {to}; the members are {members}");
            return done.fail(Status::new(StatusCode::BadArguments, words));
        }
        let is_leader = self.node.status().role.role == RoleName::Leader;
        self.node.transfer(Some(to));
        done.run(TransferReply { is_leader });
    }

    fn snapshot(&self, _args: SnapshotArgs, done: Done<SnapshotReply>) {
        let index = self.node.applied_index().0;
        self.node.take_snapshot();
        done.run(SnapshotReply { index });
    }

    fn members(&self, args: MembersArgs, done: Done<MembersReply>) {
        let committed = self.node.members().committed;
        let asker = MemberId(args.asker_id);
        let asker_is_removed = committed.is_some_and(|it| it.removed.contains(&asker));
        done.run(MembersReply { asker_is_removed, ..view(&self.node) });
    }

    fn add_member(&self, args: AddMemberArgs, done: Done<ChangeReply>) {
        let AddMemberArgs { id, addr } = args;
        let part = format!("{id}={addr}");
        match parse_id(&part, &id.to_string()).and_then(|_| check_addr(&part, &addr)) {
            Ok(()) => self.changes.order(Wish::Add { id: MemberId(id), addr }, done),
            Err(error) => done.run(impossible(&error)),
        }
    }

    fn promote_member(&self, args: PromoteMemberArgs, done: Done<ChangeReply>) {
        self.changes.order(Wish::Promote { id: MemberId(args.id) }, done);
    }

    fn remove_member(&self, args: RemoveMemberArgs, done: Done<ChangeReply>) {
        self.changes.order(Wish::Remove { id: MemberId(args.id) }, done);
    }

    fn move_member(&self, args: MoveMemberArgs, done: Done<ChangeReply>) {
        let MoveMemberArgs { id, addr, if_lost } = args;
        match check_addr(&addr, &addr) {
            Ok(()) => self.changes.order(Wish::Move { id: MemberId(id), addr, if_lost }, done),
            Err(error) => done.run(impossible(&error)),
        }
    }

    fn backup(&self, _args: BackupArgs, replies: Outgoing<BackupReply>) {
        backup(&self.api, self.node.cluster_id(), replies);
    }
}

fn impossible(error: &MembersError) -> ChangeReply {
    let words = error.to_string();
    ChangeReply { outcome: ChangeOutcome::Impossible.into(), words, lacking_entries: 0 }
}

/// The last entry that the store has applied, and the digest of the state after it.
pub(super) fn applied(node: &NodeHandle<Store>) -> (Index, u64) {
    node.digest().unwrap_or((node.applied_index(), 0))
}

/// The state of the disk, in one word.
pub(super) fn disk(node: &NodeHandle<Store>) -> &'static str {
    match (node.is_disk_full(), node.status().is_disk_stalled) {
        (true, _) => "full",
        (false, true) => "stalled",
        (false, false) => DISK_OK,
    }
}
