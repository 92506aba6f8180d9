//! When a request about one key is to be done: `?cas`, `If-Match` and `If-None-Match` (RFC 9110
//! §13.1).

use bytes::Bytes;

use super::params::Params;
use super::told::{self, Told, field, invalid};
use crate::kv::model::{
    Compare, Entry, KeyRange, Operand, OperationAnswer, Relation, Revision, TxnAnswer,
};
use crate::rpc::http::{Request, Response};

/// What an entry has to be. Each part that is there must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Condition {
    /// `?cas`.
    cas: Option<Revision>,
    if_match: Option<Tag>,
    if_none_match: Option<Tag>,
}

/// An entity tag, or `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    /// Any entry.
    Any,
    /// The entry as of this change.
    Revision(Revision),
    /// One that this server has never given.
    Foreign,
}

impl Condition {
    pub(super) fn read(request: &Request<'_>, params: &Params) -> Result<Condition, Response> {
        Ok(Condition {
            cas: params.cas,
            if_match: tag(request, "If-Match", false)?,
            if_none_match: tag(request, "If-None-Match", true)?,
        })
    }

    /// Refuses conditions in the head of a request that can have none.
    pub(super) fn refuse(request: &Request<'_>, why: &str) -> Result<(), Response> {
        let has_one = ["If-Match", "If-None-Match"].iter().any(|it| request.header(it).is_some());
        if has_one { Err(invalid(why)) } else { Ok(()) }
    }

    /// Refuses a condition where none can be met.
    pub(super) fn check_empty(&self, why: &str) -> Result<(), Response> {
        if *self == Condition::default() { Ok(()) } else { Err(invalid(why)) }
    }

    /// The comparisons that hold if it does.
    pub(super) fn compares(&self, key: &Bytes) -> Vec<Compare> {
        let compare = |relation, revision| Compare {
            keys: KeyRange::key(key.clone()),
            relation,
            operand: Operand::ModRevision(revision),
        };
        let cas = self.cas.map(|revision| compare(Relation::Equal, revision));
        let if_match = self.if_match.map(|tag| match tag {
            Tag::Any => compare(Relation::Greater, Revision::NONE),
            Tag::Revision(revision) => compare(Relation::Equal, revision),
            // No entry has it.
            Tag::Foreign => compare(Relation::Less, Revision::NONE),
        });
        let if_none_match = self.if_none_match.and_then(|tag| match tag {
            Tag::Any => Some(compare(Relation::Equal, Revision::NONE)),
            Tag::Revision(revision) => Some(compare(Relation::NotEqual, revision)),
            Tag::Foreign => None,
        });
        cas.into_iter().chain(if_match).chain(if_none_match).collect()
    }

    /// Whether a client that has an entry already has this one.
    pub(super) fn knows(&self, entry: &Entry) -> bool {
        match self.if_none_match {
            Some(Tag::Any) => true,
            Some(Tag::Revision(revision)) => revision == entry.mod_revision,
            Some(Tag::Foreign) | None => false,
        }
    }

    /// Whether a read is wanted at all. `found`: the entry's last change; 0: it is absent.
    pub(super) fn allows_read(&self, found: Revision) -> bool {
        match self.if_match {
            None => true,
            Some(Tag::Any) => found != Revision::NONE,
            Some(Tag::Revision(revision)) => found == revision,
            Some(Tag::Foreign) => false,
        }
    }

    /// The answer to a write whose condition does not hold, and whose other branch has read the
    /// entry.
    pub(super) fn failed(&self, answer: &TxnAnswer) -> Response {
        let found = match &answer.answers[..] {
            [OperationAnswer::Range(range)] => range.entries.first(),
            _ => return told::key_taken(),
        };
        self.unmet(found.map_or(Revision::NONE, |entry| entry.mod_revision))
    }

    pub(super) fn unmet(&self, found: Revision) -> Response {
        let message = match found {
            Revision::NONE => "the key is absent".to_owned(),
            found => format!("the key was last changed at revision {found}"),
        };
        // `?cas` is a part of the request. The headers are conditions on it.
        let status = if self.cas.is_some_and(|cas| cas != found) { 409 } else { 412 };
        let response = Told::new(status, "condition", message).at(found).response();
        match found {
            Revision::NONE => response,
            found => response.header("ETag", etag(found)),
        }
    }
}

/// The tag of an entry that was last changed at this revision.
pub(super) fn etag(revision: Revision) -> String {
    format!("\"{revision}\"")
}

fn tag(request: &Request<'_>, name: &str, is_weak: bool) -> Result<Option<Tag>, Response> {
    let Some(value) = field(request, name)? else { return Ok(None) };
    let text = std::str::from_utf8(value).unwrap_or_default();
    if text == "*" {
        return Ok(Some(Tag::Any));
    }
    // A weak tag is as good as a strong one only where that is enough (RFC 9110 §13.1.2).
    let strong = text.strip_prefix("W/").unwrap_or(text);
    let quoted = strong.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    let Some(quoted) = quoted.filter(|it| !it.contains('"')) else {
        return Err(invalid(format!("{name} has one tag: a revision in quotes, or *")));
    };
    let revision = quoted.parse().ok().filter(|_| is_weak || strong == text).map(Revision);
    // A tag is compared byte by byte: "+7" and "07" are not "7" (RFC 9110 §8.8.3.2).
    let known = revision.filter(|&it| it > Revision::NONE && etag(it) == strong);
    Ok(Some(known.map_or(Tag::Foreign, Tag::Revision)))
}
