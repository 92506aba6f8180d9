//! [`Telling`]: the watches of one stream, from the hub to the client.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;

use super::HELD_MAX;
use super::orders::{Create, Order};
use crate::front::etcd::Shared;
use crate::front::etcd::asked::{Header, PAUSE, TIMEOUT};
use crate::front::etcd::error::{self, EtcdError};
use crate::front::etcd::kv::kv;
use crate::front::etcd::lease::stream_head;
use crate::front::etcd::out::Object;
use crate::kv::api::{NoRoom, WatchEnd, WatchGroup, WatchNews, WatchSink, WatchesEnd};
use crate::kv::model::{
    Action, Change, Entry, OperationAnswer, Range, Reason, Revision, RevisionBounds, Txn,
    WatchRange,
};
use crate::node::RequestError;
use crate::rpc::http::{Answer, Stream, StreamError};

const ON: ControlFlow<()> = ControlFlow::Continue(());
const OVER: ControlFlow<()> = ControlFlow::Break(());

/// The number that stands for no watch, or for all of a stream.
const NO_WATCH: i64 = -1;

pub(super) struct Telling {
    shared: Arc<Shared>,
    wants_heartbeats: bool,
    /// When the first watch has to be made.
    made_by: Instant,
    /// That of its watches. It ends them when the stream drops it.
    group: OnceLock<Weak<WatchGroup>>,
    state: Mutex<State>,
}

struct State {
    line: Line,
    /// What was not done yet: each watch is made before the next request is looked at.
    orders: VecDeque<Order>,
    /// Those that are not over, by the numbers that the hub knows them by.
    watches: BTreeMap<u64, Watch>,
    /// The number of the last one in the hub.
    last: u64,
    /// The ids of those that are not over or canceled.
    ids: BTreeSet<i64>,
    /// Where the search for a free id begins.
    next_id: i64,
    progress: Progress,
}

/// How the client is reached.
enum Line {
    /// Nothing was told yet.
    Waiting(Answer, Option<Arc<WatchGroup>>),
    Open(Stream),
    Over,
}

struct Watch {
    id: i64,
    /// What it is of, as it was asked for last.
    range: WatchRange,
    /// Whether it wants to be told how far it is.
    progress: bool,
    /// Whether the client knows that it is made.
    is_told: bool,
    /// The hub knows nothing of it while the entries of a compacted revision are read.
    is_in_hub: bool,
    /// Events whose revision has more.
    held: Vec<Change>,
    held_len: u64,
}

/// How far all watches together are, if that was asked for.
#[derive(Default)]
struct Progress {
    /// Those that have not said it.
    missing: BTreeSet<u64>,
    complete_to: Option<Revision>,
}

impl Telling {
    /// Does what the requests of a stream ask for, and tells it with `answer`.
    pub(super) fn begin(shared: &Arc<Shared>, answer: Answer, orders: Vec<Order>) {
        let wants_heartbeats =
            orders.iter().any(|it| matches!(it, Order::Create(Create { progress: true, .. })));
        let state = State {
            line: Line::Waiting(answer, None),
            orders: orders.into(),
            watches: BTreeMap::new(),
            last: 0,
            ids: BTreeSet::new(),
            next_id: 0,
            progress: Progress::default(),
        };
        let telling = Arc::new(Telling {
            shared: Arc::clone(shared),
            wants_heartbeats,
            made_by: Instant::now() + TIMEOUT,
            group: OnceLock::new(),
            state: state.into(),
        });
        let group = Arc::new(shared.api.watches(Arc::clone(&telling)));
        telling.group.get_or_init(|| Arc::downgrade(&group));
        let mut state = telling.state.lock();
        // Otherwise the member is stopping, and said so.
        if let Line::Waiting(_, place) = &mut state.line {
            *place = Some(group);
            telling.go_on(&mut state);
        }
    }

    fn group(&self) -> Option<Arc<WatchGroup>> {
        self.group.get()?.upgrade()
    }

    /// Does what is next, up to a watch that has to be made first.
    fn go_on(&self, state: &mut State) {
        let Some(group) = self.group() else { return };
        while let Some(order) = state.orders.pop_front() {
            match order {
                Order::Create(create) => {
                    if self.create(state, &group, create).is_continue() {
                        continue;
                    }
                    return;
                }
                Order::Cancel { watch_id } => self.cancel(state, &group, watch_id),
                Order::Progress => self.ask_progress(state, &group),
                Order::Nothing => {}
            }
        }
        // Nothing may ever be told by which the answer could begin.
        if state.watches.is_empty() {
            state.line.open(Bytes::new());
        }
    }

    fn cancel(&self, state: &mut State, group: &WatchGroup, id: i64) {
        // Its id is free at once, so this is the only one that is not being canceled.
        if !state.ids.remove(&id) {
            return;
        }
        let mut found = state.watches.iter().rev().filter(|(_, watch)| watch.id == id);
        match found.next().map(|(&number, watch)| (number, watch.is_in_hub)) {
            Some((number, true)) => group.cancel(number),
            Some((number, false)) => {
                let header = self.shared.header();
                let message = canceled_message(&header, self.shared.api.revision(), id, 0, "");
                self.tell_now(state, message);
                self.forget(state, number);
            }
            None => {}
        }
    }

    /// A watch is over.
    fn forget(&self, state: &mut State, number: u64) {
        state.watches.remove(&number);
        if state.progress.missing.remove(&number)
            && state.progress.missing.is_empty()
            && let Some(least) = state.progress.complete_to.take()
        {
            let header = self.shared.header();
            self.tell_now(state, progress_message(&header, NO_WATCH, least));
        }
    }

    fn ask_progress(&self, state: &mut State, group: &WatchGroup) {
        let State { watches, progress, .. } = &mut *state;
        progress.missing = watches.keys().copied().collect();
        let in_hub = watches.iter().filter(|(_, watch)| watch.is_in_hub);
        in_hub.for_each(|(&number, _)| group.progress(number));
        if state.watches.is_empty() {
            let (header, revision) = (self.shared.header(), self.shared.api.revision());
            self.tell_now(state, progress_message(&header, NO_WATCH, revision));
        }
    }

    /// Tells what nobody offers again.
    fn tell_now(&self, state: &mut State, message: Vec<u8>) {
        if state.line.send(&message.into()).is_err() {
            // More is asked than the client reads. It sees that its answer is not whole.
            state.line = Line::Over;
        }
    }

    /// `Break`: it has to be made first.
    fn create(
        &self,
        state: &mut State,
        group: &WatchGroup,
        Create { watch_id, range, progress }: Create,
    ) -> ControlFlow<()> {
        let why = match &range {
            _ if watch_id != 0 && state.ids.contains(&watch_id) => {
                "mvcc: duplicate watch ID provided on the WatchStream"
            }
            None => "mvcc: watcher range is empty",
            Some(_) => "",
        };
        match range.filter(|_| why.is_empty()) {
            Some(range) => {
                let id = if watch_id == 0 { state.free_id() } else { watch_id };
                state.ids.insert(id);
                let (held, held_len, is_told, is_in_hub) = (Vec::new(), 0, false, true);
                let watch = Watch { id, range, progress, is_told, is_in_hub, held, held_len };
                state.make(group, watch);
                OVER
            }
            None => {
                self.tell_now(state, self.refused_message(why));
                ON
            }
        }
    }

    /// A watch that is not made: it is created and canceled at once.
    fn refused_message(&self, why: &str) -> Vec<u8> {
        let (header, revision) = (self.shared.header(), self.shared.api.revision());
        Object::message(|message| {
            header.write(message, revision);
            message.number("watch_id", NO_WATCH);
            message.flag("created", true);
            message.flag("canceled", true);
            message.text("cancel_reason", why);
        })
    }

    fn made(&self, state: &mut State, number: u64, revision: Revision) -> Result<(), NoRoom> {
        let Some(watch) = state.watches.get_mut(&number).filter(|watch| !watch.is_told) else {
            return Ok(());
        };
        let (header, id) = (self.shared.header(), watch.id);
        let message = Object::message(|message| {
            header.write(message, revision);
            message.number("watch_id", id);
            message.flag("created", true);
        });
        state.line.send(&message.into())?;
        watch.is_told = true;
        self.go_on(state);
        Ok(())
    }

    fn changes(
        &self,
        state: &mut State,
        number: u64,
        changes: &Arc<[Change]>,
        complete_to: Revision,
    ) -> Result<(), NoRoom> {
        let Some(watch) = state.watches.get_mut(&number) else { return Ok(()) };
        if changes.is_empty() {
            return self.progressed(state, number, complete_to);
        }
        let header = self.shared.header();
        let whole = changes.partition_point(|change| change.revision() <= complete_to);
        if watch.held.is_empty() && whole == changes.len() {
            let message = self.shared.encoded.events(&header, watch.id, changes);
            return state.line.send(&message);
        }
        let rest = &changes[whole..];
        let rest_len = rest.iter().map(Change::len_bytes).sum::<u64>();
        let is_over_limit = watch.held_len + rest_len > HELD_MAX;
        // What is held is of the first revision of these changes, or of one before it.
        if whole > 0 || is_over_limit || watch.held_is_before(changes) {
            let told = if is_over_limit { &changes[..] } else { &changes[..whole] };
            let events: Vec<&Change> = watch.held.iter().chain(told).collect();
            // A revision that goes on is not complete.
            let revision =
                events.last().map_or(complete_to, |last| last.revision()).min(complete_to);
            let message = events_message(&header, watch.id, revision, &events);
            state.line.send(&message.into())?;
            (watch.held, watch.held_len) = (Vec::new(), 0);
            if is_over_limit {
                return Ok(());
            }
        }
        watch.held.extend_from_slice(rest);
        watch.held_len += rest_len;
        self.ask_for_the_rest(number, watch);
        Ok(())
    }

    /// The rest of a revision may hold nothing for the watch. Then it only says how far it is.
    fn ask_for_the_rest(&self, number: u64, watch: &Watch) {
        if let Some(group) = self.group().filter(|_| !watch.held.is_empty()) {
            group.progress(number);
        }
    }

    /// A watch says how far it is. Nothing is held then that belongs to a revision before.
    fn progressed(
        &self,
        state: &mut State,
        number: u64,
        complete_to: Revision,
    ) -> Result<(), NoRoom> {
        let State { line, watches, progress, .. } = state;
        let Some(watch) = watches.get_mut(&number) else { return Ok(()) };
        let header = self.shared.header();
        if watch.held.last().is_some_and(|last| last.revision() <= complete_to) {
            let events: Vec<&Change> = watch.held.iter().collect();
            let revision = events.last().map_or(complete_to, |last| last.revision());
            line.send(&events_message(&header, watch.id, revision, &events).into())?;
            (watch.held, watch.held_len) = (Vec::new(), 0);
        }
        self.ask_for_the_rest(number, watch);
        if progress.missing.contains(&number) {
            let least = progress.complete_to.map_or(complete_to, |it| it.min(complete_to));
            if progress.missing.len() == 1 {
                line.send(&progress_message(&header, NO_WATCH, least).into())?;
            }
            progress.said(number, least);
            return Ok(());
        }
        match watch.progress {
            true => line.send(&progress_message(&header, watch.id, complete_to).into()),
            false => Ok(()),
        }
    }

    /// A watch is over. The stream goes on, unless this member does not serve watches.
    fn ended(
        self: &Arc<Self>,
        state: &mut State,
        number: u64,
        end: &WatchEnd,
        complete_to: Revision,
    ) -> Result<ControlFlow<()>, NoRoom> {
        if let WatchEnd::NotServed(error) = end {
            if matches!(error, RequestError::NotLeader { .. } | RequestError::LeadershipLost { .. })
                && self.make_again(state, number)
            {
                return Ok(ON);
            }
            return self.failed(state, &EtcdError::from(end)).map(|()| OVER);
        }
        // One that is being made anew is not the one that has ended.
        let Some(watch) = state.watches.get(&number).filter(|watch| watch.is_in_hub) else {
            return Ok(ON);
        };
        let (header, id) = (self.shared.header(), watch.id);
        // The revision before the first one that a watch of the store can begin with. Its state can
        // be read, and a watch of etcd can begin there.
        let compacted = match end {
            WatchEnd::Refused(refusal) if refusal.reason == Reason::Compacted => {
                refusal.value.saturating_sub(1)
            }
            _ => 0,
        };
        if compacted > 0 && watch.range.from.0 == compacted && complete_to < watch.range.from {
            self.begin_at_compacted(state, number);
            return Ok(ON);
        }
        let is_asked_for = compacted > 0 || *end == WatchEnd::Cancelled;
        let why = if is_asked_for { String::new() } else { EtcdError::from(end).to_string() };
        let is_refused = !watch.is_told && !is_asked_for;
        let message = match is_refused {
            true => self.refused_message(&why),
            // It makes no promise of revisions that it was not told of.
            false if compacted > 0 => {
                canceled_message(&header, Revision::NONE, id, compacted, &why)
            }
            false => canceled_message(&header, complete_to, id, 0, &why),
        };
        state.line.send(&message.into())?;
        // Unless it was canceled, and is another one's since.
        if *end != WatchEnd::Cancelled {
            state.ids.remove(&id);
        }
        self.forget(state, number);
        if is_refused {
            self.go_on(state);
        }
        Ok(ON)
    }

    /// Tries later to make a watch that could not be made for want of a leader, unless the request
    /// has taken too long. Most leaders are found within that time, and clients ask again at once.
    fn make_again(self: &Arc<Self>, state: &mut State, number: u64) -> bool {
        let due = Instant::now() + PAUSE;
        let Some(watch) = state.watches.get_mut(&number) else { return false };
        if watch.is_told || due >= self.made_by {
            return false;
        }
        watch.is_in_hub = false;
        let telling = Arc::clone(self);
        self.shared.later.at(due, move |is_due| {
            let mut state = telling.state.lock();
            match (is_due, telling.group(), state.watches.remove(&number)) {
                (true, Some(group), Some(mut watch)) => {
                    watch.is_in_hub = true;
                    state.make(&group, watch);
                }
                (false, ..) => drop(telling.failed(&mut state, &error::STOPPED)),
                _ => {}
            }
        });
        true
    }

    /// Begins a watch at the revision to which the history is compacted: with the entries of the
    /// state as of then that it put. That is all that etcd remembers of it, too.
    fn begin_at_compacted(self: &Arc<Self>, state: &mut State, number: u64) {
        let Some(watch) = state.watches.get_mut(&number) else { return };
        watch.is_in_hub = false;
        let at = watch.range.from;
        let changed = RevisionBounds { min: at, max: at };
        let range = Range { at, mod_revision: changed, ..Range::of(watch.range.keys.clone()) };
        let txn = Txn { then: vec![Action::Range(range).into()], ..Txn::default() };
        let telling = Arc::clone(self);
        // The state is locked here, and the read may end at once.
        self.shared.later.at(Instant::now(), move |is_due| {
            if is_due {
                telling.read_compacted(number, txn, at);
            }
        });
    }

    fn read_compacted(self: Arc<Self>, number: u64, txn: Txn, at: Revision) {
        let shared = Arc::clone(&self.shared);
        shared.read(txn, true, move |result| {
            let mut state = self.state.lock();
            let entries = match result {
                Ok((_, answer)) => match answer.answers.first() {
                    Some(OperationAnswer::Range(range)) => range.entries.clone(),
                    other => panic!("a range was answered with {other:?}"),
                },
                // It was compacted further meanwhile, or cannot be read.
                Err(error) => return self.cancelled(&mut state, number, &error, at),
            };
            self.begun_at_compacted(&mut state, number, entries);
        });
    }

    fn begun_at_compacted(&self, state: &mut State, number: u64, entries: Vec<Entry>) {
        let (Some(group), Some(mut watch)) = (self.group(), state.watches.remove(&number)) else {
            return;
        };
        let at = watch.range.from;
        let put = |entry| Change::Put { entry, previous: None };
        let changes: Vec<Change> = entries.into_iter().map(put).collect();
        if watch.range.puts && !changes.is_empty() {
            let events: Vec<&Change> = changes.iter().collect();
            self.tell_now(state, events_message(&self.shared.header(), watch.id, at, &events));
        }
        watch.range.from = at.next();
        watch.is_in_hub = true;
        let is_asked = state.progress.missing.remove(&number);
        let number = state.make(&group, watch);
        if is_asked {
            state.progress.missing.insert(number);
            group.progress(number);
        }
    }

    fn cancelled(&self, state: &mut State, number: u64, error: &EtcdError, at: Revision) {
        let Some(watch) = state.watches.get(&number) else { return };
        let (header, id) = (self.shared.header(), watch.id);
        let message = match *error == error::COMPACTED {
            true => canceled_message(&header, Revision::NONE, id, at.next().0, ""),
            false => canceled_message(&header, Revision::NONE, id, 0, &error.to_string()),
        };
        self.tell_now(state, message);
        state.ids.remove(&id);
        self.forget(state, number);
    }

    /// The whole stream is over.
    fn failed(&self, state: &mut State, error: &EtcdError) -> Result<(), NoRoom> {
        if let Line::Open(stream) = &state.line
            && stream.try_send(&error.last_message()) == Err(StreamError::NoRoom)
        {
            return Err(NoRoom);
        }
        match std::mem::replace(&mut state.line, Line::Over) {
            Line::Open(stream) => stream.end(),
            // Clients expect a stream, whatever its status.
            Line::Waiting(answer, _) => answer.stream(error.stream_response()).end(),
            Line::Over => {}
        }
        Ok(())
    }
}

impl State {
    /// Asks for a watch, under a new number.
    fn make(&mut self, group: &WatchGroup, watch: Watch) -> u64 {
        self.last += 1;
        group.create(self.last, watch.range.clone());
        self.watches.insert(self.last, watch);
        self.last
    }

    /// One that no watch has, and none that the server has picked had.
    fn free_id(&mut self) -> i64 {
        while self.ids.contains(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }
}

impl Watch {
    /// Whether what is held belongs to a revision before these changes.
    fn held_is_before(&self, changes: &[Change]) -> bool {
        let first = changes.first().map(Change::revision);
        self.held.last().is_some_and(|last| Some(last.revision()) < first)
    }
}

impl Progress {
    fn said(&mut self, number: u64, least: Revision) {
        self.missing.remove(&number);
        self.complete_to = (!self.missing.is_empty()).then_some(least);
    }
}

impl Line {
    /// Sends a message, as the first one if none was sent yet.
    fn send(&mut self, message: &Bytes) -> Result<(), NoRoom> {
        match self {
            Line::Open(stream) => match stream.try_send_shared(message) {
                Err(StreamError::NoRoom) => Err(NoRoom),
                // That it is over is noticed where it is.
                Ok(()) | Err(StreamError::Over) => Ok(()),
            },
            Line::Waiting(..) => {
                self.open(message.clone());
                Ok(())
            }
            Line::Over => Ok(()),
        }
    }

    /// Begins the answer with this message.
    fn open(&mut self, first: Bytes) {
        if !matches!(self, Line::Waiting(..)) {
            return;
        }
        if let Line::Waiting(answer, group) = std::mem::replace(self, Line::Over) {
            let stream = answer.stream(stream_head().body(first));
            // A client that goes ends its watches.
            stream.when_over(move || drop(group));
            *self = Line::Open(stream);
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Line::Open(stream) => stream.is_over(),
            Line::Waiting(..) => false,
            Line::Over => true,
        }
    }
}

impl WatchSink for Arc<Telling> {
    fn take(&self, number: u64, news: &WatchNews<'_>) -> Result<ControlFlow<()>, NoRoom> {
        let mut state = self.state.lock();
        match *news {
            WatchNews::Created { revision } => self.made(&mut state, number, revision)?,
            WatchNews::Changes { changes, complete_to } => {
                self.changes(&mut state, number, changes, complete_to)?;
            }
            WatchNews::Ended { end, complete_to } => {
                return self.ended(&mut state, number, end, complete_to);
            }
        }
        Ok(if state.line.is_over() { OVER } else { ON })
    }

    fn when_ready(&self, callback: Box<dyn FnOnce() + Send>) {
        match &self.state.lock().line {
            Line::Open(stream) => stream.when_ready(callback),
            Line::Waiting(..) | Line::Over => callback(),
        }
    }

    fn wants_heartbeats(&self) -> bool {
        self.wants_heartbeats
    }

    fn end(&self, end: WatchesEnd) {
        let error = match end {
            WatchesEnd::Stopped | WatchesEnd::Done => error::STOPPED,
            WatchesEnd::Overload => error::TOO_MANY_REQUESTS,
        };
        let mut state = self.state.lock();
        // A client that has no room for it sees that its answer is not whole.
        if self.failed(&mut state, &error).is_err() {
            state.line = Line::Over;
        }
    }
}

fn progress_message(header: &Header, watch_id: i64, revision: Revision) -> Vec<u8> {
    Object::message(|message| {
        header.write(message, revision);
        message.number("watch_id", watch_id);
    })
}

/// `compacted`: where the history begins, if that is why; otherwise 0.
fn canceled_message(
    header: &Header,
    revision: Revision,
    watch_id: i64,
    compacted: u64,
    why: &str,
) -> Vec<u8> {
    Object::message(|message| {
        header.write(message, revision);
        message.number("watch_id", watch_id);
        message.flag("canceled", true);
        message.number("compact_revision", compacted);
        if !why.is_empty() {
            message.text("cancel_reason", why);
        }
    })
}

fn events_message(
    header: &Header,
    watch_id: i64,
    revision: Revision,
    changes: &[&Change],
) -> Vec<u8> {
    Object::message(|message| {
        header.write(message, revision);
        message.number("watch_id", watch_id);
        message.objects("events", changes.iter().copied(), event);
    })
}

fn event(event: &mut Object<'_>, change: &Change) {
    match change {
        Change::Put { entry, .. } => event.object("kv", |object| kv(object, entry)),
        Change::Delete { key, revision, .. } => {
            event.text("type", "DELETE");
            event.object("kv", |kv| {
                kv.bytes("key", key);
                kv.number("mod_revision", revision.0);
            });
        }
    }
    if let Some(previous) = change.previous() {
        event.object("prev_kv", |object| kv(object, previous));
    }
}

/// The message that was made last: all watches of one key that are told the same share it.
#[derive(Default)]
pub(in crate::front::etcd) struct Encoded(Mutex<Option<Last>>);

struct Last {
    term: u64,
    watch_id: i64,
    changes: Arc<[Change]>,
    message: Bytes,
}

impl Encoded {
    fn events(&self, header: &Header, watch_id: i64, changes: &Arc<[Change]>) -> Bytes {
        let mut last = self.0.lock();
        if let Some(last) = &*last
            && Arc::ptr_eq(&last.changes, changes)
            && (last.term, last.watch_id) == (header.term, watch_id)
        {
            return last.message.clone();
        }
        let revision = changes.last().map_or(Revision::NONE, Change::revision);
        let events: Vec<&Change> = changes.iter().collect();
        let message = Bytes::from(events_message(header, watch_id, revision, &events));
        let (term, changes, told) = (header.term, Arc::clone(changes), message.clone());
        *last = Some(Last { term, watch_id, changes, message: told });
        message
    }
}
