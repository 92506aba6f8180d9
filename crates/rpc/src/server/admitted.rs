//! What a header decides, before the body is there: which method the call is for, whether there is
//! room, and what will answer it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::Begun;
use super::connection::{CallId, Connection};
use super::end::End;
use super::table::Target;
use crate::header::RpcHeader;
use crate::port::Slot;
use crate::service::{About, Answer, More};
use crate::{RequestId, Status, StatusCode};

/// A call that will run when its arguments are here.
pub(super) struct Admitted {
    pub(super) target: Target,
    pub(super) answer: Box<dyn Answer>,
    pub(super) about: About,
}

impl Connection {
    /// Takes room for the call, or for the stream that it opens, and finds its method; or returns
    /// the status to refuse it with.
    // Inlined, like what it calls: the header would be copied at each step.
    #[inline(always)]
    pub(super) fn admit_call(
        self: &Arc<Self>,
        head: RpcHeader,
        id: CallId,
        arrived: Instant,
    ) -> Result<Result<Admitted, Status>, End> {
        let shared = &self.shared;
        if shared.port.is_draining() {
            return Ok(Err(Status::new(StatusCode::ShuttingDown, "the server is stopping")));
        }
        let target = match shared.table.find(&head) {
            Ok(target) => target,
            Err(status) => {
                shared.count_if_unknown(status.code);
                return Ok(Err(status));
            }
        };
        let slot = match self.room_for(&head, id, target)? {
            Ok(slot) => slot,
            Err(status) => {
                target.stats(&shared.table).refused(status.code);
                return Ok(Err(status));
            }
        };
        Ok(self.begin_call(head, id, target, slot, arrived))
    }

    /// Room for the call; or the status to refuse it with.
    #[inline(always)]
    fn room_for(
        &self,
        head: &RpcHeader,
        id: CallId,
        target: Target,
    ) -> Result<Result<Slot, Status>, End> {
        let table = &self.shared.table;
        let (len, is_reserved) = (head.args_size as usize, target.published(table).is_reserved);
        if id.is_documented() {
            return self.wait_room(len, is_reserved).ok_or(End::Cut).map(Ok);
        }
        Ok(match head.stream {
            0 => self.try_room(len, is_reserved),
            _ if target.is_stream(table) => self.streams.try_room(len, is_reserved),
            _ => Err(Status::new(StatusCode::UnknownMethod, "the method does not stream")),
        })
    }

    #[inline(always)]
    fn begin_call(
        self: &Arc<Self>,
        head: RpcHeader,
        id: CallId,
        target: Target,
        slot: Slot,
        arrived: Instant,
    ) -> Result<Admitted, Status> {
        let stats = Arc::clone(target.stats(&self.shared.table));
        let (stream, credit) = (head.stream, head.credit);
        let about = about(head, id, arrived);
        let answer = match stream {
            0 => {
                let (caller, trace) = (about.caller.clone(), about.trace().clone());
                self.begin(id, slot, Begun { stats, arrived, caller, trace })
            }
            _ => self.open_stream(stream, credit, id, slot, stats, about.deadline),
        };
        match answer {
            Some(answer) => Ok(Admitted { target, answer, about }),
            None => Err(Status::new(StatusCode::ShuttingDown, "the connection is ending")),
        }
    }
}

/// What its header says about a call that arrived now.
#[inline(always)]
fn about(head: RpcHeader, id: CallId, arrived: Instant) -> About {
    let RpcHeader { deadline_ms, caller, client_id, request_id, attempt, trace, .. } = head;
    let after = Duration::from_millis(deadline_ms.into());
    let has_id = !client_id.is_empty();
    let has_more = has_id || !trace.is_empty();
    About {
        deadline: (deadline_ms > 0).then(|| arrived + after),
        is_documented: id.is_documented(),
        caller,
        more: has_more.then(|| {
            let request = RequestId { client: client_id, number: request_id, attempt };
            Box::new(More { request: has_id.then_some(request), trace })
        }),
    }
}
