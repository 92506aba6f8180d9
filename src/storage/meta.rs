//! The file `meta`: whose data a directory holds, and how far it can be trusted.
//!
//! It is text, so that a person can read it, with a checksum, so that the member can trust it. It
//! is replaced as a whole: temporary file, fsync, rename, fsync of the directory.
//!
//! ```text
//! syncraft data directory     the same in every version
//! format 3                    of this file; a later one is refused
//! directory 9e3779b97f4a7c15  a random number, in the log's files too; a log that begins draws it
//! cluster 0123456789abcdef    zero until it is known; changes only while the member has no data
//! list 00000000c0ffee15       a hash of the members at the first start, which names the cluster
//!                             until its id is known; not in format 2
//! member 1                    set at the first start
//! log none                    "started" once the log's first segment is durable
//! joining new                 only while it has not joined: "rebuilding" if it once had data,
//!                             "newcomer" (not in format 2) if it begins no cluster
//! crc32c 7263edce             CRC32C of all above, in hexadecimal; the last line in every version
//! ```
//!
//! In format 2, which is the first one, the cluster's id was known from the first start and served
//! as the list's hash, too. Such a file stays of format 2, so that the program of that time can
//! read it, until its cluster has a configuration in its log
//! ([`record_cluster`](super::DataDir::record_cluster)): that program does not know those.
//!
//! Invariant: `meta` is never half written.

use std::path::Path;

use crate::raft::{MemberId, Standing};

use super::StorageError;
use super::disk::Disk;
use super::identity::{FIRST_FORMAT, Identity, LogOwner, other_format};
use super::open_dir::OpenDir;

/// The format of a new file.
const FORMAT: u32 = 3;
const TITLE: &str = "syncraft data directory";
pub(super) const META_LEN_MAX_BYTES: usize = 4096;

/// What `meta` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    format: u32,
    /// The random number of the log that is in the directory, or will be. Never 0.
    pub(super) directory: u64,
    pub(super) identity: Identity,
    pub(super) log_started: bool,
    pub(super) standing: Standing,
}

impl Meta {
    /// Of a directory without a log.
    pub(super) fn new(disk: &dyn Disk, identity: Identity, standing: Standing) -> Meta {
        Meta { format: FORMAT, directory: draw(disk), identity, log_started: false, standing }
    }

    /// Of the same directory after its log was discarded, with which the member lost its data.
    pub(super) fn emptied(self, disk: &dyn Disk) -> Meta {
        let standing = Standing::Rebuilding;
        Meta { directory: draw(disk), log_started: false, standing, ..self }
    }

    /// From now on, only programs that know of configurations in the log may use the directory.
    pub(super) fn with_configurations(&mut self) {
        self.format = FORMAT;
    }

    /// Whether [`with_configurations`](Meta::with_configurations) has been said of it.
    pub(super) fn has_configurations(&self) -> bool {
        self.format == FORMAT
    }

    pub(super) fn log_owner(&self) -> LogOwner {
        LogOwner { directory: self.directory, member_id: self.identity.member_id }
    }

    /// `Ok(None)` if there is none.
    pub(super) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Meta>, StorageError> {
        let path = dir.join("meta");
        match disk.read_to_vec(&path, META_LEN_MAX_BYTES) {
            Ok(bytes) => Meta::decode(&bytes, &path).map(Some),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(StorageError::io("read", &path)(err)),
        }
    }

    /// Replaces the file durably.
    pub(super) fn write(&self, disk: &dyn Disk, dir: &OpenDir) -> Result<(), StorageError> {
        let path = dir.path().join("meta");
        disk.write_atomically(dir.disk_dir(), &path, self.encode().as_bytes())
            .map_err(StorageError::io("write", &path))
    }

    fn encode(&self) -> String {
        let Meta { format, directory, identity, log_started, standing } = *self;
        let Identity { cluster_id, list_id, member_id } = identity;
        let list = match format {
            FIRST_FORMAT => String::new(),
            _ => format!("list {list_id:016x}\n"),
        };
        let log = if log_started { "started" } else { "none" };
        let joining = match standing {
            Standing::Voter => "",
            Standing::New => "joining new\n",
            Standing::Rebuilding => "joining rebuilding\n",
            Standing::Newcomer => "joining newcomer\n",
        };
        let body = format!(
            "{TITLE}\nformat {format}\ndirectory {directory:016x}\ncluster {cluster_id:016x}\n\
             {list}member {member_id}\nlog {log}\n{joining}"
        );
        let crc = crc32c::crc32c(body.as_bytes());
        format!("{body}crc32c {crc:08x}\n")
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Meta, StorageError> {
        let damaged = |reason: &str| StorageError::MetaDamaged {
            path: path.to_path_buf(),
            reason: reason.to_string(),
        };
        let body = checked_body(bytes).ok_or_else(|| damaged("its checksum does not match"))?;
        let mut lines = body.lines();
        if lines.next() != Some(TITLE) {
            return Err(damaged("it is not the meta file of a syncraft data directory"));
        }
        let format =
            field(lines.next(), "format ").ok_or_else(|| damaged("it has no format version"))?;
        if !(FIRST_FORMAT..=FORMAT).contains(&format) {
            return Err(other_format(path, format, FORMAT));
        }
        let meta = decode_fields(format, lines)
            .ok_or_else(|| damaged("its lines are not those of its format version"))?;
        // Each content has one form: a file that would be written differently is not ours.
        if meta.encode().as_bytes() != bytes {
            Err(damaged("it is not as syncraft writes it"))
        } else {
            Ok(meta)
        }
    }
}

fn draw(disk: &dyn Disk) -> u64 {
    disk.random().max(1)
}

/// The lines before the checksum, if it is right.
fn checked_body(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (body, crc) = text.strip_suffix('\n')?.rsplit_once("crc32c ")?;
    let crc = u32::from_str_radix(crc, 16).ok()?;
    (crc == crc32c::crc32c(body.as_bytes())).then_some(body)
}

fn decode_fields<'a>(format: u32, mut lines: impl Iterator<Item = &'a str>) -> Option<Meta> {
    let directory = hex_field(lines.next(), "directory ")?;
    let cluster_id = hex_field(lines.next(), "cluster ")?;
    let list_id = match format {
        FIRST_FORMAT => cluster_id,
        _ => hex_field(lines.next(), "list ")?,
    };
    let member_id = MemberId(field(lines.next(), "member ")?);
    let log: String = field(lines.next(), "log ")?;
    let standing = match lines.next() {
        None => Standing::Voter,
        Some("joining new") => Standing::New,
        Some("joining newcomer") => Standing::Newcomer,
        Some(_) => Standing::Rebuilding,
    };
    let identity = Identity { cluster_id, list_id, member_id };
    Some(Meta { format, directory, identity, log_started: log == "started", standing })
}

fn field<T: std::str::FromStr>(line: Option<&str>, name: &str) -> Option<T> {
    line?.strip_prefix(name)?.parse().ok()
}

fn hex_field(line: Option<&str>, name: &str) -> Option<u64> {
    u64::from_str_radix(line?.strip_prefix(name)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: Meta = Meta {
        format: 3,
        directory: 0x9e37_79b9_7f4a_7c15,
        identity: Identity {
            cluster_id: 0x0123_4567_89ab_cdef,
            list_id: 0xc0ff_ee15,
            member_id: MemberId(1),
        },
        log_started: false,
        standing: Standing::New,
    };

    fn decode(text: &str) -> Result<Meta, StorageError> {
        Meta::decode(text.as_bytes(), Path::new("/1/meta"))
    }

    #[test]
    fn it_is_the_text_of_the_module_doc() {
        let text = META.encode();
        assert_eq!(
            text,
            "syncraft data directory\nformat 3\ndirectory 9e3779b97f4a7c15\n\
             cluster 0123456789abcdef\nlist 00000000c0ffee15\nmember 1\nlog none\njoining new\n\
             crc32c 7263edce\n"
        );
    }

    #[test]
    fn every_standing_is_read_back() {
        for standing in [Standing::Voter, Standing::New, Standing::Rebuilding, Standing::Newcomer] {
            let meta = Meta { standing, ..META };
            assert_eq!(decode(&meta.encode()).unwrap(), meta);
        }
    }

    #[test]
    fn in_the_first_format_the_cluster_stands_for_the_list() {
        let text = "syncraft data directory\nformat 2\ndirectory 9e3779b97f4a7c15\n\
                    cluster 0123456789abcdef\nmember 1\nlog none\ncrc32c ad96d1bf\n";
        let list_id = META.identity.cluster_id;
        let identity = Identity { list_id, ..META.identity };
        let mut meta = Meta { format: 2, identity, standing: Standing::Voter, ..META };
        assert_eq!(decode(text).unwrap(), meta);
        assert_eq!(meta.encode(), text, "and it stays as it is");
        meta.with_configurations();
        assert_eq!(decode(&meta.encode()).unwrap(), meta);
    }

    #[test]
    fn a_newer_format_is_refused_as_such() {
        let body = format!("{TITLE}\nformat 4\nwho knows\n");
        let text = format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
        assert_eq!(
            decode(&text).unwrap_err().to_string(),
            "/1/meta has format version 4, this program knows versions up to 3: use a newer syncraft"
        );
    }
}
