//! The Clerk with members that follow a script: what each answers to its first call, its second
//! call, and so on.

use std::io::Read;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::*;
use crate::ErrorChain;
use crate::kv::proto::{GetReply, KvServerRpc, KvServerRpcService, LeaderHint, PutAppendReply};
use crate::kv::{KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::rpc::{Done, Server, Status, StatusCode};

/// What a member answers.
#[derive(Clone, Copy, Debug)]
enum Say {
    Ok(u64),
    NoLeader,
    /// The member with this number leads.
    Hint(usize),
    /// No longer the leader, and the write is in its log.
    MayApply,
    Expired(u64),
    Word(&'static [u8]),
    Status(StatusCode),
    Busy(u64),
    /// Nothing, while the connection stays open.
    Silence,
    /// No leader, after this many milliseconds.
    Late(u64),
    /// Drops the `Done`.
    Drop,
}

use Say::*;

/// Everything that was sent to members, in order: the member's number and the write. Of a read,
/// only the key.
type Log = Arc<Mutex<Vec<(usize, PutAppendArgs)>>>;

struct Actor {
    number: usize,
    script: Vec<Say>,
    calls: Mutex<usize>,
    log: Log,
    addrs: Arc<Mutex<Vec<String>>>,
    kept: Mutex<Vec<Done<PutAppendReply>>>,
    kept_reads: Mutex<Vec<Done<GetReply>>>,
}

impl Actor {
    /// The next line of the script. The last one repeats for ever.
    fn next(&self, args: PutAppendArgs) -> Say {
        self.log.lock().push((self.number, args));
        let mut calls = self.calls.lock();
        *calls += 1;
        self.script[(*calls - 1).min(self.script.len() - 1)]
    }

    fn hint(&self, member: usize) -> Option<LeaderHint> {
        Some(LeaderHint { id: 0, addr: self.addrs.lock()[member].clone() })
    }

    fn answer(&self, say: Say, done: Done<PutAppendReply>) {
        let reply = |err: &'static [u8]| PutAppendReply { err: err.into(), ..Default::default() };
        match say {
            Ok(index) => done.run(PutAppendReply { index, ..reply(words::OK) }),
            NoLeader => done.run(reply(words::ERR_WRONG_LEADER)),
            Hint(member) => {
                let leader = self.hint(member);
                done.run(PutAppendReply { leader, ..reply(words::ERR_WRONG_LEADER) });
            }
            MayApply => {
                done.run(PutAppendReply { may_apply: true, ..reply(words::ERR_WRONG_LEADER) })
            }
            Expired(index) => {
                done.run(PutAppendReply { index, ..reply(words::ERR_SESSION_EXPIRED) })
            }
            Word(word) => done.run(reply(word)),
            Say::Status(code) => done.fail(Status::new(code, "as scripted")),
            Busy(millis) => done.fail(Status::busy("as scripted", Duration::from_millis(millis))),
            Late(millis) => {
                thread::sleep(Duration::from_millis(millis));
                done.run(reply(words::ERR_WRONG_LEADER));
            }
            Silence => self.kept.lock().push(done),
            Drop => drop(done),
        }
    }
}

impl KvServerRpc for Actor {
    fn put_append(&self, args: PutAppendArgs, done: Done<PutAppendReply>) {
        let say = self.next(args);
        self.answer(say, done);
    }

    fn get(&self, args: GetArgs, done: Done<GetReply>) {
        let reply = |err: &'static [u8]| GetReply { err: err.into(), ..Default::default() };
        match self.next(PutAppendArgs { key: args.key, ..Default::default() }) {
            Ok(_) => done.run(GetReply { value: "value".into(), ..reply(words::OK) }),
            Hint(member) => {
                let leader = self.hint(member);
                done.run(GetReply { leader, ..reply(words::ERR_WRONG_LEADER) });
            }
            Word(word) => done.run(reply(word)),
            Say::Status(code) => done.fail(Status::new(code, "as scripted")),
            Silence => self.kept_reads.lock().push(done),
            _ => done.run(reply(words::ERR_WRONG_LEADER)),
        }
    }
}

/// Members that run.
struct Cast {
    addrs: Arc<Mutex<Vec<String>>>,
    log: Log,
    _servers: Vec<Server>,
}

impl Cast {
    fn new(scripts: &[&[Say]]) -> Cast {
        let (addrs, log) = (Arc::new(Mutex::new(Vec::new())), Log::default());
        let mut servers = Vec::new();
        for (number, script) in scripts.iter().enumerate() {
            let actor = Actor {
                number,
                script: script.to_vec(),
                calls: Mutex::new(0),
                log: log.clone(),
                addrs: addrs.clone(),
                kept: Mutex::default(),
                kept_reads: Mutex::default(),
            };
            let server = Server::builder()
                .service(KvServerRpcService::new(Arc::new(actor)))
                .bind("127.0.0.1:0")
                .build()
                .unwrap_or_else(|error| panic!("{error}"))
                .start();
            addrs.lock().push(server.local_addr().to_string());
            servers.push(server);
        }
        Cast { addrs, log, _servers: servers }
    }

    fn clerk(&self, timeout: Duration) -> Clerk {
        clerk(self.addrs.lock().clone(), timeout)
    }

    /// Which members were asked, in order.
    fn asked(&self) -> Vec<usize> {
        self.log.lock().iter().map(|(number, _)| *number).collect()
    }

    /// What was sent to them.
    fn sent(&self) -> Vec<PutAppendArgs> {
        self.log.lock().iter().map(|(_, args)| args.clone()).collect()
    }
}

fn clerk(addrs: Vec<String>, timeout: Duration) -> Clerk {
    Clerk::builder()
        .members(addrs)
        .timeout(timeout)
        .build()
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Long enough for any script that ends by itself.
const LONG: Duration = Duration::from_secs(20);
/// For scripts that do not end by themselves.
const SHORT: Duration = Duration::from_millis(300);

#[track_caller]
fn done<T>(result: Result<T, ClerkError>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
pub(super) fn check_kind<T: std::fmt::Debug>(result: Result<T, ClerkError>, kind: ClerkErrorKind) {
    match result {
        Err(error) => assert_eq!(error.kind(), kind, "{error}"),
        other => panic!("{other:?} is not {kind:?}"),
    }
}

#[test]
fn a_put_asks_until_the_leader_is_found_and_remembers_it() {
    let check = |scripts: &[&[Say]], asked: &[usize]| {
        let cast = Cast::new(scripts);
        let clerk = cast.clerk(LONG);
        done(clerk.put("k", "v"));
        done(clerk.append("k", "v"));
        assert_eq!(cast.asked(), asked, "{scripts:?}");
    };
    check(&[&[Ok(2)]], &[0, 0]);
    check(&[&[NoLeader], &[NoLeader], &[Ok(2)]], &[0, 1, 2, 2]);
    // A hint is followed before the others are asked.
    check(&[&[Hint(2)], &[Ok(2)], &[Ok(2)]], &[0, 2, 2]);
    // Hints in a circle cost one round.
    check(&[&[Hint(1)], &[Hint(0)], &[Ok(2)]], &[0, 1, 2, 2]);
    // A round without a leader; then a leader is elected.
    check(&[&[NoLeader, Ok(2)], &[NoLeader], &[NoLeader]], &[0, 1, 2, 0, 0]);
    // The next round begins at the last hint.
    check(&[&[NoLeader], &[NoLeader, Ok(2)], &[Hint(1)]], &[0, 1, 2, 1, 1]);
    // A member that refuses at once, and is the leader a moment later, is not left out.
    let stopping = Say::Status(StatusCode::ShuttingDown);
    check(&[&[stopping, Ok(2)], &[Hint(2)], &[Hint(1)]], &[0, 1, 2, 1, 2, 0, 0]);
    // A busy member is asked again after a pause.
    check(&[&[Busy(1), Ok(2)], &[Ok(2)]], &[0, 0, 0]);
    check(&[&[Busy(1)], &[Ok(2)]], &[0, 0, 0, 0, 1, 1]);
}

#[test]
fn a_dead_member_is_passed_over() {
    let cast = Cast::new(&[&[Ok(2)]]);
    let mut addrs = vec![dead_addr()];
    addrs.extend(cast.addrs.lock().clone());
    let started = Instant::now();
    done(clerk(addrs, LONG).put("k", "v"));
    assert!(started.elapsed() < LONG / 2, "a refusal comes at once");
}

#[test]
fn a_silent_member_costs_one_attempt_and_is_avoided_for_a_while() {
    let cast = Cast::new(&[&[Silence], &[Ok(2)]]);
    let clerk = cast.clerk(LONG);
    done(clerk.put("k", "v"));
    clerk.pool.set_leader(0);
    done(clerk.put("k", "v"));
    assert_eq!(cast.asked(), [0, 1, 1]);
}

#[test]
fn a_leader_that_nobody_listed_is_followed() {
    let cast = Cast::new(&[&[Hint(1)], &[Ok(2)]]);
    let clerk = clerk(vec![cast.addrs.lock()[0].clone()], LONG);
    done(clerk.put("k", "v"));
    done(clerk.put("k", "v"));
    assert_eq!(cast.asked(), [0, 1, 1]);
}

#[test]
fn every_attempt_of_a_write_is_the_same_write() {
    let cast = Cast::new(&[&[Drop, Ok(7)], &[MayApply], &[Say::Status(StatusCode::Internal)]]);
    let clerk = cast.clerk(LONG);
    done(clerk.append("k", "v"));
    let first = cast.sent();
    assert_eq!(cast.asked(), [0, 1, 2, 0]);
    assert!(first.iter().all(|args| *args == first[0]), "{first:?}");
    assert_eq!((first[0].request_id, first[0].seen_index, &first[0].op[..]), (1, 1, words::APPEND));
    done(clerk.put("k", "v"));
    let next = &cast.sent()[4];
    // The next write is a new one of the same client, which has learned an index.
    assert_eq!((next.request_id, next.seen_index, &next.op[..]), (2, 7, words::PUT));
    assert_eq!(next.client_id, first[0].client_id);
}

#[test]
fn an_error_says_whether_the_write_may_have_happened() {
    use ClerkErrorKind::{NotApplied, Rejected, Unknown};
    let check = |script: &[Say], kind| {
        let call = |timeout| Cast::new(&[script, &[NoLeader]]).clerk(timeout).put("k", "v");
        let mut result = call(if kind == Rejected { LONG } else { SHORT });
        for _ in 0..20 {
            // On a busy machine the deadline may cut the last attempt off. Then the outcome is
            // unknown indeed.
            let is_cut_off =
                |error: &ClerkError| ErrorChain(error).to_string().contains(": no answer ");
            let is_to_repeat = kind == NotApplied && result.as_ref().is_err_and(is_cut_off);
            result = if is_to_repeat { call(SHORT) } else { break };
        }
        check_kind(result, kind);
    };
    check(&[NoLeader], NotApplied);
    check(&[Hint(0)], NotApplied);
    check(&[Busy(5)], NotApplied);
    check(&[Busy(3_600_000)], NotApplied);
    check(&[Say::Status(StatusCode::ShuttingDown)], NotApplied);
    check(&[Say::Status(StatusCode::UnknownService)], NotApplied);
    check(&[MayApply, NoLeader], Unknown);
    check(&[Drop, NoLeader], Unknown);
    check(&[Silence], Unknown);
    check(&[Word(b"ErrOfTheFuture"), NoLeader], Unknown);
    check(&[Word(b""), NoLeader], Unknown);
    check(&[Say::Status(StatusCode::Internal), NoLeader], Unknown);
    check(&[Say::Status(StatusCode::DeadlineExceeded), NoLeader], Unknown);
    check(&[Say::Status(StatusCode::Other(99)), NoLeader], Unknown);
    check(&[Word(words::ERR_TOO_LARGE)], Rejected);
    check(&[Word(words::ERR_NO_SPACE)], NotApplied);
    check(&[Drop, Word(words::ERR_NO_SPACE)], NotApplied);
    // The first outcome of the same write, whichever attempt had it.
    check(&[Drop, Word(words::ERR_TOO_LARGE)], Rejected);
    check(&[Say::Status(StatusCode::FrameTooLarge)], Rejected);
    // Refused now, but an earlier attempt may have passed.
    check(&[Drop, Say::Status(StatusCode::FrameTooLarge)], Unknown);
}

/// A write that certainly did not happen stays so: it is not sent again at the last moment, when no
/// answer can come in time.
#[test]
fn a_refused_write_is_not_sent_again_without_time_for_an_answer() {
    let put = || {
        let cast = Cast::new(&[&[Late(85)], &[Silence]]);
        cast.clerk(Duration::from_millis(120)).put("k", "v").expect_err("nobody leads").kind()
    };
    // On a busy machine the first answer may come too late.
    assert!((0..20).any(|_| put() == ClerkErrorKind::NotApplied));
}

#[test]
fn a_connection_that_breaks_says_whether_the_write_was_sent() {
    check_kind(clerk(vec![dead_addr()], SHORT).put("k", "v"), ClerkErrorKind::NotApplied);
    check_kind(clerk(vec![cut_off_addr()], SHORT).put("k", "v"), ClerkErrorKind::Unknown);
    check_kind(clerk(vec![cut_off_addr()], SHORT).get("k"), ClerkErrorKind::NotApplied);
}

#[test]
fn a_forgotten_session_begins_anew_if_nothing_was_sent_before() {
    let cast = Cast::new(&[&[Ok(5), Expired(50), Ok(60), Ok(61)]]);
    let clerk = cast.clerk(LONG);
    for _ in 0..3 {
        done(clerk.put("k", "v"));
    }
    let sent = cast.sent();
    let stamps: Vec<_> = sent.iter().map(|args| (args.request_id, args.seen_index)).collect();
    assert_eq!(stamps, [(1, 1), (2, 5), (1, 50), (2, 60)]);
    assert_eq!(sent[0].client_id, sent[1].client_id);
    assert_ne!(sent[1].client_id, sent[2].client_id);
    assert_eq!(sent[2].client_id, sent[3].client_id);
}

#[test]
fn a_forgotten_session_is_unknown_if_an_attempt_may_have_passed() {
    let cast = Cast::new(&[&[Drop, Expired(50), Ok(60)]]);
    let clerk = cast.clerk(LONG);
    check_kind(clerk.put("k", "v"), ClerkErrorKind::Unknown);
    assert_eq!(cast.sent().len(), 2, "not again in another session, which could apply it twice");
    done(clerk.put("k", "v"));
    let sent = cast.sent();
    assert_ne!(sent[1].client_id, sent[2].client_id);
    assert_eq!((sent[2].request_id, sent[2].seen_index), (1, 50));
}

#[test]
fn sessions_that_are_always_forgotten_end_the_call() {
    let cast = Cast::new(&[&[Expired(50)]]);
    check_kind(cast.clerk(LONG).put("k", "v"), ClerkErrorKind::NotApplied);
    assert_eq!(cast.sent().len(), 3);
}

#[test]
fn a_get_tells_absent_from_failed() {
    let check = |say: Say, expected: Option<&str>| {
        let cast = Cast::new(&[&[Hint(1)], &[say]]);
        let value = done(cast.clerk(LONG).get("k"));
        assert_eq!(value.as_deref(), expected.map(str::as_bytes));
    };
    check(Ok(0), Some("value"));
    check(Word(words::OK), Some(""));
    check(Word(words::ERR_NO_KEY), None);
    for say in [NoLeader, Word(b"ErrOfTheFuture"), Say::Status(StatusCode::Internal)] {
        check_kind(Cast::new(&[&[say]]).clerk(SHORT).get("k"), ClerkErrorKind::NotApplied);
    }
    check_kind(
        Cast::new(&[&[Word(words::ERR_TOO_LARGE)]]).clerk(LONG).get("k"),
        ClerkErrorKind::Rejected,
    );
}

#[test]
fn a_request_over_a_limit_is_never_sent() {
    let cast = Cast::new(&[&[Ok(2)]]);
    let clerk = cast.clerk(LONG);
    let (key, value) = (vec![0; KEY_LEN_MAX + 1], vec![0; VALUE_LEN_MAX + 1]);
    check_kind(clerk.put(&key, "v"), ClerkErrorKind::Rejected);
    check_kind(clerk.append("k", &value), ClerkErrorKind::Rejected);
    check_kind(clerk.get(&key), ClerkErrorKind::Rejected);
    assert!(cast.asked().is_empty());
    done(clerk.put(&key[1..], &value[1..]));
}

#[test]
fn writes_of_one_clerk_go_one_after_another() {
    let cast = Cast::new(&[&[Ok(2)]]);
    let clerk = cast.clerk(LONG);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..25).for_each(|_| done(clerk.append("k", "v"))));
        }
    });
    let ids: Vec<i64> = cast.sent().iter().map(|args| args.request_id).collect();
    assert_eq!(ids, (1..=200).collect::<Vec<i64>>());
}

#[test]
fn a_write_that_waits_for_another_ends_in_time() {
    let cast = Cast::new(&[&[Silence]]);
    let clerk = cast.clerk(SHORT);
    let started = Instant::now();
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4).map(|_| scope.spawn(|| clerk.put("k", "v"))).collect();
        let mut failed = writers.into_iter().map(|writer| writer.join());
        assert!(failed.all(|result| result.is_ok_and(|result| result.is_err())));
    });
    assert!(started.elapsed() < SHORT + LONG, "{:?}", started.elapsed());
}

#[test]
fn a_clone_is_another_client_that_knows_as_much() {
    let cast = Cast::new(&[&[NoLeader], &[Ok(9)]]);
    let first = cast.clerk(LONG);
    done(first.put("k", "v"));
    done(first.clone().put("k", "v"));
    let sent = cast.sent();
    assert_eq!(cast.asked(), [0, 1, 1]);
    assert_ne!(sent[1].client_id, sent[2].client_id);
    assert_eq!((sent[2].request_id, sent[2].seen_index), (1, 9));
    let id = std::str::from_utf8(&sent[0].client_id);
    assert!(id.is_ok_and(|id| id.len() > 20 && id.parse::<u128>().is_ok()), "{id:?}");
}

#[test]
fn a_clerk_can_be_shared() {
    fn check<T: Send + Sync + Clone>() {}
    check::<Clerk>();
}

#[test]
fn a_wrong_list_is_an_error_of_build() {
    let error = |builder: ClerkBuilder| builder.build().err().map(|error| error.to_string());
    assert!(error(Clerk::builder()).is_some_and(|error| error.contains("members")));
    assert!(
        error(Clerk::builder().members("a:1,a:1"))
            .is_some_and(|error| error.contains("already in the list"))
    );
    assert_eq!(error(Clerk::builder().members("1=a:1,2=b:2")), None);
}

/// An address where nobody listens.
fn dead_addr() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("{error}"));
    local_addr(&listener)
}

/// An address whose server reads a little of each connection and closes it.
fn cut_off_addr() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("{error}"));
    let addr = local_addr(&listener);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.read(&mut [0; 8]));
        }
    });
    addr
}

fn local_addr(listener: &TcpListener) -> String {
    listener.local_addr().unwrap_or_else(|error| panic!("{error}")).to_string()
}

/// The first member leads. With `follower_reads`, reads go to the balancer's choice. Writes do not.
#[test]
fn reads_go_where_the_balancer_says_if_followers_may_serve_them() {
    struct Last;

    impl Balancer for Last {
        fn pick(&self, candidates: &[crate::rpc::Candidate<'_>], _: u64) -> usize {
            candidates.len() - 1
        }
    }

    let check = |are_on, expected: &[usize]| {
        let cast = Cast::new(&[&[Ok(1)], &[Ok(1)], &[Ok(1)]]);
        let members = cast.addrs.lock().clone();
        let builder = Clerk::builder().members(members).balancer(Last);
        let clerk = builder.follower_reads(are_on).build().unwrap();
        clerk.put("k", "v").unwrap();
        clerk.get("k").unwrap();
        clerk.get("k").unwrap();
        clerk.put("k", "v").unwrap();
        let asked: Vec<usize> = cast.log.lock().iter().map(|(number, _)| *number).collect();
        assert_eq!(asked, expected);
    };
    check(false, &[0, 0, 0, 0]);
    check(true, &[0, 2, 2, 0]);
}

#[test]
fn reads_are_spread_in_turns() {
    let cast = Cast::new(&[&[Ok(1)], &[Ok(1)], &[Ok(1)]]);
    let members = cast.addrs.lock().clone();
    let clerk = Clerk::builder().members(members).follower_reads(true).build().unwrap();
    for _ in 0..6 {
        clerk.get("k").unwrap();
    }
    let mut asked: Vec<usize> = cast.log.lock().iter().map(|(number, _)| *number).collect();
    asked.sort_unstable();
    assert_eq!(asked, [0, 0, 1, 1, 2, 2]);
}

/// A member that refuses at once looks free and fast. It is asked only once.
#[test]
fn reads_stay_away_from_a_member_that_does_not_serve_them() {
    let cast = Cast::new(&[&[NoLeader], &[Ok(1)]]);
    let members = cast.addrs.lock().clone();
    let builder = Clerk::builder().members(members).follower_reads(true);
    let clerk = builder.balancer(crate::rpc::LeastResponseTime::new()).build().unwrap();
    for _ in 0..10 {
        clerk.get("k").unwrap();
    }
    let asked_in_vain = cast.log.lock().iter().filter(|(number, _)| *number == 0).count();
    assert!(asked_in_vain <= 1, "{asked_in_vain}");
}

/// The member is left out for a while. Then one read asks it, and it serves again.
#[test]
fn reads_go_back_to_a_member_that_was_silent() {
    let cast = Cast::new(&[&[Silence, Ok(1)], &[Ok(1)]]);
    let members = cast.addrs.lock().clone();
    let clerk = Clerk::builder().members(members).follower_reads(true).build().unwrap();
    let asked = || cast.log.lock().iter().filter(|(number, _)| *number == 0).count();
    let deadline = Instant::now() + LONG;
    while asked() < 3 {
        assert!(Instant::now() < deadline, "asked {} times", asked());
        clerk.get("k").unwrap();
        thread::sleep(Duration::from_millis(10));
    }
}
