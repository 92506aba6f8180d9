//! [`RequestKey`]: `Idempotency-Key`, and what was asked for with it.

use bytes::Bytes;

use super::told::invalid;
use crate::kv::{Fingerprint, REQUEST_KEY_LEN_MAX};
use crate::rpc::http::{Request, Response};

/// The key of a request, which belongs to what the request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestKey {
    pub(super) key: Bytes,
    /// Of the method, the path, the query and the conditions. A client that tries again may wait
    /// for another time, so `?timeout` does not count.
    pub(super) head: Fingerprint,
}

impl RequestKey {
    /// Reads the header. It has the key in quotes (draft-ietf-httpapi-idempotency-key-header,
    /// §2.1); many clients leave them out.
    pub(super) fn read(request: &Request<'_>) -> Result<Option<RequestKey>, Response> {
        let mut values = fields(request, "Idempotency-Key");
        let Some(value) = values.next() else { return Ok(None) };
        let unquoted = value.strip_prefix(b"\"").and_then(|it| it.strip_suffix(b"\""));
        let key = unquoted.unwrap_or(value);
        let is_sound = (1..=REQUEST_KEY_LEN_MAX).contains(&key.len())
            && key.iter().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(byte));
        if !is_sound || values.next().is_some() {
            return Err(invalid(format!(
                "Idempotency-Key is one key of 1 to {REQUEST_KEY_LEN_MAX} printable ASCII \
                 characters, without spaces, quotes and backslashes within"
            )));
        }
        Ok(Some(RequestKey { key: Bytes::copy_from_slice(key), head: of_head(request) }))
    }
}

fn of_head(request: &Request<'_>) -> Fingerprint {
    let mut head = Fingerprint::default();
    head.add(format!("{:?}", request.method()).as_bytes());
    head.add(&request.path());
    for (name, value) in request.query().filter(|(name, _)| &name[..] != b"timeout") {
        head.add(&name);
        head.add(&value);
    }
    for name in ["If-Match", "If-None-Match"] {
        for value in fields(request, name) {
            head.add(name.as_bytes());
            head.add(value);
        }
    }
    head
}

/// The values of all header fields of this name.
fn fields<'r>(request: &'r Request<'_>, name: &str) -> impl Iterator<Item = &'r [u8]> {
    let of_name = move |(found, _): &(&str, &[u8])| found.eq_ignore_ascii_case(name);
    request.headers().filter(of_name).map(|(_, value)| value)
}
