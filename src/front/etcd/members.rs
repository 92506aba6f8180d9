//! Changes of the members: etcd's `MemberAdd`, `MemberRemove`, `MemberUpdate` and `MemberPromote`.
//!
//! etcd chooses the id of a newcomer and starts it afterwards. Here the newcomer is started first
//! (`syncraft server --join`), with the id that its operator chose, and waits. So `MemberAdd` asks
//! the address who waits there.
//!
//! A change takes a while, and its steps are the server's ([`MemberAdmin`]). What can be told from
//! the configuration is refused here, in etcd's words.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::error::{self, EtcdError};
use super::out::Object;
use super::parse::Fields;
use super::{EtcdFront, Shared, Task, ok};
use crate::kv::model::Revision;
use crate::members::{Members, check_addr};
use crate::raft::MemberId;

/// How long a change may take. A newcomer is filled in this time, or is asked for again.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// A change that a client of etcd wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberWish {
    /// Whoever waits at this address becomes a member.
    Add {
        /// `HOST:PORT`.
        addr: String,
        /// It stays a learner. Otherwise it votes once it has caught up.
        is_learner: bool,
    },
    /// A learner becomes a voter.
    Promote(MemberId),
    /// A member leaves for ever.
    Remove(MemberId),
    /// A member is reached at another address.
    Move {
        /// The member.
        id: MemberId,
        /// `HOST:PORT`.
        addr: String,
    },
}

/// Why a change that a client of etcd wants did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberRefusal {
    /// The learner has not caught up.
    Behind,
    /// No leader was found in time. Nothing has changed.
    NoLeader,
    /// It may have happened, or may still.
    Unknown,
    /// Too many changes are under way at this member.
    Busy,
    /// It is refused, in words.
    Refused(String),
}

/// Is told once what became of a change: of which member it was.
pub type MemberChanged = Box<dyn FnOnce(Result<MemberId, MemberRefusal>) + Send>;

/// Carries changes of the members out, on whichever member leads.
pub trait MemberAdmin: Send + Sync + 'static {
    /// Begins the change, and returns at once.
    fn change(&self, wish: MemberWish, deadline: Instant, end: MemberChanged);
}

impl EtcdFront {
    pub(super) fn member_add(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let addr = peer_addr(fields)?;
        let is_learner = fields.flag("isLearner")?;
        if has_addr(&self.shared.api.members(), &addr) {
            return Err(error::PEER_URL_EXISTS);
        }
        Ok(self.change_members(MemberWish::Add { addr, is_learner }, true))
    }

    pub(super) fn member_remove(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let id = self.member(fields)?;
        Ok(self.change_members(MemberWish::Remove(id), false))
    }

    pub(super) fn member_update(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let id = self.member(fields)?;
        let addr = peer_addr(fields)?;
        let members = self.shared.api.members();
        if members.addr(id) != Some(&*addr) && has_addr(&members, &addr) {
            return Err(error::PEER_URL_EXISTS);
        }
        Ok(self.change_members(MemberWish::Move { id, addr }, false))
    }

    pub(super) fn member_promote(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let id = self.member(fields)?;
        if !self.shared.api.is_learner(id) {
            return Err(error::NOT_A_LEARNER);
        }
        Ok(self.change_members(MemberWish::Promote(id), false))
    }

    /// The member that the request names.
    fn member(&self, fields: &Fields<'_>) -> Result<MemberId, EtcdError> {
        let id = MemberId(fields.uint64("ID")?);
        match self.shared.api.members().contains(id) {
            true => Ok(id),
            false => Err(error::MEMBER_NOT_FOUND),
        }
    }

    fn change_members(&self, wish: MemberWish, tells_member: bool) -> Task {
        let shared = Arc::clone(&self.shared);
        Box::new(move |answer| {
            let (told, admin) = (Arc::clone(&shared), Arc::clone(&shared.admin));
            let deadline = Instant::now() + CHANGE_TIMEOUT;
            let end: MemberChanged = Box::new(move |changed| {
                answer.send(match changed {
                    Ok(id) => ok(|body| told.changed(body, tells_member.then_some(id))),
                    Err(refusal) => EtcdError::from(refusal).response(),
                });
            });
            admin.change(wish, deadline, end);
        })
    }
}

impl Shared {
    fn changed(&self, body: &mut Object<'_>, told: Option<MemberId>) {
        self.header().write(body, Revision::NONE);
        if let Some(id) = told {
            let addr = self.api.members().addr(id).unwrap_or_default().to_owned();
            body.object("member", |member| {
                member.number("ID", id.0);
                member.texts("peerURLs", [&format!("http://{addr}")]);
                member.flag("isLearner", self.api.is_learner(id));
            });
        }
        self.members(body);
    }
}

impl From<MemberRefusal> for EtcdError {
    fn from(refusal: MemberRefusal) -> EtcdError {
        match refusal {
            MemberRefusal::Behind => error::LEARNER_NOT_READY,
            MemberRefusal::NoLeader => error::NO_LEADER,
            MemberRefusal::Unknown => error::TIMED_OUT,
            MemberRefusal::Busy => error::TOO_MANY_REQUESTS,
            MemberRefusal::Refused(words) => {
                EtcdError::new(error::Code::FailedPrecondition, format!("etcdserver: {words}"))
            }
        }
    }
}

fn has_addr(members: &Members, addr: &str) -> bool {
    members.iter().any(|(_, other)| other.eq_ignore_ascii_case(addr))
}

/// The address in `peerURLs`, of which there must be one.
fn peer_addr(fields: &Fields<'_>) -> Result<String, EtcdError> {
    let [Value::String(url)] = fields.list("peerURLs")? else {
        return Err(error::BAD_MEMBER_URLS);
    };
    let addr = url.strip_prefix("http://").ok_or(error::BAD_MEMBER_URLS)?;
    let addr = addr.strip_suffix('/').unwrap_or(addr);
    check_addr(url, addr).map_err(|_| error::BAD_MEMBER_URLS)?;
    Ok(addr.to_owned())
}
