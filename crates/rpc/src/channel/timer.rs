//! The thread that runs completions when nothing comes from the server: at their deadlines, and for
//! calls that fail at once.
//!
//! The first call with a completion starts it. It sleeps until the earliest deadline of such a
//! call; a new call wakes it only if its deadline is earlier. It ends after a few seconds without
//! such calls.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::parked::{CallResult, Waiter};
use super::shared::{Deliveries, ReadBy, Shared, Silent, State};
use crate::transport::Peeked;

/// How long a timer without a deadline to watch stays.
const IDLE: Duration = Duration::from_secs(5);

/// Makes sure that the timer is awake at `deadline`, if the call is in the table then.
pub(super) fn watch(shared: &Arc<Shared>, state: &mut State, deadline: Instant) -> io::Result<()> {
    if state.timer.wakes_at.is_none_or(|at| deadline < at) {
        shared.timer_wakes.notify_one();
    }
    ensure_running(shared, state)
}

/// Delivers an outcome that was found by the channel's own thread, or by a caller's. From a
/// caller's thread, completions go to the timer's: the caller may hold a lock that they take.
pub(super) fn deliver(shared: &Arc<Shared>, waiter: Waiter, outcome: CallResult, by: ReadBy) {
    match (by, &waiter) {
        (ReadBy::Channel, _) | (_, Waiter::Thread(_)) => waiter.deliver(outcome),
        (ReadBy::Callers, Waiter::Completion(_)) => run_soon(shared, waiter, outcome),
    }
}

/// The same, for several.
pub(super) fn deliver_all(shared: &Arc<Shared>, deliveries: Deliveries, by: ReadBy) {
    deliveries.into_iter().for_each(|(waiter, outcome)| deliver(shared, waiter, outcome, by));
}

fn run_soon(shared: &Arc<Shared>, waiter: Waiter, outcome: CallResult) {
    let mut state = shared.lock();
    state.timer.ready.push((waiter, outcome));
    shared.timer_wakes.notify_one();
    if ensure_running(shared, &mut state).is_err() {
        // The system gives no thread. Better on this one than never.
        let ready = std::mem::take(&mut state.timer.ready);
        drop(state);
        deliver_all(shared, ready, ReadBy::Channel);
    }
}

fn ensure_running(shared: &Arc<Shared>, state: &mut State) -> io::Result<()> {
    if !state.timer.is_running {
        let for_thread = Arc::clone(shared);
        shared.start_thread(state, "rpc-timer".to_owned(), move || run(&for_thread))?;
        state.timer.is_running = true;
    }
    Ok(())
}

fn run(shared: &Arc<Shared>) {
    let mut state = shared.lock();
    loop {
        let (due, silent) = take_due(shared, &mut state);
        if !due.is_empty() {
            MutexGuard::unlocked(&mut state, || {
                deliver_all(shared, due, ReadBy::Channel);
                silent.into_iter().for_each(|silent| give_up(shared, &silent));
            });
            continue;
        }
        let wakes_at = state.calls.next_deadline();
        if state.is_closed() {
            break;
        }
        state.timer.wakes_at = wakes_at;
        let until = wakes_at.unwrap_or_else(|| Instant::now() + IDLE);
        let idle =
            shared.timer_wakes.wait_until(&mut state, until).timed_out() && wakes_at.is_none();
        state.timer.wakes_at = None;
        if idle && state.calls.next_deadline().is_none() && state.timer.ready.is_empty() {
            break;
        }
    }
    state.timer.is_running = false;
}

/// What is to be delivered now; and the connection, if a call has met nothing but silence on it.
fn take_due(shared: &Shared, state: &mut State) -> (Deliveries, Option<Silent>) {
    let mut due = std::mem::take(&mut state.timer.ready);
    let (now, mut silent) = (Instant::now(), None);
    while let Some(id) = state.calls.first_due(now) {
        // It is in the table until someone takes it out, and the lock is held.
        let (call, its_silent) = state.give_up(id, now).expect("a watched call is in the table");
        let error = shared.config.timed_out(&call);
        due.push((call.waiter, Err(error)));
        silent = silent.or(its_silent);
    }
    (due, silent)
}

/// Gives up a connection that has been silent for too long, unless something has come since. Where
/// there are completions the channel's own thread reads, and does the rest.
fn give_up(shared: &Shared, silent: &Silent) {
    let is_silent = shared.lock().is_still(silent, Instant::now());
    if is_silent && silent.connection.outbox.transport().peek() != Peeked::Bytes {
        silent.connection.give_up(silent.silence);
    }
}
