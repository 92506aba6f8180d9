//! A call whose answer is fetched later: [`Pending`].

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::parked::{CallResult, Parked, Waiter};
use super::request::{Request, decode};
use super::shared::Shared;
use crate::outbox::Cork;
use crate::{CallError, Payload};

/// A call that was made without waiting, and the claim on its answer. It ends at its deadline,
/// whether or not anybody waits. Dropping it [cancels](Pending::cancel) it.
pub struct Pending<R> {
    shared: Arc<Shared>,
    id: u64,
    parked: Arc<Parked>,
    reply: PhantomData<fn() -> R>,
}

impl<R: Payload> Pending<R> {
    pub(super) fn start(shared: &Arc<Shared>, request: &Request<'_>) -> Pending<R> {
        let parked = Arc::new(Parked::default());
        let waiter = Waiter::Completion(Box::new({
            let parked = Arc::clone(&parked);
            move |outcome| parked.wake(outcome)
        }));
        let id = shared.start(request, waiter).id;
        Pending { shared: Arc::clone(shared), id, parked, reply: PhantomData }
    }

    /// Waits for the answer. Ends with the call's deadline at the latest.
    ///
    /// # Errors
    ///
    /// Every [`CallError`].
    pub fn wait(self) -> Result<R, CallError> {
        send_it();
        self.decode(self.parked.wait())
    }

    /// Waits for the answer, but not for longer than `timeout`. After that the claim comes back.
    ///
    /// # Errors
    ///
    /// Within [`Ok`], every [`CallError`]. As [`Err`], this claim, if there is no answer yet.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<R, CallError>, Pending<R>> {
        let Some(until) = Instant::now().checked_add(timeout) else { return Ok(self.wait()) };
        send_it();
        self.parked.wait_until(until);
        match self.parked.take_outcome() {
            Some(outcome) => Ok(self.decode(outcome)),
            None => Err(self),
        }
    }

    /// Whether the answer is there, so that waiting takes no time.
    pub fn is_ready(&self) -> bool {
        send_it();
        self.parked.has_outcome()
    }

    /// Gives the call up. Its place is free, and its answer, if one comes, is dropped. It may still
    /// run. With a documented framing, a call that was sent takes its connection along, because the
    /// next reply over it would be taken for another call's.
    pub fn cancel(self) {}

    fn decode(&self, outcome: CallResult) -> Result<R, CallError> {
        decode(&self.shared.config.addr, outcome)
    }
}

/// If a method makes the call, a cork may hold it back.
fn send_it() {
    Cork::flush_all();
}

impl<R> Drop for Pending<R> {
    fn drop(&mut self) {
        // Without effect if it was answered.
        self.shared.cancel(self.id);
    }
}

impl<R> fmt::Debug for Pending<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("addr", &self.shared.config.addr)
            .field("is_ready", &self.parked.has_outcome())
            .finish()
    }
}
