//! [`Scan`]: a range of any size, page by page.

use std::collections::VecDeque;

use super::Clerk;
use super::error::{ClerkError, Operation};
use crate::kv::model::{
    ANSWER_LEN_MAX, Entry, KeyRange, Range, RangeAnswer, Reason, Revision, Want,
};

const SCAN: Operation = Operation::read("scan");

/// How many entries the first page may have. A member answers as many at once, without a thread of
/// their own.
const FIRST_PAGE_LEN: u64 = 998;

/// How many entries a page may have at most.
const PAGE_LEN_MAX: u64 = 10_000;

/// How long a page should be, in bytes: well under the limit of an answer, because the next
/// entries may be longer than those before.
const PAGE_BYTES: u64 = ANSWER_LEN_MAX / 4;

/// The entries of a range at one revision: see [`Clerk::scan`].
#[derive(Debug)]
#[must_use = "a scan reads nothing until it is iterated over"]
pub struct Scan<'a> {
    clerk: &'a Clerk,
    /// What has not been read. `None`: nothing is left, or an error has ended the scan.
    rest: Option<KeyRange>,
    /// The revision of all pages, known after the first.
    at: Revision,
    want: Want,
    page_len: u64,
    page: VecDeque<Entry>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(clerk: &'a Clerk, keys: KeyRange) -> Scan<'a> {
        let (rest, at, page) = (Some(keys), Revision::NONE, VecDeque::new());
        Scan { clerk, rest, at, want: Want::Entries, page_len: FIRST_PAGE_LEN, page }
    }

    /// Reads the entries without their values.
    pub fn keys_only(mut self) -> Scan<'a> {
        self.want = Want::Keys;
        self
    }

    /// Asks for this many entries at first, if the caller does not want many; at least one, by
    /// default about a thousand.
    pub fn first_page(mut self, entries: u64) -> Scan<'a> {
        self.page_len = entries.clamp(1, PAGE_LEN_MAX);
        self
    }

    /// Reads as of this revision instead of the current one.
    pub fn at(mut self, revision: Revision) -> Scan<'a> {
        self.at = revision;
        self
    }

    /// The revision of the entries. Before the first one is read, [`Revision::NONE`], unless
    /// [`at`](Scan::at) was called.
    pub fn revision(&self) -> Revision {
        self.at
    }

    fn read_page(&mut self, keys: KeyRange) -> Result<(), ClerkError> {
        let (revision, RangeAnswer { entries, more, .. }) = self.ask(&keys)?;
        if self.at == Revision::NONE {
            self.at = revision;
        }
        let last = entries.last().filter(|_| more);
        self.rest = last.and_then(|last| keys.after(&last.key));
        let len: u64 = entries.iter().map(Entry::len_bytes).sum();
        let mean = len.div_ceil(entries.len().max(1) as u64).max(1);
        self.page_len = (PAGE_BYTES / mean).clamp(1, PAGE_LEN_MAX);
        self.page = entries.into();
        Ok(())
    }

    /// Asks for a page, and for a shorter one as long as the answer would be too long. A single
    /// entry never is.
    fn ask(&mut self, keys: &KeyRange) -> Result<(Revision, RangeAnswer), ClerkError> {
        loop {
            let Scan { page_len: limit, at, want, .. } = *self;
            let range = Range { limit, at, want, ..Range::of(keys.clone()) };
            match self.clerk.read_range(SCAN, &range) {
                Err(error)
                    if self.page_len > 1
                        && error.refusal().map(|it| it.reason) == Some(Reason::AnswerTooLong) =>
                {
                    self.page_len /= 2;
                }
                result => return result,
            }
        }
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Entry, ClerkError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.page.is_empty() {
            let keys = self.rest.take()?;
            if let Err(error) = self.read_page(keys) {
                return Some(Err(error));
            }
        }
        self.page.pop_front().map(Ok)
    }
}
