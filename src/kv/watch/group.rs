//! [`Group`]: the watches of one sink, and who of them waits for its room.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::hub::{Inbox, Order, SinkId};
use super::sink::{WatchEnd, WatchNews, WatchSink};
use super::slots::SlotId;
use crate::kv::model::Revision;

/// How many answers to requests without a watch may wait for room.
const ANSWERS_MAX: usize = 1_000;

/// See the file.
pub(super) struct Group {
    pub(super) sink: Arc<dyn WatchSink>,
    /// How many of its requests are among the orders.
    waiting: Arc<AtomicUsize>,
    /// By the numbers that the sink knows.
    pub(super) watches: BTreeMap<u64, SlotId>,
    /// Whether the sink will say when there is room.
    pub(super) waits_for_room: bool,
    /// Those that have to wait for it.
    blocked: VecDeque<SlotId>,
    /// The ends of watches that never began, which have to wait for it.
    answers: VecDeque<(u64, WatchEnd)>,
    takes_no_more: bool,
}

/// More waits for room than is kept.
pub(super) struct Overload;

impl Group {
    pub(super) fn new(sink: Arc<dyn WatchSink>, waiting: Arc<AtomicUsize>) -> Group {
        Group {
            sink,
            waiting,
            watches: BTreeMap::new(),
            waits_for_room: false,
            blocked: VecDeque::new(),
            answers: VecDeque::new(),
            takes_no_more: false,
        }
    }

    /// One of its orders was taken out.
    pub(super) fn took_request(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn take_no_more(&mut self) {
        self.takes_no_more = true;
    }

    /// Whether nothing is left, and nothing will come.
    pub(super) fn is_done(&self) -> bool {
        self.takes_no_more && self.watches.is_empty() && self.answers.is_empty()
    }

    /// This watch has to wait for room.
    pub(super) fn block(&mut self, own: SinkId, watch: SlotId, inbox: &Arc<Inbox>) {
        self.blocked.push_back(watch);
        self.wait_for_room(own, inbox);
    }

    /// There may be room for these watches again.
    pub(super) fn unblock(&mut self) -> VecDeque<SlotId> {
        self.waits_for_room = false;
        std::mem::take(&mut self.blocked)
    }

    pub(super) fn push_answer(&mut self, id: u64, end: WatchEnd) -> Result<(), Overload> {
        self.answers.push_back((id, end));
        if self.answers.len() > ANSWERS_MAX { Err(Overload) } else { Ok(()) }
    }

    /// Tells the answers that fit. `Break`: nobody wants them.
    pub(super) fn tell_answers(&mut self, own: SinkId, inbox: &Arc<Inbox>) -> ControlFlow<()> {
        while !self.waits_for_room
            && let Some((id, end)) = self.answers.front()
        {
            let news = WatchNews::Ended { end, complete_to: Revision::NONE };
            match self.sink.take(*id, &news) {
                Ok(wanted) => {
                    wanted?;
                    self.answers.pop_front();
                }
                Err(_) => self.wait_for_room(own, inbox),
            }
        }
        ControlFlow::Continue(())
    }

    fn wait_for_room(&mut self, own: SinkId, inbox: &Arc<Inbox>) {
        if !std::mem::replace(&mut self.waits_for_room, true) {
            let inbox = Arc::clone(inbox);
            self.sink.when_ready(Box::new(move || inbox.push(Order::Room(own))));
        }
    }
}
