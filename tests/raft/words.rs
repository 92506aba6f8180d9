//! Messages and effects as text, for the traces: an entry is `index/term`, with its command if it
//! has one.

use syncraft::raft::*;

pub(crate) fn message(message: &Message) -> String {
    let Message { from, to, term, body, .. } = message;
    format!("{from}->{to} term {term}: {}", self::body(body))
}

fn body(body: &Body) -> String {
    match body {
        Body::Request(Request::RequestVote(request)) => {
            let word = match (request.pre_vote, request.is_transfer) {
                (true, _) => "pre-vote?",
                (false, false) => "vote?",
                (false, true) => "vote? the leader asked me to stand,",
            };
            format!("{word} my last is {}/{}", request.last_log_index, request.last_log_term)
        }
        Body::Reply(Reply::RequestVote(reply)) => {
            let word = if reply.pre_vote { "pre-vote" } else { "vote" };
            format!("{word} {}", if reply.vote_granted { "granted" } else { "refused" })
        }
        Body::Request(Request::AppendEntries(request)) => format!(
            "append after {}/{}: {}, commit {}",
            request.prev_log_index,
            request.prev_log_term,
            entries(&request.entries),
            request.leader_commit
        ),
        Body::Reply(Reply::AppendEntries(reply)) => match reply {
            AppendEntriesReply::Matched { match_index } => format!("matched {match_index}"),
            AppendEntriesReply::Conflict { rejected_index, conflict_index, conflict_term } => {
                format!("no match at {rejected_index}, perhaps at {conflict_index}/{conflict_term}")
            }
            AppendEntriesReply::Stale => "stale".to_owned(),
        },
        Body::Request(Request::Heartbeat(heartbeat)) => {
            format!("heartbeat {}, commit {}", heartbeat.round, heartbeat.leader_commit)
        }
        Body::Reply(Reply::Heartbeat(HeartbeatReply {
            round: HeartbeatReply::NO_ROUND, ..
        })) => "that term is over".to_owned(),
        Body::Reply(Reply::Heartbeat(reply)) => format!("heartbeat {} heard", reply.round),
        Body::Request(Request::InstallSnapshot(snapshot)) => {
            format!("snapshot up to {}", end(&snapshot.meta))
        }
        Body::Request(Request::TimeoutNow) => "stand for election now".to_owned(),
        Body::Reply(Reply::TimeoutNow) => "I will".to_owned(),
        // The numbers of questions are random.
        Body::Request(Request::ReadIndex(_)) => "what is committed?".to_owned(),
        Body::Reply(Reply::ReadIndex(ReadIndexReply { committed: None, .. })) => {
            "ask again".to_owned()
        }
        Body::Reply(Reply::ReadIndex(ReadIndexReply {
            committed: Some((index, term)), ..
        })) => {
            format!("committed is {index}/{term}")
        }
        Body::Request(Request::Join(_)) => "where do you stand?".to_owned(),
        Body::Reply(Reply::Join(JoinReply { is_removed: true, .. })) => {
            "you were removed".to_owned()
        }
        Body::Reply(Reply::Join(JoinReply { is_new, last, .. })) => match (is_new, last) {
            (true, _) => "I am new, too".to_owned(),
            (_, None) => "in this term".to_owned(),
            (_, Some((index, term))) => format!("I lead, up to {index}/{term}"),
        },
    }
}

/// The kind of a message, as scripts name it.
pub(crate) fn kind(message: &Message) -> &'static str {
    match &message.body {
        Body::Request(Request::RequestVote(request)) if request.pre_vote => "pre-vote",
        Body::Request(Request::RequestVote(_)) => "vote",
        Body::Reply(Reply::RequestVote(_)) => "vote-reply",
        Body::Request(Request::AppendEntries(_)) => "append",
        Body::Reply(Reply::AppendEntries(_)) => "append-reply",
        Body::Request(Request::Heartbeat(_)) => "heartbeat",
        Body::Reply(Reply::Heartbeat(_)) => "heartbeat-reply",
        Body::Request(Request::InstallSnapshot(_)) => "snapshot",
        Body::Request(Request::TimeoutNow) => "timeout-now",
        Body::Reply(Reply::TimeoutNow) => "timeout-now-reply",
        Body::Request(Request::ReadIndex(_)) => "read-index",
        Body::Reply(Reply::ReadIndex(_)) => "read-index-reply",
        Body::Request(Request::Join(_)) => "join",
        Body::Reply(Reply::Join(_)) => "join-reply",
    }
}

pub(crate) fn entries(entries: &[Entry]) -> String {
    let entry = |entry: &Entry| {
        let what = match &entry.payload {
            Payload::Noop => " no-op".to_owned(),
            Payload::Configuration(it) => format!(" {}", configuration(it)),
            Payload::Command(command) => {
                let command = String::from_utf8_lossy(command);
                // The command of a made-up entry repeats its index and term.
                if command == format!("{}/{}", entry.index, entry.term) {
                    String::new()
                } else {
                    format!(" {command}")
                }
            }
        };
        format!("{}/{}{what}", entry.index, entry.term)
    };
    if entries.is_empty() {
        return "nothing".to_owned();
    }
    entries.iter().map(entry).collect::<Vec<_>>().join(", ")
}

/// An effect of member `id`, indented. An empty write that is done at once gets no line.
pub(crate) fn effect(id: u64, effect: &Effect, is_disk_held: bool) -> Option<String> {
    let words = match effect {
        Effect::Send(message) => format!("  {}", self::message(message)),
        Effect::Persist(persist) => persist_words(persist, is_disk_held)?,
        Effect::Proposed { id, index, term } => {
            format!("proposal {} stands at {index}/{term}", id.0)
        }
        Effect::Rejected { id, reason } => match reason {
            Rejection::Busy => format!("request {} refused: busy", id.0),
            Rejection::Members(why) => format!("request {} refused: {why:?}", id.0),
            Rejection::HandingOver => format!("request {} refused: handing over", id.0),
            Rejection::NotLeader(None) => format!("request {} refused: not leader", id.0),
            Rejection::NotLeader(Some(leader)) => {
                format!("request {} refused: not leader, that is {leader}", id.0)
            }
        },
        Effect::SendSnapshot { to, term } => format!("sends {to} its snapshot, term {term}"),
        Effect::TakeSnapshot => "needs another snapshot".to_owned(),
        Effect::Install(snapshot) => format!("loads the snapshot up to {}", end(snapshot)),
        Effect::ReleaseLog(index) => format!("releases its log up to {index}"),
        Effect::Apply(entries) => format!("applies {}", self::entries(entries)),
        Effect::ReadReady(ids) => {
            let ids: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
            format!("serves read {}", ids.join(", "))
        }
        Effect::PeerLostData { peer, match_index } => {
            format!("finds that {peer} has lost {match_index}")
        }
        Effect::Joined => "has joined".to_owned(),
        Effect::TakeCluster { cluster_id, .. } => format!("belongs to cluster {cluster_id}"),
        Effect::ClusterKnown(cluster_id) => format!("is of cluster {cluster_id}"),
        Effect::Introduced(it) => format!("hears of {}", configuration(it)),
        Effect::Reconfigured(configured) => reconfigured(configured),
        Effect::Removed => "was removed".to_owned(),
        Effect::RoleChanged(role) => format!("is {}", self::role(role)),
    };
    Some(if let Effect::Send(_) = effect { words } else { format!("  {id} {words}") })
}

fn configuration(it: &Configuration) -> String {
    let words = |ids: &mut dyn Iterator<Item = MemberId>| {
        ids.map(|id| id.to_string()).collect::<Vec<_>>().join("+")
    };
    let membership = &it.membership;
    let mut text = format!("voters {}", words(&mut membership.voters()));
    if membership.is_joint() {
        text = format!("{text} from {}", words(&mut membership.outgoing()));
    }
    let learners = words(&mut membership.learners());
    if learners.is_empty() { text } else { format!("{text}, learners {learners}") }
}

fn reconfigured(Configured { latest, committed, .. }: &Configured) -> String {
    let Some(latest) = latest else { return "has no configuration".to_owned() };
    let state = if committed.as_ref() == Some(latest) { " (committed)" } else { "" };
    format!("has {}{state}", configuration(latest))
}

fn end(snapshot: &SnapshotMeta) -> String {
    format!("{}/{}", snapshot.last_included_index, snapshot.last_included_term)
}

fn persist_words(persist: &Persist, is_disk_held: bool) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(HardState { current_term, voted_for }) = persist.hard_state {
        let vote = voted_for.map_or(String::new(), |id| format!(", vote for {id}"));
        parts.push(format!("term {current_term}{vote}"));
    }
    if let Some(snapshot) = &persist.reset {
        parts.push(format!("the log anew behind {}", end(snapshot)));
    }
    if !persist.entries.is_empty() {
        parts.push(entries(&persist.entries));
    }
    if !is_disk_held {
        return (!parts.is_empty()).then(|| format!("writes {}", parts.join("; ")));
    }
    parts.extend(persist.then.iter().map(|it| format!("then {}", message(it))));
    Some(format!("begins write {}: {}", persist.id.0, parts.join("; ")))
}

pub(crate) fn role(role: &RoleChange) -> String {
    let leader = match (role.role, role.leader) {
        (RoleName::Leader, _) => String::new(),
        (_, Some(leader)) => format!(", leader {leader}"),
        (_, None) => ", no leader".to_owned(),
    };
    format!("{} in term {}{leader}", role.role.as_str(), role.term)
}
