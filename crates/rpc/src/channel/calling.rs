//! Calls: how one is made, sent, and given up.
//!
//! ```text
//!   start ── admit: too many? closed? ──> connected, nothing waits: insert, send
//!                                         otherwise: insert, queue the frame, and have it sent
//! ```

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::calls::Call;
use super::config::Framing;
use super::connection::Connection;
use super::parked::Waiter;
use super::request::Request;
use super::shared::{ReadBy, Shared, State};
use super::timer;
use crate::CallError;
use crate::outbox::SendError;
use crate::stream::Stream;

/// A call that was made.
pub(super) struct Begun {
    pub(super) id: u64,
    pub(super) began: Instant,
    /// The connection over which it was sent, if it was sent at once and callers read.
    pub(super) connection: Option<Arc<Connection>>,
}

impl Shared {
    /// Makes a call; `waiter` gets its outcome.
    pub(super) fn start(self: &Arc<Self>, request: &Request<'_>, waiter: Waiter) -> Begun {
        self.start_as(self.take_id(), request, waiter, None)
    }

    /// Makes a call with this id; or opens a stream, which is a call that lasts until its end.
    pub(super) fn start_as(
        self: &Arc<Self>,
        id: u64,
        request: &Request<'_>,
        waiter: Waiter,
        stream: Option<Arc<Stream>>,
    ) -> Begun {
        let (began, deadline) = (Instant::now(), request.deadline);
        let (sent, len_bytes, decodes) = (false, 0, request.decodes);
        let call = Call { waiter, began, deadline, sent, len_bytes, stream, decodes };
        if deadline <= began {
            let error = self.config.timed_out(&call);
            self.fail(call, error);
            return Begun { id, began, connection: None };
        }
        let connection = match request.encode(&self.config, id, deadline - began) {
            Ok(frame) => self.enter(id, call, frame),
            Err(error) => {
                self.fail(call, self.config.not_sent(&error));
                None
            }
        };
        Begun { id, began, connection }
    }

    /// Takes a call in, and sends it or sees to it that it will be sent. A call without a frame has
    /// its outcome when it would be sent. Returns the connection over which it was sent at once, if
    /// callers read.
    pub(super) fn enter(
        self: &Arc<Self>,
        id: u64,
        mut call: Call,
        frame: Bytes,
    ) -> Option<Arc<Connection>> {
        let mut state = self.notice_end(self.lock(), call.began);
        if let Err(error) = self.admit(&mut state, &call, &frame) {
            drop(state);
            self.fail(call, error);
            return None;
        }
        // Its answer is for another thread than the one that may be reading.
        self.take_back(&state);
        call.len_bytes = frame.len();
        if let Some(connection) = self.open_connection(&state).filter(|_| !frame.is_empty()) {
            call.sent = true;
            state.silence.heard(connection.heard_at());
            let is_first = state.calls.len() == 0;
            state.silence.sent(call.began, is_first, call.deadline - call.began);
            let stream = call.stream.clone();
            state.calls.insert(id, call);
            let has_reader = state.has_reader;
            drop(state);
            if self.send(&connection, id, frame)
                && let Some(stream) = stream
            {
                stream.attach(&connection.outbox);
            }
            return (!has_reader).then_some(connection);
        }
        state.calls.insert(id, call);
        state.calls.push_unsent(id, frame);
        self.send_or_connect(state);
        None
    }

    fn admit(
        self: &Arc<Self>,
        state: &mut State,
        call: &Call,
        frame: &Bytes,
    ) -> Result<(), CallError> {
        if state.is_closed() {
            return Err(self.config.closed());
        }
        let bytes = state.calls.unsent_bytes() + frame.len();
        let (open, max) = match call.stream {
            None => (state.calls.len() - state.calls.streams(), self.config.calls_max),
            Some(_) => (state.calls.streams(), self.config.streams_max),
        };
        if open >= max || (state.calls.has_unsent() && bytes > self.config.unsent_bytes_max()) {
            return Err(self.config.busy(open));
        }
        match call.waiter {
            Waiter::Thread(_) => Ok(()),
            // Without a timer its deadline would pass unseen.
            Waiter::Completion(_) => timer::watch(self, state, call.deadline)
                .and_then(|()| self.ensure_reader(state))
                .map_err(|error| self.config.not_sent(&error)),
        }
    }

    /// The connection, if a call may go out over it at once. It is then sent without the lock that
    /// everyone needs.
    fn open_connection(&self, state: &MutexGuard<'_, State>) -> Option<Arc<Connection>> {
        let is_open = self.config.framing == Framing::Extended && !state.calls.has_unsent();
        state.connection().filter(|_| is_open).cloned()
    }

    /// Returns whether it was sent over this connection.
    fn send(self: &Arc<Self>, connection: &Connection, id: u64, frame: Bytes) -> bool {
        let Err(error) = connection.outbox.send(&frame) else { return true };
        let mut state = self.lock();
        match error {
            SendError::Full => {
                let calls = state.calls.len();
                let call = state.calls.remove(id);
                drop(state);
                call.into_iter().for_each(|call| self.fail(call, self.config.busy(calls)));
            }
            // The connection was lost a moment ago. The call goes over the next one, unless
            // whoever read the connection has failed it by now.
            SendError::Closed => {
                state.calls.put_back(id, frame);
                self.send_or_connect(state);
            }
        }
        false
    }

    fn fail(self: &Arc<Self>, call: Call, error: CallError) {
        timer::deliver(self, call.waiter, Err(error), ReadBy::Callers);
    }

    /// Gives a call up: its answer, if one comes, is dropped.
    pub(super) fn cancel(&self, id: u64) {
        let mut state = self.lock();
        let _ = state.take_out(id, Instant::now());
        self.take_back_from(id, &state);
    }
}
