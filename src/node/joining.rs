//! Which cluster a member belongs to, and what a member without data tells its operator until it
//! has joined.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::raft::{JoinAnswer, MemberId, OtherCluster};

/// An unchanged obstacle is logged again after this time.
const REPEAT_PAUSE: Duration = Duration::from_secs(10);

const JOINS_ONE_CLUSTER: &str =
    "it joins once all other members are of one cluster and have the same --members as this one";
const KEEPS_ITS_CLUSTER: &str = "it does not join \
     them, because it holds a term or entries of another cluster: if nobody needs that data, stop \
     it, remove its data directory and start it again";

/// Which cluster this member belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Affiliation {
    pub(super) cluster_id: u64,
    /// See [`NodeConfig::list_id`](super::NodeConfig::list_id).
    pub(super) list_id: Option<u64>,
    /// It started without data. Until it has joined, nobody has confirmed its cluster id.
    pub(super) came_new: bool,
}

/// Why a member without data, or without all of it, does not vote yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Obstacle {
    pub(super) words: String,
    /// Waiting does not help: all others have answered, and an operator must change something.
    pub(super) is_refusal: bool,
}

/// `answers` are those that the core has, or `None` if it no longer asks.
pub(super) fn obstacle(answers: Option<BTreeMap<MemberId, Option<JoinAnswer>>>) -> Obstacle {
    let wait = |words| Obstacle { words, is_refusal: false };
    let Some(answers) = answers else {
        return wait("it is being filled by the leader".to_owned());
    };
    let is_other =
        |answer: &Option<JoinAnswer>| matches!(answer, Some(JoinAnswer::OtherCluster(_)));
    if !answers.values().any(is_other) {
        let silent = answers.iter().filter(|(_, answer)| answer.is_none());
        let ids: Vec<String> = silent.map(|(id, _)| id.to_string()).collect();
        return wait(format!("it waits for an answer from member {}", ids.join(", ")));
    }
    let clauses: Vec<String> = answers.iter().map(|(&id, &answer)| clause(id, answer)).collect();
    let advice = if is_one_cluster(&answers) { KEEPS_ITS_CLUSTER } else { JOINS_ONE_CLUSTER };
    let words = format!("{}; {advice}", clauses.join(", "));
    Obstacle { words, is_refusal: answers.values().all(Option::is_some) }
}

/// Whether all others name the same cluster and have the same list. A member without any data would
/// have taken that cluster by now, so this member has some.
fn is_one_cluster(answers: &BTreeMap<MemberId, Option<JoinAnswer>>) -> bool {
    let mut clusters = answers.values().map(|answer| match answer {
        Some(JoinAnswer::OtherCluster(OtherCluster { cluster_id, has_same_list: true })) => {
            Some(*cluster_id)
        }
        _ => None,
    });
    let first = clusters.next().flatten();
    first.is_some() && clusters.all(|cluster_id| cluster_id == first)
}

fn clause(id: MemberId, answer: Option<JoinAnswer>) -> String {
    match answer {
        None => format!("member {id} does not answer"),
        Some(JoinAnswer::New) => format!("member {id} has no data either"),
        Some(JoinAnswer::HasData) => {
            format!("member {id} names no other cluster: has it lost its data, too?")
        }
        Some(JoinAnswer::OtherCluster(OtherCluster { cluster_id, has_same_list: true })) => {
            format!("member {id} is of cluster {cluster_id:016x}")
        }
        Some(JoinAnswer::OtherCluster(OtherCluster { cluster_id, has_same_list: false })) => {
            format!("member {id} is of cluster {cluster_id:016x} and has another --members")
        }
    }
}

/// Logs an obstacle once, and again when it has become a refusal or has stayed for long.
#[derive(Default)]
pub(super) struct Reminder(Option<(Obstacle, Instant)>);

impl Reminder {
    pub(super) fn remind(&mut self, id: MemberId, obstacle: &Obstacle, now: Instant) {
        if !self.is_due(obstacle, now) {
            return;
        }
        self.0 = Some((obstacle.clone(), now + REPEAT_PAUSE));
        let level = if obstacle.is_refusal { log::Level::Warn } else { log::Level::Info };
        log::log!(
            level,
            "member {id} does not vote until it has all of its data: {}",
            obstacle.words
        );
    }

    fn is_due(&self, obstacle: &Obstacle, now: Instant) -> bool {
        self.0
            .as_ref()
            .is_none_or(|(told, due)| *due <= now || obstacle.is_refusal && told != obstacle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAME: Option<JoinAnswer> =
        Some(JoinAnswer::OtherCluster(OtherCluster { cluster_id: 10, has_same_list: true }));
    const OTHER_LIST: Option<JoinAnswer> =
        Some(JoinAnswer::OtherCluster(OtherCluster { cluster_id: 11, has_same_list: false }));

    fn words(answers: [Option<JoinAnswer>; 2]) -> Obstacle {
        obstacle(Some([MemberId(1), MemberId(3)].into_iter().zip(answers).collect()))
    }

    #[test]
    fn each_answer_has_its_words() {
        let check = |answers, expected: &str, is_refusal| {
            let Obstacle { words, is_refusal: found } = words(answers);
            assert_eq!((words.split(';').next(), found), (Some(expected), is_refusal));
        };
        check([None, None], "it waits for an answer from member 1, 3", false);
        check([Some(JoinAnswer::New), None], "it waits for an answer from member 3", false);
        check(
            [SAME, None],
            "member 1 is of cluster 000000000000000a, member 3 does not answer",
            false,
        );
        check(
            [SAME, OTHER_LIST],
            "member 1 is of cluster 000000000000000a, member 3 is of cluster 000000000000000b and \
             has another --members",
            true,
        );
        check(
            [SAME, Some(JoinAnswer::New)],
            "member 1 is of cluster 000000000000000a, member 3 has no data either",
            true,
        );
        check(
            [SAME, Some(JoinAnswer::HasData)],
            "member 1 is of cluster 000000000000000a, member 3 names no other cluster: has it lost \
             its data, too?",
            true,
        );
        assert_eq!(obstacle(None).words, "it is being filled by the leader");
    }

    #[test]
    fn what_would_help_is_said() {
        for (answers, expected) in [
            ([SAME, None], JOINS_ONE_CLUSTER),
            ([SAME, OTHER_LIST], JOINS_ONE_CLUSTER),
            ([OTHER_LIST, OTHER_LIST], JOINS_ONE_CLUSTER),
            ([SAME, Some(JoinAnswer::New)], JOINS_ONE_CLUSTER),
            // A member without data would have joined.
            ([SAME, SAME], KEEPS_ITS_CLUSTER),
        ] {
            assert_eq!(words(answers).words.split("; ").nth(1), Some(expected), "{answers:?}");
        }
    }

    #[test]
    fn a_refusal_is_said_at_once_and_all_else_now_and_then() {
        let (mut reminder, start) = (Reminder::default(), Instant::now());
        let mut check = |obstacle: Obstacle, seconds, expected| {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(reminder.is_due(&obstacle, now), expected, "{obstacle:?}");
            reminder.remind(MemberId(2), &obstacle, now);
        };
        check(words([None, None]), 0, true);
        check(words([SAME, None]), 1, false);
        check(words([SAME, OTHER_LIST]), 1, true);
        check(words([SAME, OTHER_LIST]), 10, false);
        check(words([SAME, OTHER_LIST]), 11, true);
        check(words([SAME, Some(JoinAnswer::New)]), 12, true);
        check(words([SAME, None]), 13, false);
        check(words([SAME, None]), 22, true);
    }
}
