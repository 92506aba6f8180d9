//! etcd's service `Maintenance`, as far as it means something here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::asked::{Ended, TIMEOUT};
use super::error::{self, EtcdError};
use super::parse::Fields;
use super::{EtcdFront, Shared, Task, VERSION, ok};
use crate::kv::Stats;
use crate::kv::api::{Api, Consistency};
use crate::kv::model::Revision;
use crate::raft::{MemberId, RoleName};
use crate::rpc::http::Answer;

/// How often it is looked whether a transfer of the leadership has happened.
const TRANSFER_PAUSE: Duration = Duration::from_millis(10);

impl EtcdFront {
    pub(super) fn status(&self) -> Task {
        let shared = Arc::clone(&self.shared);
        Box::new(move |answer| {
            answer.send(match shared.api.stats_local() {
                Ok(stats) => shared.status(&stats),
                Err(error) => EtcdError::from(&error).response(),
            });
        })
    }

    /// There are no alarms: the store itself refuses what it has no room for, and goes on when it
    /// has.
    pub(super) fn alarm(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        fields.uint64("memberID")?;
        fields.choice("alarm", &["NONE", "NOSPACE", "CORRUPT"])?;
        if fields.choice("action", &["GET", "ACTIVATE", "DEACTIVATE"])? == 1 {
            return Err(EtcdError::unimplemented("alarms that clients raise"));
        }
        Ok(self.header_only())
    }

    pub(super) fn defragment(&self) -> Task {
        Box::new(|answer| answer.send(ok(|_| ())))
    }

    /// Members that have applied the same entries have the same one. It has nothing to do with that
    /// of an etcd with the same entries. It reflects every write that was acknowledged before: at
    /// etcd, a member has applied what it answers.
    pub(super) fn hash(&self) -> Task {
        let shared = Arc::clone(&self.shared);
        Box::new(move |answer| {
            let told = Arc::clone(&shared);
            let ask = |api: &Api, deadline, end: Ended<()>| {
                api.stats(Consistency::Linearizable, deadline, move |result| {
                    end(result.map(|_| ()));
                });
            };
            shared.retried(Instant::now() + TIMEOUT, ask, move |result| {
                let local = |()| told.api.digest_local().map_err(|error| EtcdError::from(&error));
                let digest = result.and_then(local);
                answer.send(match digest {
                    Ok((revision, digest)) => ok(|body| {
                        told.header().write(body, revision);
                        body.plain("hash", (digest ^ (digest >> 32)) as u32);
                    }),
                    Err(error) => error.response(),
                });
            });
        })
    }

    pub(super) fn transfer_leadership(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let target = MemberId(fields.uint64("targetID")?);
        let shared = Arc::clone(&self.shared);
        let status = shared.api.status();
        if status.role.role != RoleName::Leader {
            return Err(error::NOT_LEADER);
        }
        if shared.api.addr(target).is_none() {
            return Err(error::BAD_TRANSFEREE);
        }
        Ok(Box::new(move |answer| {
            shared.api.transfer(target);
            shared.wait_for_leader(target, Instant::now() + TIMEOUT, answer);
        }))
    }
}

impl Shared {
    fn status(&self, stats: &Stats) -> crate::rpc::http::Response {
        let status = self.api.status();
        ok(|body| {
            self.header().write(body, stats.revision);
            body.text("version", VERSION);
            // There is no file that grows and is defragmented: both sizes are that of the data.
            // Clients expect some.
            let len = (stats.bytes + stats.history_bytes).max(1);
            body.number("dbSize", len);
            body.number("leader", status.role.leader.map_or(0, |leader| leader.0));
            body.number("raftIndex", status.commit_index.0);
            body.number("raftTerm", status.role.term.0);
            body.number("raftAppliedIndex", self.api.applied_index().0);
            let no_leader = error::NO_LEADER.to_string();
            body.texts("errors", status.role.leader.is_none().then_some(&no_leader));
            body.number("dbSizeInUse", len);
            body.flag("isLearner", status.is_joining);
        })
    }

    fn wait_for_leader(self: &Arc<Self>, target: MemberId, deadline: Instant, answer: Answer) {
        if self.api.status().role.leader == Some(target) {
            return answer.send(ok(|body| self.header().write(body, Revision::NONE)));
        }
        let due = Instant::now() + TRANSFER_PAUSE;
        if due >= deadline {
            return answer.send(error::TIMED_OUT.response());
        }
        let shared = Arc::clone(self);
        self.later.at(due, move |is_due| match is_due {
            true => shared.wait_for_leader(target, deadline, answer),
            false => answer.send(error::STOPPED.response()),
        });
    }
}
