//! How long an endpoint takes to answer: a moving average that fades. Nothing here reads a clock:
//! the caller passes the time.

use std::time::{Duration, Instant};

/// The weight of a new sample, as in TCP's estimate of the round trip (RFC 6298).
const SHARE: f64 = 1.0 / 8.0;

/// Without samples the average halves in this time. Otherwise an endpoint that was slow once would
/// never be tried again.
const HALF_LIFE: Duration = Duration::from_secs(5);

/// A moving average of response times.
#[derive(Clone, Debug, Default)]
pub(super) struct ResponseTime {
    /// The average in seconds, and its time.
    average: Option<(f64, Instant)>,
}

impl ResponseTime {
    /// Counts a response that took `sample` and arrived at `now`.
    pub(super) fn add(&mut self, sample: Duration, now: Instant) {
        let sample = sample.as_secs_f64();
        let average = match self.seconds(now) {
            Some(average) => average + (sample - average) * SHARE,
            None => sample,
        };
        self.average = Some((average, now));
    }

    /// The average as of `now`. Zero: there was no sample yet; a known average is at least a
    /// nanosecond.
    pub(super) fn at(&self, now: Instant) -> Duration {
        match self.seconds(now) {
            Some(seconds) => Duration::from_secs_f64(seconds).max(Duration::from_nanos(1)),
            None => Duration::ZERO,
        }
    }

    fn seconds(&self, now: Instant) -> Option<f64> {
        let (average, then) = self.average?;
        let idle = now.saturating_duration_since(then).as_secs_f64();
        Some(average * (-idle / HALF_LIFE.as_secs_f64()).exp2())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_sample_is_the_average_and_later_ones_count_an_eighth() {
        let (mut time, now) = (ResponseTime::default(), Instant::now());
        assert_eq!(time.at(now), Duration::ZERO);
        time.add(8 * MS, now);
        assert_eq!(time.at(now), 8 * MS);
        time.add(16 * MS, now);
        assert_eq!(time.at(now), 9 * MS);
    }

    #[test]
    fn it_halves_every_five_seconds_and_never_becomes_unknown() {
        let (mut time, now) = (ResponseTime::default(), Instant::now());
        time.add(800 * MS, now);
        assert_eq!(time.at(now + HALF_LIFE), 400 * MS);
        assert_eq!(time.at(now + 3 * HALF_LIFE), 100 * MS);
        assert_eq!(time.at(now + 1000 * HALF_LIFE), Duration::from_nanos(1));
        // A sample counts against what the average has become.
        time.add(20 * MS, now + 3 * HALF_LIFE);
        assert_eq!(time.at(now + 3 * HALF_LIFE), 90 * MS);
    }
}
