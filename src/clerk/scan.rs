//! [`Scan`]: a range of any size.
//!
//! ```text
//! first page, a call ──> a stream at its revision ── broken ──> another one, behind the last key
//!   (most ranges end here)     └─ refused: a page, a call ─┘
//! ```
//!
//! The first page is read as any range is, because most ranges are short. What is left comes in one
//! stream, from one view of one member's state, at the revision of the first page. If the stream
//! breaks, because the member has gone, or the caller was so slow that the member gave it up, the
//! scan goes on at that revision: behind the last key, with any member. A member that makes too
//! many scans already, or knows none, is asked for pages.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Clerk;
use super::call::Verdict;
use super::error::{ClerkError, Operation, Reason as ErrorReason};
use super::pool::Member;
use super::replies;
use super::session::refused;
use crate::kv::model::proto::{Leader, ScanReply, ScanRequest};
use crate::kv::model::{
    ANSWER_LEN_MAX, Entry, KeyRange, Range, RangeAnswer, Reason, Revision, ScanPage, ScanRange,
    Want,
};
use crate::rpc::{CallError, Deadline, Incoming, Next, StatusCode};

const SCAN: Operation = Operation::read("scan");

/// How many entries the first page may have. A member answers as many at once, without a thread of
/// their own.
const FIRST_PAGE_LEN: u64 = 998;

/// How many entries a page may have at most.
const PAGE_LEN_MAX: u64 = 10_000;

/// How long a page should be, in bytes: well under the limit of an answer, because the next
/// entries may be longer than those before.
const PAGE_BYTES: u64 = ANSWER_LEN_MAX / 4;

/// How long one stream may take. A member keeps no view for longer. Then comes another stream.
const STREAM_TIME_MAX: Duration = Duration::from_secs(5 * 60);

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
    /// Whether the first page has come.
    has_begun: bool,
    /// What brings the next pages.
    stream: Option<Incoming<ScanReply>>,
    /// Whether a member has said that it knows no streams.
    is_in_pages: bool,
}

/// What became of the request for a stream.
enum Opened {
    /// It has begun with this page.
    Stream(Incoming<ScanReply>, ScanPage),
    /// The member makes too many scans.
    Busy,
    /// The member is of a version without them.
    Unknown,
}

impl<'a> Scan<'a> {
    pub(super) fn new(clerk: &'a Clerk, keys: KeyRange) -> Scan<'a> {
        Scan {
            clerk,
            rest: Some(keys),
            at: Revision::NONE,
            want: Want::Entries,
            page_len: FIRST_PAGE_LEN,
            page: VecDeque::new(),
            has_begun: false,
            stream: None,
            is_in_pages: false,
        }
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

    fn read_page(&mut self, keys: &KeyRange) -> Result<(), ClerkError> {
        if let Some(page) = self.next_of_stream() {
            self.take_streamed(keys, page);
            return Ok(());
        }
        if self.has_begun && !self.is_in_pages {
            match self.open(keys)? {
                Opened::Stream(stream, page) => {
                    self.stream = Some(stream);
                    self.take_streamed(keys, page);
                    return Ok(());
                }
                Opened::Busy => {}
                Opened::Unknown => self.is_in_pages = true,
            }
        }
        self.call_for_page(keys)
    }

    /// The next page of the stream, if there is a stream that brings one. Otherwise the stream is
    /// given up: what is wrong with it, the next attempt will tell.
    fn next_of_stream(&mut self) -> Option<ScanPage> {
        let mut stream = self.stream.take()?;
        let Next::Item(reply) = stream.next_timeout(self.clerk.timeout) else { return None };
        let Verdict::Done(Ok((_, page))) = replies::scan(reply) else { return None };
        self.stream = Some(stream);
        Some(page)
    }

    fn take_streamed(&mut self, keys: &KeyRange, page: ScanPage) {
        self.rest = page.rest(keys);
        self.page = page.entries.into();
    }

    /// Asks a member for a stream, and waits for its first page.
    fn open(&self, keys: &KeyRange) -> Result<Opened, ClerkError> {
        let (keys_only, at) = (self.want == Want::Keys, self.at);
        let args = ScanRequest::from(&ScanRange { keys: keys.clone(), keys_only, at });
        let mut call = self.clerk.call(SCAN, keys.begin().len());
        if self.clerk.pool.reads_from_followers() {
            call.begin_with(self.clerk.pool.pick(keys.begin()));
        }
        let opened = self.clerk.read(&mut call, |member, until| open_at(member, &args, until))?;
        opened.map_err(|refusal| refused(&mut call, ErrorReason::Refused(refusal)))
    }

    /// Reads a page without a stream.
    fn call_for_page(&mut self, keys: &KeyRange) -> Result<(), ClerkError> {
        let (revision, RangeAnswer { entries, more, .. }) = self.call_for_entries(keys)?;
        if self.at == Revision::NONE {
            self.at = revision;
        }
        self.has_begun = true;
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
    fn call_for_entries(&mut self, keys: &KeyRange) -> Result<(Revision, RangeAnswer), ClerkError> {
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
            if let Err(error) = self.read_page(&keys) {
                return Some(Err(error));
            }
        }
        self.page.pop_front().map(Ok)
    }
}

/// What a member said to the request for a stream, and who leads.
type Answer = (Verdict<Result<Opened, crate::kv::model::Refusal>>, Option<Leader>);

fn open_at(member: &Member, args: &ScanRequest, until: Instant) -> Result<Answer, CallError> {
    let now = Instant::now();
    let mut stream = member.scans().scan(args, Some(now + STREAM_TIME_MAX));
    let waited = until.saturating_duration_since(now);
    let opened = |it| Ok((Verdict::Done(Ok(it)), None));
    match stream.next_timeout(waited) {
        Next::Item(mut reply) => {
            let leader = reply.leader.take();
            let first = replies::scan(reply);
            let opened = first.map(|it| it.map(|(_, page)| Opened::Stream(stream, page)));
            Ok((opened, leader))
        }
        Next::End => Ok((replies::unknown(b"a scan without a page"), None)),
        Next::NotYet => {
            let (addr, which) = (member.addr().to_owned(), Deadline::default());
            Err(CallError::TimedOut { addr, waited, sent: true, which })
        }
        Next::Failed(error) => match code(&error) {
            Some(StatusCode::Busy) => opened(Opened::Busy),
            Some(StatusCode::UnknownMethod) => opened(Opened::Unknown),
            _ => Err(error),
        },
    }
}

/// The status with which the member refused or ended a stream.
fn code(error: &CallError) -> Option<StatusCode> {
    match error {
        CallError::Refused { status, .. } | CallError::Ended { status, .. } => Some(status.code),
        _ => None,
    }
}
