//! [`Session`]: how all attempts of a write are told to be one.

use std::time::Instant;

use bytes::Bytes;
use syncraft_types::Index;

use super::call::{Call, Verdict};
use super::error::{ClerkError, Reason};
use super::pool::{Member, Pool};
use super::replies::WriteEnd;
use super::{Clerk, ClerkErrorKind};
use crate::kv::{Identity, model};
use crate::rpc::CallError;

/// How many sessions one write may use, if the cluster keeps forgetting them.
const SESSIONS_PER_WRITE_MAX: u32 = 3;

/// The client as the cluster sees it, and its last write.
#[derive(Debug)]
pub(super) struct Session {
    client_id: Bytes,
    request_id: i64,
}

impl Session {
    pub(super) fn new(pool: &Pool) -> Session {
        Session { client_id: pool.client_id().into(), request_id: 0 }
    }

    /// The identity of the session's next write. All attempts of the write carry the same.
    fn next(&mut self, pool: &Pool) -> Identity {
        self.request_id += 1;
        let (client_id, request_id) = (self.client_id.clone(), self.request_id);
        Identity { client_id, request_id, seen_index: Index(pool.seen_index()) }
    }
}

impl Clerk {
    /// Makes a write: stamps `args` with an identity, and sends them until there is a definite end.
    pub(super) fn write<A, R>(
        &self,
        mut call: Call<'_>,
        mut args: A,
        stamp: impl Fn(&mut A, Identity),
        send: impl Fn(&Member, &A, Instant) -> Result<Verdict<WriteEnd<R>>, CallError>,
    ) -> Result<R, ClerkError> {
        let Some(mut session) = self.session.try_lock_until(call.deadline()) else {
            return Err(call.fail(Reason::AnotherWrite));
        };
        for _ in 0..SESSIONS_PER_WRITE_MAX {
            stamp(&mut args, session.next(&self.pool));
            match call.run(|member, deadline| send(member, &args, deadline))? {
                WriteEnd::Applied { index, answer } => {
                    self.pool.learn(index);
                    return Ok(answer);
                }
                WriteEnd::Refused(reason) => return Err(refused(&mut call, reason)),
                WriteEnd::SessionExpired { index } => {
                    self.pool.learn(index);
                    // Any later write of the old session would be refused as well.
                    *session = Session::new(&self.pool);
                }
            }
            if call.may_have_run() {
                break;
            }
        }
        Err(call.fail(Reason::SessionExpired))
    }
}

/// The error of a write that the store has refused. That is the outcome of all its attempts, so it
/// is certain that nothing changed.
pub(super) fn refused(call: &mut Call<'_>, reason: Reason) -> ClerkError {
    match refusal_kind(&reason) {
        ClerkErrorKind::NotApplied => call.not_applied(reason),
        ClerkErrorKind::Rejected => call.reject(reason),
        _ => call.fail(reason),
    }
}

fn refusal_kind(reason: &Reason) -> ClerkErrorKind {
    let Reason::Refused(refusal) = reason else {
        return match reason {
            Reason::NoSpace => ClerkErrorKind::NotApplied,
            _ => ClerkErrorKind::Rejected,
        };
    };
    match refusal.reason {
        // There may be space again, and the revision may come.
        model::Reason::NoSpace | model::Reason::InTheFuture => ClerkErrorKind::NotApplied,
        // Its first copy may have taken effect, but nobody knows any more.
        model::Reason::Superseded => ClerkErrorKind::Unknown,
        _ => ClerkErrorKind::Rejected,
    }
}
