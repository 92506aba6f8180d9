//! Commands and their bytes.

use proptest::prelude::*;

use super::codec::HEAD_LEN;
use super::*;
use crate::kv::model::{Action, Compare, NewLease, NewValue};

fn identity() -> Identity {
    let (client_id, seen_index) = (Bytes::from_static(b"42"), Index(0x0102));
    Identity { client_id, request_id: -2, seen_index }
}

fn command(change: Change) -> Command {
    Command { identity: identity(), change }
}

fn put() -> Change {
    Change::Put { key: Bytes::from_static(b"k\0y"), value: Bytes::from_static(b"value") }
}

fn append() -> Change {
    Change::Append { key: Bytes::from_static(b"k\0y"), value: Bytes::from_static(b"value") }
}

fn txn() -> Change {
    Change::Txn(Txn {
        compare: vec![Compare::absent("k")],
        then: vec![Action::put("k", "v").into()],
        otherwise: vec![Action::increment("n", -1).into()],
    })
}

fn set_limits() -> Change {
    Change::SetLimits(LimitsChange { keys_max: Some(7), ..LimitsChange::default() })
}

fn set_lease_limit() -> Change {
    Change::SetLimits(LimitsChange { leases_max: Some(7), ..LimitsChange::default() })
}

fn txn_with_ttl() -> Change {
    let (key, value) = ("k".into(), NewValue::Set("v".into()));
    let lease = NewLease::OfItsOwn { ttl_ms: 7 };
    let put = Action::Put { key, value, lease, previous: false };
    Change::Txn(Txn { then: vec![put.into()], ..Txn::default() })
}

fn keep_alive() -> Change {
    Change::LeaseKeepAlive { ids: vec![LeaseId(3), LeaseId(0x0405)] }
}

fn txn_once() -> Change {
    let Change::Txn(txn) = txn_with_ttl() else { unreachable!("it is one") };
    Change::TxnOnce { key: Bytes::from_static(b"once"), fingerprint: 0x0809, txn }
}

/// Those with a stamp.
fn stamped_changes() -> [Change; 6] {
    let grant = Change::LeaseGrant { ttl_ms: 0x0607, id: LeaseId(9) };
    [
        grant,
        Change::LeaseRevoke { id: LeaseId(9) },
        keep_alive(),
        Change::Time,
        txn_with_ttl(),
        txn_once(),
    ]
}

fn every_change() -> Vec<Change> {
    let compact = Change::Compact { revision: Revision(0x0304) };
    let unstamped = [put(), append(), txn(), compact, Change::RaiseLevel(2), set_limits()];
    unstamped.into_iter().chain(stamped_changes()).chain([set_lease_limit()]).collect()
}

#[test]
fn bytes_in_the_log_never_change() {
    let check = |change: Change, kind: u8, key_len: u8, rest: &[u8]| {
        let mut golden = vec![kind, 2];
        golden.extend(b"\xfe\xff\xff\xff\xff\xff\xff\xff\x02\x01\0\0\0\0\0\0");
        golden.extend([key_len, 0, 0, 0]);
        golden.extend(b"42");
        golden.extend(rest);
        let encoded = command(change.clone()).encode();
        assert_eq!(encoded.escape_ascii().to_string(), golden.escape_ascii().to_string());
        assert_eq!(Command::decode(&encoded), Ok(command(change)));
    };
    check(put(), 3, 3, b"k\0yvalue");
    check(append(), 4, 3, b"k\0yvalue");
    let message = [
        &b"\x0a\x07\x0a\x03\x0a\x01k\x20\0"[..],
        b"\x12\x0a\x0a\x08\x0a\x01k\x12\x01v\x18\0",
        b"\x1a\x07\x1a\x05\x0a\x01n\x10\x01",
    ];
    check(txn(), 5, 0, &message.concat());
    check(Change::Compact { revision: Revision(0x0304) }, 6, 0, b"\x04\x03\0\0\0\0\0\0");
    check(Change::RaiseLevel(2), 7, 0, b"\x02\0\0\0");
    let limits = [&[0; 9][..], b"\x01\x07\0\0\0\0\0\0\0", &[0; 9]].concat();
    check(set_limits(), 8, 0, &limits);
    let limits = [&[0; 27][..], b"\x01\x07\0\0\0\0\0\0\0"].concat();
    check(set_lease_limit(), 8, 0, &limits);
    let [grant, revoke, keep_alive, time, txn, once] = stamped_changes();
    check(grant, 9, 0, b"\x07\x06\0\0\0\0\0\0\x09\0\0\0\0\0\0\0");
    check(revoke, 10, 0, b"\x09\0\0\0\0\0\0\0");
    check(keep_alive, 11, 0, b"\x02\0\0\0\x03\0\0\0\0\0\0\0\x05\x04\0\0\0\0\0\0");
    check(time, 12, 0, b"");
    check(txn, 13, 0, b"\x0c\0\0\0\x12\x0a\x0a\x08\x0a\x01k\x12\x01v\x28\x07");
    let rest = b"once\x09\x08\0\0\0\0\0\0\x0c\0\0\0\x12\x0a\x0a\x08\x0a\x01k\x12\x01v\x28\x07";
    check(once, 14, 4, rest);
}

#[test]
fn the_first_byte_says_whether_a_command_has_a_stamp() {
    let stamp = 0x0102_0304_0506_0708u64;
    for change in every_change() {
        let bytes = command(change.clone()).encode();
        let is_stamped = stamped_changes().contains(&change);
        assert_eq!(Command::is_stamped(&bytes), is_stamped, "{change:?}");
        let keeps_alive = matches!(change, Change::LeaseKeepAlive { .. });
        assert_eq!(Command::keeps_alive(&bytes), keeps_alive, "{change:?}");
        let logged = match is_stamped {
            true => [&bytes[..], b"\x08\x07\x06\x05\x04\x03\x02\x01"].concat().into(),
            false => bytes.clone(),
        };
        let decoded = Command::decode_logged(&logged).unwrap();
        let stamp_ms = is_stamped.then_some(stamp);
        assert_eq!(decoded, Stamped { command: command(change.clone()), stamp_ms });
        assert_eq!(Command::decode_borrowed(&logged).unwrap().stamp_ms, stamp_ms);
        // Without its stamp, or with a part of it, it is no command.
        if is_stamped {
            for len in 0..logged.len() {
                let cut = Command::decode_logged(&logged.slice(..len));
                assert!(matches!(cut, Err(CommandError::CutShort { .. })), "{change:?}: {cut:?}");
            }
            let longer = [&logged[..], b"!"].concat().into();
            assert_eq!(Command::decode_logged(&longer), Err(CommandError::TooLong(1)));
        }
    }
    assert!(!Command::is_stamped(b""));
}

#[test]
fn a_put_with_a_time_to_live_is_not_hidden_in_a_kind_without_a_stamp() {
    let bytes = command(txn_with_ttl()).encode();
    let (head, message) = bytes.split_at(bytes.len() - 12);
    let mut unstamped = [&head[..head.len() - 4], message].concat();
    unstamped[0] = 5;
    assert_eq!(Command::decode(&unstamped.into()), Err(CommandError::NoStamp));
}

#[test]
fn every_part_may_be_empty() {
    let empty = Change::Put { key: Bytes::new(), value: Bytes::new() };
    let empty = Command::unrepeated(empty);
    assert_eq!(empty.encode().len(), HEAD_LEN);
    assert_eq!(Command::decode(&empty.encode()), Ok(empty.clone()));
    assert!(!empty.has_session());
    let identity = Identity { request_id: 1, ..Identity::default() };
    assert!(Command { identity, ..empty }.has_session());
}

#[test]
fn a_command_cut_anywhere_before_its_value_is_refused() {
    let whole = command(put()).encode();
    for len in 0..whole.len() - b"value".len() {
        let cut = Command::decode(&whole.slice(..len));
        assert!(
            matches!(cut, Err(CommandError::CutShort { len: l, .. }) if l == len),
            "{len}: {cut:?}"
        );
    }
}

#[test]
fn a_command_of_fixed_length_has_that_length() {
    for change in every_change().into_iter().skip(3).filter(|it| *it != set_lease_limit()) {
        let whole = command(change).encode();
        let cut = Command::decode(&whole.slice(..whole.len() - 1));
        assert!(matches!(cut, Err(CommandError::CutShort { .. })), "{cut:?}");
        let longer = [&whole[..], b"!"].concat().into();
        assert_eq!(Command::decode(&longer), Err(CommandError::TooLong(1)));
    }
}

#[test]
fn unknown_kinds_are_refused() {
    for kind in [0, 1, 2, 15, 255] {
        let bytes = Bytes::from(vec![kind; 40]);
        assert_eq!(Command::decode(&bytes), Err(CommandError::UnknownKind(kind)));
    }
}

#[test]
fn a_transaction_that_makes_no_sense_is_refused() {
    let check = |rest: &[u8]| {
        let head = command(Change::Txn(Txn::default())).encode();
        Command::decode(&[&head[..], rest].concat().into()).unwrap_err()
    };
    assert!(matches!(check(b"\xff"), CommandError::NotAMessage(_)));
    // An operation without an action, and a comparison without keys.
    let missing = |error| matches!(error, CommandError::NotATxn(WireError::Missing { .. }));
    assert!(missing(check(b"\x12\0")));
    assert!(missing(check(b"\x0a\x02\x20\0")));
    // The relation 9.
    let unknown = check(b"\x0a\x06\x0a\0\x10\x09\x20\0");
    assert!(matches!(unknown, CommandError::NotATxn(WireError::Unknown { number: 9, .. })));
}

#[test]
fn limits_name_the_part() {
    let check = |part, command: Command| match command.check_limits() {
        Err(CommandError::TooLarge { part: named, .. }) => assert_eq!(named, part),
        Ok(()) => panic!("{part} passed"),
        Err(other) => panic!("{other}"),
    };
    every_change().into_iter().for_each(|it| assert_eq!(command(it).check_limits(), Ok(())));
    let (key, value) = (vec![0; KEY_LEN_MAX + 1].into(), Bytes::new());
    for ttl_ms in [0, TTL_MAX_MS + 1, 1 << 63, u64::MAX] {
        let grant = command(Change::LeaseGrant { ttl_ms, id: LeaseId::NONE });
        assert_eq!(grant.check_limits(), Err(CommandError::TtlOutOfBounds { ttl_ms }));
    }
    let id = LeaseId(LeaseId::MAX.0 + 1);
    let grant = command(Change::LeaseGrant { ttl_ms: TTL_MAX_MS, id });
    assert_eq!(grant.check_limits(), Err(CommandError::LeaseIdOutOfBounds(id)));
    let ids = vec![LeaseId(1); KEEP_ALIVE_IDS_MAX + 1];
    let too_many = Err(CommandError::TooManyLeases { count: ids.len() });
    assert_eq!(command(Change::LeaseKeepAlive { ids }).check_limits(), too_many);
    check("key", command(Change::Put { key, value }));
    let key = vec![0; REQUEST_KEY_LEN_MAX + 1].into();
    let once = Change::TxnOnce { key, fingerprint: 0, txn: Txn::default() };
    check("key of a request", command(once));
    let (key, value) = (Bytes::new(), vec![0; VALUE_LEN_MAX + 1].into());
    check("value", command(Change::Append { key, value }));
    let client_id = vec![0; CLIENT_ID_LEN_MAX + 1].into();
    check("client id", Command { identity: Identity { client_id, ..identity() }, change: txn() });
}

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..=max).prop_map(Bytes::from)
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        kind in 0..3, key in bytes(255), value in bytes(300), fingerprint in any::<u64>(),
        client_id in bytes(CLIENT_ID_LEN_MAX), request_id in any::<i64>(), seen in any::<u64>(),
    ) {
        let change = match kind {
            0 => Change::Put { key, value },
            1 => Change::Append { key, value },
            _ => {
                let then = vec![Action::put(key.clone(), value).into()];
                Change::TxnOnce { key, fingerprint, txn: Txn { then, ..Txn::default() } }
            }
        };
        let identity = Identity { client_id, request_id, seen_index: Index(seen) };
        let command = Command { identity, change };
        prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
    }

    #[test]
    fn garbage_is_an_error_or_a_command(kind in 0..16u8, garbage in bytes(80)) {
        let bytes = [&[kind], &garbage[..]].concat().into();
        if let Ok(command) = Command::decode(&bytes)
            && command.check_limits().is_ok() {
            prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
    }
}
