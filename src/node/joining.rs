//! What a member without its data tells its operator until it has joined.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::identity::Affiliation;
use crate::raft::{JoinAnswer, MemberId};

/// An unchanged obstacle is logged again after this time.
const REPEAT_PAUSE: Duration = Duration::from_secs(10);

const JOINS_ONE_CLUSTER: &str =
    "it joins once all of them are of one cluster whose configuration names this member";
const KEEPS_ITS_CLUSTER: &str = "it does not join \
     them, because it holds a term or entries of another cluster: if nobody needs that data, stop \
     it, remove its data directory and start it again";
const IS_THE_SAME_LIST: &str =
    "is --members the same, to the letter, on all members at their first start?";

/// Why a member without data, or without all of it, does not vote yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Obstacle {
    pub(super) words: String,
    /// Waiting does not help: all others have answered, and an operator must change something.
    pub(super) is_refusal: bool,
    /// It is a newcomer that nobody has added yet: the clusters of those who have answered it.
    pub(super) newcomer_of: Option<BTreeSet<u64>>,
}

/// Who asks, and what it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) id: MemberId,
    pub(super) affiliation: Affiliation,
    /// It was started to join a cluster that exists.
    pub(super) is_newcomer: bool,
}

/// What each member that is asked has answered, if anything.
type Answers = BTreeMap<MemberId, Option<JoinAnswer>>;

/// `answers` are those that the core has, or `None` if it no longer asks.
pub(super) fn obstacle(asker: Asker, answers: Option<Answers>) -> Obstacle {
    let wait = |words| Obstacle { words, is_refusal: false, newcomer_of: None };
    let Some(answers) = answers else {
        return wait("it is being filled by the leader".to_owned());
    };
    let is_named = |answer: &JoinAnswer| names(answer, asker.id);
    if asker.is_newcomer && !answers.values().flatten().any(is_named) {
        let clusters = answers.values().flatten().map(|answer| answer.cluster_id);
        let newcomer_of = Some(clusters.filter(|id| *id != 0).collect());
        let words = match answers.values().flatten().next() {
            Some(_) => waits_to_be_added(asker.id),
            None => format!(
                "nobody in its --join list has answered (member {}): it waits for one of them",
                ids(answers.keys())
            ),
        };
        return Obstacle { newcomer_of, ..wait(words) };
    }
    if !answers.values().flatten().any(|answer| is_other(asker, answer)) {
        let silent = answers.iter().filter(|(_, answer)| answer.is_none());
        let silent = ids(silent.map(|(id, _)| id));
        return wait(format!("it waits for an answer from member {silent}"));
    }
    let clauses: Vec<String> =
        answers.iter().map(|(&id, answer)| clause(asker, id, answer.as_ref())).collect();
    let has_another_list = |answer: &JoinAnswer| has_another_list(asker, answer);
    let advice = match () {
        () if answers.values().flatten().any(has_another_list) => IS_THE_SAME_LIST,
        () if is_one_cluster(asker, &answers) => KEEPS_ITS_CLUSTER,
        () => JOINS_ONE_CLUSTER,
    };
    let words = format!("{}; {advice}", clauses.join(", "));
    let is_refusal = answers.values().all(Option::is_some);
    Obstacle { words, is_refusal, newcomer_of: None }
}

fn ids<'a>(ids: impl Iterator<Item = &'a MemberId>) -> String {
    ids.map(MemberId::to_string).collect::<Vec<_>>().join(", ")
}

fn waits_to_be_added(id: MemberId) -> String {
    format!("it waits to be added: syncraft member add {id}=HOST:PORT")
}

fn names(answer: &JoinAnswer, id: MemberId) -> bool {
    answer.configuration.as_ref().is_some_and(|it| it.membership.contains(id))
}

fn affiliation(answer: &JoinAnswer) -> Affiliation {
    Affiliation { cluster_id: answer.cluster_id, list_id: answer.list_id }
}

fn is_other(asker: Asker, answer: &JoinAnswer) -> bool {
    !affiliation(answer).is_compatible(asker.affiliation)
}

/// Whether it knows no cluster yet, and will not begin one with this member.
fn has_another_list(asker: Asker, answer: &JoinAnswer) -> bool {
    answer.cluster_id == 0 && is_other(asker, answer)
}

/// Whether all others name the same cluster, and name this member in it. A member without any data
/// would have taken that cluster by now, so this member has some.
fn is_one_cluster(asker: Asker, answers: &Answers) -> bool {
    let mut clusters = answers.values().map(|answer| {
        let answer = answer.as_ref().filter(|answer| names(answer, asker.id))?;
        Some(answer.cluster_id).filter(|id| *id != 0)
    });
    let first = clusters.next().flatten();
    first.is_some() && clusters.all(|cluster_id| cluster_id == first)
}

fn clause(asker: Asker, id: MemberId, answer: Option<&JoinAnswer>) -> String {
    match answer {
        None => format!("member {id} does not answer"),
        Some(answer) if has_another_list(asker, answer) => {
            format!("member {id} has no data either, and was started with another --members")
        }
        Some(answer) if answer.is_new => format!("member {id} has no data either"),
        Some(answer) if !is_other(asker, answer) => {
            format!("member {id} names no other cluster: has it lost its data, too?")
        }
        Some(answer) if !names(answer, asker.id) => {
            format!("member {id} is of {} and does not count this one", affiliation(answer).words())
        }
        Some(answer) => format!("member {id} is of {}", affiliation(answer).words()),
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
    use std::sync::Arc;

    use super::*;
    use crate::raft::{Configuration, Term};

    const ASKER: Asker = Asker {
        id: MemberId(2),
        affiliation: Affiliation { cluster_id: 0, list_id: 1 },
        is_newcomer: false,
    };

    fn of_cluster(cluster_id: u64, list_id: u64, members: &[u64]) -> Option<JoinAnswer> {
        let addrs = members.iter().map(|&id| (MemberId(id), format!("h{id}:1")));
        let configuration = Some(Arc::new(Configuration::first(cluster_id, list_id, addrs)));
        let is_settled = true;
        Some(JoinAnswer {
            is_new: false,
            cluster_id,
            list_id,
            configuration,
            is_settled,
            is_needed: false,
            term: Term(1),
        })
    }

    fn same() -> Option<JoinAnswer> {
        of_cluster(10, 7, &[1, 2, 3])
    }

    fn stranger() -> Option<JoinAnswer> {
        of_cluster(11, 8, &[1, 3])
    }

    fn without_data(is_new: bool) -> Option<JoinAnswer> {
        let (configuration, is_settled) = (None, true);
        Some(JoinAnswer {
            is_new,
            cluster_id: 0,
            list_id: 1,
            configuration,
            is_settled,
            is_needed: false,
            term: Term(0),
        })
    }

    fn words(answers: [Option<JoinAnswer>; 2]) -> Obstacle {
        obstacle(ASKER, Some([MemberId(1), MemberId(3)].into_iter().zip(answers).collect()))
    }

    #[test]
    fn each_answer_has_its_words() {
        let check = |answers, expected: &str, is_refusal| {
            let Obstacle { words, is_refusal: found, .. } = words(answers);
            assert_eq!((words.split(';').next(), found), (Some(expected), is_refusal));
        };
        check([None, None], "it waits for an answer from member 1, 3", false);
        check([without_data(true), None], "it waits for an answer from member 3", false);
        check(
            [same(), None],
            "member 1 is of cluster 000000000000000a, member 3 does not answer",
            false,
        );
        check(
            [same(), stranger()],
            "member 1 is of cluster 000000000000000a, member 3 is of cluster 000000000000000b and \
             does not count this one",
            true,
        );
        check(
            [same(), without_data(true)],
            "member 1 is of cluster 000000000000000a, member 3 has no data either",
            true,
        );
        check(
            [same(), without_data(false)],
            "member 1 is of cluster 000000000000000a, member 3 names no other cluster: has it lost \
             its data, too?",
            true,
        );
        assert_eq!(obstacle(ASKER, None).words, "it is being filled by the leader");
    }

    #[test]
    fn what_would_help_is_said() {
        for (answers, expected) in [
            ([same(), None], JOINS_ONE_CLUSTER),
            ([same(), stranger()], JOINS_ONE_CLUSTER),
            ([stranger(), stranger()], JOINS_ONE_CLUSTER),
            ([same(), without_data(true)], JOINS_ONE_CLUSTER),
            // A member without data would have joined.
            ([same(), same()], KEEPS_ITS_CLUSTER),
        ] {
            assert_eq!(
                words(answers.clone()).words.split("; ").nth(1),
                Some(expected),
                "{answers:?}"
            );
        }
    }

    #[test]
    fn a_newcomer_waits_until_a_configuration_names_it() {
        let newcomer = Asker { is_newcomer: true, ..ASKER };
        let of = |answer| obstacle(newcomer, Some([(MemberId(1), answer)].into())).newcomer_of;
        assert_eq!(of(None), Some([].into()));
        assert_eq!(of(stranger()), Some([11].into()));
        assert_eq!(of(same()), None);
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
        check(words([same(), None]), 1, false);
        check(words([same(), stranger()]), 1, true);
        check(words([same(), stranger()]), 10, false);
        check(words([same(), stranger()]), 11, true);
        check(words([same(), without_data(true)]), 12, true);
        check(words([same(), None]), 13, false);
        check(words([same(), None]), 22, true);
    }
}
