//! [`Stream`]: a watch at one member, from the request on.
//!
//! No turn waits for longer than its caller says, and what a turn has begun stays. So short waits
//! of the caller do not keep a stream from being opened.
//!
//! # Silence
//! The connection's pings notice a member that is paused, or cut off, within two seconds. A member
//! that brings nothing for [`QUIET_MIN`] is asked how far the watch is, and then again, less and
//! less often up to [`QUIET_MAX`]. The answer moves the watch on, so that it does not fall out of
//! the history while its keys rest. Without an answer within the caller's patience, the stream is
//! silent.

use std::time::{Duration, Instant};

use crate::clerk::call::ATTEMPT_SHARE_MIN;
use crate::clerk::pool::Member;
use crate::kv::model::proto::{
    WatchCreate, WatchProgress, WatchReply, WatchRequest, watch_reply, watch_request,
};
use crate::rpc::{CallError, Deadline, Incoming, Next, Sender};

/// A member that has brought nothing for this long is asked how far the watch is.
const QUIET_MIN: Duration = Duration::from_secs(3);

/// The longest time between two such questions. Too small: ten thousand watches that rest cost
/// their members time. Too large: a watch that rests resumes far back, where the history may be
/// forgotten.
const QUIET_MAX: Duration = Duration::from_secs(12);

/// The only watch of its stream.
const ID: u64 = 1;

/// See the file.
#[derive(Debug)]
pub(super) struct Stream {
    /// The member's number.
    pub(super) member: usize,
    pub(super) addr: String,
    pub(super) began: Instant,
    requests: Sender<WatchRequest>,
    replies: Incoming<WatchReply>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Until the watch is made, or the attempt is over.
    Asking { until: Instant, is_sent: bool },
    /// `asked_at`: when the member was asked how far the watch is, if it has not answered since.
    Serving { heard_at: Instant, asked_at: Option<Instant>, quiet: Duration },
}

/// What a turn finds.
#[derive(Debug)]
pub(super) enum Turn {
    NotYet,
    /// The first reply is that the watch is made, or that it has ended.
    Said(watch_reply::Reply),
    /// The member does not answer in time.
    Silent(CallError),
    Failed(CallError),
    /// What it said is not understood.
    Nonsense(&'static str),
}

impl Stream {
    /// Begins to ask a member, which has `time` to make the watch.
    pub(super) fn open(number: usize, member: &Member, time: Duration) -> Stream {
        let (requests, replies) = member.watches().watch(None);
        let began = Instant::now();
        let phase = Phase::Asking { until: began + time, is_sent: false };
        Stream { member: number, addr: member.addr().to_owned(), began, requests, replies, phase }
    }

    pub(super) fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving { .. })
    }

    /// Waits until `until` for the next reply. `create` is what the member is asked for at first.
    pub(super) fn turn(
        &mut self,
        create: impl FnOnce() -> WatchCreate,
        patience: Duration,
        until: Instant,
    ) -> Turn {
        match self.phase {
            Phase::Asking { until: attempt, is_sent } => {
                let attempt = self.ask(create, is_sent, attempt, until);
                self.hear(attempt, until, Stream::too_late)
            }
            Phase::Serving { heard_at, asked_at: None, quiet } => {
                self.hear(heard_at + quiet, until, Stream::ask_how_far)
            }
            Phase::Serving { asked_at: Some(asked_at), .. } => {
                self.hear(asked_at + patience, until, Stream::too_late)
            }
        }
    }

    /// Sends the request, unless that was done. Returns until when the attempt lasts.
    fn ask(
        &mut self,
        create: impl FnOnce() -> WatchCreate,
        is_sent: bool,
        attempt: Instant,
        until: Instant,
    ) -> Instant {
        if is_sent {
            return attempt;
        }
        // Without a connection there is no room yet. Why the stream is over, its replies tell.
        let create = request(watch_request::Request::Create(create()));
        if self.requests.send(&create, until.min(attempt)).is_err() {
            return attempt;
        }
        // A caller that asks seldom may have found the connection late.
        let attempt = attempt.max(Instant::now() + ATTEMPT_SHARE_MIN);
        self.phase = Phase::Asking { until: attempt, is_sent: true };
        attempt
    }

    /// Waits for a reply. If there is none when it is `due`, something is done.
    fn hear(&mut self, due: Instant, until: Instant, then: fn(&mut Stream) -> Turn) -> Turn {
        let time = until.min(due).saturating_duration_since(Instant::now());
        match self.replies.next_timeout(time) {
            Next::NotYet if Instant::now() < due => Turn::NotYet,
            Next::NotYet => then(self),
            Next::Item(WatchReply { id: ID, reply: Some(reply) }) => self.check(reply),
            Next::Item(_) => Turn::Nonsense("a reply without content, or to another watch"),
            Next::End => Turn::Nonsense("the end of a stream whose watch had not ended"),
            Next::Failed(error) => Turn::Failed(error),
        }
    }

    /// A reply has come: does it fit what came before?
    fn check(&mut self, reply: watch_reply::Reply) -> Turn {
        let quiet = match (&self.phase, &reply) {
            (_, watch_reply::Reply::Ended(_)) => return Turn::Said(reply),
            (Phase::Asking { .. }, watch_reply::Reply::Created(_)) => QUIET_MIN,
            (Phase::Serving { quiet, .. }, watch_reply::Reply::Changes(changes)) => {
                if changes.changes.is_empty() { *quiet } else { QUIET_MIN }
            }
            (Phase::Asking { .. }, _) => return Turn::Nonsense("changes before a watch is made"),
            (Phase::Serving { .. }, _) => return Turn::Nonsense("a watch that is made twice"),
        };
        self.phase = Phase::Serving { heard_at: Instant::now(), asked_at: None, quiet };
        Turn::Said(reply)
    }

    fn ask_how_far(&mut self) -> Turn {
        if let Phase::Serving { asked_at, quiet, .. } = &mut self.phase {
            // Without room for it, nothing is answered either.
            let progress = watch_request::Request::Progress(WatchProgress {});
            let _ = self.requests.try_send(&request(progress));
            *asked_at = Some(Instant::now());
            *quiet = (*quiet * 2).min(QUIET_MAX);
        }
        Turn::NotYet
    }

    fn too_late(&mut self) -> Turn {
        let (since, sent) = match self.phase {
            Phase::Asking { is_sent, .. } => (self.began, is_sent),
            Phase::Serving { asked_at, heard_at, .. } => (asked_at.unwrap_or(heard_at), true),
        };
        let (addr, waited, which) = (self.addr.clone(), since.elapsed(), Deadline::default());
        Turn::Silent(CallError::TimedOut { addr, waited, sent, which })
    }

    /// Makes the quiet so far long enough for a question.
    #[cfg(test)]
    pub(super) fn hush(&mut self) {
        if let Phase::Serving { heard_at, quiet, .. } = &mut self.phase {
            *heard_at -= *quiet;
        }
    }
}

fn request(request: watch_request::Request) -> WatchRequest {
    WatchRequest { id: ID, request: Some(request) }
}
