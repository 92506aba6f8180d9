//! The table of the calls that have no answer yet.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::parked::{Parked, Waiter};
use crate::stream::Stream;

/// A call without an answer.
pub(super) struct Call {
    pub(super) waiter: Waiter,
    pub(super) began: Instant,
    pub(super) deadline: Instant,
    /// Whether it has been handed to a connection, so that it may run.
    pub(super) sent: bool,
    /// The length of its frame.
    pub(super) len_bytes: usize,
    /// The stream, if it is the call that has opened one. It ends with the call.
    pub(super) stream: Option<Arc<Stream>>,
    /// Whether bytes are a whole reply of this call. This is how the end of a bare reply is found.
    pub(super) decodes: fn(&Bytes) -> bool,
}

/// Hashes ids. This channel gives them itself, so nobody can choose ids that collide.
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
        // The factor is odd, so that no two ids get the same low bits, and large, so that
        // neighbours differ in the high bits.
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// All calls without an answer, by id; the frames that are not sent yet, in order; the deadlines
/// that the timer has to watch.
#[derive(Default)]
pub(super) struct Calls {
    by_id: HashMap<u64, Call, BuildHasherDefault<IdHasher>>,
    unsent: VecDeque<(u64, Bytes)>,
    unsent_bytes: usize,
    /// The frames of all calls, sent or not.
    len_bytes: usize,
    /// How many of the calls are streams.
    streams: usize,
    /// Those of completions. A thread that waits watches its own deadline.
    deadlines: BTreeSet<(Instant, u64)>,
}

impl Calls {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// How many of the calls are streams.
    pub(super) fn streams(&self) -> usize {
        self.streams
    }

    /// The stream with this id.
    pub(super) fn stream(&self, id: u64) -> Option<&Arc<Stream>> {
        self.by_id.get(&id)?.stream.as_ref()
    }

    pub(super) fn insert(&mut self, id: u64, call: Call) {
        if let Waiter::Completion(_) = call.waiter {
            self.deadlines.insert((call.deadline, id));
        }
        self.len_bytes += call.len_bytes;
        self.streams += usize::from(call.stream.is_some());
        self.by_id.insert(id, call);
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Call> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Call> {
        let call = self.by_id.remove(&id)?;
        self.len_bytes -= call.len_bytes;
        self.streams -= usize::from(call.stream.is_some());
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

    /// The next frame to send. Its call counts as sent from here on.
    pub(super) fn pop_unsent(&mut self) -> Option<(u64, Bytes)> {
        let (id, frame) = self.unsent.pop_front()?;
        self.unsent_bytes -= frame.len();
        // `remove` takes the frame of an unsent call along.
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

    /// Removes every call that was sent or, with `sent` false, every call that was not.
    pub(super) fn take_all(&mut self, sent: bool) -> Vec<Call> {
        let ids: Vec<u64> =
            self.by_id.iter().filter(|(_, call)| call.sent == sent).map(|(id, _)| *id).collect();
        if !sent {
            (self.unsent, self.unsent_bytes) = (VecDeque::new(), 0);
        }
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Where some thread waits for the answer to a call that was sent.
    pub(super) fn any_parked(&self) -> Option<Arc<Parked>> {
        self.by_id.values().find_map(|call| match &call.waiter {
            Waiter::Thread(parked) if call.sent && parked.is_waiting() => Some(Arc::clone(parked)),
            _ => None,
        })
    }

    /// The earliest deadline that the timer has to watch.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// A watched call whose deadline has passed.
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
            stream: None,
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
