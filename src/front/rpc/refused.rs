//! Why a request of `storeRpc` was not done, as its reply says it.

use super::{busy, is_busy};
use crate::ErrorChain;
use crate::kv::api::{Api, ApiError};
use crate::kv::model::proto::{self, NotServed};
use crate::node::RequestError;
use crate::raft::MemberId;
use crate::rpc::{Status, StatusCode};

/// What a reply says of a request that was not done.
pub(super) enum Refused {
    /// Why, and the index of the entry, or 0.
    Refusal(proto::Refusal, u64),
    NotServed(NotServed),
}

/// What a request was not done for. As an error, the status in place of a reply.
pub(super) fn refused(api: &Api, error: &ApiError) -> Result<Refused, Status> {
    match error {
        error if is_busy(error) => Err(busy(error)),
        ApiError::Refused { refusal, index } => {
            let index = index.map_or(0, |index| index.0);
            Ok(Refused::Refusal((*refusal).into(), index))
        }
        ApiError::NotServed(RequestError::TooLarge { .. })
        | ApiError::Invalid(_)
        | ApiError::RevisionZero => Err(bad_arguments(error)),
        ApiError::NotServed(it) => Ok(Refused::NotServed(NotServed {
            leader: leader(api, error.leader()),
            may_apply: it.may_apply(),
        })),
    }
}

pub(super) fn bad_arguments(error: &(dyn std::error::Error + 'static)) -> Status {
    Status::new(StatusCode::BadArguments, ErrorChain(error).to_string())
}

pub(super) fn leader(api: &Api, leader: Option<MemberId>) -> Option<proto::Leader> {
    let id = leader?;
    api.addr(id).map(|addr| proto::Leader { id: id.0, addr })
}
