//! `status`: asks all members at the same time, and also shows those that do not answer.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use syncraft::ErrorChain;
use syncraft::clerk::{Endpoint, Endpoints};
use syncraft::rpc::{CallError, Channel};
use syncraft::server::proto::{AdminRpcStub, StatusArgs, StatusReply};
use syncraft::server::{DISK_OK, STATE_DIVERGED};

use super::args::{self, Common};
use super::output::print;
use super::{Exit, Failure, Outcome};

/// How long one member may take. While things go wrong, a status that waits for a dead machine is
/// of no use.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(2);

const HEADINGS: [&str; 9] =
    ["ID", "ADDRESS", "ROLE", "TERM", "LEADER", "LAST", "COMMIT", "APPLIED", "SNAPSHOT"];

/// One member and its answer.
pub(super) struct Answer {
    pub(super) endpoint: Endpoint,
    pub(super) reply: Result<StatusReply, CallError>,
}

pub(super) fn status(common: &Common, args: args::StatusArgs) -> Outcome {
    let answers =
        ask_all(&common.endpoints()?, Instant::now() + common.timeout().min(MEMBER_TIMEOUT));
    let text = if args.json { format!("{}\n", to_json(&answers)) } else { to_table(&answers) };
    print(&[text.as_bytes()])?;
    if has_leader(&answers) {
        return Ok(Exit::Done);
    }
    Err(Failure::not_applied("no leader is followed by a majority of the members"))
}

pub(super) fn ask_all(endpoints: &Endpoints, deadline: Instant) -> Vec<Answer> {
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
                Answer { endpoint, reply }
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

/// The newest leader and the state of its disk, if that is not [`DISK_OK`].
pub(super) fn leader_that_cannot_write(answers: &[Answer]) -> Option<(u64, String)> {
    let replies = answers.iter().filter_map(|answer| answer.reply.as_ref().ok());
    let leaders = replies.filter(|reply| reply.leader == reply.id);
    let leader = leaders.max_by_key(|reply| reply.term)?;
    let is_bad = !leader.disk.is_empty() && leader.disk != DISK_OK;
    is_bad.then(|| (leader.id, leader.disk.clone()))
}

/// Whether a member that answers does not vote yet.
pub(super) fn anybody_joins(answers: &[Answer]) -> bool {
    answers.iter().filter_map(|answer| answer.reply.as_ref().ok()).any(|reply| reply.is_joining)
}

/// Whether a majority of the members names the same leader, in the newest term that any of them
/// knows.
fn has_leader(answers: &[Answer]) -> bool {
    let replies = || answers.iter().filter_map(|answer| answer.reply.as_ref().ok());
    let newest = replies().filter(|reply| reply.leader != 0).max_by_key(|reply| reply.term);
    newest.is_some_and(|newest| {
        let agrees =
            |reply: &&StatusReply| (reply.term, reply.leader) == (newest.term, newest.leader);
        replies().filter(agrees).count() > answers.len() / 2
    })
}

/// The output of `--json`. Scripts depend on the names; the order is for people.
#[derive(Serialize)]
struct Json<'a> {
    members: Vec<MemberJson<'a>>,
}

#[derive(Serialize)]
struct MemberJson<'a> {
    /// Null if the list has no ids and the member did not answer.
    id: Option<u64>,
    addr: &'a str,
    reachable: bool,
    #[serde(flatten)]
    answer: AnswerJson<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum AnswerJson<'a> {
    Reply {
        role: &'a str,
        term: u64,
        /// Null if the member knows of none.
        leader: Option<u64>,
        last_index: u64,
        commit_index: u64,
        applied_index: u64,
        snapshot_index: u64,
        version: &'a str,
        /// Null if the member's version has none.
        digest: Option<String>,
        diverged: bool,
        /// Filled by a leader only.
        different_members: &'a [u64],
        joining: bool,
        /// Null if the member's version does not say.
        disk: Option<&'a str>,
        /// The process that answers; null if the member's version does not say.
        pid: Option<u32>,
        /// The feature level; null if the member's version has none.
        level: Option<u32>,
    },
    Error {
        error: String,
    },
}

fn to_json(answers: &[Answer]) -> String {
    let json = Json { members: answers.iter().map(member_json).collect() };
    serde_json::to_string(&json).expect("numbers and text: nothing that JSON has no form for")
}

fn member_json(Answer { endpoint, reply }: &Answer) -> MemberJson<'_> {
    let id = reply.as_ref().map_or_else(|_| endpoint.id.map(|id| id.0), |reply| Some(reply.id));
    let answer = match reply {
        Ok(reply) => AnswerJson::Reply {
            role: &reply.role,
            term: reply.term,
            leader: Some(reply.leader).filter(|leader| *leader != 0),
            last_index: reply.last_index,
            commit_index: reply.commit_index,
            applied_index: reply.applied_index,
            snapshot_index: reply.snapshot_index,
            version: &reply.version,
            digest: (!reply.state.is_empty()).then(|| format!("{:016x}", reply.digest)),
            diverged: reply.state == STATE_DIVERGED,
            different_members: &reply.different_members,
            joining: reply.is_joining,
            disk: Some(&reply.disk[..]).filter(|disk| !disk.is_empty()),
            pid: Some(reply.pid).filter(|pid| *pid != 0),
            level: Some(reply.level).filter(|level| *level != 0),
        },
        Err(error) => AnswerJson::Error { error: ErrorChain(error).to_string() },
    };
    MemberJson { id, addr: &endpoint.addr, reachable: reply.is_ok(), answer }
}

fn to_table(answers: &[Answer]) -> String {
    let rows: Vec<Vec<String>> = answers.iter().map(row).collect();
    let width = |column: usize| {
        let cells =
            rows.iter().filter(|row| row.len() == HEADINGS.len()).map(|row| row[column].len());
        cells.chain([HEADINGS[column].len()]).max().unwrap_or(0)
    };
    // Members that did not answer have a sentence in place of their last columns. It does not count
    // for the widths of columns; their address does.
    let addr_width = rows.iter().map(|row| row[1].len()).max().unwrap_or(0).max(width(1));
    let widths: Vec<usize> =
        (0..HEADINGS.len()).map(|i| if i == 1 { addr_width } else { width(i) }).collect();
    let mut table = String::new();
    for row in [HEADINGS.map(str::to_owned).to_vec()].iter().chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(table, "{}", line.trim_end());
    }
    table + &divergences(answers) + &troubles(answers)
}

/// One line for each member that cannot vote or cannot write.
fn troubles(answers: &[Answer]) -> String {
    let replies = answers.iter().filter_map(|answer| answer.reply.as_ref().ok());
    let mut lines = String::new();
    for StatusReply { id, is_joining, joining_words, disk, .. } in replies {
        if *is_joining {
            let colon = if joining_words.is_empty() { "" } else { ": " };
            let _ = writeln!(
                lines,
                "member {id} does not vote: it does not have its data yet{colon}{joining_words}"
            );
        }
        if !disk.is_empty() && disk != DISK_OK {
            let _ = writeln!(lines, "member {id} cannot write: its disk is {disk}");
        }
    }
    lines
}

/// One line for each member whose state differs from the others', as it or a leader reports.
fn divergences(answers: &[Answer]) -> String {
    let replies = || answers.iter().filter_map(|answer| answer.reply.as_ref().ok());
    let own = replies().filter(|reply| reply.state == STATE_DIVERGED).map(|reply| reply.id);
    let different = own.chain(replies().flat_map(|reply| reply.different_members.iter().copied()));
    let different: BTreeSet<u64> = different.collect();
    let line = |id| {
        format!("member {id} does not serve: its state differs from the others'; rebuild it\n")
    };
    different.into_iter().map(line).collect()
}

fn row(Answer { endpoint, reply }: &Answer) -> Vec<String> {
    match reply {
        Ok(reply) => {
            let leader = if reply.leader == 0 { "-".to_owned() } else { reply.leader.to_string() };
            let mut row = vec![reply.id.to_string(), endpoint.addr.clone(), reply.role.clone()];
            row.extend([reply.term.to_string(), leader]);
            let indexes =
                [reply.last_index, reply.commit_index, reply.applied_index, reply.snapshot_index];
            row.extend(indexes.map(|index| index.to_string()));
            row
        }
        Err(error) => {
            let id = endpoint.id.map_or("?".to_owned(), |id| id.to_string());
            vec![id, endpoint.addr.clone(), format!("unreachable: {}", ErrorChain(error))]
        }
    }
}

#[cfg(test)]
mod tests {
    use syncraft::raft::MemberId;

    use super::*;

    fn answer(id: u64, reply: Option<StatusReply>) -> Answer {
        let addr = format!("127.0.0.1:{}", 7000 + id);
        let source = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let reply = reply.ok_or(CallError::NotSent { addr: addr.clone(), source });
        Answer { endpoint: Endpoint { id: Some(MemberId(id)), addr }, reply }
    }

    fn reply(id: u64, term: u64, leader: u64) -> Option<StatusReply> {
        let role = if id == leader { "leader" } else { "follower" };
        Some(StatusReply {
            id,
            role: role.to_owned(),
            term,
            leader,
            last_index: 120,
            commit_index: 120,
            applied_index: 119,
            snapshot_index: 100,
            version: "0.1.0".to_owned(),
            digest: 0xab,
            state: "ok".to_owned(),
            different_members: Vec::new(),
            is_joining: false,
            disk: DISK_OK.to_owned(),
            pid: 4711,
            level: 2,
            ..Default::default()
        })
    }

    #[test]
    fn a_leader_needs_a_majority_of_all_members() {
        let check = |replies: [Option<StatusReply>; 3], expected: bool| {
            let answers: Vec<Answer> =
                (1..).zip(replies).map(|(id, reply)| answer(id, reply)).collect();
            assert_eq!(has_leader(&answers), expected);
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

    #[test]
    fn the_table_lines_up() {
        let answers = [answer(1, reply(1, 7, 1)), answer(2, reply(2, 7, 0)), answer(3, None)];
        let expected = "\
ID  ADDRESS         ROLE      TERM  LEADER  LAST  COMMIT  APPLIED  SNAPSHOT
1   127.0.0.1:7001  leader    7     1       120   120     119      100
2   127.0.0.1:7002  follower  7     -       120   120     119      100
3   127.0.0.1:7003  unreachable: call to 127.0.0.1:7003 was not sent: connection refused
";
        assert_eq!(to_table(&answers), expected);
    }

    #[test]
    fn members_that_have_gone_astray_are_named() {
        let (mut leader, mut diverged, mut old) = (reply(1, 7, 1), reply(2, 7, 1), reply(3, 7, 1));
        leader.as_mut().unwrap().different_members = vec![2];
        diverged.as_mut().unwrap().state = STATE_DIVERGED.to_owned();
        old.as_mut().unwrap().state.clear();
        let answers = [answer(1, leader), answer(2, diverged), answer(3, old)];
        let table = to_table(&answers);
        let line = "member 2 does not serve: its state differs from the others'; rebuild it";
        assert_eq!(table.lines().skip(4).collect::<Vec<_>>(), [line]);
        let json = |index: usize| to_json(&answers[index..=index]);
        assert!(json(0).contains(r#""diverged":false,"different_members":[2]"#), "{}", json(0));
        assert!(json(1).contains(r#""diverged":true"#), "{}", json(1));
        assert!(json(2).contains(r#""digest":null,"diverged":false"#), "{}", json(2));
    }

    #[test]
    fn the_json_has_what_scripts_read() {
        let expected = r#"{"members":[{"id":1,"addr":"127.0.0.1:7001","reachable":true,"role":"leader","term":7,"leader":1,"last_index":120,"commit_index":120,"applied_index":119,"snapshot_index":100,"version":"0.1.0","digest":"00000000000000ab","diverged":false,"different_members":[],"joining":false,"disk":"ok","pid":4711,"level":2},{"id":3,"addr":"127.0.0.1:7003","reachable":false,"error":"call to 127.0.0.1:7003 was not sent: connection refused"}]}"#;
        assert_eq!(to_json(&[answer(1, reply(1, 7, 1)), answer(3, None)]), expected);
        assert!(to_json(&[answer(1, reply(1, 7, 0))]).contains(r#""leader":null"#));
    }
}
