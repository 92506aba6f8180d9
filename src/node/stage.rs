//! A stage of a member's work: a queue, a worker, and whoever comes along.
//!
//! ```text
//!   push ──> queue ──┬── help: the thread that brings work does all that waits, if nobody is at it
//!                    └── run:  the stage's own thread does what helpers leave
//! ```
//! To hand work to another thread costs a wake-up, and there would be one at every stage. So a thread that brings work does
//! it at once, together with all that others have left in the queue (a monitor that combines). If somebody is at work there
//! already, its work is that one's next batch: nobody ever waits for the worker.
//!
//! # Invariants
//! - The worker is one: batches are done one after another, in the order in which they were pushed.
//! - What is pushed is done: by who is at work, who looks again after it has stopped; by the one who pushed it and helps or
//!   [calls](Stage::call) the stage's thread; or by that thread.
//! - A helper is kept for a bounded number of batches, so that its own connection is read again.
//! - A stage whose worker has panicked is stopped, whichever thread it was.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{Ordering, fence};

use parking_lot::{Condvar, Mutex};

/// Batches that a helper does before it leaves the rest to the stage's thread.
const HELPER_BATCHES_MAX: usize = 4;

thread_local! {
    static IN_TURN: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread does a stage's turn: what it brings meanwhile, from a client's callback say, is for others to do.
pub(super) fn is_in_turn() -> bool {
    IN_TURN.get()
}

/// What waits at a stage.
pub(super) trait Queue: Default {
    /// All that is taken at once.
    type Batch;

    /// Takes all that waits; `None` if there is nothing that is worth a turn.
    fn take(&mut self) -> Option<Self::Batch>;

    /// Whether [`take`](Queue::take) would take something.
    fn has_work(&self) -> bool;
}

/// What is done with it.
pub(super) trait Worker: Send {
    /// What it works off.
    type Queue: Queue;

    /// Does a batch.
    fn turn(&mut self, batch: <Self::Queue as Queue>::Batch);

    /// Its turn panicked: it will have no other.
    fn panicked(&self);
}

pub(super) struct Stage<W: Worker> {
    state: Mutex<State<W::Queue>>,
    called: Condvar,
    worker: Mutex<Option<W>>,
}

struct State<Q> {
    queue: Q,
    /// Its thread should look.
    is_called: bool,
    is_stopped: bool,
}

impl<T> Queue for Vec<T> {
    type Batch = Vec<T>;

    fn take(&mut self) -> Option<Vec<T>> {
        self.has_work().then(|| std::mem::take(self))
    }

    fn has_work(&self) -> bool {
        !self.is_empty()
    }
}

impl<W: Worker> Stage<W> {
    /// One without a worker yet.
    pub(super) fn new() -> Stage<W> {
        let state = State { queue: Default::default(), is_called: false, is_stopped: false };
        Stage { state: Mutex::new(state), called: Condvar::new(), worker: Mutex::new(None) }
    }

    pub(super) fn employ(&self, worker: W) {
        *self.worker.lock() = Some(worker);
    }

    /// Adds to the queue, or looks at it; `None` once the stage is stopped. Whoever adds then [helps](Stage::help) or
    /// [calls](Stage::call).
    pub(super) fn with_queue<R>(&self, change: impl FnOnce(&mut W::Queue) -> R) -> Option<R> {
        let mut state = self.state.lock();
        if state.is_stopped {
            // What `change` holds may be a request, which ends as it is dropped: not under the lock.
            drop(state);
            return None;
        }
        Some(change(&mut state.queue))
    }

    /// Does what waits, unless somebody is at it. Whether it did anything.
    pub(super) fn help(&self) -> bool {
        self.help_if(|_| true)
    }

    /// The same, if what waits is such; else it is left to the stage's thread.
    pub(super) fn help_if(&self, is_such: impl Fn(&W::Queue) -> bool) -> bool {
        let mut has_done = false;
        for _ in 0..HELPER_BATCHES_MAX {
            // What was pushed before is seen by whoever holds the worker, or the worker is seen to be free.
            fence(Ordering::SeqCst);
            let Some(mut worker) = self.worker.try_lock() else { return has_done };
            let batch = {
                let mut state = self.state.lock();
                if state.is_stopped || !state.queue.has_work() {
                    None
                } else if !is_such(&state.queue) {
                    self.call_locked(&mut state);
                    return has_done;
                } else {
                    state.queue.take()
                }
            };
            if let Some(batch) = batch {
                self.turn(&mut worker, batch);
                has_done = true;
            }
            drop(worker);
            fence(Ordering::SeqCst);
            if !self.has_work() {
                return has_done;
            }
        }
        self.call();
        has_done
    }

    /// Has the stage's thread do what waits, unless somebody is at it.
    pub(super) fn call(&self) {
        fence(Ordering::SeqCst);
        if !self.worker.is_locked() {
            let mut state = self.state.lock();
            if state.queue.has_work() {
                self.call_locked(&mut state);
            }
        }
    }

    fn call_locked(&self, state: &mut State<W::Queue>) {
        if !std::mem::replace(&mut state.is_called, true) {
            self.called.notify_one();
        }
    }

    /// Whether anything waits.
    pub(super) fn has_work(&self) -> bool {
        let state = self.state.lock();
        !state.is_stopped && state.queue.has_work()
    }

    /// The stage's thread: does what it is called for, until the stage is stopped. Then it gives the worker back, with what is
    /// left in the queue; `None` if it never had one, or has lost it.
    pub(super) fn run(&self, after_turn: impl Fn(&Stage<W>)) -> (Option<W>, W::Queue) {
        while self.wait() {
            {
                let mut worker = self.worker.lock();
                if let Some(batch) = self.with_queue(Queue::take).flatten() {
                    self.turn(&mut worker, batch);
                }
            }
            after_turn(self);
            fence(Ordering::SeqCst);
            if self.has_work() {
                self.call();
            }
        }
        let worker = self.worker.lock().take();
        (worker, std::mem::take(&mut self.state.lock().queue))
    }

    /// Waits until it is called. False once the stage is stopped.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while !state.is_called && !state.is_stopped {
            self.called.wait(&mut state);
        }
        state.is_called = false;
        !state.is_stopped
    }

    /// A panic has been reported by the panic hook. The worker is not to be trusted after it: what it holds ends.
    fn turn(&self, slot: &mut Option<W>, batch: <W::Queue as Queue>::Batch) {
        let Some(worker) = slot else { return };
        let was_in_turn = IN_TURN.replace(true);
        let result = catch_unwind(AssertUnwindSafe(|| worker.turn(batch)));
        IN_TURN.set(was_in_turn);
        if result.is_err() {
            self.stop();
            worker.panicked();
            *slot = None;
        }
    }

    /// Drops the worker, where there is no thread to take it out.
    pub(super) fn dismiss(&self) {
        self.stop();
        drop(self.worker.lock().take());
    }

    /// Takes no more work, and ends its thread.
    pub(super) fn stop(&self) {
        self.state.lock().is_stopped = true;
        self.called.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    /// Keeps what it is given, and how it was asked.
    #[derive(Default)]
    struct Keeper {
        kept: Arc<Mutex<Vec<u64>>>,
        is_bad: Arc<AtomicBool>,
    }

    impl Worker for Keeper {
        type Queue = Vec<u64>;

        fn turn(&mut self, batch: Vec<u64>) {
            assert!(is_in_turn());
            for n in batch {
                assert!(n != u64::MAX, "as the test wants it");
                self.kept.lock().push(n);
            }
        }

        fn panicked(&self) {
            self.is_bad.store(true, Ordering::Relaxed);
        }
    }

    fn stage() -> (Arc<Stage<Keeper>>, Arc<Mutex<Vec<u64>>>) {
        let (stage, keeper) = (Arc::new(Stage::new()), Keeper::default());
        let kept = keeper.kept.clone();
        stage.employ(keeper);
        (stage, kept)
    }

    /// With no thread of its own: each helper leaves only when its work is done, or is somebody's who is at it.
    #[test]
    fn nothing_is_stranded_and_each_thread_keeps_its_order() {
        const THREADS: u64 = 8;
        const EACH: u64 = 20_000;
        let (stage, kept) = stage();
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let stage = &stage;
                scope.spawn(move || {
                    for n in 0..EACH {
                        stage.with_queue(|queue| queue.push(thread * EACH + n));
                        stage.help();
                        // What helpers leave is for the stage's thread, which is this one for now.
                        if std::mem::take(&mut stage.state.lock().is_called) {
                            stage.help();
                        }
                    }
                });
            }
        });
        assert!(!stage.has_work());
        let kept = kept.lock();
        assert_eq!(kept.len() as u64, THREADS * EACH);
        for thread in 0..THREADS {
            let own = kept.iter().filter(|n| **n / EACH == thread);
            assert!(own.is_sorted(), "thread {thread}");
        }
    }

    #[test]
    fn what_helpers_leave_is_done_by_its_thread_until_it_is_stopped() {
        let (stage, kept) = stage();
        let own = thread::spawn({
            let stage = stage.clone();
            move || stage.run(|_| {})
        });
        stage.with_queue(|queue| queue.push(1));
        assert!(!stage.help_if(|_| false), "it is not such");
        while kept.lock().is_empty() {
            thread::yield_now();
        }
        stage.with_queue(|queue| queue.push(2));
        stage.call();
        while kept.lock().len() < 2 {
            thread::yield_now();
        }
        stage.with_queue(|queue| queue.push(3));
        stage.stop();
        let (worker, left) = own.join().unwrap();
        assert!(worker.is_some());
        assert_eq!(left, [3], "given back to whoever ends the stage");
        assert_eq!(stage.with_queue(|queue| queue.push(4)), None);
        assert!(!stage.help());
    }

    #[test]
    fn a_worker_that_has_panicked_gets_no_other_turn() {
        let stage = Stage::new();
        let (keeper, is_bad) = (Keeper::default(), Arc::new(AtomicBool::new(false)));
        let kept = keeper.kept.clone();
        stage.employ(Keeper { is_bad: is_bad.clone(), ..keeper });
        stage.with_queue(|queue| queue.extend([1, u64::MAX, 2]));
        stage.help();
        assert!(is_bad.load(Ordering::Relaxed));
        assert!(!is_in_turn(), "the helper goes on");
        assert_eq!(stage.with_queue(|queue| queue.push(3)), None);
        let (worker, _) = stage.run(|_| {});
        assert!(worker.is_none());
        assert_eq!(*kept.lock(), [1]);
    }
}
