//! A blocking call that is sent before its caller waits: [`Sent`].

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Instant;

use super::calling::Begun;
use super::parked::{Parked, Waiter};
use super::request::{Request, decode};
use super::shared::Shared;
use crate::{CallError, Payload};

/// A call that was sent, and that its caller is about to wait for. What the caller does in between
/// is short: another call over the same channel, whose answer comes at about the same time. So two
/// calls cost one round trip.
///
/// Unlike a [`Pending`](super::Pending), it needs no thread that reads its answer: whoever waits
/// for another answer reads it, or the caller when it [waits](Sent::wait). Dropping it gives the
/// call up.
#[must_use = "dropping it gives the call up"]
pub struct Sent<R> {
    shared: Arc<Shared>,
    begun: Option<Begun>,
    id: u64,
    parked: Arc<Parked>,
    deadline: Instant,
    reply: PhantomData<fn() -> R>,
}

impl<R: Payload> Sent<R> {
    pub(super) fn start(shared: &Arc<Shared>, request: &Request<'_>) -> Sent<R> {
        let parked = Arc::new(Parked::of_nobody());
        let begun = shared.start(request, Waiter::Thread(Arc::clone(&parked)));
        let (shared, id, deadline) = (Arc::clone(shared), begun.id, request.deadline);
        Sent { shared, begun: Some(begun), id, parked, deadline, reply: PhantomData }
    }

    /// Waits for the answer. Ends with the call's deadline at the latest.
    ///
    /// # Errors
    ///
    /// Every [`CallError`].
    pub fn wait(mut self) -> Result<R, CallError> {
        self.parked.set_waiting();
        let begun = self.begun.take().expect("it is waited for once");
        let outcome = self.shared.wait(begun, &self.parked, self.deadline);
        decode(&self.shared.config.addr, outcome)
    }
}

impl<R> Drop for Sent<R> {
    fn drop(&mut self) {
        // Without effect if it has ended.
        self.shared.cancel(self.id);
    }
}

impl<R> fmt::Debug for Sent<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sent").field("addr", &self.shared.config.addr).finish_non_exhaustive()
    }
}
