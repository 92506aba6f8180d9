//! The records of a snapshot, and how they are made from the state and back.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};

use super::invalid;
use crate::kv::model::{self, LeaseId, Reason, Refusal, Revision};
use crate::kv::outcome::{Branches, Done, Outcome};
use crate::kv::sessions::Session;
use crate::kv::state::{Key, Stored};
use crate::raft::Index;
use crate::rpc::prost::Message as _;

#[derive(Serialize, Deserialize)]
pub(super) struct Section {
    pub(super) tag: u32,
    pub(super) records: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) digest: u64,
    pub(super) revision: u64,
    pub(super) compacted: u64,
    pub(super) expired_up_to: u64,
    pub(super) level: u32,
    pub(super) bytes_max: u64,
    pub(super) keys_max: u64,
    pub(super) history_bytes_max: u64,
}

#[derive(Serialize)]
pub(super) struct EntryRecord<B> {
    pub(super) key: B,
    pub(super) value: B,
    pub(super) meta: MetaRecord,
}

#[derive(Serialize)]
pub(super) struct MetaRecord {
    pub(super) create_revision: u64,
    pub(super) mod_revision: u64,
    pub(super) version: u64,
    pub(super) lease: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct TimeRecord {
    pub(super) time_ms: u64,
    pub(super) leases_max: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct LeaseRecord {
    pub(super) id: u64,
    pub(super) ttl_ms: u64,
    pub(super) deadline_ms: u64,
}

#[derive(Serialize)]
pub(super) struct OwnLeaseRecord<B> {
    pub(super) key: B,
    pub(super) deadline_ms: u64,
    pub(super) index: u64,
    pub(super) operation: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct SessionRecord<B> {
    pub(super) last_used: u64,
    pub(super) client: B,
    pub(super) newest: i64,
    pub(super) outcome: OutcomeRecord,
}

/// The order of the variants is the format.
#[derive(Serialize, Deserialize)]
pub(super) enum OutcomeRecord {
    Applied { index: u64 },
    TooLarge,
    NoSpace,
    SessionExpired { index: u64 },
    Malformed,
    Done { index: u64, revision: u64, held: u64, branches: u32, answer: Option<Bytes> },
    Refused { index: u64, reason: u32, operation: u32, value: u64 },
    Granted { index: u64, revision: u64, lease: u64, ttl_ms: u64 },
}

/// Bytes that are written as bytes, not as a sequence of numbers.
pub(super) struct Borrowed<'a>(pub(super) &'a [u8]);

impl Serialize for Borrowed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

pub(super) fn entry_record<'a>(key: &'a Key, stored: &'a Stored) -> EntryRecord<Borrowed<'a>> {
    let &Stored { ref value, create_revision, mod_revision, version, lease } = stored;
    let meta = meta_record(create_revision, mod_revision, version, lease);
    EntryRecord { key: Borrowed(key), value: Borrowed(value), meta }
}

pub(super) fn meta_record(
    create_revision: Revision,
    mod_revision: Revision,
    version: u64,
    lease: LeaseId,
) -> MetaRecord {
    let (create_revision, mod_revision) = (create_revision.0, mod_revision.0);
    MetaRecord { create_revision, mod_revision, version, lease: lease.0 }
}

pub(super) fn session_record(session: &Session) -> SessionRecord<Borrowed<'_>> {
    SessionRecord {
        last_used: session.last_used.0,
        client: Borrowed(&session.client),
        newest: session.request_id,
        outcome: (&session.outcome).into(),
    }
}

impl TryFrom<SessionRecord<Bytes>> for Session {
    type Error = io::Error;

    fn try_from(record: SessionRecord<Bytes>) -> io::Result<Session> {
        Ok(Session {
            client: record.client[..].into(),
            last_used: Index(record.last_used),
            request_id: record.newest,
            outcome: record.outcome.try_into()?,
        })
    }
}

impl From<&Outcome> for OutcomeRecord {
    fn from(outcome: &Outcome) -> OutcomeRecord {
        match outcome {
            Outcome::Applied { index } => OutcomeRecord::Applied { index: index.0 },
            Outcome::TooLarge => OutcomeRecord::TooLarge,
            Outcome::NoSpace => OutcomeRecord::NoSpace,
            Outcome::SessionExpired { index } => OutcomeRecord::SessionExpired { index: index.0 },
            Outcome::Malformed => OutcomeRecord::Malformed,
            Outcome::Ran { index, result: Ok(Done { revision, branches, answer }) } => {
                let answer = answer.as_deref();
                OutcomeRecord::Done {
                    index: index.0,
                    revision: revision.0,
                    held: branches.held,
                    branches: branches.count,
                    answer: answer
                        .map(|it| model::proto::TxnAnswer::from(it).encode_to_vec().into()),
                }
            }
            Outcome::Ran { index, result: Err(Refusal { reason, operation, value }) } => {
                OutcomeRecord::Refused {
                    index: index.0,
                    reason: reason.number(),
                    operation: *operation,
                    value: *value,
                }
            }
            &Outcome::Granted { index, revision, lease, ttl_ms } => OutcomeRecord::Granted {
                index: index.0,
                revision: revision.0,
                lease: lease.0,
                ttl_ms,
            },
            Outcome::KeptAlive { .. } => {
                unreachable!("a command that keeps leases alive belongs to no session")
            }
        }
    }
}

impl TryFrom<OutcomeRecord> for Outcome {
    type Error = io::Error;

    fn try_from(record: OutcomeRecord) -> io::Result<Outcome> {
        Ok(match record {
            OutcomeRecord::Applied { index } => Outcome::Applied { index: Index(index) },
            OutcomeRecord::TooLarge => Outcome::TooLarge,
            OutcomeRecord::NoSpace => Outcome::NoSpace,
            OutcomeRecord::SessionExpired { index } => {
                Outcome::SessionExpired { index: Index(index) }
            }
            OutcomeRecord::Malformed => Outcome::Malformed,
            OutcomeRecord::Done { index, revision, held, branches, answer } => {
                let answer = answer.map(decode_answer).transpose()?;
                let branches = Branches { held, count: branches };
                let done = Done { revision: Revision(revision), branches, answer };
                Outcome::Ran { index: Index(index), result: Ok(done) }
            }
            OutcomeRecord::Refused { index, reason, operation, value } => {
                let reason = Reason::from_number(reason)
                    .ok_or_else(|| invalid(format!("a refusal for the unknown reason {reason}")))?;
                let refusal = Refusal { reason, operation, value };
                Outcome::Ran { index: Index(index), result: Err(refusal) }
            }
            OutcomeRecord::Granted { index, revision, lease, ttl_ms } => {
                let (index, revision, lease) = (Index(index), Revision(revision), LeaseId(lease));
                Outcome::Granted { index, revision, lease, ttl_ms }
            }
        })
    }
}

pub(super) fn decode_answer(bytes: Bytes) -> io::Result<Arc<model::TxnAnswer>> {
    let message = model::proto::TxnAnswer::decode(bytes.clone()).map_err(invalid)?;
    // Otherwise the members that loaded this snapshot would write another one.
    if message.encode_to_vec() != bytes {
        return Err(invalid("an answer that no store of this version writes"));
    }
    Ok(Arc::new(message.try_into().map_err(|error: model::WireError| invalid(error))?))
}
