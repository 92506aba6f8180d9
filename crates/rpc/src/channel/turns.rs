//! Which caller reads: threads that wait for their answers take turns at the connection.
//!
//! ```text
//!   A: sends ── reads: answers of A, B, C ... ── has its own ── asks B ──> returns
//!   B: sends ── waits ────────── (its answer: returns) ──────── reads ...
//! ```
//!
//! A caller that waits reads the connection itself, and brings what it reads to those who wait
//! beside it. So an answer wakes no thread if it is the reader's own. When the reader has its
//! answer, or its deadline has passed, it asks another caller to go on. Where nobody waits, nobody
//! reads, and the next call notices the loss of the connection before it is sent
//! (`Shared::notice_end`).
//!
//! The channel's own thread reads (`State::has_reader`) where callers cannot: for completions,
//! which run on a thread of the channel; for streams, except as `lent` says; where a loss is to be
//! known at once (`on_disconnect`); and for bare replies. Callers that read when it starts give way
//! within [`READ_TIMEOUT`].
//!
//! # Invariants
//!
//! - While a caller waits for an answer, and callers read, one of them reads or has been asked to.
//!   So whoever stops reading asks; whoever was asked and gets its outcome instead asks too; and a
//!   caller that finds someone reading can rely on being asked.
//! - A caller reads at most until its deadline.
//! - Only a thread that waits is asked. A call that was [`Sent`](super::sent::Sent) and is not
//!   waited for yet is passed over, and finds out by itself whether somebody reads when its thread
//!   waits.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::calling::Begun;
use super::calls::Call;
use super::connection::Connection;
use super::errors::Loss;
use super::parked::{CallResult, Parked, Waiter};
use super::reading::READ_TIMEOUT;
use super::request::Request;
use super::shared::{ReadBy, Shared};
use crate::CallError;
use crate::outbox::Cork;

impl Shared {
    /// Makes a call and waits for its outcome.
    pub(super) fn call(self: &Arc<Self>, request: &Request<'_>) -> CallResult {
        let parked = Arc::new(Parked::default());
        let call = self.start(request, Waiter::Thread(Arc::clone(&parked)));
        self.wait(call, &parked, request.deadline)
    }

    /// Waits for a connection.
    pub(super) fn connect(self: &Arc<Self>, deadline: Instant) -> Result<(), CallError> {
        if self.is_connected() {
            return Ok(());
        }
        let (parked, id) = (Arc::new(Parked::default()), self.take_id());
        let waiter = Waiter::Thread(Arc::clone(&parked));
        let began = Instant::now();
        // A call without a frame: its outcome comes when it would be sent.
        self.enter(
            id,
            Call {
                waiter,
                began,
                deadline,
                sent: false,
                len_bytes: 0,
                stream: None,
                decodes: |_| false,
            },
            Bytes::new(),
        );
        self.wait(Begun { id, began, connection: None }, &parked, deadline).map(drop)
    }

    /// Waits for the outcome, and reads the connection meanwhile if nobody else does.
    pub(super) fn wait(
        self: &Arc<Self>,
        call: Begun,
        parked: &Parked,
        deadline: Instant,
    ) -> CallResult {
        let Begun { id, began: mut now, connection: mut sent_over } = call;
        // If a method makes this call, a cork may hold it back.
        Cork::flush_all();
        loop {
            if let Some((outcome, is_asked)) = parked.take_last() {
                if is_asked {
                    self.ask_another_to_read();
                }
                return outcome;
            }
            if deadline <= now {
                break;
            }
            let connection = sent_over.take().or_else(|| {
                // In this order: if it is asked from here on, it finds the connection.
                parked.take_asked();
                self.connection_to_read(id)
            });
            let read = connection.and_then(|it| self.read_until(&it, parked, now, deadline));
            now = match read {
                Some(now) => {
                    self.ask_another_to_read();
                    now
                }
                None => {
                    parked.wait_until(deadline);
                    Instant::now()
                }
            };
        }
        let mut state = self.lock();
        let given_up = state.give_up(id, now);
        drop(state);
        match given_up {
            Some((call, silent)) => {
                self.give_up_silent(silent);
                self.ask_another_to_read();
                Err(self.config.timed_out(&call))
            }
            // Someone has just taken the call out to deliver its outcome.
            None => parked.wait(),
        }
    }

    /// The connection over which this call was sent, if callers read it.
    fn connection_to_read(&self, id: u64) -> Option<Arc<Connection>> {
        let mut state = self.lock();
        let is_sent = state.calls.get_mut(id).is_some_and(|call| call.sent);
        state.connection().filter(|_| is_sent && !state.has_reader).cloned()
    }

    /// Reads for all callers until `parked` has its outcome, `deadline` passes, or the channel's
    /// own thread takes over. It begins at `now`; returns when it ended. `None` if somebody else
    /// reads.
    fn read_until(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        parked: &Parked,
        mut now: Instant,
        deadline: Instant,
    ) -> Option<Instant> {
        let (mut incoming, mut has_read) = (connection.incoming.try_lock()?, false);
        let loss = loop {
            if let Err(loss) = self.take_answers(&mut incoming, connection, ReadBy::Callers) {
                break loss;
            }
            if parked.has_outcome() {
                connection.has_brought(now);
                return Some(now);
            }
            let left = deadline.saturating_duration_since(now);
            // Not before it has read once: it brings what comes meanwhile to others, too.
            if left.is_zero() || (has_read && self.lock().has_reader) {
                return Some(now);
            }
            has_read = true;
            let has_come;
            (now, has_come) = incoming.read(connection, left.min(READ_TIMEOUT));
            match has_come {
                Ok(true) => {}
                Ok(false) => match self.look_after(connection, now) {
                    Ok(_) => {}
                    // The call has timed out, and that is what it is told. Then the connection is
                    // judged again, and goes.
                    Err(_) if now >= deadline => {}
                    Err(loss) => break loss,
                },
                Err(error) => break Loss::Broken(error),
            }
        };
        drop(incoming);
        self.lose_by_caller(connection, loss);
        Some(now)
    }
}
