//! A test of the words of every error of this crate. Errors that only one module can make are
//! tested there, in the same way.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::backup::{BackupError, FetchError};
use crate::clerk::{BuildError, Clerk, ClerkError, LockError, WatchError};
use crate::error_words::{check, check_all, every_variant};
use crate::kv::CommandError;
use crate::kv::api::ApiError;
use crate::kv::model::{KeyRange, LeaseId, Reason, Refusal, Revision, TxnError, WireError};
use crate::members::{Members, MembersError};
use crate::node::{NodeError, NodeFailure, RequestError};
use crate::raft::MemberId;
use crate::rpc::{CallError, ServerError};
use crate::server::StartError;
use crate::server::admin_client::AdminError;
use crate::storage::StorageError;
use crate::testing::{ClusterError, Violation};

const ID: MemberId = MemberId(2);

fn cause() -> io::Error {
    io::Error::other("no such thing")
}

fn storage() -> StorageError {
    StorageError::Io { action: "read", path: "/d/meta".into(), source: Arc::new(cause()) }
}

fn members() -> Members {
    "1=a:1,2=b:2".parse().expect("two members")
}

fn not_a_message() -> crate::rpc::prost::DecodeError {
    <() as crate::rpc::prost::Message>::decode(&b"\xff"[..]).unwrap_err()
}

/// One that needs no cluster.
fn clerk_error() -> ClerkError {
    let clerk = Clerk::builder().members("a:1").build().expect("a member");
    clerk.get(vec![0; crate::kv::KEY_LEN_MAX + 1]).expect_err("the key is too long")
}

#[test]
fn every_error_says_its_own_part_only() {
    let part = || "2=b:2".to_owned();
    check_all(&every_variant!(MembersError:
        Empty {},
        EmptyPart("1=a:1,".to_owned()),
        NotAPair("a:1".to_owned()),
        BadId { part: part(), id: "0".to_owned() },
        BadAddress { part: part(), why: "the port is missing" },
        DuplicateId { part: part(), id: ID, addr: "a:1".to_owned() },
        DuplicateAddress(part()),
        TooMany(16),
    ));
    check_all(&every_variant!(BuildError:
        NoMembers {},
        Members(MembersError::Empty),
        Entropy(getrandom::Error::UNSUPPORTED),
    ));
    check_all(&every_variant!(WatchError:
        Compacted { wanted: Revision(3), oldest: Revision(7) },
        TooLarge { revision: Revision(3), limit: 9 },
        Refused(Refusal::of(Reason::InTheFuture, 7)),
        NotServed(clerk_error()),
    ));
    check_all(&every_variant!(LockError:
        Taken { waited: Duration::from_secs(1) },
        Lost {},
        Clerk(clerk_error()),
        Watch(WatchError::TooLarge { revision: Revision(3), limit: 9 }),
    ));
    check_all(&every_variant!(CommandError:
        UnknownKind(9),
        CutShort { len: 3, needed: 4 },
        TooLong(1),
        UnknownParts {},
        NotForClients {},
        TooLarge { part: "key", len: 9, max: 8 },
        NotAMessage(not_a_message()),
        NotATxn(WireError::Missing { of: "a range", part: "keys" }),
        Txn(TxnError::TooDeep { depth: 17 }),
        NoStamp {},
        TtlOutOfBounds { ttl_ms: 0 },
        LeaseIdOutOfBounds(LeaseId(1 << 63)),
        TooManyLeases { count: 100_001 },
    ));
    check_all(&every_variant!(TxnError:
        KeyTooLong { len: 9 },
        ValueTooLong { len: 9 },
        TooMany { count: 50_001 },
        TtlOutOfBounds { ttl_ms: 0 },
        Damaged {},
        TooDeep { depth: 17 },
    ));
    check_all(&every_variant!(WireError:
        Missing { of: "a range", part: "keys" },
        Unknown { what: "relation", number: 9 },
        Range(KeyRange::between("b", "a").unwrap_err()),
        TwoLeases {},
    ));
    check_all(&Reason::ALL.map(|reason| Refusal { reason, operation: 1, value: 7 }));
    check_all(&every_variant!(ApiError:
        NotServed(RequestError::Busy),
        Invalid(CommandError::UnknownKind(9)),
        RevisionZero {},
        Refused { refusal: Refusal::of(Reason::NoSpace, 7), index: None },
    ));
    check_all(&every_variant!(RequestError:
        NotLeader { leader: Some(ID) },
        Busy {},
        HandingOver {},
        TooLarge { len_bytes: 9 },
        DiskFull {},
        TooStale {},
        Superseded {},
        LeadershipLost { leader: None },
        TimedOut { may_apply: true },
        Diverged { may_apply: true },
        Stopped { may_apply: false },
    ));
    check_all(&every_variant!(NodeError:
        Storage(storage()),
        UnknownLevel { level: 2, known: 1 },
        Thread(cause()),
    ));
    check_all(&every_variant!(NodeFailure:
        Storage(storage()),
        ClusterTaken(7),
        OtherCluster(7),
        NotAlone(ID),
        Removed {},
        DataDir(storage()),
        UnknownLevel { level: 2, known: 1 },
        Panicked("wal-1".to_owned()),
    ));
}

#[test]
fn every_error_of_storage_says_its_own_part_only() {
    let reason = || "the checksum does not match".to_owned();
    let (action, path, source) = ("write", "/d/meta", || Arc::new(cause()));
    check_all(&every_variant!(StorageError:
        Io { action, path: path.into(), source: source() },
        Full { action, path: path.into(), source: source() },
        NoDescriptor { action, path: path.into(), source: source() },
        TooLarge { len_bytes: 9, max_bytes: 8 },
        Locked { dir: path.into(), pid: Some(7) },
        Locked { dir: path.into(), pid: None },
        TakenAway { dir: "/d".into(), missed: "/d/wal".into() },
        NotEmpty { dir: path.into(), found: "wal".to_owned() },
        NoData { dir: path.into() },
        OtherMember { dir: path.into(), found: MemberId(1), expected: ID },
        MetaDamaged { path: path.into(), reason: reason() },
        NewerFormat { path: path.into(), found: 3, known: 2 },
        UnreleasedFormat { path: path.into(), found: 1 },
        Corrupt { file: path.into(), offset: 7, reason: reason() },
        SnapshotCorrupt { file: path.into(), offset: 7, reason: reason() },
    ));
}

#[test]
fn every_error_of_members_and_clusters_says_its_own_part_only() {
    let (id, addr) = (ID, || "b:2".to_owned());
    check_all(&every_variant!(StartError:
        NotAMember { id, members: members() },
        BadListen(MembersError::Empty),
        BadUrl { url: "10.0.0.1".to_owned() },
        NothingToAdvertise { addr: "0.0.0.0:2379".to_owned() },
        OtherMembers { dir: "/d".into(), members: members() },
        NoOwnAddr { addr: addr() },
        NobodyToRebuildFrom { id },
        OtherAway { id, addr: addr(), reason: "the member there is 3".to_owned() },
        Timing("the heartbeat interval is zero".to_owned()),
        FrameLimit { len_bytes: 8, least_bytes: 9 },
        Listen { addr: addr(), source: cause() },
        Storage(storage()),
        Node(NodeError::Thread(cause())),
        Server(ServerError::NoAddress),
    ));
    check_all(&every_variant!(ClusterError:
        Setup(cause()),
        Port { port: 7001, source: cause() },
        DataDir { dir: "/d".into(), source: cause() },
        NotItsData { dir: "/d".into() },
        OtherSize { dir: "/d".into(), found: 3, wanted: 5 },
        InUse { dir: "/d".into() },
        Wipe { id, source: cause() },
        Start { id, source: StartError::NobodyToRebuildFrom { id } },
        Change { what: "add member 2".to_owned(), source: AdminError::NoLeader { source: None } },
        NotSeen { id, what: "a voter", waited: Duration::from_secs(10) },
        NoLeader { waited: Duration::from_secs(10), statuses: Vec::new() },
    ));
    let (key, explanation) = ("k".to_owned(), "get -> \"v\"\nput \"w\"".to_owned());
    for violation in every_variant!(Violation:
        NotLinearizable { key: key.clone(), calls: 2, explanation },
        Undecided { key, calls: 2, steps: 9 },
    ) {
        // The explanation is lines of its own.
        check(&violation);
    }
}

#[test]
fn every_error_of_backups_says_its_own_part_only() {
    let path = || "/d/nightly".into();
    check_all(&every_variant!(BackupError:
        Io { action: "read", path: path(), source: cause() },
        Exists { path: path() },
        Damaged { path: path(), offset: 7, reason: "the file ends".to_owned() },
        State { path: path(), source: cause() },
        NewerFormat { path: path(), found: 2, known: 1 },
        NewerLevel { path: path(), found: 2, known: 1 },
        TooHigh { path: path(), source: crate::kv::TooHigh },
        NotAMember { id: ID, members: members() },
        NoAddress { id: ID, dir: path() },
        Partial { dir: path() },
        Storage(storage()),
    ));
    let addr = || "b:2".to_owned();
    let (source, waited) = (cause(), Duration::from_secs(1));
    check_all(&every_variant!(FetchError:
        Call { addr: addr(), source: CallError::NotSent { addr: addr(), source } },
        Silent { addr: addr(), waited },
        Wrong { addr: addr(), reason: "it begins twice" },
        File(BackupError::Exists { path: path() }),
    ));
}

/// What a stream over storage returns is the same error when it comes back.
#[test]
fn an_error_of_storage_survives_std_io() {
    let back = |error: StorageError| StorageError::io("load", "/d/snap")(error.into_io());
    assert_eq!(back(storage()).to_string(), "cannot read /d/meta");
    let full = StorageError::io("write", "/d/snap")(io::ErrorKind::StorageFull.into());
    assert!(back(full).is_full());
}
