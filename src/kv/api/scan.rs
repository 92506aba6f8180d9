//! [`Api::scan`]: a range of any size, page by page, from one view of the state.
//!
//! A scan holds one of the threads of large reads, and its view, until its last page is taken. So
//! scans have only half of these threads: readers that are slow, or of bad will, leave the other
//! half to other reads. One more scan is told "busy". A scan ends early at its deadline, after five
//! minutes, when nobody wants more of it, and when no page is taken for ten seconds.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::bulk::Place;
use super::readers::Ending;
use super::{Api, ApiError, Consistency};
use crate::kv::model::{Revision, ScanPage, ScanRange};
use crate::kv::watch::NoRoom;
use crate::kv::{CommandError, Query, StoreView, ViewScan};
use crate::node::RequestError;

/// How many scans are made at the same time.
pub(super) const SCANS_MAX: usize = 8;

/// How long a scan waits for the state that it is to read.
const VIEW_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes the pages of a scan.
pub trait PageSink: Send + 'static {
    /// Takes a page of the state at `revision`, if there is room for it before `until`. `Break`:
    /// nobody wants more.
    ///
    /// # Errors
    /// [`NoRoom`]: the same page is offered again.
    fn take(
        &mut self,
        revision: Revision,
        page: &ScanPage,
        until: Instant,
    ) -> Result<ControlFlow<()>, NoRoom>;

    /// The last page was taken, nobody wanted more, or there is an error. Called once, on any
    /// thread, and must not block.
    fn end(self, result: Result<(), ApiError>);
}

impl Api {
    /// Reads a range of any size, in pages of about 64 KiB, all from one state. Without a
    /// revision of its own, the scan sees every write that was acknowledged before this call.
    ///
    /// The pages go to `sink` on a thread of this member's, one after the other; the first one
    /// comes even if the range is empty. When it ends, `sink` is told so.
    pub fn scan(&self, range: ScanRange, deadline: Instant, sink: impl PageSink) {
        if let Err(error) = range.check() {
            return sink.end(Err(ApiError::Invalid(CommandError::Txn(error))));
        }
        let api = self.clone();
        let view_by = deadline.min(Instant::now() + VIEW_TIMEOUT);
        self.queue_query(
            Query::View,
            Consistency::Linearizable,
            view_by,
            move |result| match result.and_then(|_| api.shared.scans.take()) {
                Ok(place) => api.scan_view(place, range, deadline, sink),
                Err(error) => sink.end(Err(error.into())),
            },
        );
        self.run_pending();
    }

    fn scan_view(&self, place: Place, range: ScanRange, deadline: Instant, sink: impl PageSink) {
        let api = self.clone();
        self.shared.readers.run(deadline, move |ending| {
            let view = ending.and_then(|ending| Ok((api.view()?, ending)));
            let mut scan = Scan { api, sink };
            let result = match view {
                Ok((view, ending)) => scan.run(&view, &range, ending),
                Err(error) => Err(error.into()),
            };
            // Whoever is told the end finds the place free.
            drop(place);
            scan.sink.end(result);
        });
    }
}

/// A scan that has not ended.
struct Scan<S> {
    api: Api,
    sink: S,
}

impl<S: PageSink> Scan<S> {
    fn run(
        &mut self,
        view: &StoreView,
        range: &ScanRange,
        ending: Ending<'_>,
    ) -> Result<(), ApiError> {
        let revision = if range.at == Revision::NONE { view.revision() } else { range.at };
        let scan = view.scan(range);
        let mut scan = scan.map_err(|refusal| ApiError::refused(refusal, None))?;
        loop {
            // Also while its client keeps up, and no page takes long.
            if let Some(error) = ending() {
                return Err(error.into());
            }
            let page = self.read(&mut scan, ending)?;
            let is_over = !page.more;
            let Scan { api, sink } = self;
            let taken = api.offer(ending, |until| sink.take(revision, &page, until))?;
            if taken.is_break() || is_over {
                return Ok(());
            }
        }
    }

    fn read(&self, scan: &mut ViewScan<'_>, ending: Ending<'_>) -> Result<ScanPage, RequestError> {
        self.api.pass_gate();
        let page = scan.next_page(&|| ending().is_some());
        self.api.check_state()?;
        // Without a page it was told to end, and that does not change.
        page.ok_or_else(|| ending().unwrap_or(RequestError::Busy))
    }
}
