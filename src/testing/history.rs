//! [`History`]: what clients asked and were told, and whether one copy of the data could have told them so.
//!
//! A history is linearizable if its calls can be put in an order that explains every answer, and in which no call comes
//! before one that had ended when it began. Keys are independent of each other, so each is judged on its own. The search is
//! Wing and Gong's with Lowe's memory of what was tried: take any call that may come next, and step back when none fits.
//!
//! - A write whose outcome is unknown may take effect at any time after it began, or never.
//! - A write that failed for certain takes no effect: a read that saw it is a violation.
//! - A read that failed says nothing.
//!
//! What keeps the search short: before the next read must have been answered, a value can only grow by appends, unless a put
//! could come between. So an order whose value does not begin what that read saw is given up at once.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::clerk::{Clerk, ClerkError, ClerkErrorKind};

/// Steps of the search for one key. A history that needs more has too many calls at once without a read between them.
const STEPS_MAX: u64 = 20_000_000;
/// Calls that an explanation shows.
const SHOWN_MAX: usize = 8;

/// A record of calls, shared by the threads that make them.
///
/// ```no_run
/// use std::thread;
/// use syncraft::testing::{Cluster, History};
///
/// let cluster = Cluster::start(3)?;
/// let history = History::new();
/// thread::scope(|scope| {
///     for client in 0..4 {
///         let (history, clerk) = (&history, cluster.clerk());
///         scope.spawn(move || {
///             for n in 0..100 {
///                 // Failures are part of the record.
///                 let _ = history.append(&clerk, "log", format!("{client}:{n},"));
///                 let _ = history.get(&clerk, "log");
///             }
///         });
///     }
///     cluster.kill(cluster.leader().expect("someone leads"));
/// });
/// history.check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Clients other than a [`Clerk`] record with [`begin_put`](History::begin_put) and the like:
///
/// ```
/// use syncraft::testing::{History, Outcome};
///
/// let history = History::new();
/// let put = history.begin_put("k", "v");
/// put.end(Outcome::Done);
/// let get = history.begin_get("k");
/// get.end(Outcome::Value(None));
/// assert!(history.check().is_err());       // a write that was acknowledged was not seen
/// ```
#[derive(Debug)]
pub struct History {
    began: Instant,
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    /// Counts beginnings and ends: an order that agrees with real time.
    moment: u64,
    calls: Vec<Record>,
}

#[derive(Clone, Debug)]
struct Record {
    key: Bytes,
    action: Action,
    began: Moment,
    ended: Option<(Moment, Outcome)>,
}

#[derive(Clone, Copy, Debug)]
struct Moment {
    order: u64,
    at: Instant,
}

#[derive(Clone, Debug)]
enum Action {
    Put(Bytes),
    Append(Bytes),
    Get,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write is acknowledged.
    Done,
    /// What the read saw; `None` if the key was absent.
    Value(Option<Bytes>),
    /// The write had no effect and never will have. A read that failed.
    NotApplied,
    /// The write may or may not have happened, or may yet.
    Unknown,
}

/// A call that has begun. Dropped without an end, its outcome is unknown.
#[derive(Debug)]
#[must_use = "a call that is dropped at once is one whose outcome is unknown"]
pub struct Call<'a> {
    history: &'a History,
    index: usize,
}

/// Why a history is not accepted.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// No order explains it.
    #[error(
        "key \"{key}\": no order of its {calls} calls explains what was answered\n{explanation}"
    )]
    NotLinearizable {
        /// The key, escaped.
        key: String,
        /// Its calls.
        calls: usize,
        /// The longest order that was found, and what cannot come next in it: some lines.
        explanation: String,
    },
    /// The search was given up.
    #[error("key \"{key}\": undecided after {steps} steps: too many of its {calls} calls at once")]
    Undecided {
        /// The key, escaped.
        key: String,
        /// Its calls.
        calls: usize,
        /// Orders that were looked at.
        steps: u64,
    },
}

impl Default for History {
    fn default() -> History {
        History::new()
    }
}

impl History {
    /// Nothing yet.
    pub fn new() -> History {
        History { began: Instant::now(), calls: Mutex::default() }
    }

    /// [`Clerk::put`], recorded.
    ///
    /// # Errors
    /// The Clerk's.
    pub fn put(
        &self,
        clerk: &Clerk,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<(), ClerkError> {
        let call = self.begin_put(&key, &value);
        call.end_write(clerk.put(key, value))
    }

    /// [`Clerk::append`], recorded.
    ///
    /// # Errors
    /// The Clerk's.
    pub fn append(
        &self,
        clerk: &Clerk,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<(), ClerkError> {
        let call = self.begin_append(&key, &value);
        call.end_write(clerk.append(key, value))
    }

    /// [`Clerk::get`], recorded.
    ///
    /// # Errors
    /// The Clerk's.
    pub fn get(&self, clerk: &Clerk, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, ClerkError> {
        let call = self.begin_get(&key);
        let result = clerk.get(key);
        call.end(result.as_ref().map_or(Outcome::NotApplied, |it| Outcome::Value(it.clone())));
        result
    }

    /// A put is about to be sent.
    pub fn begin_put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Call<'_> {
        self.begin(key.as_ref(), Action::Put(Bytes::copy_from_slice(value.as_ref())))
    }

    /// An append is about to be sent.
    pub fn begin_append(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Call<'_> {
        self.begin(key.as_ref(), Action::Append(Bytes::copy_from_slice(value.as_ref())))
    }

    /// A get is about to be sent.
    pub fn begin_get(&self, key: impl AsRef<[u8]>) -> Call<'_> {
        self.begin(key.as_ref(), Action::Get)
    }

    /// How many calls have begun.
    pub fn len(&self) -> usize {
        self.calls.lock().calls.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether what was recorded so far is linearizable.
    ///
    /// # Errors
    /// [`Violation`], which shows the calls that do not fit.
    pub fn check(&self) -> Result<(), Violation> {
        let mut keys: BTreeMap<Bytes, Vec<(usize, Record)>> = BTreeMap::new();
        for (number, record) in self.calls.lock().calls.iter().enumerate() {
            if record.says_something() {
                keys.entry(record.key.clone()).or_default().push((number, record.clone()));
            }
        }
        keys.iter().try_for_each(|(key, calls)| Search::new(calls).run(key, self.began))
    }

    fn begin(&self, key: &[u8], action: Action) -> Call<'_> {
        let mut calls = self.calls.lock();
        let (key, began) = (Bytes::copy_from_slice(key), calls.next_moment());
        calls.calls.push(Record { key, action, began, ended: None });
        Call { history: self, index: calls.calls.len() - 1 }
    }
}

impl Call<'_> {
    /// It has ended so.
    pub fn end(self, outcome: Outcome) {
        let mut calls = self.history.calls.lock();
        let now = calls.next_moment();
        calls.calls[self.index].ended = Some((now, outcome));
    }

    fn end_write(self, result: Result<(), ClerkError>) -> Result<(), ClerkError> {
        self.end(match &result {
            Ok(()) => Outcome::Done,
            Err(error) if error.kind() == ClerkErrorKind::Unknown => Outcome::Unknown,
            Err(_) => Outcome::NotApplied,
        });
        result
    }
}

impl Calls {
    fn next_moment(&mut self) -> Moment {
        self.moment += 1;
        Moment { order: self.moment, at: Instant::now() }
    }
}

impl Record {
    /// A read that failed and a write that had no effect are not part of any order.
    fn says_something(&self) -> bool {
        match (&self.action, &self.ended) {
            (_, Some((_, Outcome::NotApplied))) => false,
            (Action::Get, ended) => matches!(ended, Some((_, Outcome::Value(_)))),
            _ => true,
        }
    }

    /// When it must have taken effect, if it must.
    fn returned(&self) -> Option<u64> {
        match &self.ended {
            Some((_, Outcome::Unknown)) | None => None,
            Some((moment, _)) => Some(moment.order),
        }
    }

    fn seen(&self) -> Option<&Option<Bytes>> {
        match &self.ended {
            Some((_, Outcome::Value(value))) => Some(value),
            _ => None,
        }
    }
}

/// The value of one key, and how to go back.
#[derive(Debug, Default)]
struct Value {
    bytes: Option<Vec<u8>>,
    /// Stands for the value in the memory of what was tried: 128 bits, so that no two values ever share one.
    hash: [u64; 2],
}

enum Undo {
    Nothing,
    Truncate(Option<usize>, [u64; 2]),
    Replace(Value),
}

impl Value {
    fn put(&mut self, value: &[u8]) -> Undo {
        let new = Value { bytes: Some(value.to_vec()), hash: chain([0; 2], value) };
        Undo::Replace(std::mem::replace(self, new))
    }

    fn append(&mut self, value: &[u8]) -> Undo {
        let undo = Undo::Truncate(self.bytes.as_ref().map(Vec::len), self.hash);
        self.bytes.get_or_insert_default().extend_from_slice(value);
        self.hash = chain(self.hash, value);
        undo
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Nothing => {}
            Undo::Replace(before) => *self = before,
            Undo::Truncate(len, hash) => {
                self.hash = hash;
                match (len, &mut self.bytes) {
                    (Some(len), Some(bytes)) => bytes.truncate(len),
                    _ => self.bytes = None,
                }
            }
        }
    }

    /// Whether appends could make it `later`.
    fn begins(&self, later: Option<&[u8]>) -> bool {
        match (&self.bytes, later) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(bytes), Some(later)) => later.starts_with(bytes),
        }
    }
}

fn chain(before: [u64; 2], bytes: &[u8]) -> [u64; 2] {
    [0, 1].map(|salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, before, bytes).hash(&mut hasher);
        hasher.finish()
    })
}

/// A beginning or an end, in the list of those that are left, in the order of time.
#[derive(Clone, Copy, Debug)]
struct Entry {
    call: usize,
    is_end: bool,
    previous: usize,
    next: usize,
}

/// The place before the first entry, which is also the one behind the last.
const HEAD: usize = 0;

/// The search for an order of the calls of one key.
struct Search<'a> {
    calls: &'a [(usize, Record)],
    list: Vec<Entry>,
    /// Where each call begins and ends in the list.
    places: Vec<(usize, Option<usize>)>,
    value: Value,
    taken: Vec<u64>,
    order: Vec<(usize, Undo)>,
    tried: HashSet<(Vec<u64>, [u64; 2])>,
    steps: u64,
    longest: Longest,
}

/// The best that was found, to explain what is wrong.
#[derive(Default)]
struct Longest {
    order: Vec<usize>,
    value: Option<Vec<u8>>,
    /// What would have to come, and does not fit.
    misfits: Vec<usize>,
}

impl<'a> Search<'a> {
    fn new(calls: &'a [(usize, Record)]) -> Search<'a> {
        let mut times: Vec<(u64, usize, bool)> = Vec::new();
        for (call, (_, record)) in calls.iter().enumerate() {
            times.push((record.began.order, call, false));
            times.extend(record.returned().map(|order| (order, call, true)));
        }
        times.sort_unstable();
        let len = times.len() + 1;
        let mut list = vec![Entry { call: 0, is_end: false, previous: len - 1, next: 1 % len }];
        let mut places = vec![(0, None); calls.len()];
        for (at, (_, call, is_end)) in times.into_iter().enumerate() {
            list.push(Entry { call, is_end, previous: at, next: (at + 2) % len });
            match is_end {
                true => places[call].1 = Some(at + 1),
                false => places[call].0 = at + 1,
            }
        }
        Search {
            calls,
            list,
            places,
            value: Value::default(),
            taken: vec![0; calls.len().div_ceil(64)],
            order: Vec::new(),
            tried: HashSet::new(),
            steps: 0,
            longest: Longest::default(),
        }
    }

    fn run(mut self, key: &Bytes, began: Instant) -> Result<(), Violation> {
        let (key, calls) = (key.escape_ascii().to_string(), self.calls.len());
        let mut at = self.list[HEAD].next;
        while at != HEAD {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Err(Violation::Undecided { key, calls, steps: STEPS_MAX });
            }
            let entry = self.list[at];
            at = match entry.is_end {
                false if self.take(entry.call) => self.list[HEAD].next,
                false => entry.next,
                // It must come before this, and nothing else may come before it.
                true => match self.step_back() {
                    Some(next) => next,
                    None => {
                        let explanation = self.longest.explain(self.calls, began);
                        return Err(Violation::NotLinearizable { key, calls, explanation });
                    }
                },
            };
        }
        Ok(())
    }

    /// Makes this call the next one in the order, if it fits and that was not tried before.
    fn take(&mut self, call: usize) -> bool {
        let record = &self.calls[call].1;
        let undo = match (&record.action, record.seen()) {
            (Action::Put(value), _) => self.value.put(value),
            (Action::Append(value), _) => self.value.append(value),
            (Action::Get, Some(seen)) if seen.as_deref() == self.value.bytes.as_deref() => {
                Undo::Nothing
            }
            (Action::Get, _) => return false,
        };
        self.unlink(call);
        self.taken[call / 64] |= 1 << (call % 64);
        if let Some(read) = self.read_out_of_reach() {
            self.note_longest(Some(call), vec![read]);
            self.put_back(call, undo);
            return false;
        }
        if !self.tried.insert((self.taken.clone(), self.value.hash)) {
            self.put_back(call, undo);
            return false;
        }
        self.order.push((call, undo));
        true
    }

    /// Takes the last call out of the order again: where to go on, or `None` if there was none.
    fn step_back(&mut self) -> Option<usize> {
        let next = self.left().take_while(|it| !it.is_end).map(|it| it.call).collect();
        self.note_longest(None, next);
        let (call, undo) = self.order.pop()?;
        self.put_back(call, undo);
        Some(self.list[self.places[call].0].next)
    }

    fn put_back(&mut self, call: usize, undo: Undo) {
        self.taken[call / 64] &= !(1 << (call % 64));
        self.value.undo(undo);
        let (begin, end) = self.places[call];
        for place in end.into_iter().chain([begin]) {
            let Entry { previous, next, .. } = self.list[place];
            self.list[previous].next = place;
            self.list[next].previous = place;
        }
    }

    fn unlink(&mut self, call: usize) {
        let (begin, end) = self.places[call];
        for place in [begin].into_iter().chain(end) {
            let Entry { previous, next, .. } = self.list[place];
            self.list[previous].next = next;
            self.list[next].previous = previous;
        }
    }

    fn left(&self) -> impl Iterator<Item = Entry> {
        let at = |at: usize| (at != HEAD).then(|| (at, self.list[at]));
        std::iter::successors(at(self.list[HEAD].next), move |(_, entry)| at(entry.next))
            .map(|(_, entry)| entry)
    }

    /// The next read that must have its answer, if it cannot get it any more.
    fn read_out_of_reach(&self) -> Option<usize> {
        let seen_by = |entry: &Entry| self.calls[entry.call].1.seen().filter(|_| entry.is_end);
        let read = self.left().find(|entry| seen_by(entry).is_some())?;
        let seen = seen_by(&read)?.as_deref();
        if self.value.begins(seen) {
            return None;
        }
        let mut before = self.left().take_while(|entry| seen_by(entry).is_none());
        let may_begin_anew = before.any(|entry| match &self.calls[entry.call].1.action {
            Action::Put(value) => seen.is_some_and(|seen| seen.starts_with(value)),
            _ => false,
        });
        (!may_begin_anew).then_some(read.call)
    }

    /// The order so far, perhaps with one more, and what does not fit behind it.
    fn note_longest(&mut self, last: Option<usize>, misfits: Vec<usize>) {
        let len = self.order.len() + usize::from(last.is_some());
        if len > self.longest.order.len() || self.longest.misfits.is_empty() {
            let order = self.order.iter().map(|(call, _)| *call).chain(last).collect();
            self.longest = Longest { order, value: self.value.bytes.clone(), misfits };
        }
    }
}

impl Longest {
    fn explain(&self, calls: &[(usize, Record)], began: Instant) -> String {
        let mut text = String::new();
        let show = |text: &mut String, call: usize| {
            let (number, record) = &calls[call];
            let shown = Shown { number: *number, record, began };
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {shown}");
        };
        let skipped = self.order.len().saturating_sub(SHOWN_MAX);
        let _ = writeln!(text, "an order of {} calls was found; its last ones:", self.order.len());
        self.order[skipped..].iter().for_each(|&call| show(&mut text, call));
        let value = self.value.as_deref().map_or("absent".to_owned(), quoted);
        let _ = writeln!(text, "now the value is {value}, and what must come does not fit:");
        self.misfits.iter().take(4 * SHOWN_MAX).for_each(|&call| show(&mut text, call));
        text
    }
}

/// One call in one line.
struct Shown<'a> {
    number: usize,
    record: &'a Record,
    began: Instant,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shown { number, record, began } = self;
        let millis = |at: Instant| at.saturating_duration_since(*began).as_secs_f64() * 1e3;
        write!(f, "#{number} from {:.3} ms ", millis(record.began.at))?;
        match &record.ended {
            Some((moment, _)) => write!(f, "to {:.3} ms: ", millis(moment.at))?,
            None => f.write_str("on: ")?,
        }
        match &record.action {
            Action::Put(value) => write!(f, "put {}", quoted(value))?,
            Action::Append(value) => write!(f, "append {}", quoted(value))?,
            Action::Get => f.write_str("get")?,
        }
        match &record.ended {
            Some((_, Outcome::Done)) => f.write_str(", done"),
            Some((_, Outcome::Value(None))) => f.write_str(", absent"),
            Some((_, Outcome::Value(Some(value)))) => write!(f, ", saw {}", quoted(value)),
            Some((_, Outcome::NotApplied)) => f.write_str(", not applied"),
            Some((_, Outcome::Unknown)) | None => f.write_str(", outcome unknown"),
        }
    }
}

/// Escaped, and of a long value its end, where appends show.
fn quoted(value: &[u8]) -> String {
    const LEN_MAX: usize = 60;
    let tail = &value[value.len().saturating_sub(LEN_MAX)..];
    match tail.len() == value.len() {
        true => format!("\"{}\"", tail.escape_ascii()),
        false => format!("\"...{}\" ({} bytes)", tail.escape_ascii(), value.len()),
    }
}

#[cfg(test)]
mod tests;
