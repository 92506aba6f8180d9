//! Stamps, and what they do whatever becomes of their commands.

use super::*;
use crate::kv::model::{Action, KeyRange, NewLease, NewValue, TTL_MAX_MS};
use crate::kv::{CLIENT_ID_LEN_MAX, KEEP_ALIVE_IDS_MAX};

/// A store, and the index of its last entry.
struct Log(Store, u64);

impl Log {
    fn new() -> Log {
        Log(Store::new(), 1)
    }

    /// Applies what a leader logs at this time.
    fn apply(&mut self, stamp_ms: u64, command: &Command) -> Outcome {
        let bytes = command.encode();
        let stamp = stamp_ms.to_le_bytes();
        let stamp = if Store::is_stamped(&bytes) { &stamp[..] } else { &[] };
        self.apply_bytes([&bytes[..], stamp].concat())
    }

    fn apply_bytes(&mut self, bytes: Vec<u8>) -> Outcome {
        self.1 += 1;
        self.0.apply(Index(self.1), &bytes.into())
    }

    fn time(&self) -> (u64, Option<u64>) {
        let AppliedTime { newest_ms, next_deadline_ms } = self.0.time();
        (newest_ms, next_deadline_ms)
    }
}

fn grant(id: u64, ttl_ms: u64) -> Change {
    Change::LeaseGrant { ttl_ms, id: LeaseId(id) }
}

fn keep_alive(id: u64) -> Change {
    Change::LeaseKeepAlive { ids: vec![LeaseId(id)] }
}

fn put(key: &'static str, lease: NewLease) -> Change {
    let (key, value) = (key.into(), NewValue::Set("v".into()));
    let put = Action::Put { key, value, lease, previous: false };
    Change::Txn(Txn { then: vec![put.into()], ..Txn::default() })
}

fn plain(change: Change) -> Command {
    Command::unrepeated(change)
}

fn of_client(request_id: i64, change: Change) -> Command {
    let (client_id, seen_index) = ("c".into(), Index(1));
    Command { identity: Identity { client_id, request_id, seen_index }, change }
}

fn refused(index: u64, reason: Reason, value: u64) -> Outcome {
    Outcome::Ran { index: Index(index), result: Err(Refusal::of(reason, value)) }
}

#[test]
fn the_time_command_carries_time_and_changes_nothing_else() {
    let mut log = Log::new();
    assert_eq!(log.time(), (0, None));
    let mut command = Store::time_command().to_vec();
    assert!(Store::is_stamped(&command));
    command.extend(7u64.to_le_bytes());
    log.apply_bytes(command);
    assert_eq!((log.time(), log.0.revision()), ((7, None), Revision::EMPTY_STORE));
    log.apply(10, &plain(grant(1, 5)));
    assert_eq!(log.time(), (10, Some(16)));
}

#[test]
fn repeats_and_refusals_raise_the_time_and_end_leases() {
    let oversized = Command {
        identity: Identity { client_id: vec![0; CLIENT_ID_LEN_MAX].into(), ..Identity::default() },
        ..plain(grant(9, 0))
    };
    let many = vec![LeaseId(1); KEEP_ALIVE_IDS_MAX + 1];
    let first = of_client(2, grant(1, 5));
    let commands = [
        ("a repeat", first.clone()),
        ("an older request", of_client(1, grant(2, 5))),
        ("a lease id in use", plain(grant(8, 5))),
        ("a lease that is not there", plain(Change::LeaseRevoke { id: LeaseId(99) })),
        ("a time to live of 0", oversized),
        (
            "a transaction that fails",
            plain({
                let ttl = NewLease::OfItsOwn { ttl_ms: 5 };
                let Change::Txn(mut txn) = put("k", ttl) else { unreachable!("it is one") };
                txn.then.push(
                    Action::Put {
                        key: "k".into(),
                        value: NewValue::Keep,
                        lease: NewLease::Set(LeaseId(99)),
                        previous: false,
                    }
                    .into(),
                );
                Change::Txn(txn)
            }),
        ),
        // It does not keep alive what it names.
        ("too many leases to keep alive", plain(Change::LeaseKeepAlive { ids: many })),
    ];
    for (name, command) in commands {
        let mut log = Log::new();
        log.apply(0, &plain(grant(8, TTL_MAX_MS)));
        log.apply(0, &first);
        log.apply(0, &plain(put("of 1", NewLease::Set(LeaseId(1)))));
        assert_eq!(log.time(), (0, Some(6)), "{name}");
        log.apply(50, &command);
        assert_eq!(log.time(), (50, Some(TTL_MAX_MS + 1)), "{name}");
        assert_eq!(log.0.value(b"of 1"), None, "{name}");
        assert_eq!((log.0.stats().leases, log.0.stats().keys_with_ttl), (1, 0), "{name}");
    }
}

#[test]
fn a_stamped_command_without_its_stamp_changes_nothing() {
    let mut log = Log::new();
    log.apply(0, &plain(grant(1, 5)));
    for change in [
        grant(2, 5),
        keep_alive(1),
        Change::LeaseRevoke { id: LeaseId(1) },
        Change::Time,
        put("k", NewLease::OfItsOwn { ttl_ms: 5 }),
    ] {
        let bytes = plain(change).encode();
        assert_eq!(log.apply_bytes(bytes.to_vec()), Outcome::Malformed);
        assert_eq!(log.time(), (0, Some(6)));
    }
}

#[test]
fn what_carries_no_stamp_ends_no_lease() {
    let mut log = Log::new();
    log.apply(0, &plain(grant(1, 5)));
    for change in [
        put("k", NewLease::Set(LeaseId(1))),
        Change::Put { key: "k".into(), value: "v".into() },
        Change::Compact { revision: Revision(2) },
    ] {
        log.apply(100, &plain(change));
        assert_eq!(log.time(), (0, Some(6)));
    }
}

#[test]
fn a_repeat_of_a_grant_gets_the_first_answer() {
    let mut log = Log::new();
    let command = of_client(1, grant(0, 50));
    let (index, revision, lease) = (Index(2), Revision::EMPTY_STORE, LeaseId(2));
    let first = Outcome::Granted { index, revision, lease, ttl_ms: 50 };
    assert_eq!(log.apply(0, &command), first);
    assert_eq!(log.apply(10, &command), first);
    assert_eq!(log.0.stats().leases, 1);
    // Also when the lease has ended meanwhile.
    log.apply(1_000, &plain(Change::Time));
    assert_eq!(log.apply(1_000, &command), first);
    assert_eq!(log.0.stats().leases, 0);
    // A refusal is repeated, too.
    log.apply(1_000, &plain(grant(7, 50)));
    let taken = of_client(2, grant(7, 50));
    assert_eq!(log.apply(1_000, &taken), refused(7, Reason::LeaseExists, 7));
    log.apply(1_000, &plain(Change::LeaseRevoke { id: LeaseId(7) }));
    assert_eq!(log.apply(1_000, &taken), refused(7, Reason::LeaseExists, 7));
}

/// It would otherwise be answered with what an earlier one did.
#[test]
fn keeping_a_lease_alive_is_never_a_repeat() {
    let mut log = Log::new();
    log.apply(0, &plain(grant(1, 50)));
    for stamp in [10, 20, 30] {
        log.apply(stamp, &of_client(1, keep_alive(1)));
        assert_eq!(log.time(), (stamp, Some(stamp + 51)));
    }
    assert_eq!(log.0.stats().sessions, 0);
}

#[test]
fn a_lease_tells_what_is_left_of_it() {
    let mut log = Log::new();
    log.apply(0, &plain(grant(1, 50)));
    log.apply(0, &plain(put("k", NewLease::Set(LeaseId(1)))));
    log.apply(20, &plain(Change::Time));
    let told = |id, keys| match log.0.query(Query::Lease { id: LeaseId(id), keys }) {
        Answer::Lease(answer) => answer.result,
        other => panic!("{other:?}"),
    };
    let info = told(1, true).unwrap();
    assert_eq!((info.id.0, info.ttl_ms, info.left_ms, info.keys), (1, 50, 30, vec!["k".into()]));
    assert!(told(1, false).unwrap().keys.is_empty());
    assert_eq!(told(2, true), Err(Refusal::of(Reason::NoSuchLease, 2)));
}

#[test]
fn a_lease_of_many_keys_is_told_from_a_view() {
    let mut log = Log::new();
    log.apply(0, &plain(grant(1, 50)));
    let count = QUICK_READ_KEYS_MAX + 1;
    let put = |n: u64| {
        let (key, value) = (n.to_be_bytes().to_vec().into(), NewValue::Set("".into()));
        Action::Put { key, value, lease: NewLease::Set(LeaseId(1)), previous: false }.into()
    };
    let txn = Txn { then: (0..count).map(put).collect(), ..Txn::default() };
    log.apply(0, &plain(Change::Txn(txn)));
    match log.0.query(Query::Lease { id: LeaseId(1), keys: true }) {
        Answer::View(view) => {
            let info = view.lease(LeaseId(1), true).result.unwrap();
            assert_eq!(info.keys.len() as u64, count);
        }
        other => panic!("{other:?}"),
    }
    let delete = Action::delete(KeyRange::all()).into();
    log.apply(0, &plain(Change::Txn(Txn { then: vec![delete], ..Txn::default() })));
    assert!(matches!(
        log.0.query(Query::Lease { id: LeaseId(1), keys: true }),
        Answer::Lease(answer) if answer.result.as_ref().is_ok_and(|info| info.keys.is_empty())
    ));
}

/// Ten thousand leases of a thousand clients that died together.
#[test]
fn ten_thousand_leases_of_the_same_millisecond_end_soon() {
    let mut log = Log::new();
    for id in 1..=10_000 {
        log.apply(0, &plain(grant(id, 50)));
        let key = format!("of {id}").into();
        let (value, lease) = (NewValue::Set("v".into()), NewLease::Set(LeaseId(id)));
        let put = Action::Put { key, value, lease, previous: false };
        let txn = Txn { then: vec![put.into()], ..Txn::default() };
        log.apply(0, &plain(Change::Txn(txn)));
    }
    let started = std::time::Instant::now();
    let mut entries = 0;
    while log.0.time().next_deadline_ms.is_some() {
        log.apply(51, &plain(Change::Time));
        entries += 1;
    }
    assert_eq!((entries, log.0.stats().keys), (10, 0));
    // It takes tens of milliseconds.
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
}
