//! Lists of entries, page by page. The first page fixes the revision, and all others are of that
//! one, so that nothing is listed twice or left out.

use std::fmt::Write;
use std::time::Instant;

use bytes::Bytes;
use serde::Serialize;

use super::key::with_age;
use super::params::Params;
use super::told::{not_read, object};
use super::{HttpFront, KEYS, Task};
use crate::kv::api::Read;
use crate::kv::json::EntryJson;
use crate::kv::model::{Entry, KeyRange, Range, RangeAnswer, Revision, Want};
use crate::rpc::http::Response;

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
            api.range(range, params.consistency, deadline, move |result| {
                answer.send(match result {
                    Ok(Read { answer: (revision, mut range), age_max }) => {
                        if is_over {
                            range = RangeAnswer::default();
                        }
                        with_age(page(revision, &range, &prefix, &params), age_max)
                    }
                    Err(error) => not_read(&error),
                });
            });
        })
    }
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
