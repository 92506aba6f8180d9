//! [`Hub`]: the thread that serves the watches of one member, and how others reach it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::interests::Interests;
use super::signal::Signal;
use super::sink::{WatchSink, WatchesEnd};
use super::slots::SlotId;
use super::watches::Watches;
use crate::kv::Store;
use crate::kv::model::{Revision, WatchRange};
use crate::kv::state::Timeline;
use crate::node::{NodeHandle, RequestError};

/// How often the thread looks whether there is still a leader. After three election timeouts
/// without one its watches end.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// The pause while there are no watches.
const IDLE_PAUSE: Duration = Duration::from_secs(60);

/// How many requests of one sink may wait for the thread.
const REQUESTS_MAX: usize = 50_000;

/// Runs what takes longer on another thread, or calls it with `false` if there is none.
pub(in crate::kv) type Elsewhere = Box<dyn Fn(Box<dyn FnOnce(bool) + Send>) + Send + Sync>;

/// The watches of one member. See the [module](super).
pub(in crate::kv) struct Hub {
    pub(super) node: NodeHandle<Store>,
    pub(super) interests: Arc<Interests>,
    pub(super) inbox: Arc<Inbox>,
    elsewhere: Elsewhere,
    thread: Mutex<Thread>,
    last_sink: AtomicUsize,
    /// How many watches there are.
    open: AtomicUsize,
}

/// Of [`Hub`].
#[derive(Debug)]
enum Thread {
    NotStarted,
    Running(JoinHandle<()>),
    Stopped,
}

/// What others want of the thread.
#[derive(Default)]
pub(super) struct Inbox {
    orders: Mutex<Vec<Order>>,
    signal: Arc<Signal>,
}

pub(super) type SinkId = usize;

pub(super) enum Order {
    Add {
        id: SinkId,
        sink: Arc<dyn WatchSink>,
        /// How many of its requests are among the orders.
        waiting: Arc<AtomicUsize>,
    },
    Request(SinkId, u64, Request),
    /// No more requests come.
    NoMore(SinkId),
    /// There may be room again.
    Room(SinkId),
    /// Nobody wants anything any more.
    Remove(SinkId),
    /// More requests than are served.
    Overload(SinkId),
    /// The answer to a read that began after these watches were asked for.
    Confirmed(Vec<Asked>, Result<Revision, RequestError>),
    /// For watches that are far behind; `None`: there was no thread for it.
    Timeline(Option<Timeline>),
    Stop,
}

/// A watch that was asked for. Its sink tells it from one of a thread that has panicked.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) sink: SinkId,
    pub(super) watch: SlotId,
}

pub(super) enum Request {
    Create(WatchRange),
    Cancel,
    Progress,
    /// It makes no sense: why, in words.
    Refuse(String),
}

impl Inbox {
    pub(super) fn push(&self, order: Order) {
        self.orders.lock().push(order);
        self.signal.raise();
    }

    pub(super) fn take(&self) -> Vec<Order> {
        std::mem::take(&mut *self.orders.lock())
    }
}

impl Hub {
    /// Serves watches of what `node` replicates. No thread runs yet.
    pub(in crate::kv) fn new(node: NodeHandle<Store>, elsewhere: Elsewhere) -> Arc<Hub> {
        let inbox = Arc::new(Inbox::default());
        let interests = Arc::new(Interests::new(Arc::clone(&inbox.signal)));
        node.observe(interests.clone());
        Arc::new(Hub {
            node,
            interests,
            inbox,
            elsewhere,
            thread: Mutex::new(Thread::NotStarted),
            last_sink: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        })
    }

    /// Begins to tell `sink` of the watches that are asked for.
    pub(in crate::kv) fn watches(self: &Arc<Hub>, sink: impl WatchSink) -> WatchGroup {
        let (sink, id) = (Arc::new(sink), self.last_sink.fetch_add(1, Ordering::Relaxed));
        let waiting = Arc::new(AtomicUsize::new(0));
        let group = WatchGroup { id, inbox: Arc::clone(&self.inbox), waiting: waiting.clone() };
        // Under the lock, so that it is there when the thread is told to stop, or is refused.
        let mut thread = self.thread.lock();
        if self.is_running(&mut thread) {
            self.inbox.push(Order::Add { id, sink, waiting });
        } else {
            drop(thread);
            sink.end(WatchesEnd::Stopped);
        }
        group
    }

    /// How many watches there are.
    pub(in crate::kv) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn set_open(&self, count: usize) {
        self.open.store(count, Ordering::Relaxed);
    }

    /// Starts the thread if that is needed and possible.
    fn is_running(self: &Arc<Hub>, thread: &mut Thread) -> bool {
        let is_needed = match thread {
            Thread::NotStarted => true,
            // It has panicked, and its sinks are gone.
            Thread::Running(handle) => handle.is_finished(),
            Thread::Stopped => false,
        };
        if is_needed {
            let (hub, name) = (Arc::clone(self), format!("watch-{}", self.node.status().id));
            match thread::Builder::new().name(name).spawn(move || hub.run()) {
                Ok(handle) => *thread = Thread::Running(handle),
                Err(error) => {
                    log::warn!("no thread for watches: {error}");
                    return false;
                }
            }
        }
        matches!(thread, Thread::Running(_))
    }

    /// Ends all watches, and the thread. Later ones end at once.
    pub(in crate::kv) fn stop(&self) {
        let thread = std::mem::replace(&mut *self.thread.lock(), Thread::Stopped);
        if let Thread::Running(handle) = thread {
            self.inbox.push(Order::Stop);
            // A sink may drop the last owner of all this on the thread itself.
            if handle.thread().id() != thread::current().id() {
                // A panic has been reported.
                let _ = handle.join();
            }
        }
    }

    fn run(self: Arc<Hub>) {
        let mut watches = Watches::new(Arc::clone(&self));
        let mut look_at = Instant::now();
        loop {
            let pause = if watches.is_empty() { IDLE_PAUSE } else { LOOK_PAUSE };
            if !watches.has_work() {
                self.inbox.signal.wait(Instant::now() + pause);
            }
            self.pass_gate();
            if watches.turn().is_break() {
                return;
            }
            if look_at <= Instant::now() {
                watches.look();
                look_at = Instant::now() + LOOK_PAUSE;
            }
        }
    }

    /// Makes a timeline elsewhere, and brings it to the thread.
    pub(super) fn make_timeline(&self, make: impl FnOnce() -> Timeline + Send + 'static) {
        let inbox = Arc::clone(&self.inbox);
        (self.elsewhere)(Box::new(move |may_run| {
            inbox.push(Order::Timeline(may_run.then(make)));
        }));
    }

    /// Where a thread of a member waits that a test has paused.
    fn pass_gate(&self) {
        #[cfg(feature = "testing")]
        self.node.gate().pass();
    }
}

/// The watches of one sink. Dropping it ends them, without a word to the sink.
pub struct WatchGroup {
    id: SinkId,
    inbox: Arc<Inbox>,
    waiting: Arc<AtomicUsize>,
}

impl WatchGroup {
    /// Asks for a watch with this number, which no other watch of the sink may have until it has
    /// ended. The sink is told when the watch is made, or why it is not.
    pub fn create(&self, id: u64, range: WatchRange) {
        self.request(id, Request::Create(range));
    }

    /// Ends a watch: the sink is told [`Cancelled`](super::WatchEnd::Cancelled).
    pub fn cancel(&self, id: u64) {
        self.request(id, Request::Cancel);
    }

    /// Asks how far a watch is: the sink is told changes that are none.
    pub fn progress(&self, id: u64) {
        self.request(id, Request::Progress);
    }

    /// Ends a watch, or answers for one that is not there, with
    /// [`BadRequest`](super::WatchEnd::BadRequest).
    pub fn refuse(&self, id: u64, words: String) {
        self.request(id, Request::Refuse(words));
    }

    /// No more requests come: when the last watch has ended, the sink is told
    /// [`WatchesEnd::Done`].
    pub fn no_more(&self) {
        self.inbox.push(Order::NoMore(self.id));
    }

    fn request(&self, id: u64, request: Request) {
        // Those behind the first one that is too many are dropped: everything ends.
        match self.waiting.fetch_add(1, Ordering::Relaxed) {
            0..REQUESTS_MAX => self.inbox.push(Order::Request(self.id, id, request)),
            REQUESTS_MAX => self.inbox.push(Order::Overload(self.id)),
            _ => {}
        }
    }
}

impl Drop for WatchGroup {
    fn drop(&mut self) {
        self.inbox.push(Order::Remove(self.id));
    }
}

impl fmt::Debug for WatchGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchGroup").field("id", &self.id).finish_non_exhaustive()
    }
}
