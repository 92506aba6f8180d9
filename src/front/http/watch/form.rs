//! [`Form`]: what a watch tells, as lines of JSON or as server-sent events.

use serde::Serialize;

use crate::front::http::told::Told;
use crate::kv::json::{self, ChangeJson};
use crate::kv::model::{Change, Revision};

/// How a client wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) framing: Framing,
    /// Without values.
    pub(super) keys_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// One JSON object a line.
    Lines,
    /// Server-sent events (HTML standard §9.2).
    Events,
}

/// What is told besides changes.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Note<'a> {
    Progress {
        revision: u64,
    },
    End {
        #[serde(flatten)]
        told: &'a Told,
        revision: u64,
    },
}

impl Form {
    pub(super) fn content_type(self) -> &'static str {
        match self.framing {
            Framing::Lines => "application/x-ndjson",
            Framing::Events => "text/event-stream",
        }
    }

    /// Changes, and how far the watch is with them.
    pub(super) fn changes(self, changes: &[Change], complete_to: Revision) -> Vec<u8> {
        let mut out = Vec::new();
        for (at, change) in changes.iter().enumerate() {
            let revision = change.revision();
            let is_last = changes.get(at + 1).is_none_or(|next| next.revision() > revision);
            let completes = is_last && (at + 1 < changes.len() || revision <= complete_to);
            self.change(&mut out, change, completes);
        }
        let ends_whole = changes.last().is_some_and(|last| last.revision() <= complete_to);
        if self.framing == Framing::Lines && ends_whole {
            out.extend(self.progress(complete_to));
        }
        out
    }

    /// `completes`: its revision has no further one.
    fn change(self, out: &mut Vec<u8>, change: &Change, completes: bool) {
        let kind = if change.value().is_some() { "put" } else { "delete" };
        let json = match self.keys_only {
            true => ChangeJson::without_values(change),
            false => ChangeJson::whole(change),
        };
        self.write(out, completes.then(|| change.revision()), kind, &json);
    }

    /// Everything up to this revision was told.
    pub(super) fn progress(self, revision: Revision) -> Vec<u8> {
        let mut out = Vec::new();
        let note = Note::Progress { revision: revision.0 };
        self.write(&mut out, Some(revision), "progress", &note);
        out
    }

    /// Nothing is new, and the watch goes on.
    pub(super) fn heartbeat(self, revision: Revision) -> Vec<u8> {
        match self.framing {
            Framing::Lines => self.progress(revision),
            Framing::Events => b":\n\n".to_vec(),
        }
    }

    /// The watch is over. Everything up to `revision` was told.
    pub(super) fn end(self, told: &Told, revision: Revision) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out, None, "end", &Note::End { told, revision: revision.0 });
        out
    }

    /// `id`: where a client goes on that has seen this.
    fn write(self, out: &mut Vec<u8>, id: Option<Revision>, kind: &str, value: &impl Serialize) {
        let json = json::line(value);
        match (self.framing, id) {
            (Framing::Lines, _) => {
                out.extend_from_slice(&json);
                return out.push(b'\n');
            }
            (Framing::Events, Some(id)) => out.extend(format!("id: {id}\n").bytes()),
            (Framing::Events, None) => {}
        }
        out.extend(format!("event: {kind}\ndata: ").bytes());
        out.extend_from_slice(&json);
        out.extend_from_slice(b"\n\n");
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn delete(key: &'static str, revision: u64) -> Change {
        let (key, revision) = (Bytes::from_static(key.as_bytes()), Revision(revision));
        Change::Delete { key, revision, previous: None }
    }

    fn told(framing: Framing, changes: &[Change], complete_to: u64) -> String {
        let form = Form { framing, keys_only: false };
        String::from_utf8(form.changes(changes, Revision(complete_to))).unwrap()
    }

    fn ids(events: &str) -> Vec<&str> {
        let events = events.split_terminator("\n\n");
        events.map(|it| it.lines().next().unwrap().strip_prefix("id: ").unwrap_or("-")).collect()
    }

    #[test]
    fn only_the_last_event_of_a_whole_revision_has_its_id() {
        let changes = [delete("a", 5), delete("b", 5), delete("a", 6), delete("c", 8)];
        assert_eq!(ids(&told(Framing::Events, &changes, 9)), ["-", "5", "6", "8"]);
        // The rest of 8 follows.
        assert_eq!(ids(&told(Framing::Events, &changes, 7)), ["-", "5", "6", "-"]);
        let one = told(Framing::Events, &changes[2..3], 6);
        let json = r#"{"type":"delete","key":"a","mod_revision":6}"#;
        assert_eq!(one, format!("id: 6\nevent: delete\ndata: {json}\n\n"));
    }

    #[test]
    fn progress_follows_changes_that_end_with_a_whole_revision() {
        let changes = [delete("a", 5), delete("b", 5)];
        let last = |complete_to| {
            told(Framing::Lines, &changes, complete_to).lines().next_back().map(str::to_owned)
        };
        assert_eq!(last(7).as_deref(), Some(r#"{"type":"progress","revision":7}"#));
        assert_eq!(last(4).as_deref(), Some(r#"{"type":"delete","key":"b","mod_revision":5}"#));
    }
}
