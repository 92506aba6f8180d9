//! The query of a request, and its key.

use std::time::Duration;

use bytes::Bytes;

use super::request_key::RequestKey;
use super::told::invalid;
use crate::duration;
use crate::kv::api::Consistency;
use crate::kv::model::{LeaseId, NewLease, Revision, TTL_MAX_MS};
use crate::rpc::http::{Request, Response};

/// How long a request may take if it does not say.
const TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// How many entries a page has if the request does not say, and at most.
const LIMIT: u64 = 1_000;
const LIMIT_MAX: u64 = 10_000;

/// What a query may say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Params {
    pub(super) consistency: Consistency,
    /// The revision to read at; [`Revision::NONE`]: the current one.
    pub(super) at: Revision,
    /// The revision of the entry's last change; 0: it is absent.
    pub(super) cas: Option<Revision>,
    pub(super) prefix: bool,
    pub(super) limit: u64,
    pub(super) keys_only: bool,
    /// The page goes on behind this key.
    pub(super) after: Option<Bytes>,
    pub(super) json: bool,
    /// The first revision whose changes are wanted.
    pub(super) from: Revision,
    /// Whether changes come with the entry before.
    pub(super) prev: bool,
    /// Puts or deletes alone.
    pub(super) only: Option<Only>,
    /// Of a key that is put.
    pub(super) lease: Option<LeaseId>,
    pub(super) ttl: Option<NewLease>,
    /// The id of a new lease.
    pub(super) id: LeaseId,
    pub(super) timeout: Duration,
    /// `Idempotency-Key`: requests with the same one take effect once.
    pub(super) request_key: Option<RequestKey>,
}

/// Which changes a watch is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Only {
    Puts,
    Deletes,
}

impl Params {
    /// Reads a query that may have these parameters.
    pub(super) fn read(request: &Request<'_>, known: &[&str]) -> Result<Params, Response> {
        let mut params = Params {
            consistency: Consistency::Linearizable,
            at: Revision::NONE,
            cas: None,
            prefix: false,
            limit: LIMIT,
            keys_only: false,
            after: None,
            json: false,
            from: Revision::NONE,
            prev: false,
            only: None,
            lease: None,
            ttl: None,
            id: LeaseId::NONE,
            timeout: TIMEOUT,
            request_key: RequestKey::read(request)?,
        };
        let mut seen = Vec::new();
        for (name, value) in request.query() {
            let name = String::from_utf8_lossy(&name);
            let Some(known_name) = known.iter().find(|&&known| known == name) else {
                let known = known.join(", ");
                return Err(invalid(format!("{name:?} is no parameter here: there are {known}")));
            };
            if seen.contains(known_name) {
                return Err(invalid(format!("?{name} comes twice")));
            }
            seen.push(known_name);
            params.set(&name, &value).map_err(|why| invalid(format!("?{name}: {why}")))?;
        }
        Ok(params)
    }

    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), String> {
        match name {
            "stale" => {
                let age_max = (!value.is_empty()).then(|| time(value)).transpose()?;
                self.consistency = Consistency::Stale { age_max };
            }
            "at" => {
                self.at = Revision(number(value)?);
                if self.at == Revision::NONE {
                    return Err("the first revision is 1".to_owned());
                }
            }
            "cas" => self.cas = Some(Revision(number(value)?)),
            "limit" => {
                self.limit = number(value)?;
                if !(1..=LIMIT_MAX).contains(&self.limit) {
                    return Err(format!("a page has 1 to {LIMIT_MAX} entries"));
                }
            }
            "from" => self.from = Revision(number(value)?),
            "only" => {
                self.only = Some(match value {
                    b"puts" => Only::Puts,
                    b"deletes" => Only::Deletes,
                    _ => return Err("it is puts or deletes".to_owned()),
                });
            }
            "lease" => self.lease = Some(lease_id(value)?),
            "ttl" => self.ttl = Some(ttl(value)?),
            "id" => self.id = lease_id(value)?,
            "after" => self.after = Some(Bytes::copy_from_slice(value)),
            "timeout" => {
                self.timeout = time(value)?;
                if self.timeout > TIMEOUT_MAX {
                    return Err(format!("at most {}s", TIMEOUT_MAX.as_secs()));
                }
            }
            _ if !value.is_empty() => return Err("it has no value".to_owned()),
            "prefix" => self.prefix = true,
            "keys" => self.keys_only = true,
            "json" => self.json = true,
            "prev" => self.prev = true,
            // Whoever reads the query has looked for it.
            "watch" => {}
            other => panic!("{other} is one of the known parameters"),
        }
        Ok(())
    }
}

/// A number in digits. Rust's own parser takes a plus sign, too.
pub(super) fn number(value: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(value).unwrap_or_default();
    let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| "a number is wanted, from 0 to 2^64 - 1, in digits".to_owned())
}

fn time(value: &[u8]) -> Result<Duration, String> {
    duration::parse(std::str::from_utf8(value).unwrap_or_default())
}

/// How long a lease lives.
fn ttl(value: &[u8]) -> Result<NewLease, String> {
    const BOUNDS: &str = "a time to live is from 1ms to 9000000000s, which is 285 years";
    let ttl = time(value).map_err(|why| format!("{why}; {BOUNDS}"))?;
    let is_possible = (1..=u128::from(TTL_MAX_MS)).contains(&ttl.as_millis());
    if is_possible { Ok(NewLease::ttl(ttl)) } else { Err(BOUNDS.to_owned()) }
}

/// The id of a lease that there may be.
pub(super) fn lease_id(value: &[u8]) -> Result<LeaseId, String> {
    let id = number(value).ok().map(LeaseId);
    id.filter(|id| (LeaseId(1)..=LeaseId::MAX).contains(id))
        .ok_or_else(|| "the id of a lease is a number from 1 to 2^63 - 1".to_owned())
}
