//! What is wrong between this member and its peers, said once each: a fault of configuration shows in every message, twenty
//! times a second, and one line is what an operator reads.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::raft::MemberId;

/// What has not changed is said again after this time.
const REPEAT_PAUSE: Duration = Duration::from_secs(60);
/// Peers that are remembered: ids come from the wire, and anybody can count.
const PEERS_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Complaints {
    last: Mutex<BTreeMap<MemberId, (String, Instant)>>,
}

impl Complaints {
    /// Warns, unless the same was said of this peer within the last minute.
    pub(super) fn warn(&self, peer: MemberId, words: String) {
        if self.is_news(peer, &words, Instant::now()) {
            log::warn!("{words}");
        }
    }

    fn is_news(&self, peer: MemberId, words: &str, now: Instant) -> bool {
        let mut last = self.last.lock();
        let is_told = |(told, at): &(String, Instant)| told == words && now < *at + REPEAT_PAUSE;
        if last.get(&peer).is_some_and(is_told)
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
    fn a_complaint_is_made_once_and_again_when_it_changes_or_later() {
        let (complaints, start) = (Complaints::default(), Instant::now());
        let check = |peer, words, seconds, expected| {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(complaints.is_news(MemberId(peer), words, now), expected, "{peer} {words}");
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
