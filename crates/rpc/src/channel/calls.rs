//! The calls of a channel that have no answer yet.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::CallError;

/// What came of a call: the serialized reply, or why there is none.
pub(super) type Outcome = Result<Bytes, CallError>;

/// Who gets a call's outcome.
pub(super) enum Waiter {
    /// A thread that waits for it.
    Thread(Arc<Parked>),
    /// A closure, to run on a thread of the channel.
    Completion(Box<dyn FnOnce(Outcome) + Send>),
}

impl Waiter {
    /// Hands the outcome over, with no lock of the channel held.
    pub(super) fn deliver(self, outcome: Outcome) {
        match self {
            Waiter::Thread(parked) => parked.wake(outcome),
            Waiter::Completion(done) => run_guarded(|| done(outcome)),
        }
    }
}

/// Runs foreign code: its panic, reported by the panic hook, must not end the channel's thread.
pub(super) fn run_guarded(run: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(run));
}

/// Where a blocking call waits.
#[derive(Default)]
pub(super) struct Parked {
    state: Mutex<Slot>,
    /// There has been an outcome; readable without the lock.
    is_over: AtomicBool,
    changed: Condvar,
}

#[derive(Default)]
struct Slot {
    outcome: Option<Outcome>,
    /// It is asked to read the connection, which nobody does now.
    is_asked: bool,
}

impl Parked {
    pub(super) fn wake(&self, outcome: Outcome) {
        let mut state = self.state.lock();
        state.outcome = Some(outcome);
        self.is_over.store(true, Ordering::Release);
        drop(state);
        self.changed.notify_one();
    }

    /// Asks whoever waits here to read the connection.
    pub(super) fn ask_to_read(&self) {
        self.state.lock().is_asked = true;
        self.changed.notify_one();
    }

    /// Whether there is an outcome, or was one before it was taken.
    pub(super) fn has_outcome(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    pub(super) fn take_outcome(&self) -> Option<Outcome> {
        self.has_outcome().then(|| self.state.lock().outcome.take()).flatten()
    }

    /// The outcome, and whether it was asked to read before it came.
    pub(super) fn take_last(&self) -> Option<(Outcome, bool)> {
        if !self.has_outcome() {
            return None;
        }
        let mut state = self.state.lock();
        let is_asked = std::mem::take(&mut state.is_asked);
        state.outcome.take().map(|outcome| (outcome, is_asked))
    }

    /// Whether it was asked to read and has not been since.
    pub(super) fn take_asked(&self) -> bool {
        std::mem::take(&mut self.state.lock().is_asked)
    }

    /// Waits until there is an outcome, it is asked to read, or `deadline` passes.
    pub(super) fn wait_until(&self, deadline: Instant) {
        let mut state = self.state.lock();
        while state.outcome.is_none()
            && !state.is_asked
            && !self.changed.wait_until(&mut state, deadline).timed_out()
        {}
    }

    /// The outcome, which someone is about to deliver.
    pub(super) fn wait(&self) -> Outcome {
        let mut state = self.state.lock();
        loop {
            match state.outcome.take() {
                Some(outcome) => return outcome,
                None => self.changed.wait(&mut state),
            }
        }
    }
}

/// A call without an answer.
pub(super) struct Call {
    pub(super) waiter: Waiter,
    pub(super) began: Instant,
    pub(super) deadline: Instant,
    /// Whether it has been handed to a connection, so that it may run.
    pub(super) sent: bool,
    /// Of the frame.
    pub(super) len_bytes: usize,
    /// Whether bytes are a whole reply of this call: how the end of a bare reply is found.
    pub(super) decodes: fn(&Bytes) -> bool,
}

/// Spreads numbers that we have given ourselves: nobody can choose them to collide.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((self.0 << 8) | u64::from(*byte)));
    }

    fn write_u64(&mut self, id: u64) {
        // Odd, so that no two have the same low bits, and large, so that neighbours differ in the high ones.
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// All calls without an answer, by id; those not yet sent, in order; the deadlines that the timer has to watch.
#[derive(Default)]
pub(super) struct Calls {
    by_id: HashMap<u64, Call, BuildHasherDefault<IdHasher>>,
    unsent: VecDeque<(u64, Bytes)>,
    unsent_bytes: usize,
    /// Of all calls, sent or not.
    len_bytes: usize,
    /// Of completions only: a thread that waits watches its own deadline.
    deadlines: BTreeSet<(Instant, u64)>,
}

impl Calls {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn insert(&mut self, id: u64, call: Call) {
        if let Waiter::Completion(_) = call.waiter {
            self.deadlines.insert((call.deadline, id));
        }
        self.len_bytes += call.len_bytes;
        self.by_id.insert(id, call);
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Call> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Call> {
        let call = self.by_id.remove(&id)?;
        self.len_bytes -= call.len_bytes;
        self.deadlines.remove(&(call.deadline, id));
        if !call.sent {
            self.unsent.retain(|(unsent, frame)| {
                let stays = *unsent != id;
                self.unsent_bytes -= if stays { 0 } else { frame.len() };
                stays
            });
        }
        Some(call)
    }

    /// Lets a call's frame wait for a connection, or for its turn.
    pub(super) fn push_unsent(&mut self, id: u64, frame: Bytes) {
        self.unsent_bytes += frame.len();
        self.unsent.push_back((id, frame));
    }

    /// Puts a frame back that could not be sent after all.
    pub(super) fn put_back(&mut self, id: u64, frame: Bytes) {
        if let Some(call) = self.by_id.get_mut(&id) {
            call.sent = false;
            self.unsent_bytes += frame.len();
            self.unsent.push_front((id, frame));
        }
    }

    /// The next frame to send; its call counts as sent from here on.
    pub(super) fn pop_unsent(&mut self) -> Option<(u64, Bytes)> {
        let (id, frame) = self.unsent.pop_front()?;
        self.unsent_bytes -= frame.len();
        // Whoever removes an unsent call removes its frame.
        self.by_id.get_mut(&id).expect("an unsent frame belongs to a call").sent = true;
        Some((id, frame))
    }

    /// Bytes of all calls that wait for an answer.
    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Removes every call that has been sent (or, with `sent` false, that has not).
    pub(super) fn take_all(&mut self, sent: bool) -> Vec<Call> {
        let ids: Vec<u64> =
            self.by_id.iter().filter(|(_, call)| call.sent == sent).map(|(id, _)| *id).collect();
        if !sent {
            (self.unsent, self.unsent_bytes) = (VecDeque::new(), 0);
        }
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Where a thread waits for the answer to a call that was sent, if any does.
    pub(super) fn any_parked(&self) -> Option<Arc<Parked>> {
        self.by_id.values().find_map(|call| match &call.waiter {
            Waiter::Thread(parked) if call.sent => Some(Arc::clone(parked)),
            _ => None,
        })
    }

    /// The earliest deadline that the timer has to watch.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// A call whose deadline has passed and that has not been removed for it yet.
    pub(super) fn first_due(&self, now: Instant) -> Option<u64> {
        self.deadlines.first().filter(|(deadline, _)| *deadline <= now).map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn call(began: Instant, wait_s: u64, completion: bool) -> Call {
        let waiter = match completion {
            true => Waiter::Completion(Box::new(|_| {})),
            false => Waiter::Thread(Arc::default()),
        };
        Call {
            waiter,
            began,
            deadline: began + Duration::from_secs(wait_s),
            sent: false,
            len_bytes: 10,
            decodes: |_| true,
        }
    }

    #[test]
    fn a_call_removed_before_it_was_sent_takes_its_frame_along() {
        let (now, mut calls) = (Instant::now(), Calls::default());
        for id in 1..=3 {
            calls.insert(id, call(now, 1, false));
            calls.push_unsent(id, Bytes::from(vec![0; 10]));
        }
        calls.remove(2).unwrap();
        assert_eq!(calls.unsent_bytes(), 20);
        let (id, frame) = calls.pop_unsent().unwrap();
        assert_eq!(id, 1);
        calls.put_back(id, frame);
        assert_eq!(calls.pop_unsent().unwrap().0, 1);
        assert_eq!(
            (calls.take_all(true).len(), calls.take_all(false).len(), calls.len()),
            (1, 1, 0)
        );
        assert_eq!((calls.unsent_bytes(), calls.has_unsent()), (0, false));
        assert_eq!(calls.len_bytes(), 0);
    }

    #[test]
    fn only_completions_are_for_the_timer() {
        let (now, mut calls) = (Instant::now(), Calls::default());
        calls.insert(1, call(now, 1, false));
        assert_eq!(calls.next_deadline(), None);
        calls.insert(2, call(now, 3, true));
        calls.insert(3, call(now, 2, true));
        let at = |s| now + Duration::from_secs(s);
        assert_eq!(calls.next_deadline(), Some(at(2)));
        assert_eq!((calls.first_due(at(1)), calls.first_due(at(2))), (None, Some(3)));
        calls.remove(3).unwrap();
        assert_eq!((calls.first_due(at(2)), calls.first_due(at(9))), (None, Some(2)));
    }
}
