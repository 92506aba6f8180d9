//! A log that no client can flood.

use std::time::{Duration, Instant};

use log::warn;
use parking_lot::Mutex;

const WINDOW: Duration = Duration::from_secs(1);
const LINES_PER_WINDOW: u32 = 10;

/// Writes at most ten lines a second. The next line says how many were left out.
pub(crate) struct QuietLog {
    state: Mutex<State>,
}

struct State {
    window_began: Instant,
    lines: u32,
    left_out: u64,
}

impl QuietLog {
    pub(crate) fn new() -> Self {
        QuietLog {
            state: Mutex::new(State { window_began: Instant::now(), lines: 0, left_out: 0 }),
        }
    }

    /// Writes a warning, unless there were too many.
    pub(crate) fn warn(&self, line: &str) {
        match self.admit(Instant::now()) {
            None => {}
            Some(0) => warn!("{line}"),
            Some(left_out) => warn!("{line} ({left_out} more lines like this were left out)"),
        }
    }

    /// Whether a line may be written; if so, how many lines before it were left out.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if now.duration_since(state.window_began) >= WINDOW {
            (state.window_began, state.lines) = (now, 0);
        }
        if state.lines == LINES_PER_WINDOW {
            state.left_out += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_a_second_and_the_rest_is_counted() {
        let log = QuietLog::new();
        let now = Instant::now();
        let admitted: Vec<_> = (0..15).map(|_| log.admit(now)).collect();
        assert_eq!(admitted[..10], [Some(0); 10]);
        assert_eq!(admitted[10..], [None; 5]);
        assert_eq!(log.admit(now + 2 * WINDOW), Some(5));
        assert_eq!(log.admit(now + 2 * WINDOW), Some(0));
    }
}
