//! What the replies of a member mean.

use bytes::Bytes;

use super::call::Verdict;
use crate::kv::proto::{GetReply, LeaderHint, PutAppendReply};
use crate::kv::words;

/// An unknown word is cut to this length, because it goes into an error message.
const UNKNOWN_LEN_MAX: usize = 64;

/// The definite end of a write.
#[derive(Debug)]
pub(super) enum WriteEnd {
    Applied { index: u64 },
    TooLarge,
    SessionExpired { index: u64 },
}

/// The cluster refuses a key or value of this size.
#[derive(Debug)]
pub(super) struct TooLarge;

pub(super) fn write(reply: PutAppendReply) -> Verdict<WriteEnd> {
    let PutAppendReply { err, leader, index, may_apply } = reply;
    match &err[..] {
        words::OK => Verdict::Done(WriteEnd::Applied { index }),
        words::ERR_TOO_LARGE => Verdict::Done(WriteEnd::TooLarge),
        words::ERR_SESSION_EXPIRED => Verdict::Done(WriteEnd::SessionExpired { index }),
        words::ERR_WRONG_LEADER => not_leader(leader, may_apply),
        other => unknown(other),
    }
}

pub(super) fn get(reply: GetReply) -> Verdict<Result<Option<Bytes>, TooLarge>> {
    match &reply.err[..] {
        words::OK => Verdict::Done(Ok(Some(reply.value))),
        words::ERR_NO_KEY => Verdict::Done(Ok(None)),
        words::ERR_TOO_LARGE => Verdict::Done(Err(TooLarge)),
        words::ERR_WRONG_LEADER => not_leader(reply.leader, false),
        other => unknown(other),
    }
}

/// An answer that this version does not know.
pub(super) fn unknown<R>(word: &[u8]) -> Verdict<R> {
    let word = String::from_utf8_lossy(&word[..word.len().min(UNKNOWN_LEN_MAX)]).into_owned();
    Verdict::UnknownWord(word)
}

fn not_leader<R>(hint: Option<LeaderHint>, may_have_run: bool) -> Verdict<R> {
    Verdict::NotLeader { hint, may_have_run }
}
