//! [`Watches`]: all watches of one member, as their thread has them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::cursor::Piece;
use super::far::Far;
use super::group::{Group, Overload};
use super::hub::{Asked, Hub, Order, Request, SinkId};
use super::interests::Marks;
use super::sink::{WatchEnd, WatchNews, WatchesEnd};
use super::slots::{SlotId, Slots};
use super::spots::Spots;
use super::turn::Turn;
use super::watch::{Served, Watch};
use super::{GROUP_MAX, KEYS_BYTES_MAX, WATCHES_MAX};
use crate::kv::model::{RangeEnd, Revision, WatchRange};
use crate::kv::state::State;
use crate::kv::{Answer, Query};
use crate::node::RequestError;
use crate::rpc::Cork;

/// How long a watch waits for the read after which it is made.
const MAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// So many election timeouts without a leader end all watches.
const TIMEOUTS_WITHOUT_LEADER: u32 = 3;

/// How often a watch that nothing concerns is told how far it is, while other keys change, or if
/// its sink wants heartbeats.
const BOOKMARK_PAUSE: Duration = Duration::from_secs(10);

/// How long a turn serves watches that are far behind. The others wait for it.
const FAR_TIME_MAX: Duration = Duration::from_millis(2);

/// How long what was told may wait for more over the same connection.
const HELD_BACK_MAX: Duration = Duration::from_millis(1);

/// After so many watches, the clock is read. More: the times above are exceeded by more.
const LOOK_EVERY: usize = 8;

const NO_LEADER: RequestError = RequestError::NotLeader { leader: None };
const DIVERGED: RequestError = RequestError::Diverged { may_apply: false };
const STOPPED: RequestError = RequestError::Stopped { may_apply: false };

/// What the keys of a watch take, in bytes.
fn keys_len(range: &WatchRange) -> usize {
    let end = match range.keys.end() {
        RangeEnd::Before(before) => before.len(),
        RangeEnd::Alone | RangeEnd::Open => 0,
    };
    range.keys.begin().len() + end
}

/// See the file.
pub(super) struct Watches {
    hub: Arc<Hub>,
    groups: BTreeMap<SinkId, Group>,
    /// Behind pointers: a table has room for more watches than it holds.
    watches: Slots<Box<Watch>>,
    /// In the order in which they are told: first those of one sink, then those of another.
    spots: Spots<(SinkId, SlotId)>,
    /// Those that may have something to tell, and room.
    ready: VecDeque<SlotId>,
    /// Those for which a read has to begin.
    asked: Vec<Asked>,
    far: Far,
    /// Those that wait for a timeline.
    waiting: Vec<SlotId>,
    batch: Batch,
    /// No change up to this revision concerns a watch that is not behind.
    noted: Revision,
    /// What the keys of all watches take, in bytes.
    keys_bytes: usize,
    had_leader: Instant,
    looked_at: Instant,
    bookmarks_at: Instant,
}

impl Watches {
    pub(super) fn new(hub: Arc<Hub>) -> Watches {
        let now = Instant::now();
        Watches {
            spots: Spots::new(Arc::clone(&hub.interests)),
            hub,
            groups: BTreeMap::new(),
            watches: Slots::default(),
            ready: VecDeque::new(),
            asked: Vec::new(),
            far: Far::default(),
            waiting: Vec::new(),
            batch: Batch::default(),
            noted: Revision::NONE,
            keys_bytes: 0,
            had_leader: now,
            looked_at: now,
            bookmarks_at: now + BOOKMARK_PAUSE,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether a turn has something to do, whatever comes.
    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Does what others want, and tells what there is to tell. `Break`: it was told to stop.
    pub(super) fn turn(&mut self) -> ControlFlow<()> {
        let cork = Cork::new();
        for order in self.hub.inbox.take() {
            self.carry_out(order)?;
        }
        self.confirm();
        self.distribute();
        self.serve(&cork);
        self.make_timeline();
        ControlFlow::Continue(())
    }

    fn carry_out(&mut self, order: Order) -> ControlFlow<()> {
        match order {
            Order::Add { id, sink, waiting } => {
                self.groups.insert(id, Group::new(sink, waiting));
            }
            Order::Request(sink, id, request) => self.request(sink, id, request),
            Order::NoMore(sink) => {
                if let Some(group) = self.groups.get_mut(&sink) {
                    group.take_no_more();
                }
                self.end_if_done(sink);
            }
            Order::Room(sink) => self.room(sink),
            Order::Remove(sink) => drop(self.remove_group(sink)),
            Order::Overload(sink) => self.end_group(sink, WatchesEnd::Overload),
            Order::Confirmed(asked, result) => self.confirmed(asked, result),
            Order::Timeline(timeline) => {
                let was_made = timeline.is_some();
                self.far.made(timeline);
                // Otherwise there is no thread for it: see `look`.
                if was_made {
                    self.ready.extend(self.waiting.drain(..));
                }
            }
            Order::Stop => {
                let sinks: Vec<SinkId> = self.groups.keys().copied().collect();
                sinks.into_iter().for_each(|sink| self.end_group(sink, WatchesEnd::Stopped));
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn request(&mut self, sink: SinkId, id: u64, request: Request) {
        let Some(group) = self.groups.get(&sink) else { return };
        group.took_request();
        let watch = group.watches.get(&id).copied();
        let end = match request {
            Request::Create(_) if watch.is_some() => WatchEnd::BadRequest(format!(
                "there is a watch {id} on this stream already, and it ends, because the answers to \
                 two could not be told apart"
            )),
            Request::Create(range) => match self.refusal(sink, &range) {
                None => return self.create(sink, id, range),
                Some(refusal) => refusal,
            },
            Request::Refuse(words) => WatchEnd::BadRequest(words),
            Request::Cancel | Request::Progress if watch.is_none() => {
                WatchEnd::BadRequest(format!("there is no watch {id} on this stream"))
            }
            Request::Cancel => WatchEnd::Cancelled,
            Request::Progress => {
                return watch.into_iter().for_each(|watch| self.change(watch, Watch::ask_progress));
            }
        };
        match watch {
            Some(watch) => self.change(watch, |watch| watch.end(end)),
            None => self.answer(sink, id, end),
        }
    }

    /// Why there can be no such watch.
    fn refusal(&self, sink: SinkId, range: &WatchRange) -> Option<WatchEnd> {
        if let Err(error) = range.check() {
            return Some(WatchEnd::BadRequest(error.to_string()));
        }
        if self.groups.get(&sink).is_some_and(|group| group.watches.len() >= GROUP_MAX) {
            let words = format!("a stream has at most {GROUP_MAX} watches");
            return Some(WatchEnd::BadRequest(words));
        }
        let is_full = self.watches.len() >= WATCHES_MAX || self.keys_bytes >= KEYS_BYTES_MAX;
        is_full.then_some(WatchEnd::NotServed(RequestError::Busy))
    }

    fn create(&mut self, sink: SinkId, number: u64, range: WatchRange) {
        self.keys_bytes += keys_len(&range);
        let keys = range.keys.clone();
        let id = self.watches.insert_with(|id| {
            Box::new(Watch::new(sink, number, range, self.spots.add(&keys, (sink, id))))
        });
        self.groups.get_mut(&sink).expect("it asks").watches.insert(number, id);
        self.hub.set_open(self.watches.len());
        self.asked.push(Asked { sink, watch: id });
    }

    /// Changes a watch, which then may have something to tell.
    fn change(&mut self, id: SlotId, change: impl FnOnce(&mut Watch)) {
        if let Some(watch) = self.watches.get_mut(id) {
            change(watch);
            self.make_ready(id);
        }
    }

    fn make_ready(&mut self, id: SlotId) {
        if let Some(watch) = self.watches.get_mut(id)
            && !std::mem::replace(&mut watch.is_queued, true)
        {
            self.ready.push_back(id);
        }
    }

    /// Tells the end of a watch that has not begun.
    fn answer(&mut self, sink: SinkId, id: u64, end: WatchEnd) {
        let Some(group) = self.groups.get_mut(&sink) else { return };
        match group.push_answer(id, end) {
            Ok(()) => self.tell_answers(sink),
            Err(Overload) => self.end_group(sink, WatchesEnd::Overload),
        }
    }

    fn tell_answers(&mut self, sink: SinkId) {
        let Some(group) = self.groups.get_mut(&sink) else { return };
        match group.tell_answers(sink, &self.hub.inbox) {
            ControlFlow::Continue(()) => self.end_if_done(sink),
            ControlFlow::Break(()) => drop(self.remove_group(sink)),
        }
    }

    /// Begins one read for all watches that were asked for before it.
    fn confirm(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let (asked, inbox) = (std::mem::take(&mut self.asked), Arc::clone(&self.hub.inbox));
        self.hub.node.read(Query::Stats, Instant::now() + MAKE_TIMEOUT, move |result| {
            let revision = |answer| match answer {
                Answer::Stats(stats) => stats.revision,
                other => panic!("the store answered a question for its size with {other:?}"),
            };
            inbox.push(Order::Confirmed(asked, result.map(revision)));
        });
    }

    fn confirmed(&mut self, asked: Vec<Asked>, result: Result<Revision, RequestError>) {
        for Asked { sink, watch } in asked {
            if self.watches.get(watch).is_none_or(|watch| watch.sink != sink) {
                continue;
            }
            self.change(watch, |watch| match result {
                Ok(revision) => watch.made(revision),
                Err(error) => watch.end(WatchEnd::NotServed(error)),
            });
        }
    }

    /// Brings the marks to the watches.
    fn distribute(&mut self) {
        let Marks { spots, noted } = self.hub.interests.take();
        self.noted = noted;
        for (spot, revision) in spots {
            for (_, id) in self.spots.watches(spot) {
                let watch = self.watches.get_mut(*id).expect("a spot has watches that are there");
                watch.mark(revision);
                if watch.is_behind && !std::mem::replace(&mut watch.is_queued, true) {
                    self.ready.push_back(*id);
                }
            }
        }
    }

    fn serve(&mut self, cork: &Cork) {
        if self.ready.is_empty() {
            return;
        }
        // After the marks were taken, so that it has all that is noted.
        let state = self.hub.node.inspect(|store| store.state());
        let Some(state) = state else {
            // Nothing more is told, except that it is over.
            let error = match self.hub.node.divergence() {
                Some(_) => DIVERGED,
                None => STOPPED,
            };
            self.end_all(&WatchEnd::NotServed(error));
            return self.serve_from(&State::default(), cork);
        };
        self.serve_from(&state, cork);
    }

    fn serve_from(&mut self, state: &State, cork: &Cork) {
        assert!(self.batch.is_empty(), "no watch waits between turns to be told with others");
        let ready = std::mem::take(&mut self.ready);
        let mut far = std::mem::take(&mut self.far);
        let due = ready.iter().filter_map(|id| self.watches.get(*id).map(Box::as_ref));
        let mut turn = Turn::new(state, self.noted, &mut far, due);
        let began = Instant::now();
        let mut flushed = began;
        let mut now = began;
        for (at, id) in ready.into_iter().enumerate() {
            // Not for each watch: to read the clock takes as long as to gather the watch.
            if at % LOOK_EVERY == 0 || turn.has_read_far() {
                now = Instant::now();
            }
            if now.saturating_duration_since(flushed) > HELD_BACK_MAX {
                self.tell_batch(&turn);
                cork.flush();
                flushed = now;
            }
            let is_late = now.saturating_duration_since(began) > FAR_TIME_MAX;
            self.serve_one(id, &mut turn, is_late);
        }
        self.tell_batch(&turn);
        self.far = far;
    }

    /// `is_late`: one that is far behind waits for the next turn.
    fn serve_one(&mut self, id: SlotId, turn: &mut Turn<'_>, is_late: bool) {
        let Some(watch) = self.watches.get_mut(id) else { return };
        assert!(std::mem::take(&mut watch.is_queued), "a watch is in one queue, once");
        let group = self.groups.get(&watch.sink).expect("a watch goes with its group");
        let must_wait = is_late && watch.is_behind && turn.has_read_far();
        let served = if group.waits_for_room {
            Served::NoRoom
        } else if must_wait && turn.is_far(&watch.cursor) {
            Served::Again
        } else {
            watch.serve(&*group.sink, turn)
        };
        self.served(id, served, turn);
    }

    /// Tells the watches of the batch their changes.
    fn tell_batch(&mut self, turn: &Turn<'_>) {
        let Some((sink, piece)) = self.batch.take() else { return };
        let mut batch = std::mem::take(&mut self.batch);
        // Without its group, the sink has refused what another watch had to tell.
        if let Some(group) = self.groups.get(&sink) {
            let Piece { changes, end } = &*piece;
            let news = WatchNews::Changes { changes, complete_to: end.complete_to() };
            let told = match group.waits_for_room {
                true => ControlFlow::Continue(0),
                false => group.sink.take_many(&batch.numbers, &news),
            };
            match told {
                ControlFlow::Continue(told) => self.batch_told(&batch, told, &piece, turn),
                ControlFlow::Break(()) => drop(self.remove_group(sink)),
            }
        }
        batch.clear();
        self.batch = batch;
    }

    /// The first `told` of the batch were told. There was no room for the others.
    fn batch_told(&mut self, batch: &Batch, told: usize, piece: &Piece, turn: &Turn<'_>) {
        for (at, id) in batch.watches.iter().enumerate() {
            let Some(watch) = self.watches.get_mut(*id) else { continue };
            let served = if at < told { watch.told(piece, turn) } else { Served::NoRoom };
            self.served(*id, served, turn);
        }
    }

    fn served(&mut self, id: SlotId, served: Served, turn: &Turn<'_>) {
        let Some(watch) = self.watches.get_mut(id) else { return };
        watch.is_queued = matches!(served, Served::Again | Served::Far | Served::NoRoom);
        let (sink, number) = (watch.sink, watch.number);
        match served {
            Served::Changes(piece) => {
                if !self.batch.takes(sink, &piece) {
                    self.tell_batch(turn);
                }
                self.batch.push(sink, piece, id, number);
            }
            Served::Idle => {}
            Served::Again => self.ready.push_back(id),
            Served::Far => self.waiting.push(id),
            Served::NoRoom => {
                let group = self.groups.get_mut(&sink).expect("a watch goes with its group");
                group.block(sink, id, &self.hub.inbox);
            }
            Served::Over => {
                self.remove(id);
                self.end_if_done(sink);
            }
            Served::Gone => drop(self.remove_group(sink)),
        }
    }

    fn room(&mut self, sink: SinkId) {
        let Some(group) = self.groups.get_mut(&sink) else { return };
        self.ready.extend(group.unblock());
        self.tell_answers(sink);
    }

    /// Has a timeline made for those that wait for one.
    fn make_timeline(&mut self) {
        let waiting = self.waiting.iter().filter_map(|id| self.watches.get(*id));
        if let Some(first) = waiting.map(|watch| watch.cursor.next).min() {
            self.far.make(&self.hub, first);
        }
    }

    /// Looks at what nobody tells: the leader, the state, the time.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        let node = &self.hub.node;
        let timeout = node.timing().election_max * TIMEOUTS_WITHOUT_LEADER;
        // Nobody has looked for a while: there were no watches, or the machine slept.
        let is_first = now > self.looked_at + timeout;
        self.looked_at = now;
        if node.status().role.leader.is_some() || is_first {
            self.had_leader = now;
        } else if now > self.had_leader + timeout {
            self.end_all(&WatchEnd::NotServed(NO_LEADER));
        }
        if self.hub.node.divergence().is_some() {
            self.end_all(&WatchEnd::NotServed(DIVERGED));
        }
        self.far.look(now);
        // Perhaps there is a thread for it now.
        self.make_timeline();
        if now > self.bookmarks_at {
            self.bookmarks_at = now + BOOKMARK_PAUSE;
            for (id, watch) in self.watches.iter_mut() {
                let wants_heartbeats = || self.groups[&watch.sink].sink.wants_heartbeats();
                if watch.needs_bookmark(self.noted) || watch.is_quiet() && wants_heartbeats() {
                    watch.ask_progress();
                    watch.is_queued = true;
                    self.ready.push_back(id);
                }
            }
        }
    }

    fn end_all(&mut self, end: &WatchEnd) {
        for (id, watch) in self.watches.iter_mut() {
            watch.end(end.clone());
            if !std::mem::replace(&mut watch.is_queued, true) {
                self.ready.push_back(id);
            }
        }
        self.ready.extend(self.waiting.drain(..));
    }

    fn remove(&mut self, id: SlotId) {
        let Some(watch) = self.watches.remove(id) else { return };
        self.hub.set_open(self.watches.len());
        self.keys_bytes -= keys_len(&watch.range);
        if let Some(group) = self.groups.get_mut(&watch.sink) {
            group.watches.remove(&watch.number);
        }
        self.spots.remove(watch.spot, &(watch.sink, id));
    }

    fn remove_group(&mut self, sink: SinkId) -> Option<Group> {
        let group = self.groups.remove(&sink)?;
        group.watches.values().for_each(|id| self.remove(*id));
        Some(group)
    }

    fn end_group(&mut self, sink: SinkId, end: WatchesEnd) {
        if let Some(group) = self.remove_group(sink) {
            group.sink.end(end);
        }
    }

    fn end_if_done(&mut self, sink: SinkId) {
        if self.groups.get(&sink).is_some_and(Group::is_done) {
            self.end_group(sink, WatchesEnd::Done);
        }
    }
}
