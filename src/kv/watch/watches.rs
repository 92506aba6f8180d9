//! [`Watches`]: all watches of one member, as their thread has them.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::far::Far;
use super::group::{Group, Overload};
use super::hub::{Asked, Hub, Order, Request, SinkId};
use super::interests::Marks;
use super::sink::{WatchEnd, WatchesEnd};
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

const NO_LEADER: RequestError = RequestError::NotLeader { leader: None };
const DIVERGED: RequestError = RequestError::Diverged { may_apply: false };
const STOPPED: RequestError = RequestError::Stopped { may_apply: false };

type WatchId = (SinkId, u64);

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
    groups: HashMap<SinkId, Group>,
    /// Behind pointers: a table has room for more watches than it holds.
    watches: HashMap<WatchId, Box<Watch>>,
    spots: Spots<WatchId>,
    last_serial: u64,
    /// Those that may have something to tell, and room.
    ready: VecDeque<WatchId>,
    /// Those for which a read has to begin.
    asked: Vec<Asked>,
    far: Far,
    /// Those that wait for a timeline.
    waiting: Vec<WatchId>,
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
            groups: HashMap::new(),
            watches: HashMap::new(),
            last_serial: 0,
            ready: VecDeque::new(),
            asked: Vec::new(),
            far: Far::default(),
            waiting: Vec::new(),
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
        let is_there = group.ids.contains(&id);
        let end = match request {
            Request::Create(_) if is_there => WatchEnd::BadRequest(format!(
                "there is a watch {id} on this stream already, and it ends, because the answers to \
                 two could not be told apart"
            )),
            Request::Create(range) => match self.refusal(sink, &range) {
                None => return self.create((sink, id), range),
                Some(refusal) => refusal,
            },
            Request::Refuse(words) => WatchEnd::BadRequest(words),
            Request::Cancel | Request::Progress if !is_there => {
                WatchEnd::BadRequest(format!("there is no watch {id} on this stream"))
            }
            Request::Cancel => WatchEnd::Cancelled,
            Request::Progress => {
                return self.change((sink, id), Watch::ask_progress);
            }
        };
        match is_there {
            true => self.change((sink, id), |watch| watch.end(end)),
            false => self.answer(sink, id, end),
        }
    }

    /// Why there can be no such watch.
    fn refusal(&self, sink: SinkId, range: &WatchRange) -> Option<WatchEnd> {
        if let Err(error) = range.check() {
            return Some(WatchEnd::BadRequest(error.to_string()));
        }
        if self.groups.get(&sink).is_some_and(|group| group.ids.len() >= GROUP_MAX) {
            let words = format!("a stream has at most {GROUP_MAX} watches");
            return Some(WatchEnd::BadRequest(words));
        }
        let is_full = self.watches.len() >= WATCHES_MAX || self.keys_bytes >= KEYS_BYTES_MAX;
        is_full.then_some(WatchEnd::NotServed(RequestError::Busy))
    }

    fn create(&mut self, id: WatchId, range: WatchRange) {
        self.last_serial += 1;
        let (spot, serial) = (self.spots.add(&range.keys, id), self.last_serial);
        self.groups.get_mut(&id.0).expect("it asks").ids.insert(id.1);
        self.keys_bytes += keys_len(&range);
        self.watches.insert(id, Box::new(Watch::new(range, spot, serial)));
        self.hub.set_open(self.watches.len());
        self.asked.push(Asked { sink: id.0, id: id.1, serial });
    }

    /// Changes a watch, which then may have something to tell.
    fn change(&mut self, id: WatchId, change: impl FnOnce(&mut Watch)) {
        if let Some(watch) = self.watches.get_mut(&id) {
            change(watch);
            self.make_ready(id);
        }
    }

    fn make_ready(&mut self, id: WatchId) {
        if let Some(watch) = self.watches.get_mut(&id)
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
        for Asked { sink, id, serial } in asked {
            let watch = self.watches.get(&(sink, id));
            if watch.is_none_or(|watch| watch.serial != serial) {
                continue;
            }
            self.change((sink, id), |watch| match result {
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
            for id in self.spots.watches(spot) {
                let watch = self.watches.get_mut(id).expect("a spot has watches that are there");
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
        let ready = std::mem::take(&mut self.ready);
        let mut far = std::mem::take(&mut self.far);
        let due = ready.iter().filter_map(|id| self.watches.get(id).map(Box::as_ref));
        let mut turn = Turn::new(state, self.noted, &mut far, due);
        let began = Instant::now();
        let mut flushed = began;
        for id in ready {
            // Once for each watch: to read the clock takes as long as to find the watch.
            let now = Instant::now();
            if now.saturating_duration_since(flushed) > HELD_BACK_MAX {
                cork.flush();
                flushed = now;
            }
            let is_late = now.saturating_duration_since(began) > FAR_TIME_MAX;
            let served = self.serve_one(id, &mut turn, is_late);
            self.served(id, served);
        }
        self.far = far;
    }

    /// `is_late`: one that is far behind waits for the next turn.
    fn serve_one(&mut self, id: WatchId, turn: &mut Turn<'_>, is_late: bool) -> Served {
        let (Some(watch), Some(group)) = (self.watches.get_mut(&id), self.groups.get(&id.0)) else {
            return Served::Idle;
        };
        if group.waits_for_room {
            return Served::NoRoom;
        }
        if is_late && watch.is_behind && turn.has_read_far() && turn.is_far(&watch.cursor) {
            return Served::Again;
        }
        watch.is_queued = false;
        watch.serve(id.1, &*group.sink, turn)
    }

    fn served(&mut self, id: WatchId, served: Served) {
        if let Some(watch) = self.watches.get_mut(&id) {
            watch.is_queued = matches!(served, Served::Again | Served::Far | Served::NoRoom);
        }
        match served {
            Served::Idle => {}
            Served::Again => self.ready.push_back(id),
            Served::Far => self.waiting.push(id),
            Served::NoRoom => {
                if let Some(group) = self.groups.get_mut(&id.0) {
                    group.block(id.0, id.1, &self.hub.inbox);
                }
            }
            Served::Over => {
                self.remove(id);
                self.end_if_done(id.0);
            }
            Served::Gone => drop(self.remove_group(id.0)),
        }
    }

    fn room(&mut self, sink: SinkId) {
        let Some(group) = self.groups.get_mut(&sink) else { return };
        self.ready.extend(group.unblock().into_iter().map(|id| (sink, id)));
        self.tell_answers(sink);
    }

    /// Has a timeline made for those that wait for one.
    fn make_timeline(&mut self) {
        let waiting = self.waiting.iter().filter_map(|id| self.watches.get(id));
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
            let due = self.watches.iter().filter(|(id, watch)| {
                watch.needs_bookmark(self.noted) || watch.is_quiet() && self.wants_heartbeats(id.0)
            });
            let due: Vec<WatchId> = due.map(|(id, _)| *id).collect();
            due.into_iter().for_each(|id| self.change(id, Watch::ask_progress));
        }
    }

    fn wants_heartbeats(&self, sink: SinkId) -> bool {
        self.groups.get(&sink).is_some_and(|group| group.sink.wants_heartbeats())
    }

    fn end_all(&mut self, end: &WatchEnd) {
        for (id, watch) in &mut self.watches {
            watch.end(end.clone());
            if !std::mem::replace(&mut watch.is_queued, true) {
                self.ready.push_back(*id);
            }
        }
        self.ready.extend(self.waiting.drain(..));
    }

    fn remove(&mut self, id: WatchId) {
        let Some(watch) = self.watches.remove(&id) else { return };
        self.hub.set_open(self.watches.len());
        self.keys_bytes -= keys_len(&watch.range);
        if let Some(group) = self.groups.get_mut(&id.0) {
            group.ids.remove(&id.1);
        }
        self.spots.remove(watch.spot, &id);
    }

    fn remove_group(&mut self, sink: SinkId) -> Option<Group> {
        let group = self.groups.remove(&sink)?;
        group.ids.iter().for_each(|id| self.remove((sink, *id)));
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
