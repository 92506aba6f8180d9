//! [`AdminClient`]: changes the members of a cluster of which some addresses are known.
//!
//! It asks all addresses that it knows who the members are, asks those, too, and so finds the
//! leader. Then it gives the leader the order, again and again until there is an answer that
//! counts, or until time runs out. To repeat an order is safe.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::proto::{
    AddMemberArgs, AdminRpcStub, ChangeOutcome, ChangeReply, MembersArgs, MembersReply,
    MoveMemberArgs, PromoteMemberArgs, RemoveMemberArgs,
};
use crate::raft::MemberId;
use crate::rpc::{CallError, Channel};

/// How long one member has to say who the members are.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a leader that is known may keep others from being listened to.
const LISTEN_TIME: Duration = Duration::from_millis(200);

/// The pause before the leader is looked for again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How long a leader is waited for that says who the members are, and how far.
const LEADER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long one attempt at a change may take. A leader that is cut off does not settle on it, and
/// another one does.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Changes the members of a cluster of which some addresses are known.
#[derive(Clone, Debug)]
pub struct AdminClient {
    addrs: BTreeSet<String>,
}

/// A change of the members.
#[derive(Clone, Debug, PartialEq)]
pub enum MemberChange {
    /// A new member, which learns and does not vote.
    Add(AddMemberArgs),
    /// A learner that has caught up becomes a voter.
    Promote(PromoteMemberArgs),
    /// A member leaves for ever.
    Remove(RemoveMemberArgs),
    /// A member is reached at another address.
    Move(MoveMemberArgs),
}

/// The members are as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeDone {
    /// [`Changed`](ChangeOutcome::Changed), or [`Unchanged`](ChangeOutcome::Unchanged) if they were
    /// so already.
    pub outcome: ChangeOutcome,
    /// If they were so already: how they are.
    pub words: String,
}

/// Why the members are not as wanted, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// It is refused, and always will be.
    #[error("{0}")]
    Impossible(String),
    /// It is refused, as things are now.
    #[error("{0}")]
    NotNow(String),
    /// The learner is not promoted before it has caught up.
    #[error("{words}")]
    Behind {
        /// In words.
        words: String,
        /// How many entries it lacks.
        lacking_entries: u64,
    },
    /// No leader was found in time. Nothing has changed.
    #[error("no member leads")]
    NoLeader {
        /// Why the first member did not answer, if none did.
        #[source]
        source: Option<CallError>,
    },
    /// Nobody answers.
    #[error("no member answers")]
    Nobody {
        /// Why the first one does not.
        #[source]
        source: Option<CallError>,
    },
    /// The leader did not take the order. Nothing has changed.
    #[error("the leader did not take the order")]
    NotTaken {
        /// Why not.
        #[source]
        source: Option<CallError>,
    },
    /// It may happen, or not.
    #[error("the change may or may not have happened: {0}")]
    Undecided(String),
}

/// A leader, and the address at which it answered.
struct Leader {
    addr: String,
    reply: MembersReply,
}

/// What those who were asked have answered.
#[derive(Default)]
struct Answers {
    replies: Vec<(String, MembersReply)>,
    error: Option<CallError>,
}

impl AdminClient {
    /// A client that knows these addresses, `HOST:PORT`, of members of the cluster.
    pub fn new(addrs: impl IntoIterator<Item = String>) -> AdminClient {
        AdminClient { addrs: addrs.into_iter().collect() }
    }

    /// Who the members are: as the leader knows, or, if no leader is found within two seconds, as
    /// the newest configuration says of those who answer.
    ///
    /// # Errors
    /// [`AdminError::Nobody`]
    pub fn members(&self, deadline: Instant) -> Result<MembersReply, AdminError> {
        let leader_by = deadline.min(Instant::now() + LEADER_TIMEOUT);
        let mut newest: Option<MembersReply> = None;
        loop {
            let answers = self.ask_everybody(deadline);
            if let Some(leader) = answers.leader() {
                return Ok(leader.reply);
            }
            let replies = answers.replies.iter().map(|(_, reply)| reply.clone());
            newest = replies.chain(newest).max_by_key(|reply| reply.index);
            let soon = Instant::now() + RETRY_PAUSE;
            match newest {
                Some(newest) if soon >= leader_by => return Ok(newest),
                None if soon >= deadline => {
                    return Err(AdminError::Nobody { source: answers.silence() });
                }
                _ => thread::sleep(RETRY_PAUSE),
            }
        }
    }

    /// Has the leader change the members, and returns when the cluster has settled on it.
    ///
    /// # Errors
    /// [`AdminError`], all kinds. With [`Undecided`](AdminError::Undecided), ask again.
    pub fn change(
        &self,
        change: &MemberChange,
        deadline: Instant,
    ) -> Result<ChangeDone, AdminError> {
        let mut heard = Heard::default();
        while Instant::now() < deadline {
            let answers = self.ask_everybody(deadline);
            match answers.leader() {
                None => heard.no_leader(answers),
                Some(leader) => match attempt(&leader, change, deadline) {
                    Attempt::Over(result) => return result,
                    Attempt::Undecided(words) => heard.undecided = Some(words),
                    Attempt::NotTaken(source) => heard.not_taken = Some(source),
                },
            }
            thread::sleep(RETRY_PAUSE.min(deadline.saturating_duration_since(Instant::now())));
        }
        Err(heard.out_of_time())
    }

    /// Whether anybody in this cluster knows that member `id`, which asks, was removed from it.
    pub(super) fn was_removed(&self, id: MemberId, cluster_id: u64, deadline: Instant) -> bool {
        let args = MembersArgs { asker_id: id.0 };
        let answers = ask(&self.addrs, &args, deadline);
        let mut replies = answers.replies.iter().map(|(_, reply)| reply);
        replies.any(|reply| reply.cluster_id == cluster_id && reply.asker_is_removed)
    }

    /// Asks all addresses that are known, and those that are learned from the answers.
    fn ask_everybody(&self, deadline: Instant) -> Answers {
        let mut answers = Answers::default();
        let (mut asked, mut next) = (BTreeSet::new(), self.addrs.clone());
        while !next.is_empty() && !answers.has_leader() && Instant::now() < deadline {
            answers.extend(ask(&next, &MembersArgs::default(), deadline));
            asked.append(&mut next);
            let named = answers.replies.iter().flat_map(|(_, reply)| &reply.members);
            next = named.map(|member| member.addr.clone()).collect();
            next.retain(|addr| !asked.contains(addr));
        }
        answers
    }
}

/// What came of all rounds in which a change was attempted. The last one tells little: there may
/// have been no time left for an answer.
#[derive(Default)]
struct Heard {
    /// What may have happened, from the last attempt that did not tell.
    undecided: Option<String>,
    /// Why the leader did not take the order, unless members have said since that nobody leads.
    not_taken: Option<Option<CallError>>,
    /// Whether any member has answered.
    anybody: bool,
    /// Why the first member did not answer, in the last round without any answer.
    silence: Option<CallError>,
}

impl Heard {
    fn no_leader(&mut self, answers: Answers) {
        if !answers.replies.is_empty() {
            self.anybody = true;
            self.not_taken = None;
        }
        self.silence = answers.silence().or(self.silence.take());
    }

    fn out_of_time(self) -> AdminError {
        match (self.undecided, self.not_taken) {
            (Some(words), _) => AdminError::Undecided(words),
            (None, Some(source)) => AdminError::NotTaken { source },
            (None, None) => AdminError::NoLeader { source: self.silence.filter(|_| !self.anybody) },
        }
    }
}

/// Asks these addresses at the same time. Once one of them leads, the others have only a moment.
fn ask(addrs: &BTreeSet<String>, args: &MembersArgs, deadline: Instant) -> Answers {
    let mut until = deadline.min(Instant::now() + ASK_TIMEOUT);
    let (to_here, coming) = bounded(addrs.len());
    // A channel that is dropped ends its calls.
    let stubs: Vec<_> = addrs.iter().map(|addr| (addr, stub(addr))).collect();
    for (addr, stub) in &stubs {
        let (to_here, from) = (to_here.clone(), (*addr).clone());
        stub.members_then(args, until, move |result| {
            // There is room for all.
            let _ = to_here.try_send((from, result));
        });
    }
    drop(to_here);
    let mut answers = Answers::default();
    while let Ok((addr, result)) = coming.recv_deadline(until) {
        match result {
            Ok(reply) => answers.replies.push((addr, reply)),
            Err(error) => answers.error = answers.error.or(Some(error)),
        }
        if answers.has_leader() {
            until = until.min(Instant::now() + LISTEN_TIME);
        }
    }
    answers
}

fn stub(addr: &str) -> AdminRpcStub<Channel> {
    AdminRpcStub::new(Channel::builder(addr).connect_timeout(ASK_TIMEOUT).lazy())
}

impl Answers {
    fn extend(&mut self, more: Answers) {
        self.replies.extend(more.replies);
        self.error = self.error.take().or(more.error);
    }

    fn has_leader(&self) -> bool {
        self.replies.iter().any(|(_, reply)| leads(reply))
    }

    /// The leader of the latest term.
    fn leader(&self) -> Option<Leader> {
        let leaders = self.replies.iter().filter(|(_, reply)| leads(reply));
        let (addr, reply) = leaders.max_by_key(|(_, reply)| reply.term)?.clone();
        Some(Leader { addr, reply })
    }

    /// Why nobody has answered, if that is so.
    fn silence(self) -> Option<CallError> {
        self.error.filter(|_| self.replies.is_empty())
    }
}

fn leads(reply: &MembersReply) -> bool {
    reply.leader == reply.id
}

/// What an attempt has come to.
enum Attempt {
    Over(Result<ChangeDone, AdminError>),
    Undecided(String),
    NotTaken(Option<CallError>),
}

fn attempt(leader: &Leader, change: &MemberChange, deadline: Instant) -> Attempt {
    let deadline = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
    let stub = stub(&leader.addr);
    let result = match change {
        MemberChange::Add(args) => stub.add_member(args, deadline),
        MemberChange::Promote(args) => stub.promote_member(args, deadline),
        MemberChange::Remove(args) => stub.remove_member(args, deadline),
        MemberChange::Move(args) => stub.move_member(args, deadline),
    };
    match result {
        Ok(reply) => answered(reply),
        Err(error) if error.may_have_run() => {
            Attempt::Undecided(crate::ErrorChain(&error).to_string())
        }
        Err(error) => Attempt::NotTaken(Some(error)),
    }
}

fn answered(reply: ChangeReply) -> Attempt {
    let (outcome, lacking_entries) = (reply.outcome(), reply.lacking_entries);
    let words = reply.words;
    Attempt::Over(match outcome {
        ChangeOutcome::Changed | ChangeOutcome::Unchanged => Ok(ChangeDone { outcome, words }),
        ChangeOutcome::Impossible => Err(AdminError::Impossible(words)),
        ChangeOutcome::NotNow => Err(AdminError::NotNow(words)),
        ChangeOutcome::Behind => Err(AdminError::Behind { words, lacking_entries }),
        ChangeOutcome::NotLeader => return Attempt::NotTaken(None),
        ChangeOutcome::Undecided => return Attempt::Undecided(words),
    })
}

impl From<AddMemberArgs> for MemberChange {
    fn from(args: AddMemberArgs) -> MemberChange {
        MemberChange::Add(args)
    }
}

impl From<PromoteMemberArgs> for MemberChange {
    fn from(args: PromoteMemberArgs) -> MemberChange {
        MemberChange::Promote(args)
    }
}

impl From<RemoveMemberArgs> for MemberChange {
    fn from(args: RemoveMemberArgs) -> MemberChange {
        MemberChange::Remove(args)
    }
}

impl From<MoveMemberArgs> for MemberChange {
    fn from(args: MoveMemberArgs) -> MemberChange {
        MemberChange::Move(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_words::{check_all, every_variant};

    #[test]
    fn every_error_says_its_own_part_only() {
        let words = || "it has not caught up".to_owned();
        let source = || Some(CallError::Busy { addr: "b:2".to_owned(), calls: 3 });
        check_all(&every_variant!(AdminError:
            Impossible(words()),
            NotNow(words()),
            Behind { words: words(), lacking_entries: 7 },
            NoLeader { source: source() },
            Nobody { source: source() },
            NotTaken { source: source() },
            Undecided(words()),
        ));
    }

    fn reply(id: u64, term: u64, leader: u64) -> (String, MembersReply) {
        (format!("h{id}:1"), MembersReply { id, term, leader, ..Default::default() })
    }

    /// The last round may begin so late that nobody has time to answer.
    #[test]
    fn a_last_round_without_an_answer_hides_no_answer() {
        let busy = || Some(CallError::Busy { addr: "b:2".to_owned(), calls: 3 });
        let silent = || Answers { replies: Vec::new(), error: busy() };
        let mut heard = Heard::default();
        heard.no_leader(silent());
        assert!(matches!(heard.out_of_time(), AdminError::NoLeader { source: Some(_) }));

        let mut heard = Heard::default();
        heard.no_leader(Answers { replies: vec![reply(1, 7, 0)], error: busy() });
        heard.no_leader(silent());
        assert!(matches!(heard.out_of_time(), AdminError::NoLeader { source: None }));

        let mut heard = Heard { not_taken: Some(busy()), ..Heard::default() };
        heard.no_leader(silent());
        assert!(matches!(heard.out_of_time(), AdminError::NotTaken { source: Some(_) }));
    }

    #[test]
    fn the_leader_of_the_latest_term_counts() {
        let leader = |replies: Vec<(String, MembersReply)>| {
            let answers = Answers { replies, error: None };
            answers.leader().map(|leader| leader.addr)
        };
        assert_eq!(leader(vec![reply(1, 7, 2), reply(3, 7, 2)]), None);
        assert_eq!(leader(vec![reply(1, 7, 0)]), None);
        let two = vec![reply(1, 7, 1), reply(2, 8, 2), reply(3, 8, 2)];
        assert_eq!(leader(two), Some("h2:1".to_owned()));
    }
}
