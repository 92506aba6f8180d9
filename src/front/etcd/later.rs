//! [`Later`]: what is to be done at some time, on a thread that the whole front shares.

use std::collections::BTreeMap;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use parking_lot::Mutex;

/// What is to be done. `false`: it is not the time, but the front stops.
type Work = Box<dyn FnOnce(bool) + Send>;

/// The pause of a thread that has nothing to wait for.
const IDLE_PAUSE: Duration = Duration::from_secs(60);

/// How long a work waits is bounded by what asks for it, and so is their number: each belongs to a
/// request that has not been answered, or to one whose client has gone and left something to undo.
pub(super) struct Later {
    /// `None` once it has stopped.
    orders: Mutex<Option<Sender<(Instant, Work)>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Later {
    pub(super) fn start(name: String) -> io::Result<Later> {
        let (orders, taken) = unbounded();
        let thread = thread::Builder::new().name(name).spawn(move || run(&taken))?;
        Ok(Later { orders: Mutex::new(Some(orders)), thread: Mutex::new(Some(thread)) })
    }

    /// Does `work` at this time, or at once if the front stops. It must not block.
    pub(super) fn at(&self, due: Instant, work: impl FnOnce(bool) + Send + 'static) {
        let work: Work = Box::new(work);
        let orders = self.orders.lock().clone();
        let unsent = match orders {
            Some(orders) => orders.send((due, work)).err().map(|unsent| unsent.into_inner().1),
            None => Some(work),
        };
        if let Some(work) = unsent {
            work(false);
        }
    }

    /// Does what waits at once, and ends the thread.
    pub(super) fn stop(&self) {
        drop(self.orders.lock().take());
        let thread = self.thread.lock().take();
        // A work may drop the last owner of all this on the thread itself.
        if let Some(thread) = thread.filter(|it| it.thread().id() != thread::current().id()) {
            // A panic has been reported.
            let _ = thread.join();
        }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(orders: &Receiver<(Instant, Work)>) {
    let (mut waiting, mut serial) = (BTreeMap::new(), 0u64);
    loop {
        let now = Instant::now();
        let due = waiting.first_key_value().map_or(now + IDLE_PAUSE, |((due, _), _)| *due);
        match orders.recv_deadline(due) {
            Ok((due, work)) => {
                serial += 1;
                waiting.insert((due, serial), work);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return waiting.into_values().for_each(|work: Work| work(false));
            }
        }
        let now = Instant::now();
        while let Some(first) = waiting.first_entry().filter(|first| first.key().0 <= now) {
            first.remove()(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_in_the_order_of_its_times_and_when_it_stops() {
        let later = Later::start("later-test".to_owned()).unwrap();
        let (done, told) = unbounded();
        let now = Instant::now();
        for (name, ms) in [("late", 3_600_000), ("second", 20), ("first", 0)] {
            let done = done.clone();
            later.at(now + Duration::from_millis(ms), move |is_due| {
                done.send((name, is_due)).unwrap();
            });
        }
        let next = || told.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!((next(), next()), (("first", true), ("second", true)));
        assert!(now.elapsed() >= Duration::from_millis(20));
        later.stop();
        assert_eq!(next(), ("late", false));
    }
}
