//! A smaller run that still fails: with fewer kinds of faults, fewer members, and less time.

use std::time::{Duration, Instant};

use crate::overrides::Overrides;
use crate::plan::PARTS;

/// Then the best result so far has to do.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Less than this is not worth a run.
const SAFETY_STEP_MS: u64 = 50;

/// The smallest change of a failing run that also fails, in any way: parts are switched off one
/// after the other and stay off if `fails` says yes; then the same for members and time.
pub(crate) fn shrink(
    seed: u64,
    overrides: &Overrides,
    fails: impl Fn(&Overrides) -> bool,
) -> Overrides {
    let (started, mut smallest) = (Instant::now(), overrides.clone());
    let is_smaller = |candidate: &Overrides| started.elapsed() < TIME_MAX && fails(candidate);
    for part in PARTS {
        let mut candidate = smallest.clone();
        if candidate.without.insert(part) && is_smaller(&candidate) {
            smallest = candidate;
        }
    }
    for members in 1..smallest.plan(seed).members {
        let candidate = Overrides { members: Some(members), ..smallest.clone() };
        if is_smaller(&candidate) {
            smallest = candidate;
            break;
        }
    }
    let (mut too_short, mut long_enough) = (0, smallest.plan(seed).safety_us / 1_000);
    while long_enough - too_short > SAFETY_STEP_MS {
        let safety_ms = too_short.midpoint(long_enough);
        let candidate = Overrides { safety_ms: Some(safety_ms), ..smallest.clone() };
        if is_smaller(&candidate) {
            (long_enough, smallest) = (safety_ms, candidate);
        } else {
            too_short = safety_ms;
        }
    }
    smallest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_to_fail_is_left() {
        let fails = |overrides: &Overrides| {
            let plan = overrides.plan(1);
            let is_needed = ["crash", "drop"].iter().all(|part| !overrides.without.contains(part));
            is_needed && plan.members >= 3 && plan.safety_us >= 1_000_000
        };
        let found = shrink(1, &Overrides::default(), fails);
        let left: Vec<&str> =
            PARTS.into_iter().filter(|part| !found.without.contains(part)).collect();
        assert_eq!((left, found.members), (vec!["drop", "crash"], Some(3)));
        let safety_ms = found.safety_ms.unwrap_or_default();
        assert!((1_000..1_000 + SAFETY_STEP_MS).contains(&safety_ms), "{safety_ms}");
    }

    #[test]
    fn what_fails_anyhow_becomes_as_small_as_can_be() {
        let found = shrink(1, &Overrides::default(), |_| true);
        assert_eq!((found.without.len(), found.members), (PARTS.len(), Some(1)));
    }
}
