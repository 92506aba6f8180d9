//! The requests of etcd's service `KV`, as they are read, and the checks that etcd makes before it
//! looks at its state. Whatever passes them has an answer from the store.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;

use crate::front::etcd::error::{self, EtcdError};
use crate::front::etcd::parse::Fields;

/// How many comparisons, or operations of a branch, a transaction has, with those of the
/// transactions around it: etcd's `--max-txn-ops`.
const TXN_OPS_MAX: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    None,
    Ascend,
    Descend,
}

const ORDERS: [&str; 3] = ["NONE", "ASCEND", "DESCEND"];
const SORT_TARGETS: [&str; 5] = ["KEY", "VERSION", "CREATE", "MOD", "VALUE"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SortTarget {
    Key,
    Version,
    Create,
    Mod,
    Value,
}

#[derive(Clone, Debug)]
pub(super) struct RangeRequest {
    pub(super) key: Bytes,
    pub(super) range_end: Bytes,
    pub(super) limit: i64,
    pub(super) revision: i64,
    pub(super) order: Order,
    pub(super) target: SortTarget,
    pub(super) serializable: bool,
    pub(super) keys_only: bool,
    pub(super) count_only: bool,
    pub(super) min_mod: i64,
    pub(super) max_mod: i64,
    pub(super) min_create: i64,
    pub(super) max_create: i64,
}

#[derive(Clone, Debug)]
pub(super) struct PutRequest {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    pub(super) lease: i64,
    pub(super) prev_kv: bool,
    pub(super) ignore_value: bool,
    pub(super) ignore_lease: bool,
}

#[derive(Clone, Debug)]
pub(super) struct DeleteRequest {
    pub(super) key: Bytes,
    pub(super) range_end: Bytes,
    pub(super) prev_kv: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Greater,
    Less,
    NotEqual,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Version(i64),
    Create(i64),
    Mod(i64),
    Value(Bytes),
    Lease(i64),
}

#[derive(Clone, Debug)]
pub(super) struct CompareRequest {
    pub(super) key: Bytes,
    pub(super) range_end: Bytes,
    pub(super) comparison: Comparison,
    pub(super) target: Target,
}

#[derive(Clone, Debug)]
pub(super) struct TxnRequest {
    pub(super) compare: Vec<CompareRequest>,
    pub(super) success: Vec<OpRequest>,
    pub(super) failure: Vec<OpRequest>,
}

#[derive(Clone, Debug)]
pub(super) enum OpRequest {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRequest),
    Txn(TxnRequest),
}

impl RangeRequest {
    /// Reads and checks it.
    pub(super) fn read(fields: &Fields<'_>) -> Result<RangeRequest, EtcdError> {
        let order = fields.choice("sort_order", &ORDERS).map_err(bad_sort(fields, "sort_order"))?;
        let target =
            fields.choice("sort_target", &SORT_TARGETS).map_err(bad_sort(fields, "sort_target"))?;
        let range = RangeRequest {
            key: fields.bytes("key")?,
            range_end: fields.bytes("range_end")?,
            limit: fields.int64("limit")?,
            revision: fields.int64("revision")?,
            order: [Order::None, Order::Ascend, Order::Descend][order],
            target: [
                SortTarget::Key,
                SortTarget::Version,
                SortTarget::Create,
                SortTarget::Mod,
                SortTarget::Value,
            ][target],
            serializable: fields.flag("serializable")?,
            keys_only: fields.flag("keys_only")?,
            count_only: fields.flag("count_only")?,
            min_mod: fields.int64("min_mod_revision")?,
            max_mod: fields.int64("max_mod_revision")?,
            min_create: fields.int64("min_create_revision")?,
            max_create: fields.int64("max_create_revision")?,
        };
        check_key(&range.key)?;
        Ok(range)
    }
}

/// etcd has words of its own for a number that is none of the enum.
fn bad_sort<'f>(
    fields: &'f Fields<'_>,
    name: &'static str,
) -> impl FnOnce(EtcdError) -> EtcdError + use<'f> {
    let is_number = fields.int64(name).is_ok();
    move |error| if is_number { error::BAD_SORT } else { error }
}

impl PutRequest {
    /// Reads and checks it.
    pub(super) fn read(fields: &Fields<'_>) -> Result<PutRequest, EtcdError> {
        let put = PutRequest {
            key: fields.bytes("key")?,
            value: fields.bytes("value")?,
            lease: fields.int64("lease")?,
            prev_kv: fields.flag("prev_kv")?,
            ignore_value: fields.flag("ignore_value")?,
            ignore_lease: fields.flag("ignore_lease")?,
        };
        check_key(&put.key)?;
        if put.ignore_value && !put.value.is_empty() {
            return Err(error::VALUE_PROVIDED);
        }
        if put.ignore_lease && put.lease != 0 {
            return Err(error::LEASE_PROVIDED);
        }
        Ok(put)
    }
}

impl DeleteRequest {
    /// Reads and checks it.
    pub(super) fn read(fields: &Fields<'_>) -> Result<DeleteRequest, EtcdError> {
        let delete = DeleteRequest {
            key: fields.bytes("key")?,
            range_end: fields.bytes("range_end")?,
            prev_kv: fields.flag("prev_kv")?,
        };
        check_key(&delete.key)?;
        Ok(delete)
    }
}

impl CompareRequest {
    fn read(value: &Value) -> Result<CompareRequest, EtcdError> {
        use Comparison::{Equal, Greater, Less, NotEqual};
        let fields = Fields::of(value)?;
        let comparison = fields.choice("result", &["EQUAL", "GREATER", "LESS", "NOT_EQUAL"])?;
        let target =
            match fields.choice("target", &["VERSION", "CREATE", "MOD", "VALUE", "LEASE"])? {
                0 => Target::Version(fields.int64("version")?),
                1 => Target::Create(fields.int64("create_revision")?),
                2 => Target::Mod(fields.int64("mod_revision")?),
                3 => Target::Value(fields.bytes("value")?),
                _ => Target::Lease(fields.int64("lease")?),
            };
        Ok(CompareRequest {
            key: fields.bytes("key")?,
            range_end: fields.bytes("range_end")?,
            comparison: [Equal, Greater, Less, NotEqual][comparison],
            target,
        })
    }
}

impl TxnRequest {
    /// Reads and checks it, with all transactions in it.
    pub(super) fn read(fields: &Fields<'_>) -> Result<TxnRequest, EtcdError> {
        let txn = TxnRequest::read_within(fields, TXN_OPS_MAX)?;
        check_writes(&txn.success)?;
        check_writes(&txn.failure)?;
        Ok(txn)
    }

    /// `ops_max`: what the transactions around it have left of the limit.
    fn read_within(fields: &Fields<'_>, ops_max: usize) -> Result<TxnRequest, EtcdError> {
        let (compare, success, failure) =
            (fields.list("compare")?, fields.list("success")?, fields.list("failure")?);
        let ops = compare.len().max(success.len()).max(failure.len());
        let Some(left) = ops_max.checked_sub(ops) else { return Err(error::TOO_MANY_OPS) };
        let compare: Vec<_> = compare.iter().map(CompareRequest::read).collect::<Result<_, _>>()?;
        compare.iter().try_for_each(|it| check_key(&it.key))?;
        let branch = |ops: &[Value]| {
            ops.iter().map(|it| OpRequest::read(it, left)).collect::<Result<Vec<_>, _>>()
        };
        Ok(TxnRequest { compare, success: branch(success)?, failure: branch(failure)? })
    }

    /// Whether all that it does is to read what this member has. Without a range, nothing says so.
    pub(super) fn is_serializable(&self) -> bool {
        let mut ops = self.success.iter().chain(&self.failure).peekable();
        ops.peek().is_some()
            && ops.all(|op| match op {
                OpRequest::Range(range) => range.serializable,
                OpRequest::Txn(nested) => nested.is_serializable(),
                OpRequest::Put(_) | OpRequest::Delete(_) => false,
            })
    }
}

impl OpRequest {
    fn read(value: &Value, ops_max: usize) -> Result<OpRequest, EtcdError> {
        let fields = Fields::of(value)?;
        if let Some(range) = fields.message("request_range")? {
            return RangeRequest::read(&range).map(OpRequest::Range);
        }
        if let Some(put) = fields.message("request_put")? {
            return PutRequest::read(&put).map(OpRequest::Put);
        }
        if let Some(delete) = fields.message("request_delete_range")? {
            return DeleteRequest::read(&delete).map(OpRequest::Delete);
        }
        if let Some(txn) = fields.message("request_txn")? {
            return TxnRequest::read_within(&txn, ops_max).map(OpRequest::Txn);
        }
        Err(error::KEY_NOT_FOUND)
    }
}

fn check_key(key: &Bytes) -> Result<(), EtcdError> {
    if key.is_empty() { Err(error::EMPTY_KEY) } else { Ok(()) }
}

/// Keys that are deleted: the ends of ranges by their beginnings. No two overlap.
#[derive(Default)]
struct Deleted(BTreeMap<Bytes, Bytes>);

impl Deleted {
    fn add(&mut self, mut begin: Bytes, mut end: Bytes) {
        if end <= begin {
            return;
        }
        // The ranges that it touches become a part of it.
        while let Some((other, other_end)) =
            self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(&end[..]))).next_back()
            && *other_end >= begin
        {
            let other = other.clone();
            end = end.max(self.0.remove(&other).expect("it was found"));
            begin = begin.min(other);
        }
        self.0.insert(begin, end);
    }

    fn hold(&self, key: &Bytes) -> bool {
        self.0
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(&key[..])))
            .next_back()
            .is_some_and(|(_, end)| end > key)
    }
}

/// What the operations of a branch write.
#[derive(Default)]
struct Writes {
    puts: BTreeSet<Bytes>,
    deleted: Deleted,
}

/// Refuses a branch that writes a key twice, as etcd does it: its deletes before the transactions
/// in it, and these one after the other, and then its puts.
fn check_writes(ops: &[OpRequest]) -> Result<Writes, EtcdError> {
    let mut writes = Writes::default();
    for op in ops {
        if let OpRequest::Delete(DeleteRequest { key, range_end, .. }) = op {
            let end = if range_end.is_empty() { behind(key) } else { range_end.clone() };
            writes.deleted.add(key.clone(), end);
        }
    }
    for op in ops {
        let OpRequest::Txn(nested) = op else { continue };
        let (success, failure) = (check_writes(&nested.success)?, check_writes(&nested.failure)?);
        // One branch may put what the other one puts.
        let mut puts = success.puts;
        puts.extend(failure.puts);
        for key in puts {
            writes.put(key)?;
        }
        for (begin, end) in success.deleted.0.into_iter().chain(failure.deleted.0) {
            writes.deleted.add(begin, end);
        }
    }
    for op in ops {
        if let OpRequest::Put(put) = op {
            writes.put(put.key.clone())?;
        }
    }
    Ok(writes)
}

impl Writes {
    fn put(&mut self, key: Bytes) -> Result<(), EtcdError> {
        let is_deleted = self.deleted.hold(&key);
        if is_deleted || !self.puts.insert(key) { Err(error::DUPLICATE_KEY) } else { Ok(()) }
    }
}

/// The first key behind `key`.
fn behind(key: &Bytes) -> Bytes {
    let mut behind = BytesMut::with_capacity(key.len() + 1);
    behind.extend_from_slice(key);
    behind.put_u8(0);
    behind.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::etcd::parse::message;

    fn txn(json: &str) -> Result<TxnRequest, EtcdError> {
        let value = message(json.as_bytes())?;
        TxnRequest::read(&Fields::of(&value)?)
    }

    fn error(json: &str) -> Option<String> {
        txn(json).err().map(|error| error.to_string())
    }

    fn put(key: &str) -> String {
        format!(r#"{{"request_put":{{"key":"{key}"}}}}"#)
    }

    fn delete(key: &str, end: &str) -> String {
        format!(r#"{{"request_delete_range":{{"key":"{key}","range_end":"{end}"}}}}"#)
    }

    fn nested(success: &[String], failure: &[String]) -> String {
        let (success, failure) = (success.join(","), failure.join(","));
        format!(r#"{{"request_txn":{{"success":[{success}],"failure":[{failure}]}}}}"#)
    }

    fn check(success: &[String], is_duplicate: bool) {
        let json = format!(r#"{{"success":[{}]}}"#, success.join(","));
        let expected = is_duplicate.then(|| error::DUPLICATE_KEY.to_string());
        assert_eq!(error(&json), expected, "{json}");
    }

    #[test]
    fn a_key_is_written_once_on_each_path() {
        // "YQ==" is a, "Yg==" b, "Yw==" c.
        check(&[put("YQ=="), put("Yg==")], false);
        check(&[put("YQ=="), put("YQ==")], true);
        check(&[put("YQ=="), delete("YQ==", "")], true);
        check(&[put("Yg=="), delete("YQ==", "Yw==")], true);
        check(&[put("Yw=="), delete("YQ==", "Yw==")], false);
        check(&[delete("YQ==", "Yw=="), delete("Yg==", "")], false);
        check(&[nested(&[put("YQ==")], &[put("YQ==")])], false);
        check(&[nested(&[put("YQ==")], &[]), put("YQ==")], true);
        check(&[nested(&[], &[put("YQ==")]), put("YQ==")], true);
        check(&[nested(&[put("YQ==")], &[]), nested(&[put("YQ==")], &[])], true);
        check(&[nested(&[delete("YQ==", "Yw==")], &[]), put("Yg==")], true);
        check(&[nested(&[put("Yg==")], &[]), delete("YQ==", "Yw==")], true);
        // etcd does not look back from here, and neither do we.
        check(&[nested(&[put("YQ==")], &[]), nested(&[delete("YQ==", "")], &[])], false);
    }

    #[test]
    fn deleted_ranges_grow_together() {
        let mut deleted = Deleted::default();
        for (begin, end) in [("a", "c"), ("e", "g"), ("b", "f"), ("x", "w"), ("m", "n")] {
            deleted.add(begin.into(), end.into());
        }
        let ranges: Vec<_> = deleted.0.iter().map(|(a, b)| (&a[..], &b[..])).collect();
        assert_eq!(ranges, [(&b"a"[..], &b"g"[..]), (b"m", b"n")]);
        for (key, is_deleted) in [("a", true), ("f", true), ("g", false), ("m", true), ("x", false)]
        {
            assert_eq!(deleted.hold(&key.into()), is_deleted, "{key}");
        }
    }

    #[test]
    fn a_transaction_has_at_most_128_operations_also_nested() {
        let range = r#"{"request_range":{"key":"YQ=="}}"#;
        let of = |count| format!(r#"{{"success":[{}]}}"#, vec![range; count].join(","));
        assert_eq!(error(&of(128)), None);
        assert_eq!(error(&of(129)), Some(error::TOO_MANY_OPS.to_string()));
        let within = |count| format!(r#"{{"failure":[{{"request_txn":{}}}]}}"#, of(count));
        assert_eq!(error(&within(127)), None);
        assert_eq!(error(&within(128)), Some(error::TOO_MANY_OPS.to_string()));
    }

    #[test]
    fn what_etcd_refuses_at_once_is_refused() {
        let check = |json: &str, expected: EtcdError| {
            assert_eq!(error(json), Some(expected.to_string()), "{json}");
        };
        check(r#"{"success":[{}]}"#, error::KEY_NOT_FOUND);
        check(r#"{"success":[null]}"#, error::KEY_NOT_FOUND);
        check(r#"{"success":[{"request_put":null}]}"#, error::KEY_NOT_FOUND);
        check(r#"{"compare":[{}]}"#, error::EMPTY_KEY);
        check(r#"{"failure":[{"requestRange":{}}]}"#, error::EMPTY_KEY);
        let range =
            |rest: &str| format!(r#"{{"success":[{{"request_range":{{"key":"YQ==",{rest}}}}}]}}"#);
        check(&range(r#""sort_order":7"#), error::BAD_SORT);
        check(&range(r#""sort_target":-1"#), error::BAD_SORT);
        let put =
            |rest: &str| format!(r#"{{"success":[{{"request_put":{{"key":"YQ==",{rest}}}}}]}}"#);
        check(&put(r#""value":"YQ==","ignore_value":true"#), error::VALUE_PROVIDED);
        check(&put(r#""lease":1,"ignore_lease":true"#), error::LEASE_PROVIDED);
        for bad in [
            r#"{"success":{}}"#,
            r#"{"success":[7]}"#,
            r#"{"compare":[{"key":"YQ==","target":9}]}"#,
            r#"{"compare":[{"key":"YQ==","result":"SAME"}]}"#,
            r#"{"compare":[{"key":"YQ==","version":"x"}]}"#,
        ] {
            assert!(error(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_comparison_without_an_operand_compares_with_zero() {
        let txn = txn(r#"{"compare":[{"key":"YQ==","target":"CREATE"},
            {"key":"YQ==","target":3,"result":3,"version":7},
            {"key":"YQ==","target":"LEASE","result":"GREATER","lease":"7"}]}"#)
        .unwrap();
        let targets: Vec<_> =
            txn.compare.iter().map(|it| (it.comparison, it.target.clone())).collect();
        assert_eq!(
            targets,
            [
                (Comparison::Equal, Target::Create(0)),
                (Comparison::NotEqual, Target::Value(Bytes::new())),
                (Comparison::Greater, Target::Lease(7)),
            ]
        );
    }
}
