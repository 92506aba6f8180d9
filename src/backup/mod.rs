//! Backups: files that hold all of a store at one revision, what reads them, and how a cluster
//! begins with one.
//!
//! ```text
//! a member ── adminRpc.Backup ──> fetch ──> FILE.<pid>.tmp ── read back, rename ──> FILE
//! FILE ──> verify: what is in it
//! FILE ──> restore: the data directory of one member of a new cluster, once for each member
//! a data directory ──> Survivor: its state, as that of a cluster of one
//! ```
//!
//! # The file
//!
//! A header, chunks, a trailer. All numbers are little-endian, all checksums are CRC32C. Format 1:
//!
//! | Offset | Size | Field | Why |
//! |---|---|---|---|
//! | 0 | 8 | `SYNCBAK\n` | identifies the file |
//! | 8 | 4 | checksum of bytes 12 to 127 | nothing below is believed before |
//! | 12 | 4 | format: 1 | a newer one is refused in words. Up to here, all formats are the same |
//! | 16 | 8 | cluster id | says whose data it is. A restored cluster gets another id |
//! | 24 | 8 | index of the log | the new log begins 2^40 above it |
//! | 32 | 8 | term | the new terms are above it |
//! | 40 | 8 | revision | what the state has, too: see below |
//! | 48 | 8 | when it was made, in milliseconds since 1970, UTC | for people |
//! | 56 | 4 | feature level of the state | an older program refuses a newer state in words |
//! | 60 | 4 | zero | |
//! | 64 | 8 | number of keys | |
//! | 72 | 8 | length of all keys and values | |
//! | 80 | 32 | version of the member's program, text, then zeros | for people |
//! | 112 | 16 | zero | |
//! | 128 | | chunks, one after the other | |
//!
//! **A chunk** is a piece of the state. All but the last one are 64 KiB long:
//!
//! | Offset | Size | Field | Why |
//! |---|---|---|---|
//! | 0 | 4 | length of the bytes, 1 to 65,536 | bounds a reader's memory |
//! | 4 | 4 | checksum of the rest, continued from the chunk before | order and number count |
//! | 8 | | the bytes | |
//!
//! **The trailer** follows the last chunk:
//!
//! | Offset | Size | Field | Why |
//! |---|---|---|---|
//! | 0 | 4 | zero | no chunk has this length |
//! | 4 | 4 | checksum of the rest and of this zero, continued from the last chunk | |
//! | 8 | 8 | length of the state | |
//! | 16 | 8 | length of the file | a file that was cut or extended is noticed |
//!
//! The first chunk's checksum continues from that of the whole header, so that of the trailer
//! covers the file. The state is what a snapshot holds (`kv/snapshot`), without its history and its
//! sessions, which no new cluster takes over (`kv/anew.rs`).
//!
//! # Invariants
//!
//! - A file with its final name was synced, read back, and is what the member sent: the member
//!   sends the checksum of all that it has sent, and the file is checked against it.
//! - A reader hands out no byte before its chunk is verified, and reports the end only after a
//!   correct trailer. [`verify`] and [`restore`] decode the whole state besides, and compare it
//!   with the header.
//! - [`restore`] and [`Survivor::recover`] change nothing before they have read everything.
//! - Members that are restored from one file with one list have equal states, and one cluster id,
//!   which no other list, file or token gives.
//! - This format stays readable. A new one gets a new number: `tests/golden/backup-1` has a file.
//!
//! # Left out
//!
//! Compression and encryption: pipe the file through what does that. Increments: a backup holds
//! everything.

mod error;
mod fetch;
mod file;
mod format;
mod reader;
mod recover;
mod restore;

pub use error::BackupError;
pub use fetch::{FetchError, Progress, fetch};
pub use file::BackupFile;
pub use format::BackupHead;
pub use reader::{BackupReader, Contents, verify};
pub use recover::{Recovered, Survivor};
pub use restore::{Restored, restore};
