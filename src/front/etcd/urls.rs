//! [`MemberUrls`]: at which URLs the members serve etcd's clients, as far as it is known.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::raft::MemberId;

/// How many URLs a member may name.
const URLS_MAX: usize = 8;

/// How long each of them may be, in bytes.
const URL_LEN_MAX: usize = 1024;

/// What each member has said last. It is of this start: a member that has just started knows of
/// those that it has heard from.
#[derive(Debug, Default)]
pub struct MemberUrls(Mutex<BTreeMap<MemberId, Vec<String>>>);

impl MemberUrls {
    /// Those of a member; none if nothing was heard from it, or it serves none of etcd's clients.
    pub fn of(&self, id: MemberId) -> Vec<String> {
        self.0.lock().get(&id).cloned().unwrap_or_default()
    }

    /// A member says its own. What is beyond reason is left out.
    pub fn set(&self, id: MemberId, mut urls: Vec<String>) {
        urls.retain(|url| url.len() <= URL_LEN_MAX);
        urls.truncate(URLS_MAX);
        self.0.lock().insert(id, urls);
    }
}
