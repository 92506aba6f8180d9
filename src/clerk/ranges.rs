//! Reads of entries and ranges.

use std::time::Instant;

use bytes::Bytes;

use super::call::{Call, Verdict};
use super::error::{ClerkError, Operation, Reason};
use super::pool::Member;
use super::session::refused;
use super::{Clerk, Scan, replies};
use crate::kv::CommandError;
use crate::kv::model::proto::{Leader, RangeRequest};
use crate::kv::model::{Action, Entry, KeyRange, Range, RangeAnswer, Revision, Txn};
use crate::rpc::CallError;

impl Clerk {
    /// The entry of `key`: its value, and what the store knows of it. `None` if the key is absent.
    /// Linearizable, as [`get`](Clerk::get).
    ///
    /// ```
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// clerk.put("motd", "hello")?;
    /// clerk.put("motd", "good morning")?;
    /// let entry = clerk.get_entry("motd")?.expect("it was put");
    /// assert_eq!((&entry.value[..], entry.version), (&b"good morning"[..], 2));
    /// assert!(entry.create_revision < entry.mod_revision);
    /// assert_eq!(clerk.get_entry("absent")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// No member answered in time, or the key is too long.
    pub fn get_entry(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>, ClerkError> {
        self.get_at(key, Revision::NONE)
    }

    /// The entry of `key` as it was at an earlier revision. The store remembers its latest changes
    /// only: see [`compact`](Clerk::compact).
    ///
    /// ```
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// clerk.put("motd", "hello")?;
    /// let before = clerk.get_entry("motd")?.expect("it was put");
    /// clerk.put("motd", "good morning")?;
    /// assert_eq!(clerk.get_at("motd", before.mod_revision)?, Some(before));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// No member answered in time, the key is too long, or the revision is forgotten or has not
    /// come yet ([`ClerkError::refusal`]).
    pub fn get_at(
        &self,
        key: impl AsRef<[u8]>,
        revision: Revision,
    ) -> Result<Option<Entry>, ClerkError> {
        let keys = KeyRange::key(Bytes::copy_from_slice(key.as_ref()));
        let range = Range { at: revision, ..Range::of(keys) };
        Ok(self.read_range(Operation::GET, &range)?.1.entries.pop())
    }

    /// Reads a range of keys in one answer, which has at most 8 MiB. The revision is that of the
    /// store when it was read. For ranges of any size there is [`scan`](Clerk::scan).
    ///
    /// ```
    /// use syncraft::kv::model::{KeyRange, Range, SortBy};
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// for (key, value) in [("user/1", "ann"), ("user/2", "bob"), ("user/3", "cyd")] {
    ///     clerk.put(key, value)?;
    /// }
    /// let newest = Range {
    ///     limit: 2,
    ///     sort_by: SortBy::ModRevision,
    ///     descending: true,
    ///     ..Range::of(KeyRange::prefix("user/"))
    /// };
    /// let (_revision, found) = clerk.range(&newest)?;
    /// let names: Vec<_> = found.entries.iter().map(|entry| &entry.value[..]).collect();
    /// assert_eq!(names, [b"cyd", b"bob"]);
    /// assert!(found.more);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// No member answered in time, a key is too long, the answer would be, or the revision is
    /// forgotten or has not come yet ([`ClerkError::refusal`]).
    pub fn range(&self, range: &Range) -> Result<(Revision, RangeAnswer), ClerkError> {
        self.read_range(Operation::RANGE, range)
    }

    /// All entries of a range of any size, in the order of their keys, as of one revision: the
    /// store's when the first of them was asked for. After a first page they come in a stream,
    /// while the iterator goes on. If the stream's member is gone, or has given up a caller that
    /// took nothing for ten seconds, the scan goes on at the same revision with another stream. The
    /// wait for a page is at most twice the [timeout](super::ClerkBuilder::timeout) of a call, once
    /// for a stream that has stopped and once for its successor, and once more if pages take the
    /// place of the stream. After an error there are no more.
    ///
    /// Dropping the iterator ends the stream. Until then it takes up one of the eight scans that a
    /// member makes at a time. A Clerk that finds no place there reads pages instead.
    ///
    /// ```
    /// use syncraft::kv::model::KeyRange;
    /// # let cluster = syncraft::testing::Cluster::start(1)?;
    /// # let clerk = cluster.clerk();
    /// for number in 0..100 {
    ///     clerk.put(format!("row/{number:03}"), "x")?;
    /// }
    /// let mut rows = 0;
    /// for entry in clerk.scan(KeyRange::prefix("row/")) {
    ///     clerk.delete(entry?.key)?; // not seen by the scan, which reads an earlier revision
    ///     rows += 1;
    /// }
    /// assert_eq!(rows, 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// An item is an error as that of [`range`](Clerk::range). In particular, the store may forget
    /// the revision if others write much meanwhile. A stream that has begun needs no history, so
    /// this matters only when another one takes its place, and for pages.
    pub fn scan(&self, keys: KeyRange) -> Scan<'_> {
        Scan::new(self, keys)
    }

    pub(super) fn read_range(
        &self,
        operation: Operation,
        range: &Range,
    ) -> Result<(Revision, RangeAnswer), ClerkError> {
        let mut call = self.call(operation, range.keys.begin().len());
        let read = Txn { then: vec![Action::Range(range.clone()).into()], ..Txn::default() };
        if let Err(error) = read.check() {
            return Err(call.reject(Reason::Limit(CommandError::Txn(error))));
        }
        if self.pool.reads_from_followers() {
            call.begin_with(self.pool.pick(range.keys.begin()));
        }
        let args = RangeRequest { range: Some(range.into()), staleness: None };
        let found = self.read(&mut call, |member, deadline| {
            let mut reply = member.store().range(&args, deadline)?;
            let leader = reply.leader.take();
            Ok((replies::range(reply), leader))
        })?;
        found.map_err(|refusal| refused(&mut call, Reason::Refused(refusal)))
    }

    /// Makes a read, and learns from its answer who leads.
    pub(super) fn read<R>(
        &self,
        call: &mut Call<'_>,
        send: impl Fn(&Member, Instant) -> Result<(Verdict<R>, Option<Leader>), CallError>,
    ) -> Result<R, ClerkError> {
        let (answer, leader) = call.run(|member, deadline| {
            let (verdict, leader) = send(member, deadline)?;
            Ok(verdict.map(|answer| (answer, leader)))
        })?;
        if let Some(leader) = leader.and_then(|it| self.pool.resolve(&replies::hint(it))) {
            self.pool.set_leader(leader);
        }
        Ok(answer)
    }
}
