//! [`Watches`]: all watches of one member, as their thread has them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::hub::{Asked, Hub, Order, Request, SinkId};
use super::interests::{Marks, SpotId};
use super::sink::{WatchEnd, WatchNews, WatchSink, WatchesEnd};
use super::turn::Turn;
use super::watch::{Served, Watch};
use super::{GROUP_MAX, WATCHES_MAX};
use crate::kv::model::{KeyRange, Revision, WatchRange};
use crate::kv::state::{State, Timeline};
use crate::kv::{Answer, Query};
use crate::node::RequestError;
use crate::rpc::Cork;

/// How long a watch waits for the read after which it is made.
const MAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// So many election timeouts without a leader end all watches.
const TIMEOUTS_WITHOUT_LEADER: u32 = 3;

/// How often a watch that nothing concerns is told how far it is, while other keys change.
const BOOKMARK_PAUSE: Duration = Duration::from_secs(10);

/// How long a turn serves watches that are far behind. The others wait for it.
const FAR_TIME_MAX: Duration = Duration::from_millis(2);

/// How long what was told may wait for more over the same connection.
const HELD_BACK_MAX: Duration = Duration::from_millis(1);

/// How long a long timeline is kept that nobody uses, and how long in any case: it holds an old
/// state.
const LONG_UNUSED_MAX: Duration = Duration::from_secs(5);
const LONG_AGE_MAX: Duration = Duration::from_secs(5 * 60);

/// How many answers to requests without a watch may wait for room.
const ANSWERS_MAX: usize = 1_000;

const NO_LEADER: RequestError = RequestError::NotLeader { leader: None };

type WatchId = (SinkId, u64);

/// See the file.
pub(super) struct Watches {
    hub: Arc<Hub>,
    groups: HashMap<SinkId, Group>,
    watches: HashMap<WatchId, Watch>,
    spots: HashMap<SpotId, Spot>,
    spot_of: HashMap<KeyRange, SpotId>,
    last_spot: SpotId,
    last_serial: u64,
    /// Those that may have something to tell, and room.
    ready: VecDeque<WatchId>,
    /// Those for which a read has to begin.
    asked: Vec<Asked>,
    /// Those that wait for a timeline.
    far: Vec<WatchId>,
    is_making_long: bool,
    long: Option<Long>,
    /// No change up to this revision concerns a watch that is not behind.
    noted: Revision,
    had_leader: Instant,
    bookmarks_at: Instant,
}

/// The watches of one sink.
struct Group {
    sink: Arc<dyn WatchSink>,
    waiting: Arc<AtomicUsize>,
    ids: BTreeSet<u64>,
    /// Whether the sink will say when there is room.
    waits_for_room: bool,
    /// Those that have to wait for it.
    blocked: VecDeque<u64>,
    /// The ends of watches that never began, which have to wait for it.
    answers: VecDeque<(u64, WatchEnd)>,
    takes_no_more: bool,
}

/// The watches of the same keys.
struct Spot {
    keys: KeyRange,
    watches: BTreeSet<WatchId>,
}

/// The timeline for those that are far behind.
struct Long {
    timeline: Timeline,
    made: Instant,
    used: Instant,
}

impl Watches {
    pub(super) fn new(hub: Arc<Hub>) -> Watches {
        let now = Instant::now();
        Watches {
            // Those of a thread that has panicked may still be among the interests.
            last_spot: hub.interests.last_spot(),
            hub,
            groups: HashMap::new(),
            watches: HashMap::new(),
            spots: HashMap::new(),
            spot_of: HashMap::new(),
            last_serial: 0,
            ready: VecDeque::new(),
            asked: Vec::new(),
            far: Vec::new(),
            is_making_long: false,
            long: None,
            noted: Revision::NONE,
            had_leader: now,
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
        self.make_long();
        ControlFlow::Continue(())
    }

    fn carry_out(&mut self, order: Order) -> ControlFlow<()> {
        match order {
            Order::Add { id, sink, waiting } => {
                drop(self.groups.insert(id, Group::new(sink, waiting)))
            }
            Order::Request(sink, id, request) => self.request(sink, id, request),
            Order::NoMore(sink) => {
                if let Some(group) = self.groups.get_mut(&sink) {
                    group.takes_no_more = true;
                }
                self.end_if_done(sink);
            }
            Order::Room(sink) => self.room(sink),
            Order::Remove(sink) => drop(self.remove_group(sink)),
            Order::Overload(sink) => self.end_group(sink, WatchesEnd::Overload),
            Order::Confirmed(asked, result) => self.confirmed(asked, result),
            Order::Timeline(timeline) => self.take_long(timeline),
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
        group.waiting.fetch_sub(1, Ordering::Relaxed);
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
        let is_full = self.watches.len() >= WATCHES_MAX;
        is_full.then_some(WatchEnd::NotServed(RequestError::Busy))
    }

    fn create(&mut self, id: WatchId, range: WatchRange) {
        let spot = match self.spot_of.get(&range.keys) {
            Some(spot) => *spot,
            None => self.add_spot(range.keys.clone()),
        };
        self.last_serial += 1;
        let serial = self.last_serial;
        self.spots.get_mut(&spot).expect("it was found or made").watches.insert(id);
        self.groups.get_mut(&id.0).expect("it asks").ids.insert(id.1);
        self.watches.insert(id, Watch::new(range, spot, serial));
        self.asked.push(Asked { sink: id.0, id: id.1, serial });
    }

    fn add_spot(&mut self, keys: KeyRange) -> SpotId {
        self.last_spot += 1;
        self.hub.interests.add(self.last_spot, &keys);
        self.spot_of.insert(keys.clone(), self.last_spot);
        self.spots.insert(self.last_spot, Spot { keys, watches: BTreeSet::new() });
        self.last_spot
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
        group.answers.push_back((id, end));
        if group.answers.len() > ANSWERS_MAX {
            self.end_group(sink, WatchesEnd::Overload);
        } else if !group.waits_for_room {
            self.tell_answers(sink);
        }
    }

    fn tell_answers(&mut self, sink: SinkId) {
        let Some(group) = self.groups.get_mut(&sink) else { return };
        while let Some((id, end)) = group.answers.front() {
            let news = WatchNews::Ended { end, complete_to: Revision::NONE };
            match group.sink.take(*id, &news) {
                Ok(ControlFlow::Continue(())) => drop(group.answers.pop_front()),
                Ok(ControlFlow::Break(())) => return drop(self.remove_group(sink)),
                Err(_) => return group.wait_for_room(sink, &self.hub),
            }
        }
        self.end_if_done(sink);
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
            let Some(spot) = self.spots.get(&spot) else { continue };
            for id in &spot.watches {
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
                Some(_) => RequestError::Diverged { may_apply: false },
                None => RequestError::Stopped { may_apply: false },
            };
            self.end_all(&WatchEnd::NotServed(error));
            return self.serve_from(&State::default(), cork);
        };
        self.serve_from(&state, cork);
    }

    fn serve_from(&mut self, state: &State, cork: &Cork) {
        let ready = std::mem::take(&mut self.ready);
        let long = self.long.take();
        let timeline = long.as_ref().map(|long| &long.timeline);
        let due = ready.iter().filter_map(|id| self.watches.get(id));
        let mut turn = Turn::new(state, self.noted, timeline, due);
        let (began, mut flushed) = (Instant::now(), Instant::now());
        for id in ready {
            let is_late = turn.uses_long() && began.elapsed() > FAR_TIME_MAX;
            let served = self.serve_one(id, &mut turn, is_late);
            self.served(id, served);
            if flushed.elapsed() > HELD_BACK_MAX {
                cork.flush();
                flushed = Instant::now();
            }
        }
        let is_used = turn.uses_long();
        self.long = long.map(|long| match is_used {
            true => Long { used: Instant::now(), ..long },
            false => long,
        });
    }

    /// `is_late`: one that is far behind waits for the next turn.
    fn serve_one(&mut self, id: WatchId, turn: &mut Turn<'_>, is_late: bool) -> Served {
        let (Some(watch), Some(group)) = (self.watches.get_mut(&id), self.groups.get(&id.0)) else {
            return Served::Idle;
        };
        if group.waits_for_room {
            return Served::NoRoom;
        }
        if is_late && watch.is_behind && turn.is_far(&watch.cursor) {
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
            Served::Far => self.far.push(id),
            Served::NoRoom => {
                if let Some(group) = self.groups.get_mut(&id.0) {
                    group.blocked.push_back(id.1);
                    group.wait_for_room(id.0, &self.hub);
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
        group.waits_for_room = false;
        let blocked = std::mem::take(&mut group.blocked);
        self.ready.extend(blocked.into_iter().map(|id| (sink, id)));
        self.tell_answers(sink);
    }

    /// Has a timeline made for those that are far behind, if there is none.
    fn make_long(&mut self) {
        if self.far.is_empty() || self.is_making_long {
            return;
        }
        let Some(state) = self.hub.node.inspect(|store| store.state()) else {
            // The next turn says why.
            return self.retry_far();
        };
        let forgotten = state.history.compacted();
        let behind = self.watches.values().filter(|watch| watch.is_made && watch.is_behind);
        let nexts = behind.map(|watch| watch.cursor.next).filter(|next| *next > forgotten);
        // Without any, they all have fallen out of the history.
        let Some(first) = nexts.min() else { return self.retry_far() };
        self.is_making_long = true;
        self.hub.make_timeline(move || Timeline::new(&state, first));
    }

    fn take_long(&mut self, timeline: Option<Timeline>) {
        self.is_making_long = false;
        let now = Instant::now();
        if let Some(timeline) = timeline {
            self.long = Some(Long { timeline, made: now, used: now });
            self.retry_far();
        }
    }

    fn retry_far(&mut self) {
        self.ready.extend(self.far.drain(..));
    }

    /// Looks at what nobody tells: the leader, the state, the time.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        let node = &self.hub.node;
        let timeout = node.timing().election_max * TIMEOUTS_WITHOUT_LEADER;
        if node.status().role.leader.is_some() {
            self.had_leader = now;
        } else if now > self.had_leader + timeout {
            self.end_all(&WatchEnd::NotServed(NO_LEADER));
        }
        if self.hub.node.divergence().is_some() {
            self.end_all(&WatchEnd::NotServed(RequestError::Diverged { may_apply: false }));
        }
        let is_old =
            |long: &Long| now > long.used + LONG_UNUSED_MAX || now > long.made + LONG_AGE_MAX;
        self.long.take_if(|long| is_old(long));
        // Perhaps there is a thread for it now.
        self.make_long();
        if now > self.bookmarks_at {
            self.bookmarks_at = now + BOOKMARK_PAUSE;
            let late = self.watches.iter().filter(|(_, watch)| watch.needs_bookmark(self.noted));
            let late: Vec<WatchId> = late.map(|(id, _)| *id).collect();
            late.into_iter().for_each(|id| self.change(id, Watch::ask_progress));
        }
    }

    fn end_all(&mut self, end: &WatchEnd) {
        for (id, watch) in &mut self.watches {
            watch.end(end.clone());
            if !std::mem::replace(&mut watch.is_queued, true) {
                self.ready.push_back(*id);
            }
        }
        self.retry_far();
    }

    fn remove(&mut self, id: WatchId) {
        let Some(watch) = self.watches.remove(&id) else { return };
        if let Some(group) = self.groups.get_mut(&id.0) {
            group.ids.remove(&id.1);
        }
        let spot = self.spots.get_mut(&watch.spot).expect("a watch has its spot");
        spot.watches.remove(&id);
        if spot.watches.is_empty() {
            self.hub.interests.remove(watch.spot, &spot.keys);
            self.spot_of.remove(&spot.keys);
            self.spots.remove(&watch.spot);
        }
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
        let is_done =
            |group: &Group| group.takes_no_more && group.ids.is_empty() && group.answers.is_empty();
        if self.groups.get(&sink).is_some_and(is_done) {
            self.end_group(sink, WatchesEnd::Done);
        }
    }
}

impl Group {
    fn new(sink: Arc<dyn WatchSink>, waiting: Arc<AtomicUsize>) -> Group {
        Group {
            sink,
            waiting,
            ids: BTreeSet::new(),
            waits_for_room: false,
            blocked: VecDeque::new(),
            answers: VecDeque::new(),
            takes_no_more: false,
        }
    }

    fn wait_for_room(&mut self, id: SinkId, hub: &Hub) {
        if !std::mem::replace(&mut self.waits_for_room, true) {
            let inbox = Arc::clone(&hub.inbox);
            self.sink.when_ready(Box::new(move || inbox.push(Order::Room(id))));
        }
    }
}
