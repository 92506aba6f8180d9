//! The thread that runs completions when nothing comes from the server: at deadlines, and for calls that fail at once.
//!
//! It is started by the first call with a completion, sleeps until the earliest deadline of such a call (a new call wakes
//! it only when its deadline is earlier), and ends after a few seconds without any.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::calls::{Outcome, Waiter};
use super::core::{Core, Deliveries, SilentLine, State};

/// How long a timer without a deadline to watch stays.
const IDLE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Timer {
    is_running: bool,
    /// Until when it sleeps; `None` while it is awake, or sleeps without a deadline to watch.
    wakes_at: Option<Instant>,
    /// Completions to run now.
    ready: Vec<(Waiter, Outcome)>,
}

/// Sees to it that the timer is awake at `deadline`, when the call is in the table.
pub(super) fn watch(core: &Arc<Core>, state: &mut State, deadline: Instant) -> io::Result<()> {
    if state.timer.wakes_at.is_none_or(|at| deadline < at) {
        core.timer_wakes.notify_one();
    }
    ensure_running(core, state)
}

/// Runs a completion on the timer's thread.
pub(super) fn run_soon(core: &Arc<Core>, waiter: Waiter, outcome: Outcome) {
    let mut state = core.lock();
    state.timer.ready.push((waiter, outcome));
    core.timer_wakes.notify_one();
    if ensure_running(core, &mut state).is_err() {
        // No thread is to be had. Better on this one than never.
        let ready = std::mem::take(&mut state.timer.ready);
        drop(state);
        ready.into_iter().for_each(|(waiter, outcome)| waiter.deliver(outcome));
    }
}

fn ensure_running(core: &Arc<Core>, state: &mut State) -> io::Result<()> {
    if !state.timer.is_running {
        let shared = Arc::clone(core);
        core.start_thread(state, "rpc-timer".to_owned(), move || run(&shared))?;
        state.timer.is_running = true;
    }
    Ok(())
}

fn run(core: &Arc<Core>) {
    let mut state = core.lock();
    loop {
        let (due, dead) = take_due(core, &mut state);
        if !due.is_empty() {
            MutexGuard::unlocked(&mut state, || {
                due.into_iter().for_each(|(waiter, outcome)| waiter.deliver(outcome));
                core.drop_dead(dead);
            });
            continue;
        }
        let wakes_at = state.calls.next_deadline();
        if state.is_closed() {
            break;
        }
        state.timer.wakes_at = wakes_at;
        let until = wakes_at.unwrap_or_else(|| Instant::now() + IDLE);
        let idle = core.timer_wakes.wait_until(&mut state, until).timed_out() && wakes_at.is_none();
        state.timer.wakes_at = None;
        if idle && state.calls.next_deadline().is_none() && state.timer.ready.is_empty() {
            break;
        }
    }
    state.timer.is_running = false;
}

/// What is to be delivered now; and the connection, if a call has met nothing but silence on it.
fn take_due(core: &Core, state: &mut State) -> (Deliveries, Option<SilentLine>) {
    let mut due = std::mem::take(&mut state.timer.ready);
    let (now, mut dead) = (Instant::now(), None);
    while let Some(id) = state.calls.first_due(now) {
        // It stands in the table until someone takes it out, and the lock is held.
        let (call, silent) = state.give_up(id, now).expect("a watched call is in the table");
        let error = core.timed_out(&call);
        due.push((call.waiter, Err(error)));
        dead = dead.or(silent);
    }
    (due, dead)
}
