//! Changes of the members that etcd's clients want: each is carried out on a thread of its own, by
//! the client that `syncraft member` uses.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::admin_client::{AdminClient, AdminError, MemberChange};
use super::proto::{
    AddMemberArgs, AdminRpcStub, MoveMemberArgs, PromoteMemberArgs, RemoveMemberArgs, StatusArgs,
    StatusReply,
};
use crate::ErrorChain;
use crate::front::etcd::{MemberAdmin, MemberChanged, MemberRefusal, MemberWish};
use crate::kv::Store;
use crate::node::NodeHandle;
use crate::raft::MemberId;
use crate::rpc::Channel;

/// How many changes may be under way at one member.
const CHANGES_MAX: usize = 4;

/// How long an address has to say who waits there.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a learner that has not caught up is promoted again.
const PROMOTE_PAUSE: Duration = Duration::from_millis(50);

/// [`MemberAdmin`] of one member.
pub(super) struct EtcdAdmin {
    node: NodeHandle<Store>,
    under_way: Arc<AtomicUsize>,
}

impl EtcdAdmin {
    pub(super) fn new(node: NodeHandle<Store>) -> EtcdAdmin {
        EtcdAdmin { node, under_way: Arc::default() }
    }
}

impl MemberAdmin for EtcdAdmin {
    fn change(&self, wish: MemberWish, deadline: Instant, end: MemberChanged) {
        let Some(permit) = Permit::take(&self.under_way) else {
            return end(Err(MemberRefusal::Busy));
        };
        let members = self.node.addresses();
        let client = AdminClient::new(members.iter().map(|(_, addr)| addr.to_owned()));
        let own = self.node.status().id;
        let run = move || {
            let _permit = permit;
            end(change(&client, wish, deadline));
        };
        if let Err(error) = thread::Builder::new().name(format!("members-etcd-{own}")).spawn(run) {
            // What waited for it is answered as it is dropped.
            log::error!("cannot start a thread to change the members: {error}");
        }
    }
}

/// Room for one change.
struct Permit(Arc<AtomicUsize>);

impl Permit {
    fn take(under_way: &Arc<AtomicUsize>) -> Option<Permit> {
        let permit = Permit(Arc::clone(under_way));
        (under_way.fetch_add(1, Ordering::AcqRel) < CHANGES_MAX).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn change(
    client: &AdminClient,
    wish: MemberWish,
    deadline: Instant,
) -> Result<MemberId, MemberRefusal> {
    let order = |change: MemberChange| client.change(&change, deadline).map_err(refusal);
    match wish {
        MemberWish::Add { addr, is_learner } => {
            let id = newcomer(&addr, deadline)?;
            order(MemberChange::Add(AddMemberArgs { id: id.0, addr }))?;
            if !is_learner {
                promote_when_filled(client, id, deadline)?;
            }
            Ok(id)
        }
        MemberWish::Promote(id) => {
            order(MemberChange::Promote(PromoteMemberArgs { id: id.0 }))?;
            Ok(id)
        }
        MemberWish::Remove(id) => {
            order(MemberChange::Remove(RemoveMemberArgs { id: id.0 }))?;
            Ok(id)
        }
        MemberWish::Move { id, addr } => {
            order(MemberChange::Move(MoveMemberArgs { id: id.0, addr, if_lost: false }))?;
            Ok(id)
        }
    }
}

/// Who waits at this address to be added.
fn newcomer(addr: &str, deadline: Instant) -> Result<MemberId, MemberRefusal> {
    let channel = Channel::builder(addr).connect_timeout(ASK_TIMEOUT).lazy();
    let deadline = deadline.min(Instant::now() + ASK_TIMEOUT);
    match AdminRpcStub::new(channel).status(&StatusArgs {}, deadline) {
        Ok(StatusReply { id, .. }) => Ok(MemberId(id)),
        Err(error) => Err(MemberRefusal::Refused(format!(
            "nobody waits at {addr} to be added: first start the new member there, with --join ({})",
            ErrorChain(&error)
        ))),
    }
}

fn promote_when_filled(
    client: &AdminClient,
    id: MemberId,
    deadline: Instant,
) -> Result<(), MemberRefusal> {
    let promote = MemberChange::Promote(PromoteMemberArgs { id: id.0 });
    loop {
        match client.change(&promote, deadline) {
            Err(AdminError::Behind { .. }) if Instant::now() + PROMOTE_PAUSE < deadline => {
                thread::sleep(PROMOTE_PAUSE);
            }
            result => return result.map(drop).map_err(refusal),
        }
    }
}

fn refusal(error: AdminError) -> MemberRefusal {
    match error {
        AdminError::Behind { .. } => MemberRefusal::Behind,
        AdminError::NoLeader { .. } | AdminError::Nobody { .. } | AdminError::NotTaken { .. } => {
            MemberRefusal::NoLeader
        }
        AdminError::Undecided(_) => MemberRefusal::Unknown,
        AdminError::Impossible(words) | AdminError::NotNow(words) => MemberRefusal::Refused(words),
    }
}
