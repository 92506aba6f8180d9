//! Asks members where they stand, all at the same time.
//!
//! The list of addresses that a command gets is only where to look: who the members are stands in
//! the newest configuration of those who answer.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use syncraft::ErrorChain;
use syncraft::clerk::{Endpoint, Endpoints};
use syncraft::raft::MemberId;
use syncraft::rpc::{CallError, Channel};
use syncraft::server::proto::{AdminRpcStub, MemberEntry, MembersReply, StatusArgs, StatusReply};

use super::Failure;

/// How long one member may take. While things go wrong, a status that waits for a dead machine is
/// of no use.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(2);

/// How often newer configurations are looked into for members that were not known.
const ROUNDS_MAX: usize = 3;

/// One member and its answer.
pub(super) struct Answer {
    /// Whether it was asked because the command's list has it.
    pub(super) is_listed: bool,
    pub(super) endpoint: Endpoint,
    pub(super) reply: Result<StatusReply, CallError>,
}

/// The members of a cluster and their answers.
pub(super) struct Cluster {
    /// In order of the configuration. Those who answered and are of another cluster, or wait to be
    /// added to one, come last.
    pub(super) answers: Vec<Answer>,
    /// As the leader says, or else the newest one. `None` if nobody knows of configurations: then
    /// the members are those of the list.
    pub(super) configuration: Option<MembersReply>,
}

/// Asks the members of the cluster to which these addresses lead. A round takes no longer than
/// [`MEMBER_TIMEOUT`].
pub(super) fn ask_cluster(endpoints: &Endpoints, deadline: Instant) -> Cluster {
    let in_time = || deadline.min(Instant::now() + MEMBER_TIMEOUT);
    let listed: Vec<Endpoint> = endpoints.iter().cloned().collect();
    let mut answers = ask_all(&listed, in_time());
    answers.iter_mut().for_each(|answer| answer.is_listed = true);
    for _ in 0..ROUNDS_MAX {
        let Some(configuration) = newest(&answers) else { break };
        let unknown = unknown(&configuration, &answers);
        if unknown.is_empty() {
            break;
        }
        answers.extend(ask_all(&unknown, in_time()));
    }
    let configuration = newest(&answers);
    let answers = match &configuration {
        Some(configuration) => in_order(configuration, answers),
        None => answers,
    };
    Cluster { answers, configuration }
}

/// The newest configuration of those who answer; of those, the leader's view. Members of several
/// clusters may answer: it is that of most of them. Who does not know its cluster yet, because its
/// first configuration is not committed, counts for none.
fn newest(answers: &[Answer]) -> Option<MembersReply> {
    let known = || {
        let replies = answers.iter().filter_map(|answer| answer.reply.as_ref().ok());
        replies.filter_map(|it| it.configuration.as_ref()).filter(|it| it.index != 0)
    };
    let count = |of: &MembersReply| known().filter(|it| it.cluster_id == of.cluster_id).count();
    let age =
        |it: &&MembersReply| (it.cluster_id != 0, count(it), it.index, it.leader == it.id, it.term);
    known().max_by_key(age).cloned()
}

/// The members that have not been asked: nobody has answered with the id, and nobody was asked at
/// the address.
fn unknown(configuration: &MembersReply, answers: &[Answer]) -> Vec<Endpoint> {
    let is_known = |member: &&MemberEntry| {
        let was_asked = |answer: &Answer| answer.endpoint.addr.eq_ignore_ascii_case(&member.addr);
        answers.iter().any(|answer| answer.is_of(configuration, member) || was_asked(answer))
    };
    let unknown = configuration.members.iter().filter(|member| !is_known(member));
    unknown.map(|it| Endpoint { id: Some(MemberId(it.id)), addr: it.addr.clone() }).collect()
}

/// The answers of the members, and behind them of those who belong elsewhere. Who was a member, and
/// whoever is silent without being one, is left out.
fn in_order(configuration: &MembersReply, mut answers: Vec<Answer>) -> Vec<Answer> {
    let mut ordered = Vec::new();
    for member in &configuration.members {
        // An answer counts more than a silent address.
        answers.sort_by_key(|answer| answer.reply.is_err());
        let of = answers.iter().position(|answer| answer.is_of(configuration, member));
        if let Some(at) = of {
            let mut answer = answers.remove(at);
            answer.endpoint.id = Some(MemberId(member.id));
            ordered.push(answer);
        }
    }
    let is_elsewhere = |answer: &Answer| {
        answer.reply.as_ref().is_ok_and(|reply| !is_in(reply, configuration.cluster_id))
    };
    ordered.extend(answers.into_iter().filter(is_elsewhere));
    ordered
}

/// Whether it is of this cluster, as far as it knows. 0 is one that is not known yet.
fn is_in(reply: &StatusReply, cluster_id: u64) -> bool {
    let known = reply.configuration.as_ref().map_or(0, |it| it.cluster_id);
    !reply.waits_to_be_added && (cluster_id == 0 || [0, cluster_id].contains(&known))
}

impl Answer {
    /// Whether this member has answered, or was asked at its address in vain.
    fn is_of(&self, configuration: &MembersReply, member: &MemberEntry) -> bool {
        match &self.reply {
            Ok(reply) => reply.id == member.id && is_in(reply, configuration.cluster_id),
            Err(_) => self.endpoint.addr.eq_ignore_ascii_case(&member.addr),
        }
    }
}

impl Cluster {
    /// What the configuration says of the member that answered, or did not.
    pub(super) fn entry(&self, answer: &Answer) -> Option<&MemberEntry> {
        let configuration = self.configuration.as_ref()?;
        configuration.members.iter().find(|member| answer.is_of(configuration, member))
    }

    /// One sentence for each member of the list that is of another cluster. Clients that go by such a
    /// list may be served by either cluster.
    pub(super) fn strangers(&self) -> Vec<String> {
        let Some(configuration) = &self.configuration else { return Vec::new() };
        let words = |answer: &Answer| {
            let reply = answer.reply.as_ref().ok()?;
            let found = reply.configuration.as_ref()?.cluster_id;
            let is_other = !is_in(reply, configuration.cluster_id) && !reply.waits_to_be_added;
            let (id, addr, own) = (reply.id, &answer.endpoint.addr, configuration.cluster_id);
            is_other.then(|| {
                format!("member {id} at {addr} is of cluster {found:016x}, and not of {own:016x}")
            })
        };
        self.answers.iter().filter(|answer| answer.is_listed).filter_map(words).collect()
    }

    /// Whether a majority of the voters names the same leader, in the newest term that any of them
    /// knows.
    pub(super) fn has_leader(&self) -> bool {
        let is_voter = |answer: &&Answer| {
            self.configuration.is_none() || self.entry(answer).is_some_and(|it| it.kind != LEARNER)
        };
        let voters: Vec<&Answer> = self.answers.iter().filter(is_voter).collect();
        let replies = || voters.iter().filter_map(|answer| answer.reply.as_ref().ok());
        let newest = replies().filter(|reply| reply.leader != 0).max_by_key(|reply| reply.term);
        newest.is_some_and(|newest| {
            let agrees =
                |reply: &&StatusReply| (reply.term, reply.leader) == (newest.term, newest.leader);
            replies().filter(agrees).count() > voters.len() / 2
        })
    }
}

/// [`MemberEntry::kind`] of a member that does not vote.
pub(super) const LEARNER: &str = "learner";

pub(super) fn ask_all(endpoints: &[Endpoint], deadline: Instant) -> Vec<Answer> {
    let mut answers: Vec<Answer> = thread::scope(|scope| {
        let begin = |endpoint: &Endpoint| {
            let addr = endpoint.addr.clone();
            thread::Builder::new().spawn_scoped(scope, move || ask(&addr, deadline))
        };
        let asked: Vec<_> = endpoints.iter().map(|endpoint| (endpoint, begin(endpoint))).collect();
        let answer =
            |(endpoint, thread): (&Endpoint, io::Result<thread::ScopedJoinHandle<'_, _>>)| {
                let (addr, endpoint) = (endpoint.addr.clone(), endpoint.clone());
                let reply = match thread {
                    Ok(thread) => thread.join().expect("asking does not panic"),
                    Err(source) => Err(CallError::NotSent { addr, source }),
                };
                Answer { is_listed: false, endpoint, reply }
            };
        asked.into_iter().map(answer).collect()
    });
    // Members for which there was no thread or descriptor are asked one after another.
    for answer in answers.iter_mut().filter(|answer| was_short_of_something(answer)) {
        answer.reply = ask(&answer.endpoint.addr, deadline);
    }
    answers
}

/// Whether there was no thread or no file descriptor to ask this member.
fn was_short_of_something(answer: &Answer) -> bool {
    let Err(CallError::NotSent { source, .. }) = &answer.reply else { return false };
    source.kind() == io::ErrorKind::WouldBlock
        || source.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error())
}

/// `words`, followed by the error of the first member that did not answer.
pub(super) fn with_reason(words: &str, answers: &[Answer]) -> String {
    let error = answers.iter().find_map(|answer| answer.reply.as_ref().err());
    error.map_or_else(|| words.to_owned(), |error| format!("{words}: {}", ErrorChain(error)))
}

/// Fails if every address speaks another protocol, because then no member will ever answer.
pub(super) fn check_protocol(answers: &[Answer]) -> Result<(), Failure> {
    let is_other = |answer: &Answer| matches!(&answer.reply, Err(CallError::OtherProtocol { .. }));
    match answers.iter().all(is_other).then(|| answers.first()).flatten() {
        Some(Answer { reply: Err(error), .. }) => {
            Err(Failure::not_applied(ErrorChain(error).to_string()))
        }
        _ => Ok(()),
    }
}

fn ask(addr: &str, deadline: Instant) -> Result<StatusReply, CallError> {
    let channel = Channel::builder(addr).connect_timeout(MEMBER_TIMEOUT).lazy();
    AdminRpcStub::new(channel).status(&StatusArgs {}, deadline)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What member `id` says; `None`: it is silent.
    fn answer(id: u64, reply: Option<StatusReply>) -> Answer {
        let addr = format!("127.0.0.1:{}", 7000 + id);
        let source = io::Error::from(io::ErrorKind::ConnectionRefused);
        let reply = reply.ok_or(CallError::NotSent { addr: addr.clone(), source });
        Answer { is_listed: true, endpoint: Endpoint { id: Some(MemberId(id)), addr }, reply }
    }

    fn reply(id: u64, term: u64, leader: u64) -> Option<StatusReply> {
        Some(StatusReply { id, term, leader, ..Default::default() })
    }

    /// As of entry `index` of cluster 7: these members, of whom the last one learns.
    fn configuration(index: u64, ids: &[u64]) -> MembersReply {
        let entry = |id: &u64| MemberEntry {
            id: *id,
            addr: format!("127.0.0.1:{}", 7000 + id),
            kind: if Some(id) == ids.last() { LEARNER } else { "voter" }.to_owned(),
            progress: None,
        };
        let members = ids.iter().map(entry).collect();
        MembersReply { cluster_id: 7, index, members, ..Default::default() }
    }

    fn knowing(id: u64, configuration: MembersReply) -> Answer {
        let configuration = Some(configuration);
        answer(id, Some(StatusReply { id, configuration, ..Default::default() }))
    }

    fn ids(answers: &[Answer]) -> Vec<u64> {
        answers.iter().filter_map(|answer| answer.endpoint.id).map(|id| id.0).collect()
    }

    #[test]
    fn members_are_those_of_the_newest_configuration() {
        // 1 was removed and does not know it, and 3 is silent.
        let old = knowing(1, configuration(3, &[1, 2, 3]));
        let new = knowing(2, configuration(9, &[2, 3, 4, 5]));
        let stranger = MembersReply { cluster_id: 8, ..configuration(99, &[4, 6]) };
        let answers = vec![old, new, answer(3, None), knowing(4, stranger), answer(6, None)];
        let newest = newest(&answers).unwrap();
        assert_eq!(newest.index, 9);
        let unknown = unknown(&newest, &answers);
        let addrs: Vec<&str> = unknown.iter().map(|endpoint| endpoint.addr.as_str()).collect();
        assert_eq!(addrs, ["127.0.0.1:7005"], "at the address of 4, the stranger has answered");
        assert_eq!(ids(&in_order(&newest, answers)), [2, 3, 4], "the stranger comes last");
    }

    /// A follower learns late that the first configuration is committed, and with it the id.
    #[test]
    fn who_does_not_know_its_cluster_yet_is_no_stranger() {
        let unborn = || MembersReply { cluster_id: 0, ..configuration(2, &[1, 2, 3]) };
        let answers = vec![
            knowing(1, configuration(2, &[1, 2, 3])),
            knowing(2, unborn()),
            knowing(3, unborn()),
        ];
        let newest = newest(&answers).unwrap();
        assert_eq!(newest.cluster_id, 7);
        for found in [newest, unborn()] {
            let answers = vec![knowing(1, configuration(2, &[1, 2, 3])), knowing(2, unborn())];
            let cluster = Cluster { answers, configuration: Some(found) };
            assert_eq!(cluster.strangers(), Vec::<String>::new());
        }
    }

    #[test]
    fn learners_do_not_count_for_a_leader() {
        let check = |following: &[u64], expected: bool| {
            let one =
                |id: u64| answer(id, reply(id, 7, if following.contains(&id) { 1 } else { 0 }));
            let configuration = Some(configuration(3, &[1, 2, 3, 4]));
            let cluster = Cluster { answers: (1..=4).map(one).collect(), configuration };
            assert_eq!(cluster.has_leader(), expected, "{following:?}");
        };
        check(&[1, 2], true);
        check(&[1, 4], false);
        check(&[1, 2, 3], true);
    }

    #[test]
    fn a_leader_needs_a_majority_of_all_members() {
        let check = |replies: [Option<StatusReply>; 3], expected: bool| {
            let answers: Vec<Answer> =
                (1..).zip(replies).map(|(id, reply)| answer(id, reply)).collect();
            let cluster = Cluster { answers, configuration: None };
            assert_eq!(cluster.has_leader(), expected);
        };
        check([reply(1, 7, 1), reply(2, 7, 1), reply(3, 7, 1)], true);
        check([reply(1, 7, 1), reply(2, 7, 1), None], true);
        check([reply(1, 7, 1), None, None], false);
        check([reply(1, 7, 1), reply(2, 7, 0), None], false);
        check([reply(1, 7, 1), reply(2, 8, 2), reply(3, 8, 2)], true);
        check([reply(1, 7, 1), reply(2, 7, 1), reply(3, 8, 3)], false);
        check([reply(1, 7, 0), reply(2, 7, 0), reply(3, 7, 0)], false);
        check([None, None, None], false);
    }
}
