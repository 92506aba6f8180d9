//! Events, messages and effects as text, short enough to read thousands of them. The rest is
//! printed with `Debug`.

use bytes::Bytes;
use syncraft::kv::model::{Action, Compare, KeyRange, Operation, Range, RangeEnd, Txn};
use syncraft::kv::{Change, Command, Identity, Stamped};
use syncraft::raft::{
    Body, Configuration, Effect, Entry, Event, MemberId, Message, Payload, Persist, Request,
};

pub(crate) fn event(event: &Event) -> String {
    match event {
        Event::Message(it) => message(it),
        Event::Propose { id, command } => format!("propose {}: {}", id.0, self::command(command)),
        other => format!("{other:?}"),
    }
}

pub(crate) fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Send(it) => format!("send {}", message(it)),
        Effect::Persist(it) => persist(it),
        Effect::Apply(it) => format!("apply {}", entries(it)),
        other => format!("{other:?}"),
    }
}

fn persist(persist: &Persist) -> String {
    let Persist { id, hard_state, reset, entries, then, .. } = persist;
    let mut words = format!("persist {}:", id.0);
    if let Some(hard_state) = hard_state {
        let vote = hard_state.voted_for.map_or("nobody".to_owned(), |id| id.to_string());
        words += &format!(" term {}, voted for {vote};", hard_state.current_term);
    }
    if let Some(snapshot) = reset {
        words += &format!(" behind {};", snapshot.last_included_index);
    }
    if !entries.is_empty() {
        words += &format!(" {};", self::entries(entries));
    }
    let then: Vec<String> = then.iter().map(message).collect();
    format!("{words} then {then:?}")
}

fn message(message: &Message) -> String {
    let Message { from, to, term, body, .. } = message;
    let body = match body {
        Body::Request(Request::AppendEntries(append)) => format!(
            "append behind {}/{}: {}, commit {}",
            append.prev_log_index,
            append.prev_log_term,
            entries(&append.entries),
            append.leader_commit
        ),
        other => format!("{other:?}"),
    };
    format!("{from}>{to} term {term}: {body}")
}

fn entries(entries: &[Entry]) -> String {
    let words: Vec<String> = entries.iter().map(entry).collect();
    format!("[{}]", words.join(", "))
}

fn entry(entry: &Entry) -> String {
    let Entry { index, term, payload } = entry;
    match payload {
        Payload::Noop => format!("{index}/{term} no-op"),
        Payload::Command(it) => format!("{index}/{term} {}", command(it)),
        Payload::Configuration(it) => format!("{index}/{term} {}", configuration(it)),
    }
}

pub(crate) fn configuration(configuration: &Configuration) -> String {
    let words = |ids: &mut dyn Iterator<Item = MemberId>| {
        ids.map(|id| id.to_string()).collect::<Vec<_>>().join(",")
    };
    let membership = &configuration.membership;
    let [voters, outgoing, learners] = [
        words(&mut membership.voters()),
        words(&mut membership.outgoing()),
        words(&mut membership.learners()),
    ];
    let removed = words(&mut configuration.removed.iter().copied());
    format!("voters {voters} outgoing {outgoing} learners {learners} removed {removed}")
}

fn command(bytes: &Bytes) -> String {
    let (Command { identity, change }, stamp) = match Command::decode_logged(bytes) {
        Ok(Stamped { command, stamp_ms: Some(ms) }) => (command, format!(" at {ms} ms")),
        Ok(Stamped { command, stamp_ms: None }) => (command, String::new()),
        // Not in the log yet.
        Err(_) => match Command::decode(bytes) {
            Ok(command) => (command, String::new()),
            Err(_) => return format!("{bytes:?}"),
        },
    };
    let Identity { client_id, request_id, .. } = identity;
    match (client_id.is_empty(), &change) {
        (true, Change::Put { key, .. }) => String::from_utf8_lossy(key).into_owned(),
        _ => {
            let client = String::from_utf8_lossy(&client_id);
            format!("{}{stamp} ({client} #{request_id})", self::change(&change))
        }
    }
}

pub(crate) fn change(change: &Change) -> String {
    let write = |op, key: &Bytes, value: &Bytes| {
        let [key, value] = [key, value].map(|bytes| String::from_utf8_lossy(bytes));
        format!("{op} {key} {value}")
    };
    match change {
        Change::Put { key, value } => write("Put", key, value),
        Change::Append { key, value } => write("Append", key, value),
        Change::Txn(txn) => self::txn(txn),
        Change::TxnOnce { key, fingerprint, txn } => {
            format!("once {key:?} ({fingerprint}): {}", self::txn(txn))
        }
        other => format!("{other:?}"),
    }
}

pub(crate) fn txn(Txn { compare, then, otherwise }: &Txn) -> String {
    let compare: Vec<String> = compare.iter().map(self::compare).collect();
    let [then, otherwise] = [then, otherwise].map(|operations| {
        let words: Vec<String> = operations.iter().map(operation).collect();
        words.join("; ")
    });
    format!("if ({}) then ({then}) else ({otherwise})", compare.join(", "))
}

fn compare(Compare { keys, relation, operand }: &Compare) -> String {
    format!("{} {relation:?} {operand:?}", self::keys(keys))
}

fn operation(Operation { action, may_fail }: &Operation) -> String {
    let words = match action {
        Action::Put { key, value, lease, previous } => {
            format!("put {key:?} {value:?} {lease:?}, previous: {previous}")
        }
        Action::Append { key, value } => format!("append {key:?} {value:?}"),
        Action::Increment { key, by } => format!("increment {key:?} by {by}"),
        Action::Delete { keys, previous } => {
            format!("delete {}, previous: {previous}", self::keys(keys))
        }
        Action::Range(range) => self::range(range),
        Action::Txn(nested) => txn(nested),
    };
    if *may_fail { format!("try {words}") } else { words }
}

fn range(range: &Range) -> String {
    let Range { limit, sort_by, descending, want, count_all, at, .. } = range;
    let order = if *descending { "descending" } else { "ascending" };
    let [changed, created] = [range.mod_revision, range.create_revision]
        .map(|bounds| format!("{}..={}", bounds.min, bounds.max));
    format!(
        "read {} at {at}, limit {limit}, {order} by {sort_by:?}, {want:?}, count all: {count_all}, \
         changed {changed}, created {created}",
        keys(&range.keys)
    )
}

fn keys(keys: &KeyRange) -> String {
    match keys.end() {
        RangeEnd::Alone => format!("{:?}", keys.begin()),
        RangeEnd::Before(before) => format!("{:?}..{before:?}", keys.begin()),
        RangeEnd::Open => format!("{:?}..", keys.begin()),
    }
}
