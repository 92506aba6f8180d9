//! Members are [`Comparison`]s, and the tests carry their questions and answers between them.

use super::*;

const RIGHT: u64 = 0xaa;
const WRONG: u64 = 0xbb;
const OTHER: u64 = 0xcc;
const NOBODY: [u64; 0] = [];
/// The entry that most tests compare.
const INDEX: Index = Index(10);

/// Member N is at position N - 1.
struct Cluster {
    members: Vec<Comparison>,
    now: Instant,
    term: Term,
    findings: Vec<Finding>,
}

/// Member `id` of `size` members.
fn member(id: u64, size: usize) -> Comparison {
    Comparison::new(MemberId(id), Membership::new((1..=size as u64).map(MemberId)))
}

impl Cluster {
    /// Members that have applied entries up to [`INDEX`], with these digests there.
    fn with<const N: usize>(digests: [u64; N]) -> Cluster {
        let mut cluster = Cluster::new(N);
        (1..).zip(digests).for_each(|(id, digest)| cluster.apply(id, INDEX, digest));
        cluster
    }

    fn new(size: usize) -> Cluster {
        let members = (1..=size as u64).map(|id| member(id, size)).collect();
        Cluster { members, now: Instant::now(), term: Term(1), findings: Vec::new() }
    }

    fn member(&mut self, id: u64) -> &mut Comparison {
        &mut self.members[id as usize - 1]
    }

    fn apply(&mut self, id: u64, index: Index, digest: u64) {
        let findings = self.member(id).applied(index, &[digest]);
        self.findings.extend(findings);
    }

    /// What a heartbeat carries now.
    fn query(&mut self, leader: u64) -> Query {
        let (now, term) = (self.now, self.term);
        let (query, findings) = self.member(leader).ask(term, now);
        self.findings.extend(findings);
        query
    }

    /// One heartbeat from `leader` to each of `followers`, and their answers.
    fn heartbeat(&mut self, leader: u64, followers: &[u64]) {
        self.now += Duration::from_millis(50);
        for &follower in followers {
            let query = self.query(leader);
            let findings = self.member(follower).heard(query);
            self.findings.extend(findings);
            if let Some(answer) = self.member(follower).answer() {
                let findings = self.member(leader).answered(MemberId(follower), answer);
                self.findings.extend(findings);
            }
        }
    }

    fn heartbeats(&mut self, leader: u64, followers: &[u64]) {
        (0..3).for_each(|_| self.heartbeat(leader, followers));
    }

    /// Sends heartbeats until the leader waits no longer.
    fn wait(&mut self, leader: u64, followers: &[u64]) {
        let until = self.now + ANSWER_TIMEOUT;
        while self.now <= until {
            self.heartbeat(leader, followers);
        }
    }

    fn diverged(&self) -> Vec<u64> {
        let ids = (1..).zip(&self.members).filter(|(_, member)| member.divergence().is_some());
        ids.map(|(id, _)| id).collect()
    }

    fn different(&self, leader: u64) -> Vec<u64> {
        self.members[leader as usize - 1].different().iter().map(|id| id.0).collect()
    }

    fn is_told_undecided(&self) -> usize {
        self.findings.iter().filter(|it| matches!(it, Finding::Undecided { .. })).count()
    }
}

#[test]
fn equal_members_are_left_alone() {
    let mut three = Cluster::with([RIGHT; 3]);
    three.heartbeats(1, &[2, 3]);
    assert_eq!((three.diverged(), &three.findings[..]), (vec![], &[][..]));
    let agreed = Some(Checkpoint { index: INDEX, digest: RIGHT });
    assert_eq!(three.query(1).agreed, agreed);
    let mut five = Cluster::with([RIGHT; 5]);
    five.heartbeats(4, &[1, 2, 3, 5]);
    assert_eq!((five.diverged(), &five.findings[..]), (vec![], &[][..]));
}

#[test]
fn the_minority_judges_itself_and_the_leader_names_it() {
    let check = |digests: &[u64], expected: &[u64]| {
        let mut cluster = Cluster::new(digests.len());
        (1..).zip(digests).for_each(|(id, &digest)| cluster.apply(id, INDEX, digest));
        let others: Vec<u64> = (2..=digests.len() as u64).collect();
        cluster.heartbeats(1, &others);
        assert_eq!(cluster.diverged(), expected, "{digests:x?}");
        assert_eq!(cluster.different(1), expected, "{digests:x?}");
        cluster.heartbeats(1, &others);
        let told = |id| {
            cluster
                .findings
                .iter()
                .filter(|it| match it {
                    Finding::Different { member, agreeing, .. } => {
                        assert!(!agreeing.contains(member) && agreeing.len() > digests.len() / 2);
                        member.0 == id
                    }
                    Finding::Diverged { own, .. } => own.0 == id,
                    Finding::Undecided { .. } => panic!("it is decided"),
                })
                .count()
        };
        // Found by itself and by the leader, once each.
        expected.iter().for_each(|&id| assert_eq!(told(id), if id == 1 { 1 } else { 2 }, "{id}"));
    };
    check(&[RIGHT, RIGHT, WRONG], &[3]);
    check(&[RIGHT, WRONG, RIGHT], &[2]);
    check(&[WRONG, RIGHT, RIGHT], &[1]);
    check(&[RIGHT, RIGHT, WRONG, RIGHT, RIGHT], &[3]);
    check(&[WRONG, RIGHT, WRONG, RIGHT, RIGHT], &[1, 3]);
    check(&[OTHER, RIGHT, WRONG, RIGHT, RIGHT], &[1, 3]);
    check(&[RIGHT, RIGHT, RIGHT, WRONG], &[4]);
}

#[test]
fn a_divergence_says_where_and_what() {
    let mut cluster = Cluster::with([RIGHT, WRONG, RIGHT]);
    cluster.heartbeats(1, &[2, 3]);
    let divergence = Divergence { index: INDEX, own: WRONG, agreed: RIGHT };
    assert_eq!(cluster.member(2).divergence(), Some(divergence));
    let words: Vec<String> = cluster.findings.iter().map(Finding::to_string).collect();
    assert_eq!(
        words,
        [
            "the state of member 2 has diverged: its digest at entry 10 is 00000000000000bb, and \
             00000000000000aa is that of a majority: members 1 3",
            "the state of this member, 2, has diverged: its digest at entry 10 is \
             00000000000000bb, and that of a majority is 00000000000000aa. It still votes, but \
             serves no reads and no writes from now on: stop it and start it with `syncraft server \
             --rebuild`",
        ]
    );
}

#[test]
fn without_a_quorum_of_equals_nobody_stops() {
    let check = |digests: &[u64], reachable: &[u64]| {
        let mut cluster = Cluster::new(digests.len());
        (1..).zip(digests).for_each(|(id, &digest)| cluster.apply(id, INDEX, digest));
        (0..3).for_each(|_| cluster.wait(1, reachable));
        assert_eq!(cluster.diverged(), NOBODY, "{digests:x?}");
        assert_eq!(cluster.is_told_undecided(), 1, "{digests:x?}");
        assert_eq!(cluster.findings.len(), 1);
    };
    check(&[RIGHT, RIGHT, WRONG, WRONG], &[2, 3, 4]);
    check(&[RIGHT, WRONG, OTHER], &[2, 3]);
    check(&[RIGHT, WRONG, RIGHT], &[2]);
    check(&[RIGHT, RIGHT, WRONG, WRONG, OTHER], &[2, 3, 4, 5]);
}

#[test]
fn words_of_the_undecided() {
    let mut cluster = Cluster::with([RIGHT, WRONG]);
    cluster.heartbeats(1, &[2]);
    assert_eq!(
        cluster.findings[0].to_string(),
        "the members' states differ, and no majority agrees: at entry 10, member 1 has \
         00000000000000aa, member 2 has 00000000000000bb"
    );
}

#[test]
fn a_member_that_comes_back_decides_what_was_undecided() {
    let mut cluster = Cluster::with([RIGHT, WRONG, RIGHT]);
    cluster.wait(1, &[2]);
    assert_eq!(cluster.is_told_undecided(), 1);
    cluster.heartbeats(1, &[2, 3]);
    assert_eq!(cluster.diverged(), [2]);
}

#[test]
fn too_few_answers_say_nothing() {
    let mut cluster = Cluster::with([RIGHT; 5]);
    cluster.wait(1, &[2]);
    assert_eq!(cluster.query(1).agreed, None);
    assert_eq!(cluster.findings, []);
}

/// The follower has not applied the entry yet when it is asked and told about it.
#[test]
fn a_late_member_judges_itself_when_it_gets_there() {
    let mut cluster = Cluster::new(3);
    cluster.apply(1, INDEX, RIGHT);
    cluster.apply(2, INDEX, RIGHT);
    cluster.heartbeats(1, &[2, 3]);
    assert_eq!(cluster.diverged(), NOBODY);
    let wrong: Vec<u64> = (1..=INDEX.0 + 5).map(|n| n + WRONG).collect();
    let (first, rest) = wrong.split_at(9);
    assert_eq!(cluster.member(3).applied(Index(1), first), []);
    let findings = cluster.member(3).applied(Index(10), rest);
    let divergence = Divergence { index: INDEX, own: WRONG + 10, agreed: RIGHT };
    assert_eq!(findings, [Finding::Diverged { own: MemberId(3), divergence }]);
    // Its answer is late, and the leader still uses it.
    cluster.heartbeat(1, &[3]);
    assert_eq!(cluster.different(1), [3]);
}

/// It keeps the first agreed entry that it has not applied, though the leader asks about newer
/// ones.
#[test]
fn a_member_that_is_always_behind_is_judged_at_last() {
    let mut cluster = Cluster::new(3);
    for index in 10..15 {
        for id in [1, 2] {
            cluster.apply(id, Index(index), RIGHT);
        }
        cluster.wait(1, &[2, 3]);
    }
    (1..10).for_each(|index| cluster.apply(3, Index(index), WRONG));
    assert_eq!(cluster.diverged(), NOBODY);
    cluster.apply(3, Index(10), WRONG);
    assert_eq!(cluster.diverged(), [3]);
}

#[test]
fn what_was_asked_about_is_remembered_longer_than_the_rest() {
    let mut cluster = Cluster::with([RIGHT, RIGHT, WRONG]);
    let query = cluster.query(1);
    assert_eq!(query, Query { asked: INDEX, agreed: None });
    assert_eq!(cluster.member(3).heard(query), []);
    let many = vec![WRONG; DIGESTS_MAX];
    assert_eq!(cluster.member(3).applied(INDEX.next(), &many), []);
    assert_eq!(cluster.member(3).digests.at(INDEX), None);
    assert_eq!(cluster.member(3).answer(), Some(Checkpoint { index: INDEX, digest: WRONG }));
    // The same heartbeat asks about another entry.
    let agreed = Some(Checkpoint { index: INDEX, digest: RIGHT });
    assert_eq!(cluster.member(3).heard(Query { asked: Index(20), agreed }).len(), 1);
    assert_eq!(cluster.diverged(), [3]);
}

#[test]
fn a_member_without_a_digest_there_is_not_compared() {
    let mut cluster = Cluster::with([RIGHT, RIGHT, RIGHT]);
    assert_eq!(cluster.member(3).restored(Index(20), Some(WRONG)), []);
    cluster.wait(1, &[2, 3]);
    assert_eq!(cluster.diverged(), NOBODY);
    assert_eq!(cluster.different(1), NOBODY);
    // It is compared at a later index.
    let newer = [RIGHT; 10];
    for id in [1, 2] {
        assert_eq!(cluster.member(id).applied(INDEX.next(), &newer), []);
    }
    cluster.heartbeats(1, &[2, 3]);
    assert_eq!(cluster.diverged(), [3]);
}

/// A member of an older version, or with a state machine that has no digest.
#[test]
fn members_that_say_nothing_take_no_part() {
    let mut cluster = Cluster::with([RIGHT, RIGHT, WRONG]);
    cluster.members[2] = member(3, 3);
    assert_eq!(cluster.member(3).restored(INDEX, None), []);
    cluster.wait(1, &[2, 3]);
    assert_eq!((cluster.diverged(), cluster.different(1)), (vec![], vec![]));
    let mut silent = Cluster::new(3);
    silent.wait(1, &[2, 3]);
    assert_eq!(silent.query(1), Query::default());
}

#[test]
fn answers_about_another_index_say_nothing() {
    let mut cluster = Cluster::with([RIGHT; 3]);
    assert_eq!(cluster.query(1).asked, INDEX);
    for index in [INDEX.prev(), INDEX.next()] {
        let answer = Checkpoint { index, digest: WRONG };
        for id in [2, 3] {
            assert_eq!(cluster.member(1).answered(MemberId(id), answer), []);
        }
    }
    assert_eq!(cluster.diverged(), NOBODY);
    cluster.heartbeats(1, &[2, 3]);
    assert_eq!(cluster.findings, []);
}

#[test]
fn the_next_question_comes_when_all_have_answered_or_enough_time_has_passed() {
    let mut cluster = Cluster::with([RIGHT; 3]);
    let asked = |cluster: &mut Cluster| cluster.query(1).asked;
    assert_eq!(asked(&mut cluster), INDEX);
    (1..=3).for_each(|id| cluster.apply(id, INDEX.next(), RIGHT));
    cluster.heartbeat(1, &[2]);
    assert_eq!(asked(&mut cluster), INDEX, "member 3 has not answered");
    cluster.heartbeat(1, &[3]);
    assert_eq!(asked(&mut cluster), INDEX.next());
    (1..=3).for_each(|id| cluster.apply(id, Index(12), RIGHT));
    cluster.wait(1, &[2]);
    assert_eq!(asked(&mut cluster), Index(12), "member 3 is not waited for any longer");
}

#[test]
fn a_new_leader_starts_afresh() {
    let mut cluster = Cluster::with([RIGHT, RIGHT, WRONG]);
    cluster.heartbeats(1, &[2, 3]);
    cluster.term = Term(2);
    let now = cluster.now;
    assert_eq!(cluster.member(2).ask(Term(2), now).0, Query { asked: INDEX, agreed: None });
    cluster.heartbeats(2, &[1, 3]);
    assert_eq!(cluster.different(2), [3]);
    // Member 1 leads again, and nothing of its first term is left.
    let (query, _) = cluster.member(1).ask(Term(3), now);
    assert_eq!(query, Query { asked: INDEX, agreed: None });
    assert_eq!(cluster.different(1), NOBODY);
    // A heartbeat of an earlier term, which was not sent yet, says nothing.
    assert_eq!(cluster.member(1).ask(Term(1), now).0, Query::default());
}

#[test]
fn a_member_that_is_right_again_is_no_longer_different() {
    let mut cluster = Cluster::with([RIGHT, RIGHT, WRONG]);
    cluster.heartbeats(1, &[2, 3]);
    assert_eq!((cluster.diverged(), cluster.different(1)), (vec![3], vec![3]));
    assert_eq!(cluster.member(3).restored(INDEX, Some(RIGHT)), []);
    for id in [1, 2, 3] {
        cluster.apply(id, INDEX.next(), RIGHT);
    }
    cluster.heartbeats(1, &[2, 3]);
    assert_eq!((cluster.diverged(), cluster.different(1)), (vec![], vec![]));
}

#[test]
fn the_agreeing_are_those_to_hand_over_to() {
    let mut cluster = Cluster::with([WRONG, RIGHT, WRONG, RIGHT, RIGHT]);
    assert_eq!(cluster.member(1).agreeing(), []);
    cluster.heartbeats(1, &[2, 3, 4, 5]);
    assert_eq!(cluster.member(1).agreeing(), [MemberId(2), MemberId(4), MemberId(5)]);
}

#[test]
fn digests_are_kept_without_gaps_and_not_for_ever() {
    let mut digests = Digests::default();
    assert_eq!((digests.newest(), digests.at(Index(0))), (None, None));
    digests.extend(Index(5), &[50, 60]);
    digests.extend(Index(7), &[70]);
    let at = |digests: &Digests, index| digests.at(Index(index)).map(|it| it.digest);
    assert_eq!(
        [4, 5, 6, 7, 8, u64::MAX].map(|index| at(&digests, index)),
        [None, Some(50), Some(60), Some(70), None, None]
    );
    assert_eq!(digests.newest(), Some(Checkpoint { index: Index(7), digest: 70 }));
    digests.extend(Index(9), &[90]);
    assert_eq!([7, 8, 9].map(|index| at(&digests, index)), [None, None, Some(90)]);
    digests.extend(Index(10), &vec![1; DIGESTS_MAX]);
    assert_eq!((at(&digests, 9), at(&digests, 10)), (None, Some(1)));
    assert_eq!(digests.newest().unwrap().index, Index(9 + DIGESTS_MAX as u64));
}

/// Too few of five members agree. Then the cluster becomes one of three, and the same answers say
/// more.
#[test]
fn answers_that_come_again_are_judged_by_the_members_of_now() {
    let mut cluster = Cluster::with([RIGHT, RIGHT, WRONG, OTHER, OTHER]);
    cluster.heartbeats(1, &[2, 3, 4, 5]);
    assert_eq!(cluster.member(1).different(), [], "no majority of five agrees");
    cluster.member(1).set_members(Membership::new((1..=3).map(MemberId)));
    cluster.heartbeats(1, &[2, 3]);
    assert_eq!(cluster.member(1).different(), [MemberId(3)]);
}
