//! Lists of entries, page by page. The first page fixes the revision, and all others are of that
//! one, so that nothing is listed twice or left out.
//!
//! An answer of the store has at most [`ANSWER_LEN_MAX`](crate::kv::model::ANSWER_LEN_MAX) bytes.
//! A page whose entries are longer together is read again with half the limit, until it fits. So a
//! page may have fewer entries than the limit although the list goes on. A single entry always
//! fits.

use std::fmt::Write;
use std::time::Instant;

use bytes::Bytes;
use serde::Serialize;

use super::key::with_age;
use super::params::Params;
use super::told::{not_read, object};
use super::{HttpFront, KEYS, Task};
use crate::kv::api::{Api, ApiError, Read};
use crate::kv::json::EntryJson;
use crate::kv::model::{Entry, KeyRange, Range, RangeAnswer, Reason, Revision, Want};
use crate::rpc::http::{Answer, Response};

#[derive(Serialize)]
struct Page {
    revision: u64,
    entries: Vec<EntryJson>,
    /// Where the list goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl HttpFront {
    pub(super) fn list(&self, prefix: Bytes, params: Params) -> Task {
        let (api, deadline) = (self.api.clone(), Instant::now() + params.timeout);
        let keys = KeyRange::prefix(prefix.clone());
        let rest = match &params.after {
            Some(key) if keys.contains(key) => keys.after(key),
            Some(key) if key < keys.begin() => Some(keys),
            Some(_) => None,
            None => Some(keys),
        };
        let want = if params.keys_only { Want::Keys } else { Want::Entries };
        // Behind the last key that there can be, nothing is left: any key with a limit will do.
        let is_over = rest.is_none();
        let keys = rest.unwrap_or_else(|| KeyRange::key(prefix.clone()));
        let range = Range { limit: params.limit, want, at: params.at, ..Range::of(keys) };
        Box::new(move |answer| {
            PageRead { api, range, deadline, is_over, prefix, params, answer }.begin();
        })
    }
}

/// A page that is being read.
struct PageRead {
    api: Api,
    range: Range,
    deadline: Instant,
    /// Whether nothing can follow the key that the page was to begin behind.
    is_over: bool,
    prefix: Bytes,
    params: Params,
    answer: Answer,
}

impl PageRead {
    fn begin(self) {
        assert!(self.range.limit > 0, "0 would be no limit");
        let (api, range) = (self.api.clone(), self.range.clone());
        let (consistency, deadline) = (self.params.consistency, self.deadline);
        api.range(range, consistency, deadline, move |result| self.end(result));
    }

    fn end(mut self, result: Result<Read<(Revision, RangeAnswer)>, ApiError>) {
        let PageRead { prefix, params, .. } = &self;
        let response = match result {
            Ok(Read { answer: (revision, _), age_max }) if self.is_over => {
                with_age(page(revision, &RangeAnswer::default(), prefix, params), age_max)
            }
            Ok(Read { answer: (revision, range), age_max }) => {
                with_age(page(revision, &range, prefix, params), age_max)
            }
            Err(error) if is_too_long(&error) && self.range.limit > 1 => {
                self.range.limit /= 2;
                return self.begin();
            }
            Err(error) => not_read(&error),
        };
        self.answer.send(response);
    }
}

fn is_too_long(error: &ApiError) -> bool {
    matches!(error, ApiError::Refused { refusal, .. } if refusal.reason == Reason::AnswerTooLong)
}

fn page(revision: Revision, range: &RangeAnswer, prefix: &Bytes, params: &Params) -> Response {
    // A read at an earlier revision answers with the current one.
    let at = if params.at == Revision::NONE { revision } else { params.at };
    let entry = if params.keys_only { EntryJson::without_value } else { EntryJson::whole };
    let last = range.entries.last().filter(|_| range.more);
    let next = last.map(|last| next(at, last, prefix, params));
    let response = object(
        200,
        &Page {
            revision: at.0,
            entries: range.entries.iter().map(entry).collect(),
            next: next.clone(),
        },
    );
    match next {
        Some(next) => response.header("Link", format!("<{next}>; rel=\"next\"")),
        None => response,
    }
}

/// The target of the next page.
fn next(at: Revision, last: &Entry, prefix: &Bytes, params: &Params) -> String {
    let keys = if params.keys_only { "&keys" } else { "" };
    let (prefix, after) = (escaped(prefix), escaped(&last.key));
    format!("{KEYS}{prefix}?prefix{keys}&limit={}&at={at}&after={after}", params.limit)
}

/// Bytes as a part of a target.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(byte.into());
        } else {
            // Writing to a string does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}
