//! [`StoreView`]: the state of a store, and its bytes in a snapshot.
//!
//! The bytes are a version and sections. A section has a tag, the number of its records, and its
//! records, so that later versions can add sections.
//!
//! | size | field |
//! |-----:|-------|
//! | 4 | format version: 2. (Format 1 was never released.) |
//! | | the sections, in this order, each with 4 bytes tag, 8 bytes number of records, the records |
//!
//! - tag 1: the head, once: 8 bytes each for the digest of all entries applied, the revision, the
//!   compacted revision, and `expired_up_to` of the sessions; 4 bytes feature level; 8 bytes each
//!   for the limits on bytes, keys and history
//! - tag 2: each entry, in the order of the keys: key, value, and 8 bytes each for create
//!   revision, mod revision, version and lease
//! - tag 3: each record of the history, oldest first: 8 bytes revision, key, 1 byte whether the
//!   key was there. If so: 4 bytes kind of value (0: the value follows, 1: its length in 8 bytes),
//!   and revisions, version and lease as above
//! - tag 4: each session, in the order of last use: 8 bytes index of last use, client id, 8 bytes
//!   newest request id, the outcome
//! - tag 5, left out together with tags 6 and 7 if there has been no stamp and the limit on leases
//!   is the default: the time, once: 8 bytes each for the time, and for the limit on leases
//! - tag 6: each lease, in the order of their ids: 8 bytes each for id, time to live and deadline.
//!   (Its keys are those entries that name it.)
//! - tag 7: each key with a lease of its own, in order: key, 8 bytes deadline, 8 bytes index and 4
//!   bytes operation that made the lease
//! - tag 8, left out if there are none: the requests that have keys, each as a session, in the
//!   order of their indexes: index, key, 8 bytes fingerprint, the outcome
//! - tag 0: none: this is the end, and nothing follows
//!
//! Numbers are little-endian, and keys, values and client ids stand behind their length in 8 bytes.
//! These are the structures of `records` as bincode 1.3 writes them, one record at a time, so that
//! neither side holds more than one record besides the state. The history has its records in these
//! bytes, so they are copied. The answer in an outcome is the message `TxnAnswer` of
//! `proto/store_rpc.proto`.
//!
//! Invariant: equal states have equal bytes. Nothing local is among them: no order of a hash map,
//! no limits of one member, no spare room of a value, no chunks of the history, no slots of
//! sessions.
//!
//! These bytes are on disk, and members of different versions exchange them. The golden test below
//! must never change. The container of the bytes detects damage. Reading never panics, whatever the
//! bytes are, and needs no more memory than the state and one record.

mod input;
mod lease_sections;
mod records;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, BufWriter, Read, Write};

use bincode::Options;
use bytes::Bytes;

use serde::Serialize;

use super::digest::Digest;
use super::limits::Limits;
use super::model::{LeaseId, Refusal, Revision, ScanPage, ScanRange, Txn};
use super::query::{LeaseAnswer, ReadAnswer};
use super::sessions::Table;
use super::state::{Budget, History, Leases, Pages, State, Tree};
use super::{CLIENT_ID_LEN_MAX, KEY_LEN_MAX, LEVEL_MAX, REQUEST_KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::node::StateView;
use crate::raft::Index;
use input::Input;
use lease_sections::Attached;
use records::*;

const VERSION: u32 = 2;
const TAG_END: u32 = 0;
const TAG_HEAD: u32 = 1;
const TAG_ENTRIES: u32 = 2;
const TAG_HISTORY: u32 = 3;
const TAG_SESSIONS: u32 = 4;
const TAG_TIME: u32 = 5;
const TAG_LEASES: u32 = 6;
const TAG_OWN_LEASES: u32 = 7;
const TAG_REQUESTS: u32 = 8;
/// No record is larger: a key, a value, and what is known of them.
const RECORD_LEN_MAX: usize = KEY_LEN_MAX + VALUE_LEN_MAX + 128;
const BUFFER_LEN: usize = 64 << 10;

/// The state of a [`Store`](super::Store) at one moment.
///
/// A view shares everything that the store has not changed since, so taking one costs the same
/// however large the store is. The store copies each node before it changes it: a few kilobytes,
/// once for each neighbourhood of keys.
#[derive(Debug)]
pub struct StoreView {
    pub(super) state: State,
    pub(super) sessions: Table,
    pub(super) requests: Table,
    pub(super) digest: Digest,
}

impl StateView for StoreView {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(BUFFER_LEN, out);
        let out = &mut out;
        let State { tree, history, .. } = &self.state;
        put(out, &VERSION)?;
        put(out, &Section { tag: TAG_HEAD, records: 1 })?;
        put(out, &self.head())?;
        put(out, &Section { tag: TAG_ENTRIES, records: tree.len() as u64 })?;
        for (key, stored) in tree.iter() {
            put(out, &entry_record(key, stored))?;
        }
        put(out, &Section { tag: TAG_HISTORY, records: history.len() as u64 })?;
        for records in history.encoded() {
            out.write_all(records)?;
        }
        write_sessions(out, TAG_SESSIONS, &self.sessions)?;
        lease_sections::write(out, &self.state)?;
        if !self.requests.is_empty() {
            write_sessions(out, TAG_REQUESTS, &self.requests)?;
        }
        put(out, &Section { tag: TAG_END, records: 0 })?;
        out.flush()
    }
}

impl StoreView {
    /// The revision of the store that was viewed.
    pub fn revision(&self) -> Revision {
        self.state.revision
    }

    /// The feature level of the store that was viewed.
    pub fn level(&self) -> u32 {
        self.state.level
    }

    /// How many keys it had, and the length of all keys and values.
    pub fn size(&self) -> (u64, u64) {
        let tree = &self.state.tree;
        (tree.len() as u64, tree.bytes())
    }

    /// Makes a read of any size, which takes milliseconds for each hundred thousand keys. It ends
    /// early, with `None`, once `interrupt` says so.
    ///
    /// # Panics
    /// If the transaction is not a [read](Txn::is_read).
    pub fn read(&self, txn: &Txn, interrupt: &dyn Fn() -> bool) -> Option<ReadAnswer> {
        assert!(txn.is_read(), "a view does not change");
        let mut budget = Budget::until(interrupt);
        let result = self.state.read(txn, &mut budget);
        (!budget.has_run_out).then_some(ReadAnswer { revision: self.state.revision, result })
    }

    /// Tells what is known of a lease.
    pub fn lease(&self, id: LeaseId, keys: bool) -> LeaseAnswer {
        let (revision, result) = (self.state.revision, self.state.lease(id, keys));
        LeaseAnswer { revision, result }
    }

    /// Begins a scan, which reads pages of about 64 KiB.
    ///
    /// # Errors
    /// Why the revision cannot be read.
    pub fn scan<'a>(&'a self, scan: &'a ScanRange) -> Result<ViewScan<'a>, Refusal> {
        self.state.pages(scan).map(ViewScan)
    }

    fn head(&self) -> Head {
        let State { history, revision, limits, level, .. } = &self.state;
        Head {
            digest: self.digest.value(),
            revision: revision.0,
            compacted: history.compacted().0,
            expired_up_to: self.sessions.expired_up_to.0,
            level: *level,
            bytes_max: limits.bytes_max,
            keys_max: limits.keys_max,
            history_bytes_max: limits.history_bytes_max,
        }
    }
}

fn write_sessions(out: &mut impl Write, tag: u32, table: &Table) -> io::Result<()> {
    put(out, &Section { tag, records: table.len() as u64 })?;
    let sessions = table.oldest_first();
    sessions.into_iter().try_for_each(|session| put(out, &session_record(session)))
}

/// A scan of a view: see [`StoreView::scan`].
pub struct ViewScan<'a>(Pages<'a>);

impl ViewScan<'_> {
    /// The next page; after the one without [`more`](ScanPage::more), empty ones. It ends early,
    /// with `None`, once `interrupt` says so. Then the scan is of no more use.
    pub fn next_page(&mut self, interrupt: &dyn Fn() -> bool) -> Option<ScanPage> {
        self.0.next(&mut Budget::until(interrupt)).ok()
    }
}

impl fmt::Debug for ViewScan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewScan").finish_non_exhaustive()
    }
}

/// Reads what a view wrote, up to the end of `body`.
pub(super) fn read(body: &mut dyn Read) -> io::Result<StoreView> {
    let input = &mut Input::new(body);
    let version: u32 = input.record()?;
    if version != VERSION {
        return Err(invalid(format!("a store of format {version}; this version reads {VERSION}")));
    }
    if input.section(TAG_HEAD)? != 1 {
        return Err(invalid("more or less than one head"));
    }
    let head: Head = input.record()?;
    if head.level > LEVEL_MAX {
        // What follows may be anything. The level alone tells the node to stop.
        let state = State { level: head.level, ..State::default() };
        let (sessions, requests) = (Table::default(), Table::default());
        let digest = Digest::from_value(head.digest);
        return Ok(StoreView { state, sessions, requests, digest });
    }
    if head.revision == u64::MAX || head.compacted > head.revision {
        return Err(invalid("revisions that no store has"));
    }
    let (tree, attached) = read_entries(input)?;
    let history = read_history(input, &head)?;
    let sessions = input.section(TAG_SESSIONS)?;
    let sessions = read_sessions(input, sessions, Index(head.expired_up_to), CLIENT_ID_LEN_MAX)?;
    let mut section = input.next_section()?;
    let (mut leases, mut leases_max) = (Leases::default(), Limits::default().leases_max);
    if section.tag == TAG_TIME {
        (leases, leases_max) = lease_sections::read(input, section.records, attached, &tree)?;
        section = input.next_section()?;
    } else if !attached.is_empty() {
        return Err(invalid("keys of leases in a store without leases"));
    }
    let mut requests = Table::default();
    if section.tag == TAG_REQUESTS {
        if section.records == 0 {
            return Err(invalid("a section of no requests"));
        }
        requests = read_sessions(input, section.records, Index::ZERO, REQUEST_KEY_LEN_MAX)?;
        section = input.next_section()?;
    }
    match section {
        Section { tag: TAG_END, records: 0 } => input.end()?,
        Section { tag: TAG_END, .. } => return Err(invalid("records behind the end")),
        Section { tag, .. } => return Err(invalid(format!("section {tag} in place of the end"))),
    }
    let limits = Limits {
        bytes_max: head.bytes_max,
        keys_max: head.keys_max,
        history_bytes_max: head.history_bytes_max,
        leases_max,
    };
    let revision = Revision(head.revision);
    let state = State { tree, history, leases, revision, limits, level: head.level };
    Ok(StoreView { state, sessions, requests, digest: Digest::from_value(head.digest) })
}

/// Also returns which of the keys name a lease.
fn read_entries(input: &mut Input<'_>) -> io::Result<(Tree, Attached)> {
    let (mut tree, mut attached) = (Tree::default(), Attached::default());
    for _ in 0..input.section(TAG_ENTRIES)? {
        let (key, stored) = input.entry()?;
        if stored.lease != LeaseId::NONE {
            attached.add(stored.lease, key);
        }
        if !tree.push(key, stored) {
            return Err(invalid("keys that are out of order"));
        }
    }
    Ok((tree, attached))
}

fn read_history(input: &mut Input<'_>, head: &Head) -> io::Result<History> {
    let mut history = History::compacted_at(Revision(head.compacted));
    let mut last = head.compacted;
    for n in 0..input.section(TAG_HISTORY)? {
        let change = input.change()?;
        let revision = change.revision.0;
        let is_in_order = revision > last || n > 0 && revision == last;
        if !is_in_order || revision > head.revision {
            return Err(invalid("a history that is out of order"));
        }
        last = revision;
        history.push(&change);
    }
    Ok(history)
}

/// Reads a table of this many sessions. Ids of clients have at most `client_len_max` bytes.
fn read_sessions(
    input: &mut Input<'_>,
    count: u64,
    expired_up_to: Index,
    client_len_max: usize,
) -> io::Result<Table> {
    let mut table = Table::expired(expired_up_to);
    let mut last = expired_up_to;
    for _ in 0..count {
        let record: SessionRecord<Bytes> = input.record()?;
        let index = Index(record.last_used);
        if index <= last {
            return Err(invalid("sessions that are out of order"));
        }
        if record.client.len() > client_len_max {
            return Err(invalid("a client id, or the key of a request, over its limit"));
        }
        table.push(record.try_into()?);
        last = index;
    }
    Ok(table)
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(RECORD_LEN_MAX as u64)
}

fn put(out: &mut impl Write, record: &impl Serialize) -> io::Result<()> {
    options().serialize_into(out, record).map_err(|error| io_error(*error))
}

fn io_error(error: bincode::ErrorKind) -> io::Error {
    match error {
        bincode::ErrorKind::Io(error) => error,
        other => invalid(other),
    }
}

/// The error of bytes that are not a store of this version.
pub(super) fn invalid(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
