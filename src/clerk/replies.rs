//! What the replies of a member mean.

use std::time::Duration;

use bytes::Bytes;

use super::call::Verdict;
use super::error::Reason;
use crate::ErrorChain;
use crate::kv::model::proto::{
    self, Forgotten, LeaseGrantReply, LeaseInfoReply, LeaseKeepAliveReply, LeasesReply, NotServed,
    RangeReply, ScanReply, StatsReply, TxnReply, lease_grant_reply, lease_info_reply, range_reply,
    scan_reply, stats_reply, txn_reply,
};
use crate::kv::model::{
    self, LeaseId, LeaseInfo, RangeAnswer, Refusal, Revision, ScanPage, TxnAnswer, WireError,
};
use crate::kv::proto::{GetReply, LeaderHint, PutAppendReply};
use crate::kv::words;

/// An unknown word is cut to this length, because it goes into an error message.
const UNKNOWN_LEN_MAX: usize = 64;

/// The definite end of a write.
#[derive(Debug)]
pub(super) enum WriteEnd<R> {
    /// It took effect at this index, which is 0 if none is known.
    Applied {
        index: u64,
        answer: R,
    },
    /// It changed nothing.
    Refused(Reason),
    SessionExpired {
        index: u64,
    },
}

/// The cluster refuses a key or value of this size.
#[derive(Debug)]
pub(super) struct TooLarge;

/// The answer to a transaction.
#[derive(Debug)]
pub(super) struct TxnEnd {
    pub(super) revision: Revision,
    pub(super) answer: TxnResult,
}

#[derive(Debug)]
pub(super) enum TxnResult {
    Whole(TxnAnswer),
    /// Nobody knows it any more, but perhaps whether the comparisons held.
    Forgotten {
        held: Option<bool>,
    },
}

pub(super) fn write(reply: PutAppendReply) -> Verdict<WriteEnd<()>> {
    let PutAppendReply { err, leader, index, may_apply } = reply;
    match &err[..] {
        words::OK => Verdict::Done(WriteEnd::Applied { index, answer: () }),
        words::ERR_TOO_LARGE => Verdict::Done(WriteEnd::Refused(Reason::TooLarge)),
        words::ERR_NO_SPACE => Verdict::Done(WriteEnd::Refused(Reason::NoSpace)),
        words::ERR_SESSION_EXPIRED => Verdict::Done(WriteEnd::SessionExpired { index }),
        words::ERR_WRONG_LEADER => not_leader(leader, may_apply),
        other => unknown(other),
    }
}

/// The answer to a transaction, a compaction or a change of limits.
pub(super) fn txn(reply: TxnReply) -> Verdict<WriteEnd<TxnEnd>> {
    let TxnReply { result, revision, index, .. } = reply;
    let applied = |answer| {
        let answer = TxnEnd { revision: Revision(revision), answer };
        Verdict::Done(WriteEnd::Applied { index, answer })
    };
    match result {
        Some(txn_reply::Result::Answer(answer)) => match TxnAnswer::try_from(answer) {
            Ok(answer) => applied(TxnResult::Whole(answer)),
            Err(error) => not_of_this_version(&error),
        },
        Some(txn_reply::Result::Refusal(refusal)) => refused(refusal, index),
        Some(txn_reply::Result::NotServed(it)) => not_served(it),
        Some(txn_reply::Result::Forgotten(Forgotten { held, count })) => {
            let held = (count > 0).then_some(held & 1 == 1);
            applied(TxnResult::Forgotten { held })
        }
        None => unknown(b"a transaction without a result"),
    }
}

/// A write that was refused at this index.
fn refused<R>(refusal: proto::Refusal, index: u64) -> Verdict<WriteEnd<R>> {
    match Refusal::try_from(refusal) {
        Ok(Refusal { reason: model::Reason::SessionExpired, .. }) => {
            Verdict::Done(WriteEnd::SessionExpired { index })
        }
        Ok(refusal) => Verdict::Done(WriteEnd::Refused(Reason::Refused(refusal))),
        Err(error) => not_of_this_version(&error),
    }
}

/// The answer to a grant.
pub(super) fn granted(reply: LeaseGrantReply) -> Verdict<WriteEnd<LeaseInfo>> {
    let LeaseGrantReply { result, index, .. } = reply;
    match result {
        Some(lease_grant_reply::Result::Lease(lease)) if lease.id > 0 => {
            Verdict::Done(WriteEnd::Applied { index, answer: lease.into() })
        }
        Some(lease_grant_reply::Result::Refusal(refusal)) => refused(refusal, index),
        Some(lease_grant_reply::Result::NotServed(it)) => not_served(it),
        _ => unknown(b"a grant without a lease"),
    }
}

/// For each of so many leases, how long it lives from now on.
pub(super) fn kept_alive(
    reply: LeaseKeepAliveReply,
    count: usize,
) -> Verdict<Vec<Option<Duration>>> {
    let LeaseKeepAliveReply { leases, not_served: is_not_served, .. } = reply;
    match is_not_served {
        Some(it) => not_served(it),
        None if leases.len() == count => {
            let ttl = |ttl_ms| (ttl_ms > 0).then(|| Duration::from_millis(ttl_ms));
            Verdict::Done(leases.into_iter().map(|lease| ttl(lease.ttl_ms)).collect())
        }
        None => unknown(b"more or fewer leases than were kept alive"),
    }
}

/// What is known of a lease; or why nothing is.
pub(super) fn lease_info(reply: LeaseInfoReply) -> Verdict<Result<LeaseInfo, Refusal>> {
    match reply.result {
        Some(lease_info_reply::Result::Lease(lease)) => Verdict::Done(Ok(lease.into())),
        Some(lease_info_reply::Result::Refusal(refusal)) => match Refusal::try_from(refusal) {
            Ok(refusal) => Verdict::Done(Err(refusal)),
            Err(error) => not_of_this_version(&error),
        },
        Some(lease_info_reply::Result::NotServed(it)) => not_served(it),
        None => unknown(b"a lease without a result"),
    }
}

/// Some leases with higher ids than `after`, and whether there are more.
pub(super) fn leases(reply: LeasesReply, after: LeaseId) -> Verdict<(Vec<LeaseInfo>, bool)> {
    let LeasesReply { leases, more, not_served: is_not_served, .. } = reply;
    match is_not_served {
        Some(it) => not_served(it),
        // Otherwise the list would not end.
        None if leases.first().map_or(more, |lease| lease.id <= after.0)
            || !leases.is_sorted_by(|one, other| one.id < other.id) =>
        {
            unknown(b"a list of leases that is out of order")
        }
        None => Verdict::Done((leases.into_iter().map(LeaseInfo::from).collect(), more)),
    }
}

/// The revision that was read, and what was found; or why nothing was.
pub(super) fn range(reply: RangeReply) -> Verdict<Result<(Revision, RangeAnswer), Refusal>> {
    match reply.result {
        Some(range_reply::Result::Answer(answer)) => {
            Verdict::Done(Ok((Revision(reply.revision), answer.into())))
        }
        Some(range_reply::Result::Refusal(refusal)) => match Refusal::try_from(refusal) {
            Ok(refusal) => Verdict::Done(Err(refusal)),
            Err(error) => not_of_this_version(&error),
        },
        Some(range_reply::Result::NotServed(it)) => not_served(it),
        None => unknown(b"a range without a result"),
    }
}

/// An item of a scan: its revision and a page, or why there is none.
pub(super) fn scan(reply: ScanReply) -> Verdict<Result<(Revision, ScanPage), Refusal>> {
    match reply.result {
        // Nothing says where the scan would go on.
        Some(scan_reply::Result::Page(page)) if page.more && page.entries.is_empty() => {
            unknown(b"an empty page of a scan that goes on")
        }
        Some(scan_reply::Result::Page(page)) => {
            Verdict::Done(Ok((Revision(reply.revision), page.into())))
        }
        Some(scan_reply::Result::Refusal(refusal)) => match Refusal::try_from(refusal) {
            Ok(refusal) => Verdict::Done(Err(refusal)),
            Err(error) => not_of_this_version(&error),
        },
        Some(scan_reply::Result::NotServed(it)) => not_served(it),
        None => unknown(b"an item of a scan without a result"),
    }
}

pub(super) fn stats(reply: StatsReply) -> Verdict<proto::Stats> {
    match reply.result {
        Some(stats_reply::Result::Stats(stats)) => Verdict::Done(stats),
        Some(stats_reply::Result::NotServed(it)) => not_served(it),
        None => unknown(b"statistics without a result"),
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

/// A leader in the words of `kvServerRpc`.
pub(super) fn hint(leader: proto::Leader) -> LeaderHint {
    LeaderHint { id: leader.id, addr: leader.addr }
}

fn not_served<R>(it: NotServed) -> Verdict<R> {
    not_leader(it.leader.map(hint), it.may_apply)
}

/// An answer with a part that this version does not know.
fn not_of_this_version<R>(error: &WireError) -> Verdict<R> {
    unknown(ErrorChain(error).to_string().as_bytes())
}

fn not_leader<R>(hint: Option<LeaderHint>, may_have_run: bool) -> Verdict<R> {
    Verdict::NotLeader { hint, may_have_run }
}
