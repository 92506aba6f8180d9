//! [`Readers`]: the threads that make large reads, so that nobody waits for them who only applies
//! entries or answers small ones.
//!
//! A thread is started when a read comes and all others are busy, and ends when it has had nothing
//! to do for a while. There are at most [`THREADS_MAX`]. Reads for which there is no thread wait in
//! a queue; when it is full, a read is told "busy". A read keeps alive the state that it began
//! with. It takes that state when it has a thread, so a member holds at most [`THREADS_MAX`] old
//! states for reads.
//!
//! Ranges, scans and backups rest between their pieces while the member serves others (`Pace`).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::pace::Pace;
use crate::node::RequestError;

/// How many large reads are made at the same time.
const THREADS_MAX: usize = 16;

/// How many large reads may wait for a thread.
const QUEUE_LEN_MAX: usize = 64;

/// How long a thread waits for a read before it ends.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// How long one read may take, whatever its deadline, unless it says more.
const READ_TIME_MAX: Duration = Duration::from_secs(5 * 60);

/// The threads of one member's large reads.
pub(super) struct Readers {
    name: String,
    /// Returns another number after the member has served somebody.
    served: Box<dyn Fn() -> u64 + Send + Sync>,
    queue: Mutex<Queue>,
    work: Condvar,
    is_stopped: AtomicBool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<LargeRead>,
    /// Threads that run.
    threads: usize,
    /// Those of them that wait for a read.
    idle: usize,
    handles: Vec<JoinHandle<()>>,
}

impl Queue {
    /// Takes out the reads whose clients wait no more.
    fn take_expired(&mut self) -> Vec<LargeRead> {
        let now = Instant::now();
        let waiting = std::mem::take(&mut self.waiting);
        let (expired, waiting): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|read| read.begin_by <= now);
        self.waiting = waiting.into();
        expired
    }
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let queue = self.queue.lock();
        f.debug_struct("Readers")
            .field("waiting", &queue.waiting.len())
            .field("threads", &queue.threads)
            .finish_non_exhaustive()
    }
}

/// A read calls this after each piece of its work. It may sleep, and then says whether the read
/// should end, and why.
pub(super) type Ending<'a> = &'a dyn Fn() -> Option<RequestError>;

/// Makes a read. It runs once: with what tells it to end, or with the reason why it cannot be made.
type Run = Box<dyn FnOnce(Result<Ending<'_>, RequestError>) + Send>;

/// A read that waits.
struct LargeRead {
    /// If it waits until then, it is not made.
    begin_by: Instant,
    /// When it must end, ...
    end_by: Instant,
    /// ... and how long it may take.
    time_max: Duration,
    run: Run,
}

impl LargeRead {
    fn refuse(self, error: RequestError) {
        (self.run)(Err(error));
    }
}

const STOPPED: RequestError = RequestError::Stopped { may_apply: false };
const TIMED_OUT: RequestError = RequestError::TimedOut { may_apply: false };

impl Readers {
    /// Threads of this name. None runs yet. `served` returns another number after the member has
    /// served somebody.
    pub(super) fn new(name: String, served: impl Fn() -> u64 + Send + Sync + 'static) -> Readers {
        let (queue, work, served) = (Mutex::default(), Condvar::new(), Box::new(served));
        Readers { name, served, queue, work, is_stopped: AtomicBool::new(false) }
    }

    /// Runs `read` on a thread of its own. If that is not possible, it runs here, with the reason.
    pub(super) fn run(
        self: &Arc<Readers>,
        deadline: Instant,
        read: impl FnOnce(Result<Ending<'_>, RequestError>) + Send + 'static,
    ) {
        let (begin_by, end_by, time_max) = (deadline, deadline, READ_TIME_MAX);
        self.queue(LargeRead { begin_by, end_by, time_max, run: Box::new(read) });
    }

    /// As [`run`](Readers::run), for a read that may take `time_max` once it has begun.
    pub(super) fn run_for(
        self: &Arc<Readers>,
        begin_by: Instant,
        time_max: Duration,
        read: impl FnOnce(Result<Ending<'_>, RequestError>) + Send + 'static,
    ) {
        let end_by = begin_by + time_max;
        self.queue(LargeRead { begin_by, end_by, time_max, run: Box::new(read) });
    }

    fn queue(self: &Arc<Readers>, read: LargeRead) {
        let (expired, pushed) = {
            let mut queue = self.queue.lock();
            (queue.take_expired(), self.push(&mut queue, read))
        };
        expired.into_iter().for_each(|read| read.refuse(TIMED_OUT));
        if let Err((read, error)) = pushed {
            read.refuse(error);
        }
    }

    /// Ends every read, and every thread.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        let (waiting, handles) = {
            let mut queue = self.queue.lock();
            (std::mem::take(&mut queue.waiting), std::mem::take(&mut queue.handles))
        };
        self.work.notify_all();
        waiting.into_iter().for_each(|read| read.refuse(STOPPED));
        for handle in handles {
            // A read's callback may drop the last owner of all this on a thread of ours. A thread
            // that has panicked has said so.
            if handle.thread().id() != thread::current().id() {
                let _ = handle.join();
            }
        }
    }

    fn push(
        self: &Arc<Readers>,
        queue: &mut Queue,
        read: LargeRead,
    ) -> Result<(), (LargeRead, RequestError)> {
        // Looked at under the lock: `stop` takes what waits after it has set this.
        if self.is_stopped() {
            return Err((read, STOPPED));
        }
        if queue.waiting.len() >= QUEUE_LEN_MAX {
            return Err((read, RequestError::Busy));
        }
        queue.waiting.push_back(read);
        if queue.waiting.len() > queue.idle && queue.threads < THREADS_MAX {
            self.start_thread(queue);
        }
        if queue.threads == 0 {
            let read = queue.waiting.pop_back().expect("it was pushed under the same lock");
            return Err((read, RequestError::Busy));
        }
        self.work.notify_one();
        Ok(())
    }

    /// Starts one more thread, if the system has one.
    fn start_thread(self: &Arc<Readers>, queue: &mut Queue) {
        queue.handles.retain(|handle| !handle.is_finished());
        let readers = self.clone();
        let spawned = thread::Builder::new().name(self.name.clone()).spawn(move || readers.work());
        match spawned {
            Ok(handle) => {
                queue.threads += 1;
                queue.handles.push(handle);
            }
            Err(error) => log::warn!("no thread for a large read: {error}"),
        }
    }

    fn work(&self) {
        while let Some(read) = self.next() {
            let until = read.end_by.min(Instant::now() + read.time_max);
            let pace = Pace::new(&*self.served);
            let ending = || {
                let is_late = pace.rest() >= until;
                match self.is_stopped() {
                    true => Some(STOPPED),
                    false => is_late.then_some(TIMED_OUT),
                }
            };
            let run = || match ending() {
                Some(error) => read.refuse(error),
                None => (read.run)(Ok(&ending)),
            };
            // The panic has been printed, and its client is told by what it dropped. The reads that
            // wait need the thread.
            let _ = catch_unwind(AssertUnwindSafe(run));
        }
    }

    /// The next read. `None`: this thread is not needed any more.
    fn next(&self) -> Option<LargeRead> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(read) = queue.waiting.pop_front() {
                return Some(read);
            }
            if self.is_stopped() || !self.wait(&mut queue) {
                queue.threads -= 1;
                return None;
            }
        }
    }

    /// Waits for a read. `false`: none has come.
    fn wait(&self, queue: &mut MutexGuard<'_, Queue>) -> bool {
        queue.idle += 1;
        let timed_out = self.work.wait_for(queue, IDLE_TIME).timed_out();
        queue.idle -= 1;
        !timed_out || !queue.waiting.is_empty()
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn readers() -> Arc<Readers> {
        Arc::new(Readers::new("read-test".to_owned(), || 0))
    }

    fn soon() -> Instant {
        Instant::now() + LONG
    }

    /// A read that says how it began, and then waits until it may end or is told to.
    fn blocked(
        readers: &Arc<Readers>,
        deadline: Instant,
    ) -> (Receiver<Option<RequestError>>, Sender<()>) {
        let (told, hears) = channel();
        let (may_end, waits) = channel::<()>();
        readers.run(deadline, move |ending| match ending {
            Err(error) => told.send(Some(error)).unwrap(),
            Ok(ending) => {
                told.send(None).unwrap();
                while waits.recv_timeout(Duration::from_millis(1)).is_err() {
                    if let Some(error) = ending() {
                        return told.send(Some(error)).unwrap();
                    }
                }
            }
        });
        (hears, may_end)
    }

    #[test]
    fn sixteen_run_and_some_wait_and_the_rest_is_told_so() {
        let readers = readers();
        let running: Vec<_> = (0..THREADS_MAX).map(|_| blocked(&readers, soon())).collect();
        for (hears, _) in &running {
            assert_eq!(hears.recv_timeout(LONG).unwrap(), None);
        }
        let waiting: Vec<_> = (0..QUEUE_LEN_MAX).map(|_| blocked(&readers, soon())).collect();
        let (refused, _) = blocked(&readers, soon());
        assert_eq!(refused.recv_timeout(LONG).unwrap(), Some(RequestError::Busy));
        assert!(waiting.iter().all(|(hears, _)| hears.try_recv().is_err()), "they wait");
        running[0].1.send(()).unwrap();
        assert_eq!(waiting[0].0.recv_timeout(LONG).unwrap(), None, "first come, first served");
        readers.stop();
        assert_eq!(running[1].0.recv_timeout(LONG).unwrap(), Some(STOPPED));
        assert_eq!(waiting[1].0.recv_timeout(LONG).unwrap(), Some(STOPPED));
        assert_eq!(readers.queue.lock().threads, 0);
    }

    #[test]
    fn a_read_ends_at_its_deadline() {
        let readers = readers();
        let (hears, _may_end) = blocked(&readers, Instant::now() + Duration::from_millis(200));
        let ends: Vec<_> = [hears.recv_timeout(LONG), hears.recv_timeout(LONG)].into();
        // On a busy machine it is over before it has begun.
        assert!(ends.contains(&Ok(Some(TIMED_OUT))), "{ends:?}");
        let (late, _may_end) = blocked(&readers, Instant::now());
        assert_eq!(late.recv_timeout(LONG).unwrap(), Some(TIMED_OUT));
        readers.stop();
        let (refused, _may_end) = blocked(&readers, soon());
        assert_eq!(refused.recv_timeout(LONG).unwrap(), Some(STOPPED));
    }

    /// Also if its client would wait for longer.
    #[test]
    fn a_read_takes_no_longer_than_it_may() {
        assert_eq!(READ_TIME_MAX, Duration::from_secs(5 * 60));
        let readers = readers();
        let (told, hears) = channel();
        let (begin_by, end_by) = (soon(), soon() + READ_TIME_MAX);
        let run: Run = Box::new(move |ending| {
            let ending = match ending {
                Ok(ending) => ending,
                // On a busy machine it is over before it has begun.
                Err(error) => return told.send(Some(error)).unwrap(),
            };
            while ending().is_none() {
                thread::yield_now();
            }
            told.send(ending()).unwrap();
        });
        let time_max = Duration::from_millis(100);
        readers.queue(LargeRead { begin_by, end_by, time_max, run });
        assert_eq!(hears.recv_timeout(LONG).unwrap(), Some(TIMED_OUT));
        readers.stop();
    }

    #[test]
    fn a_read_rests_while_others_are_served() {
        let served = std::sync::atomic::AtomicU64::new(0);
        let count = move || served.fetch_add(1, Ordering::Relaxed);
        let readers = Arc::new(Readers::new("read-test".to_owned(), count));
        let (told, hears) = channel();
        readers.run(soon(), move |ending| {
            let (ending, began) = (ending.unwrap(), Instant::now());
            let mut worked = Duration::ZERO;
            for _ in 0..300 {
                let piece = Instant::now();
                while piece.elapsed() < Duration::from_micros(100) {}
                worked += piece.elapsed();
                assert_eq!(ending(), None);
            }
            told.send((worked, began.elapsed())).unwrap();
        });
        let (worked, took) = hears.recv_timeout(LONG).unwrap();
        // At most fifty pieces fit into the first 5 ms, which have no rests. Each of the others is
        // followed by a rest of 400 µs or more.
        assert!(took >= worked + Duration::from_millis(90), "{took:?} for {worked:?}");
        readers.stop();
    }

    #[test]
    fn a_read_that_panics_takes_no_thread_with_it() {
        let readers = readers();
        for _ in 0..2 * THREADS_MAX {
            readers.run(soon(), |_| panic!("on purpose"));
        }
        let (hears, may_end) = blocked(&readers, soon());
        assert_eq!(hears.recv_timeout(LONG).unwrap(), None);
        may_end.send(()).unwrap();
        readers.stop();
        assert_eq!(readers.queue.lock().threads, 0);
    }
}
