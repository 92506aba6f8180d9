//! The errors of a Clerk. They first of all say whether the call happened.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::kv::CommandError;
use crate::kv::model::Refusal;
use crate::members::MembersError;
use crate::rpc::CallError;

/// What a call does, for its error and its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operation {
    /// The verb in the error.
    pub(super) name: &'static str,
    /// Whether it may change something. Only then does it matter whether it happened.
    pub(super) is_write: bool,
}

impl Operation {
    pub(super) const GET: Operation = Operation::read("get");
    pub(super) const RANGE: Operation = Operation::read("range");

    pub(super) const fn read(name: &'static str) -> Operation {
        Operation { name, is_write: false }
    }

    pub(super) const fn write(name: &'static str) -> Operation {
        Operation { name, is_write: true }
    }
}

/// Says whether the call happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClerkErrorKind {
    /// The call did not happen and never will: every attempt was refused or never sent. It is safe
    /// to try again. A failed read is always of this kind.
    NotApplied,
    /// The call may have happened, or may still happen: an attempt was sent and got no clear
    /// answer. A new call could write a second time. Once a later write of the same Clerk has
    /// succeeded, this one can no longer happen.
    Unknown,
    /// The call did not happen and never will. The request itself is at fault, so trying again does
    /// not help.
    Rejected,
    /// The call took effect, and nobody can tell its answer any more. Do not repeat it: that would
    /// be a second write. Read what you need instead.
    ///
    /// It happens to a transaction, or a call made of one, whose first answer was lost on its way,
    /// with the connection or its leader. The Clerk then asks again, and the cluster knows that
    /// the call took effect. But it keeps answers of at most 1 MiB, and 32 MiB of them over all
    /// clients: the answer was longer than that, or had to make room for later ones. Puts and
    /// appends have no answer to lose.
    Applied,
}

/// Why a call of a [`Clerk`](super::Clerk) failed. `Display` is one line: whether the call
/// happened, which members were asked, for how long, and the last problem. If the last problem is
/// an error itself, it is the [`source`](Error::source), and [`ErrorChain`](crate::ErrorChain)
/// shows both.
#[derive(Debug)]
pub struct ClerkError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ClerkErrorKind,
    operation: Operation,
    asked: Vec<String>,
    elapsed: Duration,
    reason: Reason,
}

/// The last problem of a call.
#[derive(Debug)]
pub(super) enum Reason {
    /// The request is over a limit. Nothing was sent.
    Limit(CommandError),
    /// The cluster refused the request because of its size.
    TooLarge,
    /// The store would hold more than its limits allow.
    NoSpace,
    /// The store refused the request.
    Refused(Refusal),
    /// What the request did is no longer known.
    AnswerForgotten,
    /// The call to a member failed.
    Call(CallError),
    /// A member does not lead. `leader` is the address of the leader, if the member knows it.
    NotLeader { addr: String, leader: Option<String> },
    /// A member does not understand the request: why, in its words.
    BadRequest { addr: String, words: String },
    /// A member gave an answer that this version does not know.
    UnknownWord { addr: String, word: String },
    /// The cluster has forgotten the session.
    SessionExpired,
    /// Another write of this Clerk used up the time.
    AnotherWrite,
    /// The time ran out before the first attempt.
    NoTime,
}

impl ClerkError {
    pub(super) fn new(
        kind: ClerkErrorKind,
        operation: Operation,
        asked: Vec<String>,
        elapsed: Duration,
        reason: Reason,
    ) -> ClerkError {
        ClerkError(Box::new(Inner { kind, operation, asked, elapsed, reason }))
    }

    /// Whether the call happened.
    pub fn kind(&self) -> ClerkErrorKind {
        self.0.kind
    }

    /// Why the store refused the call, if it did. Nothing changed.
    pub fn refusal(&self) -> Option<Refusal> {
        match self.0.reason {
            Reason::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether the same call may be made again: it did nothing, and may succeed next time.
    pub fn is_retryable(&self) -> bool {
        self.0.kind == ClerkErrorKind::NotApplied
    }
}

impl fmt::Display for ClerkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, operation, asked, elapsed, reason } = &*self.0;
        let name = operation.name;
        match kind {
            ClerkErrorKind::NotApplied if !operation.is_write => write!(f, "{name} failed")?,
            ClerkErrorKind::NotApplied => write!(f, "{name} not applied")?,
            ClerkErrorKind::Unknown => write!(f, "{name} may or may not have been applied")?,
            ClerkErrorKind::Rejected => write!(f, "{name} rejected")?,
            ClerkErrorKind::Applied => write!(f, "{name} applied")?,
        }
        if !asked.is_empty() && *kind != ClerkErrorKind::Rejected {
            write!(f, " after {} ms, asked {}", elapsed.as_millis(), asked.join(", "))?;
        }
        match reason {
            Reason::Call(_) | Reason::Limit(_) | Reason::Refused(_) => Ok(()),
            Reason::NoSpace => {
                f.write_str(": no space: the store would hold more than its limits allow")
            }
            Reason::AnswerForgotten => f.write_str(": the answer is no longer known"),
            Reason::TooLarge => f.write_str(": the key or the resulting value is over its limit"),
            Reason::NotLeader { addr, leader: Some(leader) } => {
                write!(f, ": {addr} says that {leader} leads")
            }
            Reason::NotLeader { addr, leader: None } => write!(f, ": {addr} knows no leader"),
            Reason::BadRequest { addr, words } => {
                write!(f, ": to {addr} the request makes no sense: {words}")
            }
            Reason::UnknownWord { addr, word } => {
                write!(f, ": {addr} gave an unknown answer, {word:?}")
            }
            Reason::SessionExpired => {
                f.write_str(": the cluster has forgotten this client's session")
            }
            Reason::AnotherWrite => {
                f.write_str(": another write of the same Clerk used up the time")
            }
            Reason::NoTime => f.write_str(": the time ran out before the first attempt"),
        }
    }
}

impl Error for ClerkError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0.reason {
            Reason::Call(error) => Some(error),
            Reason::Limit(error) => Some(error),
            Reason::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// Why a [`Clerk`](super::Clerk) cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No members were given.
    #[error("a Clerk needs members: ClerkBuilder::members was not called")]
    NoMembers,
    /// The list of members is invalid.
    #[error(transparent)]
    Members(#[from] MembersError),
    /// The system gave no random bytes for a client id.
    #[error("the system gave no random bytes for a client id")]
    Entropy(#[source] getrandom::Error),
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::ErrorChain;
    use crate::error_words::{check_all, every_variant};
    use crate::kv::model;

    fn check(kind: ClerkErrorKind, name: &'static str, reason: Reason, expected: &str) {
        let operation = Operation { name, is_write: name != "get" };
        let asked = vec!["a:1".to_owned(), "b:2".to_owned()];
        let error = ClerkError::new(kind, operation, asked, Duration::from_millis(1500), reason);
        assert_eq!(ErrorChain(&error).to_string(), expected);
    }

    #[test]
    fn every_error_says_its_own_part_only() {
        let (addr, word) = (|| "a:1".to_owned(), "ErrWhat".to_owned());
        let source = io::Error::other("no such thing");
        let too_large = CommandError::TooLarge { part: "key", len: 9, max: 8 };
        let reasons = every_variant!(Reason:
            Limit(too_large),
            TooLarge {},
            NoSpace {},
            Refused(Refusal::of(model::Reason::InTheFuture, 7)),
            AnswerForgotten {},
            Call(CallError::NotSent { addr: addr(), source }),
            NotLeader { addr: addr(), leader: None },
            NotLeader { addr: addr(), leader: Some("b:2".to_owned()) },
            BadRequest { addr: addr(), words: "why".to_owned() },
            UnknownWord { addr: addr(), word },
            SessionExpired {},
            AnotherWrite {},
            NoTime {},
        );
        let asked = || vec![addr()];
        let error = |reason| {
            let (kind, put) = (ClerkErrorKind::Unknown, Operation::write("put"));
            ClerkError::new(kind, put, asked(), Duration::ZERO, reason)
        };
        check_all(&reasons.into_iter().map(error).collect::<Vec<_>>());
    }

    #[test]
    fn one_line_says_it_all() {
        let refused = || {
            let source = io::Error::from(io::ErrorKind::ConnectionRefused);
            Reason::Call(CallError::NotSent { addr: "b:2".to_owned(), source })
        };
        let not_leader = |leader: Option<&str>| Reason::NotLeader {
            addr: "b:2".to_owned(),
            leader: leader.map(str::to_owned),
        };
        check(
            ClerkErrorKind::NotApplied,
            "put",
            refused(),
            "put not applied after 1500 ms, asked a:1, b:2: call to b:2 was not sent: connection refused",
        );
        check(
            ClerkErrorKind::NotApplied,
            "get",
            not_leader(None),
            "get failed after 1500 ms, asked a:1, b:2: b:2 knows no leader",
        );
        check(
            ClerkErrorKind::Unknown,
            "append",
            not_leader(Some("a:1")),
            "append may or may not have been applied after 1500 ms, asked a:1, b:2: b:2 says that a:1 leads",
        );
        check(
            ClerkErrorKind::Rejected,
            "append",
            Reason::TooLarge,
            "append rejected: the key or the resulting value is over its limit",
        );
    }

    #[test]
    fn the_cause_is_kept() {
        let cause = CallError::Busy { addr: "a:1".to_owned(), calls: 3 };
        let kind = ClerkErrorKind::NotApplied;
        let reason = Reason::Call(cause);
        let error = ClerkError::new(kind, Operation::GET, Vec::new(), Duration::ZERO, reason);
        assert!(error.source().is_some_and(|source| source.is::<CallError>()));
        assert!(error.is_retryable());
    }
}
