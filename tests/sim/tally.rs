//! Names for what becomes of commands and reads: the [`report`](crate::report) counts them.

use syncraft::kv::model::{OperationAnswer, Reason, TxnAnswer};
use syncraft::kv::{Done, Outcome, ReadAnswer};

use crate::clerk::{End, Read};

/// What a clerk was told.
pub(crate) fn end(end: &End) -> Vec<&'static str> {
    match end {
        End::Written(outcome) => written(outcome),
        End::Read { read: Read::Txn(ReadAnswer { result: Ok(answer), .. }), .. } => {
            let mut names = vec!["clerk: read of several keys"];
            names.extend(failures(answer));
            names
        }
        End::Read { read: Read::Txn(ReadAnswer { result: Err(refusal), .. }), .. } => {
            vec![refused(refusal.reason)]
        }
        End::Read { .. } | End::NotApplied | End::Unknown => Vec::new(),
    }
}

fn written(outcome: &Outcome) -> Vec<&'static str> {
    match outcome {
        Outcome::NoSpace => vec![refused(Reason::NoSpace)],
        Outcome::Granted { .. } => vec!["clerk: lease granted"],
        Outcome::KeptAlive { ttls_ms, .. } if ttls_ms.contains(&0) => {
            vec!["clerk: no lease to keep alive"]
        }
        Outcome::KeptAlive { .. } => vec!["clerk: lease kept alive"],
        Outcome::Ran { result: Err(refusal), .. } => vec![refused(refusal.reason)],
        Outcome::Ran { result: Ok(Done { branches, answer: None, .. }), .. } => {
            vec![match branches.count {
                0 => "clerk: limits changed, or compacted",
                _ => "clerk: answer forgotten",
            }]
        }
        Outcome::Ran { result: Ok(Done { branches, answer: Some(answer), .. }), .. } => {
            let mut names = vec![match answer.held {
                true => "clerk: comparisons held",
                false => "clerk: comparisons did not hold",
            }];
            names.extend((branches.count > 1).then_some("clerk: nested transaction"));
            names.extend(failures(answer));
            names
        }
        _ => Vec::new(),
    }
}

/// Operations that failed alone.
fn failures(answer: &TxnAnswer) -> Vec<&'static str> {
    let failure = |answer: &OperationAnswer| match answer {
        OperationAnswer::Failed(_) => vec!["clerk: operation failed alone"],
        OperationAnswer::Txn(nested) => failures(nested),
        _ => Vec::new(),
    };
    answer.answers.iter().flat_map(failure).collect()
}

fn refused(reason: Reason) -> &'static str {
    match reason {
        Reason::NotANumber => "clerk: refused: not a number",
        Reason::Overflow => "clerk: refused: overflow",
        Reason::KeyAbsent => "clerk: refused: key absent",
        Reason::NoSuchLease => "clerk: refused: no such lease",
        Reason::RequestKeyTaken => "clerk: refused: request key taken",
        Reason::LeaseExists => "clerk: refused: lease exists",
        Reason::NoSpace => "clerk: refused: no space",
        Reason::Compacted => "clerk: refused: compacted",
        Reason::InTheFuture => "clerk: refused: in the future",
        Reason::LimitOutOfBounds => "clerk: refused: limit out of bounds",
        other => panic!("nothing that clerks ask for is refused with {other:?}"),
    }
}
