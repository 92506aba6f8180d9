//! The entries of an etcd, read through its JSON API, all at one revision.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use syncraft::ErrorChain;
use syncraft::kv::json::{Base64Octets, line};
use syncraft::kv::model::{KeyRange, RangeEnd};
use ureq::Agent;

use super::Import;
use crate::cli::Failure;

/// How many entries the first page has at most. Later ones are as long as brings them near
/// [`PAGE_BYTES`].
const FIRST_PAGE_LEN: u64 = 16;
const PAGE_LEN_MAX: u64 = 1_000;
const PAGE_BYTES: u64 = 1 << 20;

/// A page may be this long. etcd's values have at most 1.5 MiB unless it was told otherwise.
const ANSWER_LEN_MAX: u64 = 512 << 20;

#[derive(Serialize)]
struct RangeRequest {
    key: Base64Octets,
    range_end: Base64Octets,
    limit: u64,
    /// 0: the current one.
    revision: u64,
}

#[derive(Deserialize)]
struct RangeResponse {
    header: Header,
    #[serde(default)]
    kvs: Vec<Entry>,
    #[serde(default)]
    more: bool,
}

#[derive(Deserialize)]
struct Header {
    revision: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    key: Base64Octets,
    #[serde(default)]
    value: Base64Octets,
    /// Left out if it has none.
    lease: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

/// Imports the entries whose keys begin with `prefix`. Returns how many were left out, because a
/// lease keeps them: here it would not.
pub(super) fn import(
    import: &mut Import,
    url: &str,
    prefix: &[u8],
    timeout: Duration,
) -> Result<u64, Failure> {
    let etcd = Etcd::new(url, timeout)?;
    let (mut next, end) = first_and_end(prefix);
    let (mut limit, mut revision, mut left_out) = (FIRST_PAGE_LEN, 0, 0);
    loop {
        let (key, range_end) = (Base64Octets(next), Base64Octets(end.clone()));
        let page = etcd.range(&RangeRequest { key, range_end, limit, revision })?;
        if revision == 0 {
            let words = || etcd.failed("its revision is no number");
            revision = page.header.revision.parse().map_err(|_| words())?;
        }
        let Some(last) = page.kvs.last().map(|entry| entry.key.0.clone()) else { break };
        let bytes: usize = page.kvs.iter().map(|it| it.key.0.len() + it.value.0.len()).sum();
        let entry_bytes = (bytes as u64 / page.kvs.len() as u64).max(1);
        for Entry { key, value, lease } in page.kvs {
            match lease {
                None => import.put(key.0, value.0)?,
                Some(_) => left_out += 1,
            }
        }
        if !page.more {
            break;
        }
        limit = (PAGE_BYTES / entry_bytes).clamp(1, PAGE_LEN_MAX);
        next = [&last[..], b"\0"].concat().into();
    }
    import.put_batch()?;
    Ok(left_out)
}

/// A range as etcd writes it: no key is empty there, and the end of all keys is a zero byte.
fn first_and_end(prefix: &[u8]) -> (Bytes, Bytes) {
    const ZERO: Bytes = Bytes::from_static(b"\0");
    let keys = KeyRange::prefix(Bytes::copy_from_slice(prefix));
    let first = if prefix.is_empty() { ZERO } else { Bytes::copy_from_slice(prefix) };
    let end = match keys.end() {
        RangeEnd::Before(end) => end.clone(),
        _ => ZERO,
    };
    (first, end)
}

struct Etcd<'a> {
    url: &'a str,
    agent: Agent,
}

impl Etcd<'_> {
    fn new(url: &str, timeout: Duration) -> Result<Etcd<'_>, Failure> {
        let url = url.trim_end_matches('/');
        if !url.starts_with("http://") {
            let words = format!("--etcd is http://HOST:PORT, not {url:?}");
            return Err(Failure::usage(words));
        }
        let config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .build();
        Ok(Etcd { url, agent: config.into() })
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Failure> {
        let url = format!("{}/v3/kv/range", self.url);
        let failed = |error: ureq::Error| self.failed(ErrorChain(&error));
        let mut response = self.agent.post(url).send(&line(request)).map_err(failed)?;
        let body = response.body_mut().with_config().limit(ANSWER_LEN_MAX).read_to_vec();
        let body = body.map_err(failed)?;
        if response.status() != 200 {
            let refusal = serde_json::from_slice(&body).map(|Refusal { message }| message);
            let words = refusal.unwrap_or_else(|_| format!("status {}", response.status()));
            return Err(self.failed(words));
        }
        serde_json::from_slice(&body)
            .map_err(|error| self.failed(format_args!("this is no answer of etcd's: {error}")))
    }

    /// Nothing of what was asked for last is imported.
    fn failed(&self, why: impl std::fmt::Display) -> Failure {
        Failure::not_applied(format!("etcd at {}: {why}", self.url))
    }
}
