//! [`Far`]: the timelines for watches that are far behind, which another thread makes.

use std::time::{Duration, Instant};

use super::hub::Hub;
use crate::kv::model::Revision;
use crate::kv::state::Timeline;

/// How long a timeline is kept that nobody uses, and how long in any case: it holds an old state.
const UNUSED_MAX: Duration = Duration::from_secs(5);
const AGE_MAX: Duration = Duration::from_secs(5 * 60);

/// How many are kept. With one alone, a client that reads slowly and one that has fallen behind a
/// little would take it away from each other.
const TIMELINES_MAX: usize = 2;

/// See the file.
#[derive(Debug, Default)]
pub(super) struct Far {
    is_making: bool,
    /// There was no thread to make one, a moment ago.
    was_refused: bool,
    /// Newest first.
    longs: Vec<Long>,
}

#[derive(Debug)]
struct Long {
    timeline: Timeline,
    made: Instant,
    used: Instant,
}

impl Far {
    /// The one that has this revision.
    pub(super) fn find(&mut self, next: Revision) -> Option<&Timeline> {
        let has = |it: &&mut Long| (it.timeline.first()..=it.timeline.revision()).contains(&next);
        let long = self.longs.iter_mut().find(has)?;
        long.used = Instant::now();
        Some(&long.timeline)
    }

    /// Has one made from this revision on, or from the first one that is not forgotten. It comes as
    /// an order to the thread. One is made at a time.
    pub(super) fn make(&mut self, hub: &Hub, first: Revision) {
        if self.is_making || self.was_refused {
            return;
        }
        let Some(state) = hub.node.inspect(|store| store.state()) else { return };
        let first = first.max(state.history.compacted().next());
        self.is_making = true;
        hub.make_timeline(move || Timeline::new(&state, first));
    }

    /// One was made, or could not be.
    pub(super) fn made(&mut self, timeline: Option<Timeline>) {
        (self.is_making, self.was_refused) = (false, timeline.is_none());
        let now = Instant::now();
        let long = timeline.map(|timeline| Long { timeline, made: now, used: now });
        self.longs.splice(0..0, long);
        self.longs.truncate(TIMELINES_MAX);
    }

    /// A moment has passed: one may be made again, and those that are old are dropped.
    pub(super) fn look(&mut self, now: Instant) {
        self.was_refused = false;
        self.longs.retain(|long| now < long.used + UNUSED_MAX && now < long.made + AGE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::state::State;

    #[test]
    fn a_timeline_that_is_used_goes_on_for_five_minutes() {
        let mut state = State::default();
        state.put(b"k", b"v").unwrap();
        let next = state.revision;
        let made = Instant::now();
        let long = || Long { timeline: Timeline::new(&state, next), made, used: made };
        let mut far = Far { longs: vec![long()], ..Far::default() };
        far.look(made + UNUSED_MAX);
        assert!(far.find(next).is_none(), "nobody has used it");
        let mut far = Far { longs: vec![long()], ..Far::default() };
        let minutes = |n: u64| made + Duration::from_secs(60 * n);
        for (at, is_there) in [(minutes(4), true), (minutes(5), false)] {
            far.longs.iter_mut().for_each(|long| long.used = at);
            far.look(at);
            assert_eq!(far.find(next).is_some(), is_there);
        }
    }
}
