//! [`Api::watches`]: is told what changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Api;
use super::readers::Readers;
use crate::kv::Store;
use crate::kv::watch::{Hub, WatchGroup, WatchSink};
use crate::node::NodeHandle;

/// How long the thread of the watches waits for another one, before it asks again.
const READER_TIMEOUT: Duration = Duration::from_secs(10);

/// The watches of a member. What takes longer is done by the threads of its large reads.
pub(super) fn hub(node: &NodeHandle<Store>, readers: &Arc<Readers>) -> Arc<Hub> {
    let readers = Arc::clone(readers);
    Hub::new(
        node.clone(),
        Box::new(move |work| {
            let deadline = Instant::now() + READER_TIMEOUT;
            readers.run(deadline, |ending| work(ending.is_ok()));
        }),
    )
}

impl Api {
    /// Begins to tell `sink` what the watches tell that are asked for of the result. They are
    /// served from this member's own state, and share the sink's room.
    ///
    /// A watch that is made knows everything that was committed when it was asked for. Its changes
    /// are ordered, unique and complete. It ends if it is cancelled, if the history has forgotten
    /// what it would tell next, and if this member has been without a leader for three election
    /// timeouts or has diverged.
    ///
    /// ```no_run
    /// use std::ops::ControlFlow;
    /// use syncraft::kv::api::{Api, NoRoom, WatchNews, WatchSink, WatchesEnd};
    /// use syncraft::kv::model::{KeyRange, WatchRange};
    ///
    /// struct Printer;
    ///
    /// impl WatchSink for Printer {
    ///     fn take(&self, _: u64, news: &WatchNews<'_>) -> Result<ControlFlow<()>, NoRoom> {
    ///         if let WatchNews::Changes { changes, .. } = news {
    ///             for change in changes.iter() {
    ///                 println!("{change:?}");
    ///             }
    ///         }
    ///         Ok(ControlFlow::Continue(()))
    ///     }
    ///
    ///     // There is always room.
    ///     fn when_ready(&self, callback: Box<dyn FnOnce() + Send>) {
    ///         callback();
    ///     }
    ///
    ///     fn end(&self, _: WatchesEnd) {}
    /// }
    /// # fn example(api: Api) {
    /// let watches = api.watches(Printer);
    /// watches.create(1, WatchRange::of(KeyRange::prefix("jobs/")));
    /// # }
    /// ```
    pub fn watches(&self, sink: impl WatchSink) -> WatchGroup {
        self.shared.hub.watches(sink)
    }

    /// How many watches this member serves, those of all fronts together.
    pub fn open_watches(&self) -> usize {
        self.shared.hub.open()
    }
}
