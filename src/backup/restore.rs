//! [`restore`]: the data directory of a member of a new cluster, from a backup.

use std::path::Path;

use super::reader::load;
use super::{BackupError, Contents};
use crate::kv::Store;
use crate::kv::model::Revision;
use crate::members::Members;
use crate::node::{StateMachine, StateView};
use crate::raft::{Configuration, Index, MemberId, SnapshotMeta, Term};
use crate::server::list_id;
use crate::storage::DataDir;

/// The beginning of a new cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The new cluster's id.
    pub cluster_id: u64,
    /// Its first index.
    pub index: Index,
    /// Its first revision.
    pub revision: Revision,
}

/// Makes the data directory `dir`, with which member `id` of `members` begins a new cluster that
/// holds what the backup `file` holds. Each member needs a directory of its own, made from the same
/// file with the same list and token. `token` tells apart two clusters that are restored from one
/// file with one list.
///
/// # Errors
/// Nothing was changed if the file is [damaged](BackupError::Damaged) or
/// [newer](BackupError::NewerFormat), the member is [not in the list](BackupError::NotAMember), or
/// the directory is [not empty](crate::storage::StorageError::NotEmpty).
pub fn restore(
    file: &Path,
    dir: &Path,
    members: &Members,
    id: MemberId,
    token: &str,
) -> Result<Restored, BackupError> {
    if !members.contains(id) {
        return Err(BackupError::NotAMember { id, members: members.clone() });
    }
    let (contents, mut store) = load(file)?;
    let begun = begin_anew(&mut store, contents.head.index, file)?;
    let cluster_id = origin(&contents, members, token);
    let configuration = first(cluster_id, members);
    let last = snapshot_meta(begun, contents.head.term);
    DataDir::create_with(dir, id, &configuration, last, |out| store.view().write(out))?;
    Ok(Restored { cluster_id, index: begun, revision: store.revision() })
}

/// Makes a state the first one of a new cluster. Returns the new cluster's first index.
pub(super) fn begin_anew(
    store: &mut Store,
    index: Index,
    path: &Path,
) -> Result<Index, BackupError> {
    let begun = store.begin_anew(index);
    begun.map_err(|source| BackupError::TooHigh { path: path.to_path_buf(), source })
}

/// The configuration with which a new cluster begins. Who was a member before is forgotten.
pub(super) fn first(cluster_id: u64, members: &Members) -> Configuration {
    let addrs = members.iter().map(|(id, addr)| (id, addr.to_owned()));
    Configuration::first(cluster_id, list_id(members), addrs)
}

pub(super) fn snapshot_meta(index: Index, term: Term) -> SnapshotMeta {
    // A log that nobody has led has term 0, which no entry has.
    SnapshotMeta { last_included_index: index, last_included_term: term.max(Term(1)) }
}

/// What is the same for all members that are restored together, and for no others.
fn origin(contents: &Contents, members: &Members, token: &str) -> u64 {
    let Contents { head, file_len_bytes, crc, .. } = contents;
    let numbers = [head.cluster_id, head.index.0, head.made_at_ms, *file_len_bytes, (*crc).into()];
    let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
    let list = members.to_string();
    let words = list.bytes().chain([0]).chain(token.bytes());
    // 0 is no cluster's id.
    fnv1a(numbers.chain(words)).max(1)
}

/// The hash FNV-1a of 64 bits: the same in every version.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b"".iter().copied()), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar".iter().copied()), 0x8594_4171_f739_67e8);
    }
}
