//! Snapshots: the bytes of a whole store.
//!
//! | size | field |
//! |-----:|-------|
//! | 4 | format version: 1 |
//! | 8 | digest of all that was applied |
//! | 8 | `expired_up_to` of the sessions |
//! | 8 | number of keys |
//! | 8 | number of sessions |
//! | | each key with its value, in the order of the keys: 8 bytes length, key, 8 bytes length, value |
//! | | each session, in the order of last use: 8 bytes index of last use, 8 bytes length, client id, 8 bytes newest request id, the outcome: 4 bytes kind, and 8 bytes index if it has one |
//!
//! Numbers are little-endian: this is what bincode 1.3 makes of the structures below, one record at a time, so that
//! neither side holds more than one record beside the state itself. Nothing follows the last session.
//!
//! Invariant: equal states have equal bytes. So order is all there is, and nothing local is among them: neither a
//! hash map's order nor the limits, nor how much room a value has to grow.
//!
//! These bytes are on disk and go between members of different versions: the golden test below must never change. Whether
//! they are damaged is for their container to know; bytes of any origin are read without a panic, and
//! without more memory than one record beyond what they hold.

use std::io::{self, BufReader, BufWriter, Read, Write};

use bincode::Options;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};

use super::digest::Digest;
use super::sessions::{Session, Table};
use super::store::Values;
use super::{CLIENT_ID_LEN_MAX, KEY_LEN_MAX, Outcome, VALUE_LEN_MAX};
use crate::node::StateView;
use crate::raft::Index;

const VERSION: u32 = 1;
/// The largest record: two lengths, the longest key, the longest value.
const RECORD_LEN_MAX: usize = 16 + KEY_LEN_MAX + VALUE_LEN_MAX;
const BUFFER_LEN: usize = 64 << 10;

/// The state of a [`Store`](super::Store) at one moment.
///
/// Shares all that the store has not changed since, so taking one costs the same however large the store is. What the
/// store does change meanwhile it copies first: a few kilobytes, once for each neighbourhood of keys.
#[derive(Debug)]
pub struct StoreView {
    pub(super) values: Values,
    pub(super) sessions: Table,
    pub(super) digest: Digest,
}

#[derive(Serialize, Deserialize)]
struct Head {
    digest: u64,
    expired_up_to: u64,
    keys: u64,
    sessions: u64,
}

#[derive(Serialize, Deserialize)]
struct PairRecord<B> {
    key: B,
    value: B,
}

#[derive(Serialize, Deserialize)]
struct SessionRecord<B> {
    last_used: u64,
    client: B,
    newest: i64,
    outcome: OutcomeRecord,
}

/// The order of the variants is the format.
#[derive(Serialize, Deserialize)]
enum OutcomeRecord {
    Applied { index: u64 },
    TooLarge,
    SessionExpired { index: u64 },
    Malformed,
}

/// Bytes that are written as such, not as a sequence of numbers.
struct Borrowed<'a>(&'a [u8]);

impl Serialize for Borrowed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl StateView for StoreView {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(BUFFER_LEN, out);
        put(&mut out, &VERSION)?;
        put(&mut out, &self.head())?;
        for (key, value) in self.values.iter() {
            put(&mut out, &PairRecord { key: Borrowed(key), value: Borrowed(value) })?;
        }
        for (last_used, session) in self.sessions.by_last_used.iter() {
            put(&mut out, &session_record(*last_used, session))?;
        }
        out.flush()
    }
}

impl StoreView {
    fn head(&self) -> Head {
        Head {
            digest: self.digest.value(),
            expired_up_to: self.sessions.expired_up_to.0,
            keys: self.values.len() as u64,
            sessions: self.sessions.by_last_used.len() as u64,
        }
    }
}

/// Reads what a view wrote, to the end of `body`.
pub(super) fn read(body: &mut dyn Read) -> io::Result<StoreView> {
    let mut body = BufReader::with_capacity(BUFFER_LEN, body);
    let version: u32 = take(&mut body)?;
    if version != VERSION {
        return Err(invalid(format!("a store of format {version}; this version reads {VERSION}")));
    }
    let head: Head = take(&mut body)?;
    let values = read_values(&mut body, head.keys)?;
    let sessions = read_sessions(&mut body, &head)?;
    if body.read(&mut [0])? > 0 {
        return Err(invalid("bytes after the last session"));
    }
    Ok(StoreView { values, sessions, digest: Digest::from_value(head.digest) })
}

fn read_values(body: &mut impl Read, count: u64) -> io::Result<Values> {
    let mut values = Values::new();
    for _ in 0..count {
        let PairRecord::<Bytes> { key, value } = take(body)?;
        if key.len() > KEY_LEN_MAX || value.len() > VALUE_LEN_MAX {
            return Err(invalid("a key or a value over its limit"));
        }
        if values.get_max().is_some_and(|(last, _)| last[..] >= key[..]) {
            return Err(invalid("keys that are out of order"));
        }
        values.insert(key[..].into(), value);
    }
    Ok(values)
}

fn read_sessions(body: &mut impl Read, head: &Head) -> io::Result<Table> {
    let mut table = Table { expired_up_to: Index(head.expired_up_to), ..Table::default() };
    let mut last = table.expired_up_to;
    for _ in 0..head.sessions {
        let record: SessionRecord<Bytes> = take(body)?;
        let index = Index(record.last_used);
        if index <= last {
            return Err(invalid("sessions that are out of order"));
        }
        if record.client.len() > CLIENT_ID_LEN_MAX {
            return Err(invalid("a client id over its limit"));
        }
        table.by_last_used.insert(index, record.into());
        last = index;
    }
    Ok(table)
}

fn session_record(last_used: Index, session: &Session) -> SessionRecord<Borrowed<'_>> {
    SessionRecord {
        last_used: last_used.0,
        client: Borrowed(&session.client),
        newest: session.newest,
        outcome: session.outcome.into(),
    }
}

impl From<SessionRecord<Bytes>> for Session {
    fn from(record: SessionRecord<Bytes>) -> Session {
        Session {
            client: record.client[..].into(),
            newest: record.newest,
            outcome: record.outcome.into(),
        }
    }
}

impl From<Outcome> for OutcomeRecord {
    fn from(outcome: Outcome) -> OutcomeRecord {
        match outcome {
            Outcome::Applied { index } => OutcomeRecord::Applied { index: index.0 },
            Outcome::TooLarge => OutcomeRecord::TooLarge,
            Outcome::SessionExpired { index } => OutcomeRecord::SessionExpired { index: index.0 },
            Outcome::Malformed => OutcomeRecord::Malformed,
        }
    }
}

impl From<OutcomeRecord> for Outcome {
    fn from(record: OutcomeRecord) -> Outcome {
        match record {
            OutcomeRecord::Applied { index } => Outcome::Applied { index: Index(index) },
            OutcomeRecord::TooLarge => Outcome::TooLarge,
            OutcomeRecord::SessionExpired { index } => {
                Outcome::SessionExpired { index: Index(index) }
            }
            OutcomeRecord::Malformed => Outcome::Malformed,
        }
    }
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(RECORD_LEN_MAX as u64)
}

fn put(out: &mut impl Write, record: &impl Serialize) -> io::Result<()> {
    options().serialize_into(out, record).map_err(from_bincode)
}

fn take<T: DeserializeOwned>(body: &mut impl Read) -> io::Result<T> {
    options().deserialize_from(body).map_err(from_bincode)
}

fn from_bincode(error: bincode::Error) -> io::Error {
    match *error {
        bincode::ErrorKind::Io(error) => error,
        other => invalid(other),
    }
}

/// Not a store, or none of this version.
pub(super) fn invalid(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
