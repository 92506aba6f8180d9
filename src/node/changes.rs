//! Changes of the members: whoever wants one, and what became of it.

use std::collections::VecDeque;

use crate::raft::{Change, Event, Index, MemberId, Refusal, Rejection, RequestId, Term};

/// Why a change of the members was not begun. Nothing has changed, unless it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This member does not lead.
    #[error("this member is not the leader")]
    NotLeader {
        /// Who leads, if this member knows.
        leader: Option<MemberId>,
    },
    /// This member is handing its leadership over. In a few milliseconds another one leads.
    #[error("this member is handing its leadership over")]
    HandingOver,
    /// The members cannot be changed in this way.
    #[error("{}", words(*.0))]
    Refused(Refusal),
    /// This member is stopping.
    #[error("this member is stopping")]
    Stopped,
}

/// Runs once, on a thread of the node, and must not block. It is told where the change stands in
/// the log, and in which term. It is done when a configuration that shows it is committed.
pub(super) type ChangeCallback = Box<dyn FnOnce(Result<(Index, Term), ChangeError>) + Send>;

/// For operators.
fn words(refusal: Refusal) -> String {
    match refusal {
        Refusal::UnderWay => {
            "another change of the members is under way, or the leader is new: try again in a moment"
                .to_owned()
        }
        Refusal::Unrecorded => "the members are not recorded in the log yet: this needs all members \
                                to run a version that knows of it"
            .to_owned(),
        Refusal::IdInUse => "there is a member with this id".to_owned(),
        Refusal::IdWasUsed => {
            "there was a member with this id, and an id is used only once: choose another one"
                .to_owned()
        }
        Refusal::AddrInUse(id) => format!("member {id} has this address"),
        Refusal::BadAddr => "the address is empty or too long".to_owned(),
        Refusal::TooMany => "there are too many members, or too many have come and gone".to_owned(),
        Refusal::Silent(id) => {
            format!("member {id} does not answer, or has lost its data: it would vote for nothing")
        }
        Refusal::NotAMember => "there is no such member".to_owned(),
        Refusal::IsVoter => "it votes already".to_owned(),
        Refusal::Behind(entries) => {
            format!("it has not caught up: it lacks {entries} entries of the log")
        }
        Refusal::NoLiveMajority => {
            "of the voters that would remain, a majority does not answer, or has lost its data, so \
             the cluster could not go on"
                .to_owned()
        }
        Refusal::Rebuilding(id) => format!(
            "member {id} has lost its data and asks the others what it may have promised: until it \
             has all their answers, only that member, or one that is down, can be removed"
        ),
    }
}

/// The changes that the core has not answered yet.
#[derive(Default)]
pub(super) struct Changes {
    waiting: VecDeque<(RequestId, ChangeCallback)>,
}

impl Changes {
    pub(super) fn request(
        &mut self,
        id: RequestId,
        change: Change,
        callback: ChangeCallback,
    ) -> Event {
        self.waiting.push_back((id, callback));
        Event::ChangeMembers { id, change }
    }

    /// The core has appended the change, if it is one. Whether it was.
    pub(super) fn begun(&mut self, id: RequestId, index: Index, term: Term) -> bool {
        let callback = self.take(id);
        let is_change = callback.is_some();
        callback.into_iter().for_each(|callback| callback(Ok((index, term))));
        is_change
    }

    /// The core has refused the change, if it is one. Whether it was.
    pub(super) fn rejected(&mut self, id: RequestId, reason: Rejection) -> bool {
        let error = match reason {
            Rejection::NotLeader(leader) => ChangeError::NotLeader { leader },
            Rejection::HandingOver => ChangeError::HandingOver,
            Rejection::Busy => ChangeError::Refused(Refusal::UnderWay),
            Rejection::Members(refusal) => ChangeError::Refused(refusal),
        };
        let callback = self.take(id);
        let is_change = callback.is_some();
        callback.into_iter().for_each(|callback| callback(Err(error)));
        is_change
    }

    fn take(&mut self, id: RequestId) -> Option<ChangeCallback> {
        self.waiting.pop_front_if(|(next, _)| *next == id).map(|(_, callback)| callback)
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.waiting.drain(..).for_each(|(_, callback)| callback(Err(ChangeError::Stopped)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_words::{check_all, every_variant};

    #[test]
    fn every_error_says_its_own_part_only() {
        check_all(&every_variant!(ChangeError:
            NotLeader { leader: Some(MemberId(2)) },
            HandingOver {},
            Refused(Refusal::Behind(7)),
            Stopped {},
        ));
    }
}
