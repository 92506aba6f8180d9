//! Warnings about peers, each given once. A fault of configuration shows in every message, twenty
//! times a second, and an operator needs one line.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::raft::MemberId;

/// An unchanged warning is repeated after this time.
const REPEAT_PAUSE: Duration = Duration::from_secs(60);
/// How many peers are remembered. A bound, as ids come from the wire.
const PEERS_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Warnings {
    last: Mutex<BTreeMap<MemberId, (String, Instant)>>,
}

impl Warnings {
    /// Logs the warning, unless the last one about this peer was the same and less than a minute
    /// ago.
    pub(super) fn warn(&self, peer: MemberId, words: String) {
        if self.is_news(peer, &words, Instant::now()) {
            log::warn!("{words}");
        }
    }

    fn is_news(&self, peer: MemberId, words: &str, now: Instant) -> bool {
        let mut last = self.last.lock();
        let was_logged =
            |(logged, at): &(String, Instant)| logged == words && now < *at + REPEAT_PAUSE;
        if last.get(&peer).is_some_and(was_logged)
            || (last.len() >= PEERS_MAX && !last.contains_key(&peer))
        {
            return false;
        }
        last.insert(peer, (words.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_given_once_and_again_when_it_changes_or_later() {
        let (warnings, start) = (Warnings::default(), Instant::now());
        let check = |peer, words, seconds, expected| {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(warnings.is_news(MemberId(peer), words, now), expected, "{peer} {words}");
        };
        check(2, "a", 0, true);
        check(2, "a", 1, false);
        check(3, "a", 1, true);
        check(2, "b", 2, true);
        check(2, "b", 61, false);
        check(2, "b", 62, true);
        (100..200).for_each(|stranger| check(stranger, "a", 62, stranger < 100 + 62));
        check(2, "c", 63, true);
    }
}
