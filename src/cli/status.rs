//! `status`: shows where every member stands, and also those that do not answer.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Instant;

use serde::Serialize;
use syncraft::ErrorChain;
use syncraft::server::proto::StatusReply;
use syncraft::server::{DISK_OK, STATE_DIVERGED};

use super::args::{self, Common};
use super::asking::{Answer, Cluster, LEARNER, ask_cluster};
use super::member::behind;
use super::output::print;
use super::{Exit, Failure, Outcome};

const HEADINGS: [&str; 10] =
    ["ID", "ADDRESS", "ROLE", "TERM", "LEADER", "LAST", "COMMIT", "APPLIED", "SNAPSHOT", "BEHIND"];

pub(super) fn status(common: &Common, args: args::StatusArgs) -> Outcome {
    let cluster = ask_cluster(&common.endpoints()?, Instant::now() + common.timeout());
    let text = if args.json { format!("{}\n", to_json(&cluster)) } else { to_table(&cluster) };
    print(&[text.as_bytes()])?;
    if let Some(stranger) = cluster.strangers().into_iter().next() {
        return Err(Failure::not_applied(format!("these are several clusters: {stranger}")));
    }
    if cluster.has_leader() {
        return Ok(Exit::Done);
    }
    Err(Failure::not_applied("no leader is followed by a majority of the members"))
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
    let mut replies = answers.iter().filter_map(|answer| answer.reply.as_ref().ok());
    replies.any(|reply| reply.is_joining && !reply.waits_to_be_added)
}

/// The output of `--json`. Scripts depend on the names; the order is for people.
#[derive(Serialize)]
struct Json<'a> {
    /// Null if nobody knows it.
    cluster: Option<String>,
    members: Vec<MemberJson<'a>>,
}

#[derive(Serialize)]
struct MemberJson<'a> {
    /// Null if the list has no ids and the member did not answer.
    id: Option<u64>,
    addr: &'a str,
    /// Behind the address, where `scripts/cluster.sh` looks for it.
    reachable: bool,
    /// "voter", "learner", "incoming" or "outgoing"; null if the configuration does not name it.
    kind: Option<&'a str>,
    /// How many entries it lacks; null unless the leader has said so.
    behind: Option<u64>,
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
        /// Whether it waits to be added.
        waiting: bool,
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

fn to_json(cluster: &Cluster) -> String {
    let id = cluster.configuration.as_ref().map(|it| it.cluster_id).filter(|id| *id != 0);
    let id = id.map(|id| format!("{id:016x}"));
    let members = cluster.answers.iter().map(|answer| member_json(cluster, answer)).collect();
    let json = Json { cluster: id, members };
    serde_json::to_string(&json).expect("numbers and text: nothing that JSON has no form for")
}

fn member_json<'a>(cluster: &'a Cluster, answer: &'a Answer) -> MemberJson<'a> {
    let Answer { endpoint, reply, .. } = answer;
    let kind = cluster.entry(answer).map(|entry| entry.kind.as_str());
    let behind = lag(cluster, answer);
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
            waiting: reply.waits_to_be_added,
            disk: Some(&reply.disk[..]).filter(|disk| !disk.is_empty()),
            pid: Some(reply.pid).filter(|pid| *pid != 0),
            level: Some(reply.level).filter(|level| *level != 0),
        },
        Err(error) => AnswerJson::Error { error: ErrorChain(error).to_string() },
    };
    let reachable = reply.is_ok();
    MemberJson { id, addr: &endpoint.addr, reachable, kind, behind, answer }
}

/// How many entries the member lacks, if the leader has said so.
fn lag(cluster: &Cluster, answer: &Answer) -> Option<u64> {
    behind(cluster.configuration.as_ref()?, cluster.entry(answer)?)
}

fn to_table(cluster: &Cluster) -> String {
    let answers = &cluster.answers;
    let rows: Vec<Vec<String>> = answers.iter().map(|answer| row(cluster, answer)).collect();
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
    for StatusReply { id, is_joining, joining_words, waits_to_be_added, disk, .. } in replies {
        if *waits_to_be_added {
            let _ = writeln!(lines, "member {id} is no member yet: {joining_words}");
        } else if *is_joining {
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

fn row(cluster: &Cluster, answer: &Answer) -> Vec<String> {
    let Answer { endpoint, reply, .. } = answer;
    match reply {
        Ok(reply) => {
            let or_dash = |number: Option<u64>| number.map_or("-".to_owned(), |it| it.to_string());
            let learns = cluster.entry(answer).is_some_and(|entry| entry.kind == LEARNER);
            let role = if learns { LEARNER } else { &reply.role };
            let leader = or_dash(Some(reply.leader).filter(|leader| *leader != 0));
            let mut row = vec![reply.id.to_string(), endpoint.addr.clone(), role.to_owned()];
            row.extend([reply.term.to_string(), leader]);
            let indexes =
                [reply.last_index, reply.commit_index, reply.applied_index, reply.snapshot_index];
            row.extend(indexes.map(|index| index.to_string()));
            row.push(or_dash(lag(cluster, answer)));
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
    use syncraft::clerk::Endpoint;
    use syncraft::raft::MemberId;
    use syncraft::rpc::CallError;
    use syncraft::server::proto::{MemberEntry, MemberProgress, MembersReply};

    use super::*;

    fn answer(id: u64, reply: Option<StatusReply>) -> Answer {
        let addr = format!("127.0.0.1:{}", 7000 + id);
        let source = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let reply = reply.ok_or(CallError::NotSent { addr: addr.clone(), source });
        Answer { is_listed: true, endpoint: Endpoint { id: Some(MemberId(id)), addr }, reply }
    }

    fn cluster(answers: impl IntoIterator<Item = Answer>) -> Cluster {
        let entry = |id: u64, kind: &str, match_index| MemberEntry {
            id,
            addr: format!("127.0.0.1:{}", 7000 + id),
            kind: kind.to_owned(),
            progress: Some(MemberProgress { match_index, ..Default::default() }),
        };
        let members = vec![entry(1, "voter", 120), entry(2, LEARNER, 100), entry(3, "voter", 70)];
        let (cluster_id, last_index) = (7, 120);
        let configuration = MembersReply { cluster_id, last_index, members, ..Default::default() };
        Cluster { answers: answers.into_iter().collect(), configuration: Some(configuration) }
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
    fn the_table_lines_up() {
        let answers = [answer(1, reply(1, 7, 1)), answer(2, reply(2, 7, 0)), answer(3, None)];
        let expected = "\
ID  ADDRESS         ROLE     TERM  LEADER  LAST  COMMIT  APPLIED  SNAPSHOT  BEHIND
1   127.0.0.1:7001  leader   7     1       120   120     119      100       0
2   127.0.0.1:7002  learner  7     -       120   120     119      100       20
3   127.0.0.1:7003  unreachable: call to 127.0.0.1:7003 was not sent: connection refused
";
        assert_eq!(to_table(&cluster(answers)), expected);
    }

    #[test]
    fn members_that_have_gone_astray_are_named() {
        let (mut leader, mut diverged, mut old) = (reply(1, 7, 1), reply(2, 7, 1), reply(3, 7, 1));
        leader.as_mut().unwrap().different_members = vec![2];
        diverged.as_mut().unwrap().state = STATE_DIVERGED.to_owned();
        old.as_mut().unwrap().state.clear();
        let answers = || {
            [(1, &leader), (2, &diverged), (3, &old)].map(|(id, reply)| answer(id, reply.clone()))
        };
        let table = to_table(&cluster(answers()));
        let line = "member 2 does not serve: its state differs from the others'; rebuild it";
        assert_eq!(table.lines().skip(4).collect::<Vec<_>>(), [line]);
        let json = |index: usize| to_json(&cluster(answers().into_iter().skip(index).take(1)));
        assert!(json(0).contains(r#""diverged":false,"different_members":[2]"#), "{}", json(0));
        assert!(json(1).contains(r#""diverged":true"#), "{}", json(1));
        assert!(json(2).contains(r#""digest":null,"diverged":false"#), "{}", json(2));
    }

    #[test]
    fn the_json_has_what_scripts_read() {
        let expected = r#"{"cluster":"0000000000000007","members":[{"id":1,"addr":"127.0.0.1:7001","reachable":true,"kind":"voter","behind":0,"role":"leader","term":7,"leader":1,"last_index":120,"commit_index":120,"applied_index":119,"snapshot_index":100,"version":"0.1.0","digest":"00000000000000ab","diverged":false,"different_members":[],"joining":false,"waiting":false,"disk":"ok","pid":4711,"level":2},{"id":3,"addr":"127.0.0.1:7003","reachable":false,"kind":"voter","behind":50,"error":"call to 127.0.0.1:7003 was not sent: connection refused"}]}"#;
        let both = [answer(1, reply(1, 7, 1)), answer(3, None)];
        assert_eq!(to_json(&cluster(both)), expected);
        let alone = cluster([answer(1, reply(1, 7, 0))]);
        assert!(to_json(&alone).contains(r#""leader":null"#));
    }
}
