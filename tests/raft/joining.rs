//! A member without its data does not vote before it holds everything that it may have promised.

use syncraft::raft::*;

use super::node::*;

fn joining(members: u64, standing: Standing) -> Node {
    Node::with(members, |config| config.standing = standing)
}

/// The members that it asks for their terms, and the question's number.
fn asked(effects: &[Effect]) -> Vec<(u64, u64)> {
    let question = |message: &Message| match message.body {
        Body::Request(Request::Join(Join { question, .. })) => Some((message.to.0, question)),
        _ => None,
    };
    sent(effects).iter().filter_map(question).collect()
}

fn question(node: &mut Node) -> u64 {
    asked(&node.tick(5))[0].1
}

fn has_joined(effects: &[Effect]) -> bool {
    effects.contains(&Effect::Joined)
}

fn is_joining(node: &Node) -> bool {
    node.raft.status().is_joining
}

/// A rebuilt member of three that knows that the others are in terms 4 and 5.
fn filling() -> Node {
    let mut node = joining(3, Standing::Rebuilding);
    let question = question(&mut node);
    node.receive(join_reply(2, 5, question, false, None));
    node.receive(join_reply(3, 4, question, false, None));
    node
}

#[test]
fn all_others_are_asked_until_it_has_all_answers() {
    let mut node = joining(3, Standing::Rebuilding);
    let first = asked(&node.tick(1));
    assert_eq!(first.iter().map(|it| it.0).collect::<Vec<_>>(), [2, 3]);
    node.receive(join_reply(2, 5, first[0].1, false, None));
    // Whoever has answered may know of others by now.
    assert_eq!(asked(&node.tick(5)), [(2, first[0].1), (3, first[0].1)]);
}

/// A member that does not know its promises answers no leader and no candidate, and does not stand
/// for election.
#[test]
fn a_member_that_asks_answers_nothing_else() {
    let mut node = joining(3, Standing::Rebuilding);
    let is_join = |message: &Message| {
        matches!(message.body, Body::Request(Request::Join(_)) | Body::Reply(Reply::Join(_)))
    };
    for message in every_message(4).into_iter().filter(|message| !is_join(message)) {
        assert_eq!(node.receive(message.clone()), [], "{message:?}");
    }
    let sent = sent(&node.tick(200));
    assert!(sent.iter().all(is_join), "{sent:?}");
    assert_eq!((node.term(), node.nonsense()), (0, 0));
}

/// It may have voted in the latest of the others' terms, so it does not vote in that term.
#[test]
fn the_latest_term_counts_as_voted_in() {
    let mut node = filling();
    assert_eq!((node.term(), node.hard_state.voted_for), (5, Some(MemberId(1))));
    assert!(!is_vote_granted(&node.answer(vote(2, 5, (9, 4)))));
}

/// A member that restarts before it is recorded as joined may have voted since: that vote stands.
#[test]
fn a_vote_that_is_remembered_stands() {
    let mut config = config(1, 3);
    config.standing = Standing::New;
    let hard_state = HardState { current_term: Term(5), voted_for: Some(MemberId(2)) };
    let mut node = Node::start(config, hard_state, None, entries(1, &[1]));
    let question = question(&mut node);
    node.receive(join_reply(2, 5, question, false, None));
    node.receive(join_reply(3, 4, question, false, None));
    assert_eq!(node.hard_state, hard_state);
}

/// All the others must answer: the missing one may be the candidate that had this member's vote.
#[test]
fn a_rebuilt_member_waits_for_every_other_one() {
    let mut node = joining(5, Standing::Rebuilding);
    let question = question(&mut node);
    for peer in [2, 3, 4] {
        node.receive(join_reply(peer, 5, question, false, None));
    }
    assert_eq!(node.receive(heartbeat(2, 5, 0, 1)), []);
    node.receive(join_reply(5, 5, question, false, None));
    assert_eq!(node.receive(heartbeat(2, 5, 0, 1)).len(), 1);
    assert!(is_joining(&node));
}

/// Until it holds the last entry that the leader had, it neither votes nor stands for election,
/// even in later terms. Then it does.
#[test]
fn it_votes_when_it_holds_all_that_the_leader_had() {
    let mut node = filling();
    node.receive(append(2, 5, (0, 0), &[1, 1, 5], 3));
    let question = question(&mut node);
    node.receive(join_reply(2, 5, question, false, Some((5, 5))));
    assert!(!has_joined(&node.run([Event::Message(append(2, 5, (3, 5), &[5], 4))])));
    node.tick(100);
    assert_eq!((node.role(), node.term()), (RoleName::Follower, 5), "it does not stand");
    assert!(!is_vote_granted(&node.answer(vote(3, 6, (9, 5)))));
    assert_eq!(node.term(), 6);
    node.receive(append(3, 6, (4, 5), &[5, 6], 6));
    let question = asked(&node.tick(5))[0].1;
    assert!(has_joined(&node.run([Event::Message(join_reply(
        3,
        6,
        question,
        false,
        Some((6, 6))
    ))])));
    node.run([Event::Joined]);
    assert!(!is_joining(&node));
    node.run([Event::Disconnected(MemberId(3))]);
    assert!(is_vote_granted(&node.answer(vote(2, 7, (6, 6)))));
}

/// "Holds" means on its disk.
#[test]
fn what_is_not_on_its_disk_does_not_count() {
    let mut node = filling();
    node.receive(heartbeat(2, 5, 0, 1));
    let question = question(&mut node);
    node.receive(join_reply(2, 5, question, false, Some((2, 5))));
    let effects = node.step([Event::Message(append(2, 5, (0, 0), &[1, 5], 2))]);
    assert!(!has_joined(&effects));
    assert!(has_joined(&node.persist_one()));
}

/// An answer that did not come from the leader of this term, or answers an earlier question, does
/// not say how much is enough.
#[test]
fn only_the_leaders_own_answer_says_what_is_enough() {
    let mut node = joining(3, Standing::Rebuilding);
    let early = question(&mut node);
    node.receive(join_reply(2, 5, early, false, Some((1, 5))));
    node.receive(join_reply(3, 4, early, false, None));
    node.receive(append(2, 5, (0, 0), &[1, 5], 2));
    node.receive(join_reply(2, 5, early, false, Some((1, 5))));
    let question = question(&mut node);
    assert_ne!(question, early);
    node.receive(join_reply(3, 5, question, false, Some((2, 5))));
    node.receive(join_reply(2, 5, question, false, None));
    node.receive(join_reply(2, 5, question + 1, false, Some((2, 5))));
    assert!(is_joining(&node));
    assert!(has_joined(&node.run([Event::Message(join_reply(
        2,
        5,
        question,
        false,
        Some((2, 5))
    ))])));
}

/// A snapshot fills it as well.
#[test]
fn a_snapshot_can_hold_all_that_the_leader_had() {
    let mut node = filling();
    node.receive(heartbeat(2, 5, 0, 1));
    let question = question(&mut node);
    node.receive(join_reply(2, 5, question, false, Some((7, 5))));
    assert!(has_joined(&node.run([Event::Message(install(2, 5, (8, 5)))])));
}

/// If no member has ever had any data, the cluster begins: nothing can have been decided.
#[test]
fn new_members_begin() {
    let mut node = joining(3, Standing::New);
    let question = question(&mut node);
    assert!(!has_joined(&node.run([Event::Message(join_reply(3, 0, question, true, None))])));
    let effects = node.run([Event::Message(join_reply(2, 0, question, true, None))]);
    assert!(has_joined(&effects));
    assert!(!is_vote_granted(&node.answer(vote(3, 1, (0, 0)))), "not before that is recorded");
    node.run([Event::Joined]);
    node.lead();
}

/// A quorum is enough if nobody else answers for an election timeout. But a member with data may be
/// slow to answer.
#[test]
fn a_quorum_of_new_members_begins_after_a_while() {
    let mut node = joining(3, Standing::New);
    let question = question(&mut node);
    node.receive(join_reply(3, 0, question, true, None));
    assert!(!has_joined(&node.tick(54)));
    assert!(has_joined(&node.tick(1)));
    let mut alone = joining(3, Standing::New);
    assert!(!has_joined(&alone.tick(1_000)));
    let mut late = joining(3, Standing::New);
    let question = self::question(&mut late);
    late.receive(join_reply(3, 0, question, true, None));
    late.receive(join_reply(2, 4, question, false, None));
    assert!(!has_joined(&late.tick(1_000)), "there is data");
}

/// In a cluster of two, the other member alone is no majority, and it holds everything: it gets
/// this member's vote.
#[test]
fn in_a_cluster_of_two_a_member_that_is_filled_votes_and_does_not_stand() {
    let mut node = joining(2, Standing::Rebuilding);
    let question = question(&mut node);
    assert_eq!(node.receive(vote(2, 5, (9, 4))), [], "while it asks it does not");
    let reply = JoinReply { is_needed: true, ..standpoint(question, false) };
    node.receive(message(2, 5, Body::Reply(Reply::Join(reply))));
    node.tick(200);
    assert_eq!(node.role(), RoleName::Follower);
    assert!(!is_vote_granted(&node.answer(vote(2, 5, (9, 4)))), "it may have voted in that term");
    assert!(is_vote_granted(&node.answer(vote(2, 6, (9, 4)))));
    assert!(is_joining(&node));
}

/// The member that began first says so as long as nothing has happened. Otherwise the others could
/// not begin.
#[test]
fn a_member_that_has_just_begun_is_as_good_as_new() {
    let mut node = joining(3, Standing::New);
    let question = question(&mut node);
    node.receive(join_reply(2, 0, question, true, None));
    node.receive(join_reply(3, 0, question, true, None));
    let body = |is_new| Body::Reply(Reply::Join(standpoint(9, is_new)));
    assert_eq!(node.answer(join(2, 0, 9)).body, body(true));
    node.run([Event::Joined]);
    assert_eq!(node.answer(join(2, 0, 9)).body, body(true));
    node.answer(vote(2, 1, (0, 0)));
    assert_eq!(node.answer(join(3, 0, 9)).body, body(false), "it has voted");
}

/// A member joins a cluster that has begun as a rebuilt member does: that it has never had data is
/// only its belief.
#[test]
fn a_new_member_of_a_cluster_that_has_begun_is_filled() {
    let mut node = joining(3, Standing::New);
    let question = question(&mut node);
    node.receive(join_reply(2, 1, question, false, Some((3, 1))));
    node.receive(join_reply(3, 0, question, true, None));
    assert!(is_joining(&node));
    assert_eq!(node.receive(heartbeat(2, 1, 0, 1)).len(), 1, "all have answered");
}

#[test]
fn a_rebuilt_member_is_not_new() {
    let mut node = joining(3, Standing::Rebuilding);
    let first = question(&mut node);
    let body = node.answer(join(2, 0, 9)).body;
    assert_eq!(body, Body::Reply(Reply::Join(standpoint(9, false))));
    node.receive(join_reply(2, 0, first, true, None));
    node.receive(join_reply(3, 0, first, true, None));
    assert!(is_joining(&node));
    let body = joining(3, Standing::New).answer(join(2, 0, 9)).body;
    assert_eq!(body, Body::Reply(Reply::Join(standpoint(9, true))));
}

/// A new member that has got some data, and restarts before it has everything, is no longer new.
#[test]
fn a_new_member_with_some_data_is_not_new() {
    let mut config = config(1, 3);
    config.standing = Standing::New;
    let hard_state = HardState { current_term: Term(1), voted_for: None };
    let mut node = Node::start(config, hard_state, None, entries(1, &[1]));
    let body = node.answer(join(2, 0, 9)).body;
    assert_eq!(body, Body::Reply(Reply::Join(standpoint(9, false))));
}

#[test]
fn alone_a_new_member_begins_at_once() {
    let mut node = joining(1, Standing::New);
    assert!(has_joined(&node.step([])));
    node.run([Event::Joined]);
    node.lead();
    let mut config = config(1, 1);
    config.standing = Standing::New;
    let hard_state = HardState { current_term: Term(1), voted_for: Some(MemberId(1)) };
    let mut restarted = Node::start(config, hard_state, None, entries(1, &[1]));
    assert!(has_joined(&restarted.step([])), "it was not recorded in its first life");
}

/// The leader says how far its log goes. Every other member says only which term it is in, in any
/// term.
#[test]
fn members_say_where_they_stand() {
    let mut leader = Node::new(3);
    leader.lead();
    let body = |last| Body::Reply(Reply::Join(JoinReply { last, ..standpoint(9, false) }));
    let reply = leader.answer(join(3, 0, 9));
    assert_eq!((reply.term, reply.body), (Term(1), body(Some((Index(1), Term(1))))));
    let mut follower = Node::restarted(3, 4, None, &[1]);
    let reply = follower.answer(join(3, 0, 9));
    assert_eq!((reply.term, reply.body), (Term(4), body(None)));
}

const ONE: u64 = 7;
const ANOTHER: u64 = 8;
const LIST: u64 = 70;

/// Voters at made-up addresses. Those from 4 on came with a directory of their number.
fn configuration(cluster_id: u64, voters: &[u64]) -> Configuration {
    let addrs = voters.iter().map(|&id| (MemberId(id), format!("h{id}:1")));
    let mut configuration = Configuration::first(cluster_id, LIST, addrs);
    for (id, place) in &mut configuration.places {
        place.directory = if id.0 > 3 { id.0 } else { 0 };
    }
    configuration
}

/// Where `from`, whose log has this configuration, says that it stands.
fn stands(from: u64, question: u64, configuration: Configuration) -> Event {
    let reply = JoinReply {
        cluster_id: configuration.cluster_id,
        list_id: configuration.list_id,
        configuration: Some(configuration.into()),
        ..standpoint(question, false)
    };
    Event::Message(message(from, 5, Body::Reply(Reply::Join(reply))))
}

fn names(from: u64, question: u64, cluster_id: u64) -> Event {
    stands(from, question, configuration(cluster_id, &[1, 2, 3]))
}

fn taken(effects: &[Effect]) -> Option<(u64, u64, Standing)> {
    effects.iter().find_map(|effect| match effect {
        Effect::TakeCluster { cluster_id, list_id, standing } => {
            Some((*cluster_id, *list_id, *standing))
        }
        _ => None,
    })
}

/// Once all whom it asks name one cluster, and their configurations name it, a member without data
/// belongs there, and its core is replaced.
#[test]
fn a_member_without_data_takes_the_cluster_that_all_others_name() {
    for standing in [Standing::New, Standing::Rebuilding, Standing::Newcomer] {
        let mut node = joining(3, standing);
        let question = question(&mut node);
        assert_eq!(taken(&node.run([names(2, question, ONE)])), None, "one has yet to answer");
        let effects = node.run([names(3, question, ONE)]);
        assert_eq!(taken(&effects), Some((ONE, LIST, Standing::Rebuilding)));
        assert_eq!(taken(&node.run([names(3, question, ONE)])), None, "once");
        assert_eq!(node.run([Event::Message(heartbeat(2, 5, 0, 1))]), []);
        assert_eq!(sent(&node.tick(200)), []);
        assert_eq!((node.hard_state, is_joining(&node)), (HardState::default(), true));
    }
}

/// If they disagree, or one does not count it, nothing is taken, filled or begun. The member keeps
/// asking, because operators change things until they are right.
#[test]
fn members_that_do_not_agree_on_a_cluster_are_asked_until_they_do() {
    type Answer = fn(u64) -> Event;
    let wrong: [(&str, Answer); 4] = [
        ("another cluster", |question| names(3, question, ANOTHER)),
        ("does not count it", |question| stands(3, question, configuration(ONE, &[2, 3]))),
        ("no data", |question| Event::Message(join_reply(3, 0, question, true, None))),
        ("data of this one", |question| Event::Message(join_reply(3, 0, question, false, None))),
    ];
    for (what, event) in wrong {
        let mut node = joining(3, Standing::New);
        let question = question(&mut node);
        let mut effects = node.run([event(question), names(2, question, ONE)]);
        effects.extend(node.tick(1_000));
        assert!(taken(&effects).is_none() && !has_joined(&effects), "{what}: {effects:?}");
        assert_eq!(node.run([Event::Message(heartbeat(2, 0, 0, 1))]), [], "{what}: is not filled");
        let all = asked(&node.tick(5));
        assert_eq!(all.iter().map(|it| it.0).collect::<Vec<_>>(), [2, 3], "{what}");
        let effects = node.run([names(3, question, ONE)]);
        assert!(taken(&effects).is_some(), "{what}, then right");
    }
}

/// Two new members are a majority, but begin nothing while the third has data of a cluster.
#[test]
fn no_cluster_begins_beside_another_one() {
    let mut node = joining(3, Standing::New);
    let question = question(&mut node);
    node.run([names(2, question, ONE)]);
    node.receive(join_reply(3, 0, question, true, None));
    let is_new = |node: &mut Node| match node.answer(join(3, 0, 9)).body {
        Body::Reply(Reply::Join(reply)) => reply.is_new,
        body => panic!("{body:?}"),
    };
    assert!(!has_joined(&node.tick(1_000)));
    assert!(!is_new(&mut node), "the other one may not have heard of the cluster");
    let mut alone = joining(3, Standing::New);
    assert!(is_new(&mut alone));
}

/// A member that has adopted a term, or holds an entry, has a cluster and stays there.
#[test]
fn a_member_with_data_takes_no_other_cluster() {
    let everywhere = |question| [names(2, question, ONE), names(3, question, ONE)];
    assert_eq!(taken(&Node::new(3).run(everywhere(1))), None, "a voter");
    assert_eq!(taken(&filling().run(everywhere(1))), None, "one that is being filled");
    let mut config = config(1, 3);
    config.standing = Standing::Rebuilding;
    let hard_state = HardState { current_term: Term(1), voted_for: None };
    let mut node = Node::start(config, hard_state, None, entries(1, &[1]));
    let question = question(&mut node);
    assert_eq!(taken(&node.run(everywhere(question))), None, "one that has some of its data");
}

/// The terms of another cluster mean nothing to a member that has not joined it.
#[test]
fn the_terms_of_another_cluster_are_not_taken_over() {
    let mut node = joining(3, Standing::New);
    let question = question(&mut node);
    node.run([names(2, question, ONE)]);
    assert_eq!(node.term(), 0);
}

#[test]
fn who_has_answered_what_can_be_told() {
    let mut node = joining(4, Standing::New);
    let question = question(&mut node);
    node.receive(join_reply(2, 0, question, true, None));
    node.run([names(3, question, ONE)]);
    let answers = node.raft.join_answers().unwrap();
    assert_eq!(answers.keys().map(|id| id.0).collect::<Vec<_>>(), [2, 3, 4]);
    assert!(answers[&MemberId(2)].as_ref().is_some_and(|answer| answer.is_new));
    assert_eq!(answers[&MemberId(3)].as_ref().map(|answer| answer.cluster_id), Some(ONE));
    assert_eq!(answers[&MemberId(4)], None);
    assert_eq!(Node::new(3).raft.join_answers(), None);
}

/// Member 1, new, with a directory of number 5, that looks for its cluster at members 2 and 3.
fn newcomer() -> Node {
    Node::with(3, |config| {
        config.standing = Standing::Newcomer;
        config.directory = 5;
        config.members = Membership::new([2, 3].map(MemberId));
    })
}

/// The configuration of members 2 and 3, with member 1 as a learner with this directory.
fn with_learner(directory: u64) -> Configuration {
    let mut configuration = configuration(ONE, &[2, 3]);
    configuration.membership = configuration.membership.with_learners([MemberId(1)]);
    configuration.places.insert(MemberId(1), Place { addr: "h1:1".to_owned(), directory });
    configuration
}

/// It has promised nothing, so one answer is enough, and it votes for whoever asks (thesis §4.1).
#[test]
fn a_newcomer_joins_when_a_configuration_names_its_directory() {
    let mut node = newcomer();
    let question = question(&mut node);
    let effects = node.run([stands(2, question, configuration(ONE, &[2, 3]))]);
    assert_eq!(taken(&effects), None, "it has not been added");
    assert!(!has_joined(&node.tick(1_000)), "it begins no cluster");
    let effects = node.run([stands(2, question, with_learner(5))]);
    assert_eq!(taken(&effects), Some((ONE, LIST, Standing::Voter)));
}

/// Its directory was emptied after it had become a member: it may have promised something.
#[test]
fn a_newcomer_with_another_directory_than_its_configuration_names_has_lost_its_data() {
    let mut node = newcomer();
    let question = question(&mut node);
    assert_eq!(taken(&node.run([stands(2, question, with_learner(4))])), None, "3 must answer");
    let effects = node.run([stands(3, question, with_learner(4))]);
    assert_eq!(taken(&effects), Some((ONE, LIST, Standing::Rebuilding)));
}

/// A newcomer that has joined follows, votes, and does not stand: its log names no voter yet.
#[test]
fn a_newcomer_that_has_joined_votes_and_does_not_stand() {
    let mut node = newcomer();
    let mut config = node.config.clone();
    (config.standing, config.cluster_id) = (Standing::Voter, ONE);
    node = Node::start(config, HardState::default(), None, Vec::new());
    assert_eq!(sent(&node.tick(1_000)), []);
    assert!(is_vote_granted(&node.answer(vote(2, 6, (9, 5)))), "the asker may know better");
    assert!(matches!(
        node.answer(append(3, 7, (0, 0), &[1], 0)).body,
        Body::Reply(Reply::AppendEntries(AppendEntriesReply::Matched { .. }))
    ));
}

/// Whom it asks follows from what it hears: members that its own list does not have.
#[test]
fn the_members_of_all_configurations_that_it_hears_of_are_asked() {
    let mut node = Node::with(3, |config| {
        (config.standing, config.cluster_id, config.list_id) = (Standing::Rebuilding, ONE, LIST);
    });
    let question = question(&mut node);
    let effects = node.run([stands(2, question, configuration(ONE, &[1, 2, 3]))]);
    assert!(effects.iter().any(|it| matches!(it, Effect::Introduced(_))));
    // Member 3 knows of a change that is not committed anywhere else.
    let next = configuration(ONE, &[1, 2, 3, 4]);
    node.run([stands(3, question, next.clone())]);
    assert!(asked(&node.tick(5)).iter().any(|(to, _)| *to == 4));
    assert_eq!(node.receive(heartbeat(2, 5, 0, 1)), [], "4 has yet to answer");
    node.run([stands(4, question, next)]);
    assert_eq!(node.receive(heartbeat(2, 5, 0, 1)).len(), 1, "all have answered");
}

/// A member that is down and has been removed need not answer.
#[test]
fn who_has_been_removed_need_not_answer() {
    let mut node = Node::with(4, |config| {
        (config.standing, config.cluster_id, config.list_id) = (Standing::Rebuilding, ONE, LIST);
    });
    let question = question(&mut node);
    node.run([2, 3].map(|from| stands(from, question, configuration(ONE, &[1, 2, 3, 4]))));
    assert_eq!(node.receive(heartbeat(2, 5, 0, 1)), [], "4 has yet to answer");
    node.run([2, 3].map(|from| stands(from, question, configuration(ONE, &[1, 2, 3]))));
    assert_eq!(node.receive(heartbeat(2, 5, 0, 1)).len(), 1);
}

/// One that does not know the cluster's id, and was told a term, is filled all the same: it learns
/// the id with the log.
#[test]
fn a_member_that_was_told_a_term_is_filled_in_the_cluster_of_its_list() {
    let mut node = Node::with(3, |config| {
        (config.standing, config.list_id) = (Standing::New, LIST);
    });
    let question = question(&mut node);
    let effects = node.run([names(2, question, ONE), names(3, question, ONE)]);
    assert_eq!((taken(&effects), node.term()), (None, 5));
    assert_eq!(node.receive(heartbeat(2, 5, 0, 1)).len(), 1, "it follows the leader");
}

/// The list of a member that has joined a running cluster says nothing about who votes there. Two
/// newcomers whose lists name them would elect each other, with empty logs.
#[test]
fn a_newcomer_that_restarts_with_a_list_that_names_it_does_not_stand() {
    let mut node = Node::with(3, |config| config.is_list_in_force = false);
    assert_eq!(sent(&node.tick(1_000)), []);
    let body = Body::Request(Request::TimeoutNow);
    assert!(
        !sent(&node.run([Event::Message(message(2, 5, body))]))
            .iter()
            .any(|it| { matches!(it.body, Body::Request(Request::RequestVote(_))) })
    );
}

/// A configuration that removed members, as its cluster knows for certain.
fn without(voters: &[u64], removed: &[u64]) -> Configuration {
    let mut configuration = configuration(ONE, voters);
    configuration.removed = removed.iter().copied().map(MemberId).collect();
    configuration
}

/// A member that has not heard of a removal yet names one who is gone.
#[test]
fn who_was_removed_is_not_waited_for_if_somebody_still_names_it() {
    let mut node = Node::with(3, |config| {
        (config.standing, config.cluster_id, config.list_id) = (Standing::Rebuilding, ONE, LIST);
    });
    let question = question(&mut node);
    node.run([stands(3, question, configuration(ONE, &[1, 2, 3, 4]))]);
    node.run([stands(2, question, without(&[1, 2, 3], &[4]))]);
    assert_eq!(node.receive(heartbeat(2, 5, 0, 1)).len(), 1, "4 is gone");
}

/// Former members with their old data name others who are gone, and do not know this one. Nobody
/// waits for them.
#[test]
fn what_a_former_member_answers_does_not_count() {
    let mut node = Node::with(3, |config| {
        (config.standing, config.cluster_id, config.list_id) = (Standing::Rebuilding, ONE, LIST);
    });
    let question = question(&mut node);
    node.run([stands(3, question, configuration(ONE, &[1, 2, 3, 4]))]);
    node.run([stands(2, question, without(&[1, 2], &[3, 4]))]);
    assert_eq!(node.receive(heartbeat(2, 5, 0, 1)).len(), 1, "4 is gone");
    let mut node = newcomer();
    let question = asked(&node.tick(5))[0].1;
    node.run([stands(9, question, configuration(ONE, &[2, 3, 8, 9]))]);
    let mut current = with_learner(4);
    current.removed = [8, 9].map(MemberId).into();
    let effects = node.run([2, 3].map(|from| stands(from, question, current.clone())));
    assert_eq!(taken(&effects), Some((ONE, LIST, Standing::Rebuilding)));
}

/// Two newcomers whose directories were replaced do not wait for each other.
#[test]
fn newcomers_do_not_wait_for_each_other() {
    let mut node = newcomer();
    let question = asked(&node.tick(5))[0].1;
    let mut current = with_learner(4);
    current.membership = Membership::new([2, 3].map(MemberId)).with_learners([1, 6].map(MemberId));
    current.places.insert(MemberId(6), Place { addr: "h6:1".to_owned(), directory: 6 });
    node.run([2, 3].map(|from| stands(from, question, current.clone())));
    let effects = node.run([Event::Message(join_reply(6, 0, question, false, None))]);
    assert_eq!(taken(&effects), Some((ONE, LIST, Standing::Rebuilding)));
}

/// Nor does a member that is being rebuilt wait for a newcomer that waits for it.
#[test]
fn a_rebuilt_member_does_not_wait_for_a_newcomer_to_join() {
    let mut node = Node::with(3, |config| {
        (config.standing, config.cluster_id, config.list_id) = (Standing::Rebuilding, ONE, LIST);
    });
    let question = question(&mut node);
    node.run([2, 3, 4].map(|from| stands(from, question, configuration(ONE, &[1, 2, 3, 4, 5]))));
    node.receive(join_reply(5, 0, question, false, None));
    assert_eq!(node.receive(heartbeat(2, 5, 0, 1)).len(), 1, "it follows the leader");
}

/// Only its own log still names the newcomer: the entry that added it was removed from the others'.
#[test]
fn a_rebuilt_member_does_not_wait_for_a_newcomer_that_it_alone_remembers() {
    let mut config = config(1, 3);
    (config.standing, config.cluster_id, config.list_id) = (Standing::Rebuilding, ONE, LIST);
    let mut added = configuration(ONE, &[1, 2, 3]);
    added.membership = added.membership.with_learners([MemberId(5)]);
    added.places.insert(MemberId(5), Place { addr: "h5:1".to_owned(), directory: 5 });
    let payload = Payload::Configuration(added.into());
    let log = vec![Entry { index: Index(1), term: Term(1), payload }];
    let hard_state = HardState { current_term: Term(1), voted_for: None };
    let mut node = Node::start(config, hard_state, None, log);
    let question = question(&mut node);
    node.receive(join_reply(5, 0, question, false, None));
    node.run([2, 3].map(|from| stands(from, question, configuration(ONE, &[1, 2, 3]))));
    assert_eq!(node.receive(heartbeat(2, 5, 0, 1)).len(), 1, "it follows the leader");
}

/// A newcomer that has answered, and is no member any more, is of no account.
#[test]
fn a_newcomer_that_was_removed_again_does_not_count() {
    let mut node = Node::with(3, |config| {
        (config.standing, config.cluster_id, config.list_id) = (Standing::Rebuilding, ONE, LIST);
    });
    let question = question(&mut node);
    node.receive(join_reply(5, 0, question, false, None));
    node.run([2, 3].map(|from| stands(from, question, without(&[1, 2, 3], &[5]))));
    assert_eq!(node.receive(heartbeat(2, 5, 0, 1)).len(), 1, "it follows the leader");
}

/// In a cluster of two, it votes while it is filled only if the other one is needed for whatever
/// may be decided.
#[test]
fn one_of_two_votes_only_if_the_other_one_is_always_needed() {
    for is_needed in [true, false] {
        let mut node = Node::with(2, |config| {
            (config.standing, config.cluster_id, config.list_id) =
                (Standing::Rebuilding, ONE, LIST);
        });
        let question = question(&mut node);
        let mut event = stands(2, question, configuration(ONE, &[1, 2]));
        if let Event::Message(Message { body: Body::Reply(Reply::Join(reply)), .. }) = &mut event {
            reply.is_needed = is_needed;
        }
        node.run([event]);
        // It may have promised a lease.
        node.tick(200);
        let is_granted = is_vote_granted(&node.answer(vote(2, 6, (9, 4))));
        assert_eq!(is_granted, is_needed);
    }
}

#[test]
fn a_member_that_was_removed_is_told_so() {
    let mut node = joining(3, Standing::Rebuilding);
    let question = question(&mut node);
    let reply = JoinReply { is_removed: true, ..standpoint(question, false) };
    let effects = node.run([Event::Message(message(2, 5, Body::Reply(Reply::Join(reply))))]);
    assert!(effects.contains(&Effect::Removed));
    assert_eq!(node.tick(1_000), []);
}

/// Its cluster has recorded its members, and the list may name it all the same.
#[test]
fn a_newcomer_does_not_stand_by_the_list_that_it_was_started_with() {
    let mut node = Node::with(3, |config| {
        (config.cluster_id, config.is_list_in_force) = (ONE, false);
    });
    assert_eq!(sent(&node.tick(1_000)), []);
    node.run([Event::Message(message(2, 1, Body::Request(Request::TimeoutNow)))]);
    assert_eq!(node.role(), RoleName::Follower);
}

/// It learns the id of a cluster that began with its own list, and whose term it takes over only
/// then.
#[test]
fn a_member_that_was_wiped_learns_the_id_of_its_cluster_and_is_filled() {
    let mut node = Node::with(3, |config| {
        (config.standing, config.list_id) = (Standing::New, LIST);
    });
    let question = question(&mut node);
    node.run([names(2, question, ONE)]);
    assert_eq!(node.term(), 0, "the other one may name another cluster");
    let effects = node.run([names(3, question, ONE)]);
    assert!(effects.contains(&Effect::ClusterKnown(ONE)));
    assert_eq!((node.term(), node.hard_state.voted_for), (5, Some(MemberId(1))));
    assert_eq!(node.receive(heartbeat(2, 5, 0, 1)).len(), 1, "it is filled");
}

/// An older version began the cluster, and some members are still of that version.
#[test]
fn who_was_filled_before_the_members_were_recorded_records_them_when_all_know_of_it() {
    let mut node = Node::with(3, |config| {
        (config.standing, config.list_id) = (Standing::New, LIST);
        config.first_configuration = Some(configuration(ANOTHER, &[1, 2, 3]).into());
    });
    let says = |from, question, last| {
        let (cluster_id, list_id) = (ONE, LIST);
        let reply = JoinReply { cluster_id, list_id, last, ..standpoint(question, false) };
        Event::Message(message(from, 5, Body::Reply(Reply::Join(reply))))
    };
    let first = question(&mut node);
    let effects = node.run([says(2, first, None), says(3, first, None)]);
    assert!(effects.contains(&Effect::ClusterKnown(ONE)));
    node.receive(append(2, 5, (0, 0), &[5], 1));
    let second = question(&mut node);
    node.run([says(2, second, Some((Index(1), Term(5))))]);
    node.run([Event::Joined]);
    node.lead();
    node.tick(20);
    assert_eq!(node.last(), 2, "the entry of term 5, and a no-op");
    let effects = node.run([Event::MayConfigure]);
    let named = effects.iter().find_map(|effect| match effect {
        Effect::Reconfigured(configured) => configured.latest.clone(),
        _ => None,
    });
    assert_eq!(named.map(|it| it.cluster_id), Some(ONE), "it keeps its id");
}

#[test]
fn of_two_clusters_that_began_with_its_list_it_joins_neither() {
    let mut node = Node::with(3, |config| {
        (config.standing, config.list_id) = (Standing::New, LIST);
    });
    let question = question(&mut node);
    node.run([names(2, question, ONE), names(3, question, ANOTHER)]);
    assert_eq!(node.receive(heartbeat(2, 5, 0, 1)), []);
    assert_eq!(node.term(), 0);
}

/// One that is not committed may be taken back.
#[test]
fn a_newcomer_waits_until_its_addition_is_committed() {
    let mut node = newcomer();
    let question = question(&mut node);
    let mut event = stands(2, question, with_learner(5));
    if let Event::Message(Message { body: Body::Reply(Reply::Join(reply)), .. }) = &mut event {
        reply.is_settled = false;
    }
    assert_eq!(taken(&node.run([event])), None);
    let effects = node.run([stands(2, question, with_learner(5))]);
    assert_eq!(taken(&effects), Some((ONE, LIST, Standing::Voter)));
}

/// Another cluster's former member may have had its id.
#[test]
fn the_removals_of_another_cluster_do_not_concern_it() {
    let mut node = joining(3, Standing::New);
    let question = question(&mut node);
    let reply = JoinReply {
        is_removed: true,
        cluster_id: ANOTHER,
        list_id: LIST,
        ..standpoint(question, false)
    };
    let effects = node.run([Event::Message(message(2, 5, Body::Reply(Reply::Join(reply))))]);
    assert!(!effects.contains(&Effect::Removed));
}

/// All may have answered while that is so. It has not lost anything.
#[test]
fn a_newcomer_whose_addition_all_know_and_nobody_has_committed_yet_waits() {
    let mut node = newcomer();
    let question = question(&mut node);
    let unsettled = |from| {
        let mut event = stands(from, question, with_learner(5));
        if let Event::Message(Message { body: Body::Reply(Reply::Join(reply)), .. }) = &mut event {
            reply.is_settled = false;
        }
        event
    };
    assert_eq!(taken(&node.run([unsettled(2), unsettled(3)])), None);
}

/// A configuration may name the directory of a member that is being rebuilt: it was emptied before
/// the member had joined.
#[test]
fn a_member_that_is_rebuilt_in_the_directory_that_its_configuration_names_is_filled() {
    let mut node = Node::with(3, |config| {
        (config.standing, config.cluster_id, config.list_id) = (Standing::Rebuilding, ONE, LIST);
        config.directory = 5;
    });
    let question = question(&mut node);
    node.run([2, 3].map(|from| stands(from, question, with_learner(5))));
    assert_eq!(node.receive(heartbeat(2, 5, 0, 1)).len(), 1);
}

/// A former member may be the only one that has answered, with an old configuration. Those of the
/// list are asked all the same.
#[test]
fn those_of_the_list_are_asked_whatever_a_former_member_says() {
    let mut node = Node::with(3, |config| {
        (config.standing, config.cluster_id, config.list_id) = (Standing::Rebuilding, ONE, LIST);
    });
    let question = question(&mut node);
    node.run([stands(2, question, configuration(ONE, &[1, 2, 4]))]);
    let all: Vec<u64> = asked(&node.tick(5)).iter().map(|(to, _)| *to).collect();
    assert_eq!(all, [2, 3, 4]);
}
