//! Our own services: `kvServerRpc` ([`KvService`]), whose messages are frozen, and `storeRpc`
//! ([`StoreService`]).
//!
//! A method never waits for consensus. It hands the call's [`Done`] to the
//! [`Api`](crate::kv::api::Api) and returns, so one connection carries many calls. Each call is
//! answered once.

mod answered;
mod checked;
mod kv;
mod lease;
mod refused;
mod scan;
mod store;
mod watch;

use std::time::{Duration, Instant};

pub use kv::KvService;
pub use store::StoreService;

use crate::kv::api::ApiError;
use crate::node::RequestError;
use crate::rpc::{Done, Payload, Status};

/// How long a call without a deadline may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// After how long a client should come back if this member is busy.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// The same if it is handing its leadership over: about as long as an election takes that nobody
/// contests.
const HAND_OVER_PAUSE: Duration = Duration::from_millis(2);

fn deadline<R: Payload>(done: &Done<R>) -> Instant {
    done.deadline().unwrap_or_else(|| Instant::now() + CALL_TIMEOUT)
}

/// Whether the client should come back to this member in a moment.
fn is_busy(error: &ApiError) -> bool {
    let ApiError::NotServed(error) = error else { return false };
    matches!(error, RequestError::Busy | RequestError::HandingOver | RequestError::DiskFull)
}

fn busy(error: &ApiError) -> Status {
    let pause = match error {
        ApiError::NotServed(RequestError::HandingOver) => HAND_OVER_PAUSE,
        _ => BUSY_PAUSE,
    };
    Status::busy(error.to_string(), pause)
}

/// An age as it is sent: rounded up, because it is a bound.
fn age_ms(age: Duration) -> u64 {
    age.as_millis() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another member leads in a moment: writes must not wait for as long as for a busy member.
    #[test]
    fn a_client_soon_comes_back_to_a_member_that_hands_over() {
        let pause = |error| {
            busy(&ApiError::NotServed(error)).retry_after.expect("it is told when to come back")
        };
        assert!(pause(RequestError::HandingOver) * 5 <= pause(RequestError::Busy));
    }
}
