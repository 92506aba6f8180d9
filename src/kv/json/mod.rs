//! The JSON that commands and the HTTP front print and read: bytes, entries, changes, leases,
//! transactions and their answers. Scripts depend on it, so names never change.

#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "fronts use the rest"))]
pub(crate) mod base64;
mod lease;
mod object;

use std::str;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::model::{
    Action, Change, Compare, DEPTH_MAX, Entry, KeyRange, LeaseId, NewLease, OPERATIONS_MAX,
    Operand, Operation, OperationAnswer, Range, RangeAnswer, RangeError, Relation, Revision, Txn,
    TxnAnswer, Want,
};
use crate::duration;

use object::Object;

pub use lease::LeaseJson;

/// Bytes: as text where they are text, otherwise as `{"base64": ".."}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected text, or an object with the text \"base64\"")]
enum Written {
    Text(String),
    Base64(Object<Base64>),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Base64 {
    base64: String,
}

/// A key or a value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Octets(pub Bytes);

impl From<Octets> for Written {
    fn from(Octets(bytes): Octets) -> Written {
        match str::from_utf8(&bytes) {
            Ok(text) => Written::Text(text.to_owned()),
            Err(_) => Written::Base64(Object(Base64 { base64: base64::encode(&bytes) })),
        }
    }
}

impl TryFrom<Written> for Octets {
    type Error = String;

    fn try_from(written: Written) -> Result<Octets, String> {
        match written {
            Written::Text(text) => Ok(Octets(text.into())),
            Written::Base64(Object(Base64 { base64: text })) => decoded(&text).map(Octets),
        }
    }
}

fn decoded(text: &str) -> Result<Bytes, String> {
    let begin = || text.chars().take(40).collect::<String>();
    base64::decode(text).map(Bytes::from).ok_or_else(|| format!("{:?} is not base64", begin()))
}

/// An entry as it is printed.
#[derive(Debug, Serialize)]
pub struct EntryJson {
    key: Octets,
    /// `None` where only keys are wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Octets>,
    create_revision: u64,
    mod_revision: u64,
    version: u64,
    lease: u64,
}

impl EntryJson {
    /// With its value.
    pub fn whole(entry: &Entry) -> EntryJson {
        let value = Some(Octets(entry.value.clone()));
        EntryJson { value, ..EntryJson::without_value(entry) }
    }

    /// Without its value, where only keys are wanted.
    pub fn without_value(entry: &Entry) -> EntryJson {
        EntryJson {
            key: Octets(entry.key.clone()),
            value: None,
            create_revision: entry.create_revision.0,
            mod_revision: entry.mod_revision.0,
            version: entry.version,
            lease: entry.lease.0,
        }
    }
}

/// A change as it is printed.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ChangeJson {
    /// The key holds this now.
    Put {
        /// What it holds.
        #[serde(flatten)]
        entry: EntryJson,
        /// What it held before, if that was asked for and there was something.
        #[serde(skip_serializing_if = "Option::is_none")]
        prev: Option<EntryJson>,
    },
    /// The key is gone.
    Delete {
        /// The key.
        key: Octets,
        /// When it was deleted.
        mod_revision: u64,
        /// What it held before, if that was asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        prev: Option<EntryJson>,
    },
}

impl ChangeJson {
    /// With all values.
    pub fn whole(change: &Change) -> ChangeJson {
        ChangeJson::with(change, EntryJson::whole)
    }

    /// Without values, where only keys are wanted.
    pub fn without_values(change: &Change) -> ChangeJson {
        ChangeJson::with(change, EntryJson::without_value)
    }

    fn with(change: &Change, entry_json: impl Fn(&Entry) -> EntryJson) -> ChangeJson {
        let prev = change.previous().map(&entry_json);
        match change {
            Change::Put { entry, .. } => ChangeJson::Put { entry: entry_json(entry), prev },
            Change::Delete { key, revision, .. } => {
                let (key, mod_revision) = (Octets(key.clone()), revision.0);
                ChangeJson::Delete { key, mod_revision, prev }
            }
        }
    }
}

/// Bytes that are always in base64, as etcd's JSON has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Base64Octets(pub Bytes);

impl From<Base64Octets> for String {
    fn from(Base64Octets(bytes): Base64Octets) -> String {
        base64::encode(&bytes)
    }
}

impl TryFrom<String> for Base64Octets {
    type Error = String;

    fn try_from(text: String) -> Result<Base64Octets, String> {
        decoded(&text).map(Base64Octets)
    }
}

/// An entry as it is imported. What else is known of it is ignored.
#[derive(Debug, Deserialize)]
pub struct NewEntry {
    /// The key.
    pub key: Octets,
    /// The value.
    pub value: Octets,
    /// The lease with which it would end, as [`EntryJson`] has it; 0: none.
    #[serde(default)]
    pub lease: u64,
}

impl NewEntry {
    /// Reads an entry.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn read(text: &[u8]) -> Result<NewEntry, String> {
        let read: Result<Object<NewEntry>, _> = serde_json::from_slice(text);
        read.map(|it| it.0).map_err(|error| error.to_string())
    }
}

/// Which keys: exactly one of the forms that `syncraft txn --help` lists.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct KeysJson {
    key: Option<Octets>,
    prefix: Option<Octets>,
    from: Option<Octets>,
    before: Option<Octets>,
}

impl TryFrom<KeysJson> for KeyRange {
    type Error = String;

    fn try_from(keys: KeysJson) -> Result<KeyRange, String> {
        match (keys.key, keys.prefix, keys.from, keys.before) {
            (Some(key), None, None, None) => Ok(KeyRange::key(key.0)),
            (None, Some(prefix), None, None) => Ok(KeyRange::prefix(prefix.0)),
            (None, None, Some(from), None) => Ok(KeyRange::starting_at(from.0)),
            (None, None, Some(from), Some(before)) => {
                KeyRange::between(from.0, before.0).map_err(|error: RangeError| error.to_string())
            }
            _ => Err("keys are given by \"key\", \"prefix\", \"from\", or \"from\" and \"before\""
                .to_owned()),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CompareJson {
    key: Option<Octets>,
    prefix: Option<Octets>,
    from: Option<Octets>,
    before: Option<Octets>,
    relation: Option<String>,
    value: Option<Octets>,
    version: Option<u64>,
    create_revision: Option<u64>,
    mod_revision: Option<u64>,
    lease: Option<u64>,
}

impl TryFrom<CompareJson> for Compare {
    type Error = String;

    fn try_from(compare: CompareJson) -> Result<Compare, String> {
        let CompareJson { key, prefix, from, before, relation, .. } = compare;
        let relation = match relation.as_deref() {
            None | Some("=") => Relation::Equal,
            Some("!=") => Relation::NotEqual,
            Some("<") => Relation::Less,
            Some(">") => Relation::Greater,
            Some(other) => return Err(format!("unknown relation {other:?}")),
        };
        let operands = [
            compare.value.map(|value| Operand::Value(value.0)),
            compare.version.map(Operand::Version),
            compare.create_revision.map(|it| Operand::CreateRevision(Revision(it))),
            compare.mod_revision.map(|it| Operand::ModRevision(Revision(it))),
            compare.lease.map(|it| Operand::Lease(LeaseId(it))),
        ];
        let mut operands = operands.into_iter().flatten();
        let (Some(operand), None) = (operands.next(), operands.next()) else {
            return Err("a comparison has one of \"value\", \"version\", \"create_revision\", \
                        \"mod_revision\", \"lease\""
                .to_owned());
        };
        let keys = KeysJson { key, prefix, from, before }.try_into()?;
        Ok(Compare { keys, relation, operand })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PutJson {
    key: Octets,
    value: Octets,
    lease: Option<u64>,
    ttl: Option<String>,
}

impl TryFrom<PutJson> for Action {
    type Error = String;

    fn try_from(PutJson { key, value, lease, ttl }: PutJson) -> Result<Action, String> {
        let lease = match (lease, ttl) {
            (Some(_), Some(_)) => return Err("a put has a lease or a ttl, not both".to_owned()),
            (lease, None) => NewLease::Set(LeaseId(lease.unwrap_or(0))),
            (None, Some(ttl)) => NewLease::ttl(duration::parse(&ttl)?),
        };
        Ok(Action::put_with(key.0, value.0, lease))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AppendJson {
    key: Octets,
    value: Octets,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IncrementJson {
    key: Octets,
    #[serde(default = "one")]
    by: i64,
}

fn one() -> i64 {
    1
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DeleteJson {
    key: Option<Octets>,
    prefix: Option<Octets>,
    from: Option<Octets>,
    before: Option<Octets>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RangeJson {
    key: Option<Octets>,
    prefix: Option<Octets>,
    from: Option<Octets>,
    before: Option<Octets>,
    limit: u64,
    keys_only: bool,
    at: u64,
}

/// Exactly one of the actions.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OperationJson {
    put: Option<Box<Object<PutJson>>>,
    append: Option<Box<Object<AppendJson>>>,
    increment: Option<Box<Object<IncrementJson>>>,
    delete: Option<Box<Object<DeleteJson>>>,
    range: Option<Box<Object<RangeJson>>>,
    txn: Option<Box<Object<TxnJson>>>,
    may_fail: bool,
}

impl TryFrom<OperationJson> for Operation {
    type Error = String;

    fn try_from(operation: OperationJson) -> Result<Operation, String> {
        let OperationJson { put, append, increment, delete, range, txn, may_fail } = operation;
        let actions = [
            put.map(|it| it.0.try_into()),
            append.map(|it| Ok(Action::append(it.0.key.0, it.0.value.0))),
            increment.map(|it| Ok(Action::increment(it.0.key.0, it.0.by))),
            delete.map(|it| {
                let DeleteJson { key, prefix, from, before } = it.0;
                KeysJson { key, prefix, from, before }.try_into().map(Action::delete)
            }),
            range.map(|range| range.0.try_into().map(Action::Range)),
            txn.map(|txn| txn.0.try_into().map(Action::Txn)),
        ];
        let mut actions = actions.into_iter().flatten();
        match (actions.next(), actions.next()) {
            (Some(action), None) => Ok(Operation { action: action?, may_fail }),
            _ => Err("an operation is one of \"put\", \"append\", \"increment\", \"delete\", \
                      \"range\", \"txn\""
                .to_owned()),
        }
    }
}

impl TryFrom<RangeJson> for Range {
    type Error = String;

    fn try_from(range: RangeJson) -> Result<Range, String> {
        let RangeJson { key, prefix, from, before, limit, keys_only, at } = range;
        let want = if keys_only { Want::Keys } else { Want::Entries };
        let keys = KeysJson { key, prefix, from, before }.try_into()?;
        Ok(Range { limit, want, at: Revision(at), ..Range::of(keys) })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TxnJson {
    compare: Vec<Object<CompareJson>>,
    then: Vec<Object<OperationJson>>,
    #[serde(rename = "else")]
    otherwise: Vec<Object<OperationJson>>,
}

impl TryFrom<TxnJson> for Txn {
    type Error = String;

    fn try_from(TxnJson { compare, then, otherwise }: TxnJson) -> Result<Txn, String> {
        let operations = |operations: Vec<Object<OperationJson>>| {
            operations.into_iter().map(|it| it.0.try_into()).collect::<Result<_, _>>()
        };
        Ok(Txn {
            compare: compare.into_iter().map(|it| it.0.try_into()).collect::<Result<_, _>>()?,
            then: operations(then)?,
            otherwise: operations(otherwise)?,
        })
    }
}

/// Reads a transaction.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn txn(text: &[u8]) -> Result<Txn, String> {
    check_size(text)?;
    let Object(txn): Object<TxnJson> =
        serde_json::from_slice(text).map_err(|error| error.to_string())?;
    txn.try_into()
}

/// Refuses a text before it takes a stack or much memory: one that is nested deeper, or has more
/// objects, than a transaction can be.
fn check_size(text: &[u8]) -> Result<(), String> {
    let (mut depth, mut objects) = (0, 0);
    let (mut is_string, mut is_escaped) = (false, false);
    for &byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_string => is_escaped = true,
            b'"' => is_string = !is_string,
            _ if is_string => {}
            b'{' | b'[' => {
                depth += 1;
                objects += usize::from(byte == b'{');
            }
            b'}' | b']' => depth = usize::saturating_sub(depth, 1),
            _ => {}
        }
        if depth > NESTED_MAX {
            return Err(format!("it is nested too deeply: at most {DEPTH_MAX} transactions"));
        }
        if objects > OBJECTS_MAX {
            return Err(format!("it has too many parts: at most {OPERATIONS_MAX} operations"));
        }
    }
    Ok(())
}

/// A nested transaction takes a list, an operation and an object; an operation in it takes a list
/// and three objects more.
const NESTED_MAX: usize = 3 * DEPTH_MAX + 2;

/// An operation has at most four objects: itself, its action, and a key and a value in base64. A
/// comparison has three.
const OBJECTS_MAX: usize = 4 * OPERATIONS_MAX + 1;

/// What a transaction did, as it is printed.
#[derive(Debug, Serialize)]
pub struct CommittedJson {
    held: bool,
    revision: u64,
    answers: Vec<AnswerJson>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum AnswerJson {
    Put {},
    Append { value_len: u64 },
    Increment { value: i64 },
    Delete { count: u64 },
    Range { count: u64, more: bool, entries: Vec<EntryJson> },
    Txn { held: bool, answers: Vec<AnswerJson> },
    Failed { reason: u32, words: String },
}

impl CommittedJson {
    /// A transaction at this revision, whose comparisons held or not.
    pub fn new(revision: Revision, held: bool, answers: &[OperationAnswer]) -> CommittedJson {
        let answers = answers.iter().map(AnswerJson::from).collect();
        CommittedJson { held, revision: revision.0, answers }
    }
}

impl From<&OperationAnswer> for AnswerJson {
    fn from(answer: &OperationAnswer) -> AnswerJson {
        match answer {
            OperationAnswer::Put { .. } => AnswerJson::Put {},
            OperationAnswer::Append { value_len } => AnswerJson::Append { value_len: *value_len },
            OperationAnswer::Increment { value } => AnswerJson::Increment { value: *value },
            OperationAnswer::Delete { count, .. } => AnswerJson::Delete { count: *count },
            OperationAnswer::Range(RangeAnswer { entries, count, more }) => {
                let entries = entries.iter().map(EntryJson::whole).collect();
                AnswerJson::Range { count: *count, more: *more, entries }
            }
            OperationAnswer::Txn(TxnAnswer { held, answers }) => {
                let answers = answers.iter().map(AnswerJson::from).collect();
                AnswerJson::Txn { held: *held, answers }
            }
            OperationAnswer::Failed(reason) => {
                AnswerJson::Failed { reason: reason.number(), words: reason.to_string() }
            }
        }
    }
}

/// One line of JSON, without its end.
pub fn line(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("text and numbers have a form in JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        let check = |bytes: &'static [u8], json: &str| {
            let octets = Octets(Bytes::from_static(bytes));
            assert_eq!(serde_json::to_string(&octets).unwrap(), json);
            assert_eq!(serde_json::from_str::<Octets>(json).unwrap(), octets);
        };
        check(b"", r#""""#);
        check("grüß\n\"dich\"".as_bytes(), r#""grüß\n\"dich\"""#);
        check(b"\xff\x00", r#"{"base64":"/wA="}"#);
    }

    #[test]
    fn a_transaction_has_every_part_that_the_help_names() {
        let text = br#"{"compare": [{"key": "a", "version": 0},
                {"prefix": "p", "relation": "!=", "value": {"base64": "/w=="}},
                {"from": "a", "before": "b", "relation": ">", "mod_revision": 3},
                {"from": "a", "relation": "<", "create_revision": 3}, {"key": "a", "lease": 0}],
            "then": [{"put": {"key": "a", "value": "1"}}, {"append": {"key": "a", "value": "2"}},
                {"increment": {"key": "a"}}, {"increment": {"key": "a", "by": -3}, "may_fail": true},
                {"delete": {"prefix": ""}}],
            "else": [{"range": {"key": "a", "limit": 1, "keys_only": true, "at": 7}},
                {"txn": {"then": [{"range": {"from": "a"}}]}}]}"#;
        let Txn { compare, then, otherwise } = txn(text).unwrap();
        assert_eq!((compare.len(), then.len(), otherwise.len()), (5, 5, 2));
        assert_eq!(compare[0], Compare::absent("a"));
        assert_eq!(compare[1].operand, Operand::Value(Bytes::from_static(b"\xff")));
        assert_eq!(then[2], Action::increment("a", 1).into());
        assert!(then[3].may_fail && !then[2].may_fail);
        assert_eq!(then[4], Action::delete(KeyRange::all()).into());
        let Action::Range(range) = &otherwise[0].action else { panic!("{otherwise:?}") };
        assert_eq!((range.limit, range.want, range.at), (1, Want::Keys, Revision(7)));
    }

    #[test]
    fn the_largest_transactions_are_read() {
        let put = r#"{"put": {"key": {"base64": ""}, "value": {"base64": ""}}}"#;
        let nested = (1..DEPTH_MAX).fold(format!(r#"{{"then": [{put}]}}"#), |inner, _| {
            format!(r#"{{"then": [{{"txn": {inner}}}]}}"#)
        });
        assert_eq!(txn(nested.as_bytes()).unwrap().check(), Ok(()));
        let many = vec![put; OPERATIONS_MAX].join(",");
        let many = txn(format!(r#"{{"then": [{many}]}}"#).as_bytes()).unwrap();
        assert_eq!((many.then.len(), many.check()), (OPERATIONS_MAX, Ok(())));
        // Brackets in text are text.
        let text =
            format!(r#"{{"then": [{{"put": {{"key": "\"{}", "value": "v"}}}}]}}"#, "{[".repeat(99));
        assert_eq!(txn(text.as_bytes()).unwrap().then.len(), 1);
    }

    #[test]
    fn an_entry_is_an_object_whose_other_fields_do_not_matter() {
        let text = br#"{"key": "k", "value": {"base64": "/w=="}, "version": 3, "lease": 7}"#;
        let NewEntry { key, value, lease } = NewEntry::read(text).unwrap();
        assert_eq!((&key.0[..], &value.0[..], lease), (&b"k"[..], &b"\xff"[..], 7));
        assert_eq!(NewEntry::read(br#"{"key": "k", "value": ""}"#).unwrap().lease, 0);
        let error = NewEntry::read(br#"["k", "v", 0]"#).unwrap_err();
        assert!(error.contains("expected an object"), "{error}");
    }

    #[test]
    fn a_mistake_is_named_in_one_line() {
        let check = |text: &str, words: &str| {
            let error = txn(text.as_bytes()).unwrap_err();
            assert!(error.contains(words) && !error.contains('\n'), "{text}: {error}");
        };
        check("", "EOF");
        check(" ", "EOF");
        for array in [
            "[]",
            r#"{"then": [[]]}"#,
            r#"{"compare": [["k"]]}"#,
            r#"{"then": [{"put": ["k", "v", null, null]}]}"#,
            r#"{"then": [{"txn": []}]}"#,
        ] {
            check(array, "expected an object at line 1");
        }
        check(
            r#"{"then": [{"put": {"key": ["YQ=="], "value": ""}}]}"#,
            "expected text, or an object",
        );
        check(r#"{"if": []}"#, "if");
        check(r#"{"then": [{"putt": {}}]}"#, "putt");
        check(r#"{"then": [{"put": {"key": "k"}}]}"#, "value");
        check(r#"{"then": [{"put": {"key": 7, "value": ""}}]}"#, "base64");
        check(r#"{"then": [{"put": {"key": {"base64": "?"}, "value": ""}}]}"#, "not base64");
        check(r#"{"then": [{}]}"#, "one of");
        check(r#"{"then": [{"delete": {"key": "a", "prefix": "b"}}]}"#, "prefix");
        check(r#"{"then": [{"delete": {"from": "b", "before": "a"}}]}"#, "ends before");
        check(r#"{"compare": [{"key": "a"}]}"#, "version");
        let deep = format!("{}{}", r#"{"then": [{"txn": "#.repeat(40_000), "}]}".repeat(40_000));
        check(&deep, "at most 16 transactions");
        check(&format!(r#"{{"then": [{}{{}}]}}"#, "{},".repeat(4 << 20)), "at most 50000");
        check(r#"{"compare": [{"key": "a", "version": 1, "lease": 2}]}"#, "one of");
        check(r#"{"compare": [{"key": "a", "version": 1, "relation": ">="}]}"#, ">=");
    }
}
