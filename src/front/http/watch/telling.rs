//! [`Telling`]: the watch of one request, from the hub to the client.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::encoded::Encoded;
use super::form::Form;
use crate::front::http::told::{Told, refused, watch_ended};
use crate::kv::api::{Api, NoRoom, WatchGroup, WatchNews, WatchSink, WatchesEnd};
use crate::kv::model::{Change, Reason, Refusal, Revision, WatchRange};
use crate::rpc::http::{Answer, Response, Stream, StreamError};

/// The number of the watch. Each request has a group of its own.
const ID: u64 = 0;

const ON: ControlFlow<()> = ControlFlow::Continue(());
const OVER: ControlFlow<()> = ControlFlow::Break(());

pub(super) struct Telling {
    form: Form,
    /// The first revision that was asked for.
    from: Revision,
    encoded: Arc<Encoded>,
    state: Mutex<State>,
}

enum State {
    Waiting(Waiting),
    Open(Open),
    Over,
}

/// Nothing was answered yet.
struct Waiting {
    answer: Answer,
    /// Ends the watch when it is dropped.
    group: Option<WatchGroup>,
    /// The revision of the store when the watch was made.
    created: Revision,
}

/// The answer has begun.
struct Open {
    stream: Stream,
    progress: Progress,
}

/// How far the client is.
#[derive(Clone, Copy)]
struct Progress {
    complete_to: Revision,
    /// Whether the first question how far the watch is has no answer yet. See [`Telling::begin`].
    is_asked: bool,
}

impl Telling {
    /// Asks for the watch that `answer` is to tell.
    pub(super) fn begin(
        api: &Api,
        encoded: Arc<Encoded>,
        answer: Answer,
        form: Form,
        range: WatchRange,
    ) {
        let waiting = Waiting { answer, group: None, created: Revision::NONE };
        let (from, state) = (range.from, Mutex::new(State::Waiting(waiting)));
        let telling = Arc::new(Telling { form, from, encoded, state });
        let group = api.watches(Arc::clone(&telling));
        let mut state = telling.state.lock();
        // Otherwise the member is stopping, and said so.
        if let State::Waiting(waiting) = &mut *state {
            group.create(ID, range);
            // So something is told in any case, by which the answer can begin.
            group.progress(ID);
            waiting.group = Some(group);
        }
    }

    /// The watch is made.
    fn made(&self, state: &mut State, revision: Revision) -> ControlFlow<()> {
        if self.from > revision.next() {
            self.refuse(state, refused(&Refusal::of(Reason::InTheFuture, revision.0)));
            return OVER;
        }
        if let State::Waiting(waiting) = state {
            waiting.created = revision;
        }
        ON
    }

    fn refuse(&self, state: &mut State, response: Response) {
        if let State::Waiting(waiting) = std::mem::replace(state, State::Over) {
            waiting.answer.send(response);
        }
    }

    /// Begins the answer: with the revision behind which the watch begins, and with what is told
    /// first.
    fn open(
        &self,
        Waiting { answer, group, created }: Waiting,
        changes: &Arc<[Change]>,
        complete_to: Revision,
    ) -> State {
        let begin = if self.from == Revision::NONE { created } else { before(self.from) };
        let progress = Progress { complete_to: begin, is_asked: true };
        let mut body = self.form.progress(begin);
        body.extend_from_slice(&self.bytes(progress, changes, complete_to));
        let response = Response::new(200)
            .header("Content-Type", self.form.content_type())
            .header("Cache-Control", "no-store")
            .header("Syncraft-Revision", created.to_string());
        let stream = answer.stream(response.body(body));
        // A client that goes ends its watch.
        stream.when_over(move || drop(group));
        State::Open(Open { stream, progress: progress.after(changes, complete_to) })
    }

    /// What a client is told that is as far as `progress`.
    fn bytes(&self, progress: Progress, changes: &Arc<[Change]>, complete_to: Revision) -> Bytes {
        match changes.is_empty() {
            false => self.encoded.changes(self.form, changes, complete_to),
            true if complete_to > progress.complete_to => self.form.progress(complete_to).into(),
            // Nobody but us has asked.
            true if progress.is_asked => Bytes::new(),
            true => self.form.heartbeat(complete_to).into(),
        }
    }

    fn changes(
        &self,
        open: &mut Open,
        changes: &Arc<[Change]>,
        complete_to: Revision,
    ) -> Result<ControlFlow<()>, NoRoom> {
        match open.stream.try_send_shared(&self.bytes(open.progress, changes, complete_to)) {
            Ok(()) => {
                open.progress = open.progress.after(changes, complete_to);
                Ok(ON)
            }
            Err(StreamError::NoRoom) => Err(NoRoom),
            Err(StreamError::Over) => Ok(OVER),
        }
    }

    /// The watch has ended.
    fn ended(
        &self,
        state: &mut State,
        told: Told,
        complete_to: Revision,
    ) -> Result<ControlFlow<()>, NoRoom> {
        if let State::Open(open) = &*state {
            let end = self.form.end(&told, complete_to);
            if open.stream.try_send(&end) == Err(StreamError::NoRoom) {
                return Err(NoRoom);
            }
        }
        match std::mem::replace(state, State::Over) {
            State::Open(open) => open.stream.end(),
            State::Waiting(waiting) => waiting.answer.send(told.response()),
            State::Over => {}
        }
        Ok(OVER)
    }
}

impl Progress {
    fn after(self, changes: &[Change], complete_to: Revision) -> Progress {
        Progress {
            complete_to: self.complete_to.max(complete_to),
            is_asked: self.is_asked && !changes.is_empty(),
        }
    }
}

impl WatchSink for Arc<Telling> {
    fn take(&self, _: u64, news: &WatchNews<'_>) -> Result<ControlFlow<()>, NoRoom> {
        let mut state = self.state.lock();
        match *news {
            WatchNews::Created { revision } => Ok(self.made(&mut state, revision)),
            WatchNews::Ended { end, complete_to } => {
                self.ended(&mut state, watch_ended(end), complete_to)
            }
            WatchNews::Changes { changes, complete_to } => {
                match std::mem::replace(&mut *state, State::Over) {
                    State::Waiting(waiting) => {
                        *state = self.open(waiting, changes, complete_to);
                        Ok(ON)
                    }
                    State::Open(mut open) => {
                        let taken = self.changes(&mut open, changes, complete_to);
                        *state = State::Open(open);
                        taken
                    }
                    State::Over => Ok(OVER),
                }
            }
        }
    }

    fn when_ready(&self, callback: Box<dyn FnOnce() + Send>) {
        match &*self.state.lock() {
            State::Open(open) => open.stream.when_ready(callback),
            State::Waiting(_) | State::Over => callback(),
        }
    }

    fn wants_heartbeats(&self) -> bool {
        true
    }

    fn end(&self, end: WatchesEnd) {
        let words = match end {
            WatchesEnd::Stopped | WatchesEnd::Done => "this member is stopping",
            WatchesEnd::Overload => "more is asked of watches than is answered",
        };
        let told = Told::new(503, "not_served", words);
        let mut state = self.state.lock();
        let complete_to = match &*state {
            State::Open(open) => open.progress.complete_to,
            State::Waiting(_) | State::Over => Revision::NONE,
        };
        // A client that has no room for it sees that its answer is not whole.
        if self.ended(&mut state, told, complete_to).is_err() {
            *state = State::Over;
        }
    }
}

fn before(revision: Revision) -> Revision {
    Revision(revision.0.saturating_sub(1))
}
