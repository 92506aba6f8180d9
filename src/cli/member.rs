//! `member list`, `member add`, `member promote`, `member remove`, `member move`.

use std::fmt::Write;
use std::io::{IsTerminal, stderr};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use syncraft::ErrorChain;
use syncraft::members::Members;
use syncraft::server::admin_client::{AdminClient, AdminError, ChangeDone, MemberChange};
use syncraft::server::proto::{
    AddMemberArgs, ChangeOutcome, MemberEntry, MembersReply, MoveMemberArgs, PromoteMemberArgs,
    RemoveMemberArgs,
};

use super::args::{AddArgs, Common, MemberCommand};
use super::output::{eprint_line, print};
use super::{Exit, Failure, Outcome};

/// The pause between two attempts to make a learner a voter.
const PROMOTE_PAUSE: Duration = Duration::from_millis(200);

/// The pause between two lines about a learner's progress, on a terminal and elsewhere.
const TERMINAL_PAUSE: Duration = Duration::from_millis(500);
const PROGRESS_PAUSE: Duration = Duration::from_secs(3);

pub(super) fn run(common: &Common, command: MemberCommand) -> Outcome {
    let endpoints = common.endpoints()?;
    let client = AdminClient::new(endpoints.iter().map(|endpoint| endpoint.addr.clone()));
    match command {
        MemberCommand::List(args) => list(common, &client, args.json),
        MemberCommand::Add(args) => add(common, &client, &args),
        MemberCommand::Promote(args) => {
            let id = args.id;
            let done = change(common, &client, PromoteMemberArgs { id })?;
            say(&done, &format!("member {id} is a voter"))
        }
        MemberCommand::Remove(args) => {
            let id = args.id;
            let done = change(common, &client, RemoveMemberArgs { id })?;
            say(&done, &format!("member {id} is removed"))
        }
        MemberCommand::Move(args) => {
            let (id, addr) = checked(&format!("{}={}", args.id, args.addr))?;
            let order = MoveMemberArgs { id, addr: addr.clone(), if_lost: false };
            let done = change(common, &client, order)?;
            say(&done, &format!("member {id} is at {addr}"))
        }
    }
}

fn change(
    common: &Common,
    client: &AdminClient,
    change: impl Into<MemberChange>,
) -> Result<ChangeDone, Failure> {
    client.change(&change.into(), Instant::now() + common.timeout()).map_err(Failure::from)
}

/// Says what has happened, or that it was so already.
fn say(done: &ChangeDone, words: &str) -> Outcome {
    let words = if done.outcome == ChangeOutcome::Unchanged { &done.words } else { words };
    print(&[words.as_bytes(), b"\n"])?;
    Ok(Exit::Done)
}

/// The two parts of `ID=HOST:PORT`.
fn checked(member: &str) -> Result<(u64, String), Failure> {
    let members: Members = member.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    let mut members = members.iter();
    match (members.next(), members.next()) {
        (Some((id, addr)), None) => Ok((id.0, addr.to_owned())),
        _ => Err(Failure::usage(format!("{member:?} is more than one member"))),
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Failure {
        let exit = match &error {
            AdminError::Impossible(_) => Exit::Usage,
            AdminError::Undecided(_) => Exit::Unknown,
            _ => Exit::NotApplied,
        };
        Failure { exit, line: ErrorChain(&error).to_string() }
    }
}

/// Adds a learner and, unless told otherwise, makes it a voter once it has caught up.
fn add(common: &Common, client: &AdminClient, args: &AddArgs) -> Outcome {
    let (id, addr) = checked(&args.member)?;
    let added = change(common, client, AddMemberArgs { id, addr: addr.clone() })?;
    if args.learner {
        return say(&added, &format!("member {id} at {addr} is a learner"));
    }
    let mut filling = Filling::new(id, common.timeout());
    loop {
        let deadline = Instant::now() + common.timeout();
        match client.change(&PromoteMemberArgs { id }.into(), deadline) {
            Ok(done) if done.outcome == ChangeOutcome::Unchanged => {
                return say(&done, "");
            }
            Ok(done) => return say(&done, &format!("member {id} at {addr} is a voter")),
            Err(AdminError::Behind { .. }) => {
                let members = client.members(Instant::now() + common.timeout())?;
                filling.look(&members)?;
                thread::sleep(PROMOTE_PAUSE);
            }
            Err(error) => return Err(still_learns(id, error)),
        }
    }
}

fn still_learns(id: u64, error: AdminError) -> Failure {
    let Failure { exit, line } = error.into();
    let line = format!(
        "member {id} was added as a learner and is no voter: {line}. To go on, repeat the command"
    );
    Failure { exit, line }
}

/// A learner that is being filled.
struct Filling {
    id: u64,
    /// How long it may take without any progress.
    patience: Duration,
    /// What it had when it last made progress, and when that was: entries, and bytes of a snapshot.
    has: (u64, u64),
    since: Instant,
    tell_at: Instant,
}

impl Filling {
    fn new(id: u64, patience: Duration) -> Filling {
        let now = Instant::now();
        Filling { id, patience, has: (0, 0), since: now, tell_at: now + TERMINAL_PAUSE }
    }

    /// Tells how far it is. Fails if it has made no progress for long.
    fn look(&mut self, members: &MembersReply) -> Result<(), Failure> {
        let now = Instant::now();
        let entry = members.members.iter().find(|member| member.id == self.id);
        let progress = entry.and_then(|entry| entry.progress).unwrap_or_default();
        let has = (progress.match_index, progress.snapshot_sent_bytes);
        if has != self.has {
            (self.has, self.since) = (has, now);
        }
        let lacks = members.last_index.saturating_sub(progress.match_index);
        let words = match (progress.is_heard, progress.snapshot_len_bytes) {
            (false, _) => "it does not answer".to_owned(),
            (true, 0) => format!("it lacks {lacks} entries"),
            (true, len) => format!(
                "it has {} of {} of a snapshot, and lacks {lacks} entries",
                mib(progress.snapshot_sent_bytes),
                mib(len)
            ),
        };
        if now - self.since >= self.patience {
            return Err(self.stalled(&words));
        }
        if now >= self.tell_at {
            let pause = if stderr().is_terminal() { TERMINAL_PAUSE } else { PROGRESS_PAUSE };
            self.tell_at = now + pause;
            eprint_line(&format_args!("member {} learns: {words}", self.id));
        }
        Ok(())
    }

    fn stalled(&self, words: &str) -> Failure {
        let Filling { id, patience, .. } = self;
        Failure::not_applied(format!(
            "member {id} was added as a learner and is no voter: it has made no progress for \
             {patience:?}: {words}. To go on, repeat the command; to give up, syncraft member \
             remove {id}"
        ))
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn list(common: &Common, client: &AdminClient, json: bool) -> Outcome {
    let members = client.members(Instant::now() + common.timeout())?;
    if members.leader != members.id {
        let id = members.id;
        eprint_line(&format_args!("no member leads: these are the members that member {id} knows"));
    }
    let text = if json { to_json(&members) } else { to_table(&members) };
    print(&[text.as_bytes()])?;
    Ok(Exit::Done)
}

/// The output of `--json`. Scripts depend on the names.
#[derive(Serialize)]
struct Json<'a> {
    /// Null if the member that answered does not know it yet.
    cluster: Option<String>,
    /// The member that answered: the leader, if there is one.
    told_by: u64,
    term: u64,
    /// Null if nobody leads, as far as it knows.
    leader: Option<u64>,
    /// The entry of the configuration; null while the log has none.
    configuration_index: Option<u64>,
    /// Whether no change of the members is under way.
    settled: bool,
    /// The cluster's feature level; null if it has none.
    level: Option<u32>,
    members: Vec<MemberJson<'a>>,
}

#[derive(Serialize)]
struct MemberJson<'a> {
    id: u64,
    addr: &'a str,
    /// "voter", "learner", "incoming" or "outgoing".
    kind: &'a str,
    leader: bool,
    /// The rest is null where no leader has answered.
    match_index: Option<u64>,
    /// How many entries it lacks.
    behind: Option<u64>,
    heard: Option<bool>,
    /// The highest feature level that it knows; null if it has not said.
    level_max: Option<u32>,
    snapshot_sent_bytes: Option<u64>,
    snapshot_len_bytes: Option<u64>,
}

fn to_json(reply: &MembersReply) -> String {
    let known = |id: u64| Some(id).filter(|id| *id != 0);
    let json = Json {
        cluster: known(reply.cluster_id).map(|id| format!("{id:016x}")),
        told_by: reply.id,
        term: reply.term,
        leader: known(reply.leader),
        configuration_index: known(reply.index),
        settled: reply.is_settled,
        level: Some(reply.level).filter(|level| *level != 0),
        members: reply.members.iter().map(|member| member_json(reply, member)).collect(),
    };
    let text = serde_json::to_string(&json);
    text.expect("numbers and text: nothing that JSON has no form for") + "\n"
}

fn member_json<'a>(reply: &MembersReply, member: &'a MemberEntry) -> MemberJson<'a> {
    let progress = member.progress.as_ref();
    let snapshot = progress.filter(|progress| progress.snapshot_len_bytes != 0);
    MemberJson {
        id: member.id,
        addr: &member.addr,
        kind: &member.kind,
        leader: member.id == reply.leader,
        match_index: progress.map(|progress| progress.match_index),
        behind: behind(reply, member),
        heard: progress.map(|progress| progress.is_heard),
        level_max: progress.map(|it| it.level_max).filter(|level| *level != 0),
        snapshot_sent_bytes: snapshot.map(|progress| progress.snapshot_sent_bytes),
        snapshot_len_bytes: snapshot.map(|progress| progress.snapshot_len_bytes),
    }
}

/// How many entries a member lacks, if a leader has said so.
pub(super) fn behind(reply: &MembersReply, member: &MemberEntry) -> Option<u64> {
    let progress = member.progress.as_ref()?;
    Some(reply.last_index.saturating_sub(progress.match_index))
}

fn to_table(reply: &MembersReply) -> String {
    let headings = ["ID", "ADDRESS", "KIND", "LEADS", "MATCH", "BEHIND", "HEARD", "LEVEL"];
    let row = |member: &MemberEntry| {
        let MemberJson { id, addr, kind, leader, match_index, behind, heard, level_max, .. } =
            member_json(reply, member);
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |it| it.to_string());
        let yes = |yes| if yes { "yes" } else { "no" }.to_owned();
        let words = [id.to_string(), addr.to_owned(), kind.to_owned(), yes(leader)];
        let heard = heard.map_or("-".to_owned(), yes);
        let numbers =
            [number(match_index), number(behind), heard, number(level_max.map(u64::from))];
        words.into_iter().chain(numbers).collect::<Vec<_>>()
    };
    let rows = [headings.map(str::to_owned).to_vec()].into_iter();
    let rows: Vec<_> = rows.chain(reply.members.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut table = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(table, "{}", line.trim_end());
    }
    table + &about(reply)
}

/// The cluster, and whether its members are changing.
fn about(reply: &MembersReply) -> String {
    let state = if reply.is_settled { "" } else { ", a change is under way" };
    match (reply.index, reply.cluster_id) {
        (0, _) => "the members are not recorded in the log yet\n".to_owned(),
        (index, 0) => format!("members as of entry {index}{state}, which is not committed yet\n"),
        (index, id) => format!("cluster {id:016x}, members as of entry {index}{state}\n"),
    }
}

#[cfg(test)]
mod tests {
    use syncraft::server::proto::MemberProgress;

    use super::*;

    fn reply() -> MembersReply {
        let progress = |match_index, is_heard| {
            Some(MemberProgress { match_index, is_heard, level_max: 2, ..Default::default() })
        };
        let member = |id: u64, kind: &str, progress| MemberEntry {
            id,
            addr: format!("127.0.0.1:{}", 7000 + id),
            kind: kind.to_owned(),
            progress,
        };
        MembersReply {
            id: 1,
            term: 7,
            leader: 1,
            cluster_id: 0xab,
            index: 3,
            is_settled: true,
            last_index: 120,
            commit_index: 120,
            level: 2,
            asker_is_removed: false,
            members: vec![
                member(1, "voter", progress(120, true)),
                member(2, "voter", progress(100, false)),
                member(4, "learner", None),
            ],
        }
    }

    #[test]
    fn the_table_says_who_is_how_far() {
        let expected = "\
ID  ADDRESS         KIND     LEADS  MATCH  BEHIND  HEARD  LEVEL
1   127.0.0.1:7001  voter    yes    120    0       yes    2
2   127.0.0.1:7002  voter    no     100    20      no     2
4   127.0.0.1:7004  learner  no     -      -       -      -
cluster 00000000000000ab, members as of entry 3
";
        assert_eq!(to_table(&reply()), expected);
        let changing = MembersReply { is_settled: false, ..reply() };
        assert!(to_table(&changing).ends_with("as of entry 3, a change is under way\n"));
    }

    #[test]
    fn the_json_has_what_scripts_read() {
        let json = to_json(&MembersReply { members: reply().members[1..2].to_vec(), ..reply() });
        let expected = r#"{"cluster":"00000000000000ab","told_by":1,"term":7,"leader":1,"configuration_index":3,"settled":true,"level":2,"members":[{"id":2,"addr":"127.0.0.1:7002","kind":"voter","leader":false,"match_index":100,"behind":20,"heard":false,"level_max":2,"snapshot_sent_bytes":null,"snapshot_len_bytes":null}]}"#;
        assert_eq!(json.trim_end(), expected);
    }

    #[test]
    fn a_learner_that_makes_no_progress_is_given_up() {
        let mut filling = Filling::new(2, Duration::ZERO);
        let failure = filling.look(&reply()).and_then(|()| filling.look(&reply()));
        let line = failure.expect_err("it stands still").line;
        assert!(line.contains("it does not answer"), "{line}");
    }
}
