//! `bench watch`: a key that many watch.
//!
//! A client puts the key, and puts it again when its put is answered and every watcher has been
//! sent the change. So the number of clients bounds what waits for the watchers. A latency is the
//! time from the put to the last watcher; each change that a watcher is sent counts as one
//! operation.
//!
//! ```text
//! client ── put ──> leader ── changes, over --streams streams ──> a thread each ──> Counts
//!    ^                                                                                │
//!    └────────────────────── all watchers have this revision <────────────────────────┘
//! ```
//!
//! A run ends at its first failure: when another member leads, the watches would have to be made
//! anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use syncraft::ErrorChain;
use syncraft::kv::model::proto::{
    StoreRpcStub, TxnReply, WatchCreate, WatchRequest, txn_reply, watch_request,
};
use syncraft::kv::model::{Action, KeyRange, Txn, WatchRange};
use syncraft::rpc::{CallError, CallOptions, Incoming, Next, Sender};

use super::super::Failure;
use super::super::args::{BenchArgs, WatchLoadArgs};
use super::end;
use super::load::{End, check_line};
use super::measured::{Failed, LATENCY_MAX_US, Measured, Shard};
use super::wire::{Line, Lines, Session};

/// The key that is put.
const KEY: &str = "bench-watched";
/// What the keys that nobody changes begin with. Their numbers follow.
const IDLE_PREFIX: &str = "bench-idle-";
/// How often a thread that waits for changes looks whether the run is over.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) fn run(
    args: &BenchArgs,
    addr: String,
    connections: usize,
    timeout: Duration,
) -> Result<Measured, Failure> {
    let lines = Lines::new(addr, args.clients, connections).lines;
    let deadline = Instant::now() + timeout;
    lines.iter().try_for_each(|line| check_line(line, deadline))?;
    let streams = (0..args.watch.streams)
        .map(|number| {
            Stream::open(&lines[number as usize % connections], number, &args.watch, deadline)
        })
        .collect::<Result<Vec<Stream>, Failure>>()?;
    let value = std::iter::repeat_with(|| fastrand::u8(..)).take(args.value_size).collect();
    let run = Arc::new(Run {
        lines,
        watchers: args.watch.watchers,
        value,
        start: Instant::now() + args.warm_up,
        end: end(args),
        is_over: AtomicBool::new(false),
        counts: Mutex::new(Counts::new(args.clients)),
        all_done: Condvar::new(),
    });
    let elapsed = thread::scope(|scope| {
        for stream in streams {
            let run = &run;
            thread::Builder::new().spawn_scoped(scope, move || run.receive(stream)).map_err(
                |error| {
                    run.is_over.store(true, Ordering::Relaxed);
                    Failure::not_applied(format!("cannot start a thread: {error}"))
                },
            )?;
        }
        for number in 0..args.clients {
            run.begin(Client { number, session: Session::new(&mut fastrand::Rng::new()) });
        }
        run.wait(timeout);
        run.is_over.store(true, Ordering::Relaxed);
        Ok::<_, Failure>(run.start.elapsed())
    })?;
    let shard = std::mem::replace(&mut run.counts.lock().shard, Shard::new());
    run.lines.iter().for_each(|line| line.kv.invoker().close());
    Ok(shard.measured(u64::from(args.watch.watchers), elapsed))
}

/// A stream with its share of the watches, all of which are made.
struct Stream {
    /// Dropping it would end the watches.
    _requests: Sender<WatchRequest>,
    replies: Incoming<Reply>,
}

impl Stream {
    fn open(
        line: &Line,
        number: u32,
        args: &WatchLoadArgs,
        deadline: Instant,
    ) -> Result<Stream, Failure> {
        let WatchLoadArgs { watchers, idle, streams } = *args;
        let (method, options) = (&<StoreRpcStub>::WATCH, CallOptions::default());
        let (requests, mut replies) =
            line.store.invoker().open_duplex::<_, Reply>(method, &options, None);
        let share = |all: u32| (number..all).step_by(streams as usize);
        let unchanged = share(idle).map(|number| Bytes::from(format!("{IDLE_PREFIX}{number:010}")));
        let keys = share(watchers).map(|_| Bytes::from(KEY)).chain(unchanged);
        let mut made = 0;
        for (id, key) in keys.enumerate() {
            let create = WatchCreate::from(&WatchRange::of(KeyRange::key(key)));
            let request = Some(watch_request::Request::Create(create));
            let request = WatchRequest { id: id as u64, request };
            requests.send(&request, deadline).map_err(failure)?;
            made += 1;
        }
        while made > 0 {
            match replies.next_timeout(deadline.saturating_duration_since(Instant::now())) {
                Next::Item(Reply { created: Some(_), .. }) => made -= 1,
                Next::Failed(error) => return Err(failure(error)),
                other => {
                    return Err(Failure::not_applied(format!("a watch is not made: {other:?}")));
                }
            }
        }
        Ok(Stream { _requests: requests, replies })
    }
}

fn failure(error: impl std::error::Error) -> Failure {
    Failure::not_applied(format!("cannot watch: {}", ErrorChain(&error)))
}

/// The state that clients and watchers share.
struct Run {
    lines: Vec<Line>,
    watchers: u32,
    value: Bytes,
    /// When counting begins.
    start: Instant,
    end: End,
    is_over: AtomicBool,
    counts: Mutex<Counts>,
    all_done: Condvar,
}

struct Counts {
    /// How many watchers have been sent a revision, of those that not all have been sent.
    by_revision: BTreeMap<u64, u32>,
    /// The latest revision that all watchers have been sent, and so all revisions before.
    by_all: u64,
    /// Puts that are answered, by revision, until all watchers have been sent it.
    answered: BTreeMap<u64, Begun>,
    /// Puts that were begun since counting began.
    begun: u64,
    /// Clients that still have something to do.
    active: usize,
    shard: Shard,
}

struct Client {
    number: usize,
    session: Session,
}

/// A put of a client.
struct Begun {
    client: Client,
    begin: Instant,
}

impl Counts {
    fn new(clients: usize) -> Counts {
        Counts {
            by_revision: BTreeMap::new(),
            by_all: 0,
            answered: BTreeMap::new(),
            begun: 0,
            active: clients,
            shard: Shard::new(),
        }
    }

    /// A watcher has been sent `revision`. Returns the puts that this ends.
    fn sent(&mut self, revision: u64, watchers: u32) -> BTreeMap<u64, Begun> {
        let count = self.by_revision.entry(revision).or_default();
        *count += 1;
        if *count < watchers {
            return BTreeMap::new();
        }
        self.by_revision.remove(&revision);
        self.by_all = revision;
        let later = self.answered.split_off(&(revision + 1));
        std::mem::replace(&mut self.answered, later)
    }
}

impl Run {
    /// Takes what one stream brings.
    fn receive(self: &Arc<Self>, mut stream: Stream) {
        while !self.is_over.load(Ordering::Relaxed) {
            match stream.replies.next_timeout(PAUSE) {
                Next::Item(Reply { changes: Some(Changes { changes }), ended: None, .. }) => {
                    self.sent(changes.iter().filter_map(|change| change.entry.as_ref()));
                }
                Next::NotYet => {}
                other => return self.fail(format!("a watch has failed: {other:?}")),
            }
        }
    }

    fn sent<'a>(self: &Arc<Self>, entries: impl Iterator<Item = &'a Entry>) {
        let mut ended = Vec::new();
        let mut counts = self.counts.lock();
        for entry in entries {
            ended.extend(counts.sent(entry.mod_revision, self.watchers).into_values());
        }
        drop(counts);
        ended.into_iter().for_each(|begun| self.finish(begun));
    }

    fn begin(self: &Arc<Self>, mut client: Client) {
        let begin = Instant::now();
        if self.is_over.load(Ordering::Relaxed) || (begin >= self.start && self.is_last(begin)) {
            return self.leave();
        }
        let put = Action::put(Bytes::from_static(KEY.as_bytes()), self.value.clone());
        let txn = Txn { then: vec![put.into()], ..Txn::default() };
        let request = client.session.transaction(&txn);
        let line = &self.lines[client.number % self.lines.len()];
        let (run, deadline) = (Arc::clone(self), begin + Duration::from_micros(LATENCY_MAX_US));
        let begun = Begun { client, begin };
        line.store.txn_then(&request, deadline, move |reply| run.answered(begun, reply));
    }

    /// Counts a put that is about to begin, unless the run ends before it.
    fn is_last(&self, begin: Instant) -> bool {
        let mut counts = self.counts.lock();
        counts.begun += 1;
        match self.end {
            End::After(time) => begin >= self.start + time,
            End::Count(count) => counts.begun > count,
        }
    }

    fn answered(self: &Arc<Self>, mut begun: Begun, reply: Result<TxnReply, CallError>) {
        let (revision, index) = match reply {
            Ok(TxnReply {
                result: Some(txn_reply::Result::Answer(_)), revision, index, ..
            }) => (revision, index),
            Ok(reply) => return self.fail(format!("a put has failed: {:?}", reply.result)),
            Err(error) => return self.fail(format!("a put has failed: {}", ErrorChain(&error))),
        };
        begun.client.session.saw(index);
        let mut counts = self.counts.lock();
        if revision > counts.by_all {
            counts.answered.insert(revision, begun);
            return;
        }
        drop(counts);
        self.finish(begun);
    }

    /// A put is answered, and all watchers have been sent it.
    fn finish(self: &Arc<Self>, begun: Begun) {
        let Begun { client, begin } = begun;
        if begin >= self.start {
            let latency = begin.elapsed().as_micros();
            let latency = u64::try_from(latency).unwrap_or(LATENCY_MAX_US);
            self.counts.lock().shard.count(latency, Ok(()));
        }
        self.begin(client);
    }

    fn leave(&self) {
        let mut counts = self.counts.lock();
        counts.active = counts.active.saturating_sub(1);
        if counts.active == 0 {
            self.all_done.notify_all();
        }
    }

    fn fail(&self, words: String) {
        if self.is_over.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut counts = self.counts.lock();
        counts.shard.count(0, Err(Failed::not_applied(words)));
        counts.active = 0;
        self.all_done.notify_all();
    }

    /// Waits for the end of the run, as long as changes come.
    fn wait(&self, timeout: Duration) {
        let mut counts = self.counts.lock();
        while counts.active > 0 {
            let by_all = counts.by_all;
            let is_late = self.all_done.wait_for(&mut counts, timeout).timed_out();
            if is_late && counts.by_all == by_all {
                drop(counts);
                return self.fail(format!("no change reached all watchers within {timeout:?}"));
            }
        }
    }
}

/// Of a `WatchReply`, what is looked at: the load is to take little of the machine.
#[derive(Clone, PartialEq, syncraft::rpc::prost::Message)]
#[prost(prost_path = "syncraft::rpc::prost")]
struct Reply {
    #[prost(message, optional, tag = "2")]
    created: Option<Created>,
    #[prost(message, optional, tag = "3")]
    changes: Option<Changes>,
    #[prost(message, optional, tag = "4")]
    ended: Option<Ended>,
}

#[derive(Clone, PartialEq, syncraft::rpc::prost::Message)]
#[prost(prost_path = "syncraft::rpc::prost")]
struct Created {}

#[derive(Clone, PartialEq, syncraft::rpc::prost::Message)]
#[prost(prost_path = "syncraft::rpc::prost")]
struct Changes {
    #[prost(message, repeated, tag = "1")]
    changes: Vec<Change>,
}

#[derive(Clone, PartialEq, syncraft::rpc::prost::Message)]
#[prost(prost_path = "syncraft::rpc::prost")]
struct Change {
    #[prost(message, optional, tag = "1")]
    entry: Option<Entry>,
}

#[derive(Clone, PartialEq, syncraft::rpc::prost::Message)]
#[prost(prost_path = "syncraft::rpc::prost")]
struct Entry {
    #[prost(uint64, tag = "4")]
    mod_revision: u64,
}

#[derive(Clone, PartialEq, syncraft::rpc::prost::Message)]
#[prost(prost_path = "syncraft::rpc::prost")]
struct Ended {}

#[cfg(test)]
mod tests {
    use syncraft::kv::model::proto;
    use syncraft::rpc::prost::Message;

    use super::*;

    #[test]
    fn what_is_looked_at_is_where_the_service_puts_it() {
        let read = |reply: proto::watch_reply::Reply| {
            let reply = proto::WatchReply { id: 7, reply: Some(reply) };
            Reply::decode(&reply.encode_to_vec()[..]).unwrap()
        };
        let created = read(proto::watch_reply::Reply::Created(Default::default()));
        assert_eq!(created, Reply { created: Some(Created {}), ..Reply::default() });
        let ended = read(proto::watch_reply::Reply::Ended(Default::default()));
        assert_eq!(ended, Reply { ended: Some(Ended {}), ..Reply::default() });
        let changed = |mod_revision| proto::WatchChange {
            entry: Some(proto::Entry { key: "k".into(), mod_revision, ..Default::default() }),
            ..Default::default()
        };
        let changes = proto::WatchChanges { changes: vec![changed(3), changed(5)], complete_to: 5 };
        let changes = read(proto::watch_reply::Reply::Changes(changes)).changes.unwrap().changes;
        let revisions: Vec<_> =
            changes.iter().map(|change| change.entry.as_ref().unwrap().mod_revision).collect();
        assert_eq!(revisions, [3, 5]);
    }

    #[test]
    fn a_put_ends_when_all_watchers_have_its_revision() {
        let mut counts = Counts::new(1);
        let begun = || {
            let client = Client { number: 0, session: Session::new(&mut fastrand::Rng::new()) };
            Begun { client, begin: Instant::now() }
        };
        counts.answered = [(3, begun()), (5, begun())].into();
        let mut ended = |revision| {
            let ended = counts.sent(revision, 2);
            (ended.into_keys().collect::<Vec<u64>>(), counts.by_all)
        };
        // A watcher may be ahead of another one.
        assert_eq!(ended(3), (vec![], 0));
        assert_eq!(ended(5), (vec![], 0));
        assert_eq!(ended(3), (vec![3], 3));
        assert_eq!(ended(5), (vec![5], 5));
        assert!(counts.by_revision.is_empty());
    }
}
