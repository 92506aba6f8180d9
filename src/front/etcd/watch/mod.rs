//! etcd's service `Watch`: a stream of messages, each of them one chunk with the end of its line.
//!
//! ```text
//! request ─> Orders ─> WatchGroup (thread watch-N, for all watches of the member)
//!                          │ Telling::take: what each watch of the stream is told
//!                          v
//!            Encoded: a message, made once for all streams that are told the same
//!                          │ Stream::try_send: as far as there is room
//!                          v
//!                        client
//! ```
//!
//! The requests of a stream have arrived before it is answered, and are done one after the other.
//! It has as many watches as they create, and stays open until the client goes, also when all its
//! watches are canceled.
//!
//! # What a client can rely on
//! - `created` is told once the member has applied all that was committed before the request.
//! - Events come in the order of revisions, and of keys within one. `header.revision` of a message
//!   says that no event up to there is still to come, so a new watch from the next one goes on.
//! - The events of a revision are in one message, unless they have more than [`HELD_MAX`] bytes.
//! - A watch whose next events are forgotten is told `canceled` and `compact_revision`, from where
//!   a new one can begin.
//! - If the member has had no leader for three election timeouts, or stops, the stream ends with an
//!   error of code 14.
//!
//! # Bounds
//! As for watches of the HTTP front: [`crate::front::http`].

mod orders;
mod telling;

use std::sync::Arc;

use super::error::EtcdError;
use super::parse::Fields;
use super::{EtcdFront, Task};
use orders::Order;
pub(super) use telling::Encoded;
use telling::Telling;

/// How many bytes of events wait for the rest of their revision.
const HELD_MAX: u64 = 16 << 20;

impl EtcdFront {
    pub(super) fn watch(&self, requests: &[Fields<'_>]) -> Result<Task, EtcdError> {
        let orders = requests.iter().map(Order::read);
        let orders = orders.collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(move |answer| Telling::begin(&shared, answer, orders)))
    }
}
