//! [`ScanRange`] and [`ScanPage`]: a range of any size, page by page.

use super::wire::key_range;
use super::{Entry, KeyRange, Revision, WireError, proto};

/// What a scan reads: entries in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRange {
    /// Which keys.
    pub keys: KeyRange,
    /// Whether the entries come with empty values.
    pub keys_only: bool,
    /// The state as of this revision. [`Revision::NONE`]: the current state.
    pub at: Revision,
}

/// A part of what a scan finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// The entries.
    pub entries: Vec<Entry>,
    /// Whether there are more behind them. Then there is at least one here.
    pub more: bool,
}

impl ScanPage {
    /// What is left of `keys` behind this page. `None`: nothing.
    pub fn rest(&self, keys: &KeyRange) -> Option<KeyRange> {
        let last = self.entries.last().filter(|_| self.more)?;
        keys.after(&last.key)
    }
}

impl From<&ScanRange> for proto::ScanRequest {
    fn from(scan: &ScanRange) -> proto::ScanRequest {
        let ScanRange { keys, keys_only, at } = scan;
        proto::ScanRequest { keys: Some(keys.into()), keys_only: *keys_only, at: at.0 }
    }
}

impl TryFrom<proto::ScanRequest> for ScanRange {
    type Error = WireError;

    fn try_from(scan: proto::ScanRequest) -> Result<ScanRange, WireError> {
        let proto::ScanRequest { keys, keys_only, at } = scan;
        Ok(ScanRange { keys: key_range("a scan", keys)?, keys_only, at: Revision(at) })
    }
}

impl From<&ScanPage> for proto::ScanPage {
    fn from(page: &ScanPage) -> proto::ScanPage {
        proto::ScanPage { entries: page.entries.iter().map(Into::into).collect(), more: page.more }
    }
}

impl From<proto::ScanPage> for ScanPage {
    fn from(page: proto::ScanPage) -> ScanPage {
        ScanPage { entries: page.entries.into_iter().map(Into::into).collect(), more: page.more }
    }
}
