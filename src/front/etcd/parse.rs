//! [`Fields`]: JSON as etcd's gateway reads it, and more leniently where that does no harm.
//!
//! A field has its name from the proto (`range_end`) or in camel case (`rangeEnd`). Integers are
//! numbers or strings, enums are names or numbers, bytes are base64 of either alphabet, padded or
//! not. `null` is an absent field, and what is not known is ignored. An empty body is the empty
//! message.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::error::EtcdError;
use crate::kv::json::base64;
use crate::kv::model::DEPTH_MAX;

/// How deep a body may be nested. A nested transaction takes a list, an operation and an object.
/// A connection's thread has a small stack.
const NESTED_MAX: usize = 3 * DEPTH_MAX + 4;

/// How much a body may weigh: a value takes some dozen bytes of memory, and may have two in the
/// body. A full transaction weighs half of it.
const WEIGHT_MAX: usize = 40_000;

/// How many messages a body may have, one behind the other: each becomes a request, which takes a
/// hundred times the memory of a bare `0`.
const MESSAGES_MAX: usize = 1_000;

/// What an object or a list weighs: it takes 650 bytes of memory.
const OBJECT_WEIGHT: usize = 20;

/// The first message of a body. etcd ignores what follows.
pub(super) fn message(body: &[u8]) -> Result<Value, EtcdError> {
    check_size(body)?;
    match serde_json::Deserializer::from_slice(body).into_iter().next() {
        None => Ok(Value::Null),
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(malformed(&error)),
    }
}

/// All messages of a body, one behind the other, as a stream of requests has them.
pub(super) fn messages(body: &[u8]) -> Result<Vec<Value>, EtcdError> {
    check_size(body)?;
    let mut values = Vec::new();
    for value in serde_json::Deserializer::from_slice(body).into_iter() {
        if values.len() == MESSAGES_MAX {
            let words = format!("the body has more than {MESSAGES_MAX} messages");
            return Err(EtcdError::invalid(words));
        }
        values.push(value.map_err(|error| malformed(&error))?);
    }
    Ok(values)
}

fn malformed(error: &serde_json::Error) -> EtcdError {
    EtcdError::invalid(if error.is_eof() { "unexpected EOF".to_owned() } else { error.to_string() })
}

/// Refuses a body before it takes a stack or much memory.
fn check_size(body: &[u8]) -> Result<(), EtcdError> {
    let (mut depth, mut weight) = (0usize, 0usize);
    let (mut is_string, mut is_escaped) = (false, false);
    for &byte in body {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_string => is_escaped = true,
            b'"' => is_string = !is_string,
            _ if is_string => {}
            b'{' | b'[' => (depth, weight) = (depth + 1, weight + OBJECT_WEIGHT),
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => weight += 1,
            _ => {}
        }
        if depth > NESTED_MAX {
            return Err(EtcdError::invalid("the body is nested too deeply"));
        }
        if weight > WEIGHT_MAX {
            return Err(EtcdError::invalid("the body has too many values"));
        }
    }
    Ok(())
}

/// A message whose fields are read one by one.
#[derive(Clone, Copy)]
pub(super) struct Fields<'v>(Option<&'v Map<String, Value>>);

impl<'v> Fields<'v> {
    pub(super) fn of(value: &'v Value) -> Result<Fields<'v>, EtcdError> {
        match value {
            Value::Null => Ok(Fields(None)),
            Value::Object(fields) => Ok(Fields(Some(fields))),
            other => {
                Err(EtcdError::invalid(format!("a message is an object, not {}", kind(other))))
            }
        }
    }

    fn get(&self, name: &str) -> Option<&'v Value> {
        let fields = self.0?;
        let found = fields.get(name).or_else(|| {
            let is_camel = |(found, _): &(&String, &Value)| is_camel_case_of(found, name);
            fields.iter().find(is_camel).map(|(_, value)| value)
        });
        found.filter(|value| !value.is_null())
    }

    pub(super) fn bytes(&self, name: &str) -> Result<Bytes, EtcdError> {
        let Some(text) = self.string(name)? else { return Ok(Bytes::new()) };
        match base64::decode_any(text) {
            Some(bytes) => Ok(bytes.into()),
            None => Err(EtcdError::invalid(format!("{name}: illegal base64 data"))),
        }
    }

    fn string(&self, name: &str) -> Result<Option<&'v str>, EtcdError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(unexpected(name, "a string", other)),
        }
    }

    /// A signed integer of 64 bits.
    pub(super) fn int64(&self, name: &str) -> Result<i64, EtcdError> {
        let number = match self.get(name) {
            None => Some(0),
            // Zero with a sign is a float to the reader of JSON.
            Some(Value::Number(number)) if number.as_f64() == Some(0.0) => Some(0),
            Some(Value::Number(number)) => number.as_i64(),
            Some(Value::String(text)) => text.trim_ascii().parse().ok(),
            Some(other) => return Err(unexpected(name, "an integer", other)),
        };
        number.ok_or_else(|| EtcdError::invalid(format!("{name}: not an integer of 64 bits")))
    }

    /// An unsigned integer of 64 bits.
    pub(super) fn uint64(&self, name: &str) -> Result<u64, EtcdError> {
        let number = match self.get(name) {
            None => Some(0),
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => text.trim_ascii().parse().ok(),
            Some(other) => return Err(unexpected(name, "an integer", other)),
        };
        number.ok_or_else(|| EtcdError::invalid(format!("{name}: not an integer of 64 bits")))
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, EtcdError> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(unexpected(name, "true or false", other)),
        }
    }

    /// An enum, by its name or its number among `names`. Absent: the first one.
    pub(super) fn choice(&self, name: &str, names: &[&str]) -> Result<usize, EtcdError> {
        self.get(name).map_or(Ok(0), |value| choice(name, value, names))
    }

    /// A list of enums, as [`choice`](Fields::choice).
    pub(super) fn choices(&self, name: &str, names: &[&str]) -> Result<Vec<usize>, EtcdError> {
        self.list(name)?.iter().map(|value| choice(name, value, names)).collect()
    }

    pub(super) fn list(&self, name: &str) -> Result<&'v [Value], EtcdError> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(unexpected(name, "a list", other)),
        }
    }

    /// A message within this one; `None`: it is absent.
    pub(super) fn message(&self, name: &str) -> Result<Option<Fields<'v>>, EtcdError> {
        self.get(name).map(Fields::of).transpose()
    }
}

fn choice(name: &str, value: &Value, names: &[&str]) -> Result<usize, EtcdError> {
    let found = match value {
        Value::Number(number) => {
            number.as_u64().and_then(|it| usize::try_from(it).ok()).filter(|it| *it < names.len())
        }
        Value::String(text) => names.iter().position(|known| known == text),
        other => return Err(unexpected(name, "a name or a number", other)),
    };
    found.ok_or_else(|| {
        let value: String = value.to_string().chars().take(40).collect();
        EtcdError::invalid(format!("unknown value {value} for {name}: {}", names.join(", ")))
    })
}

fn unexpected(name: &str, wanted: &str, found: &Value) -> EtcdError {
    EtcdError::invalid(format!("{name}: expected {wanted}, not {}", kind(found)))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Whether `found` is `name` in camel case: `rangeEnd` for `range_end`.
fn is_camel_case_of(found: &str, name: &str) -> bool {
    let mut found = found.chars();
    let mut is_after_underscore = false;
    for letter in name.chars() {
        if letter == '_' {
            is_after_underscore = true;
            continue;
        }
        let expected = match std::mem::take(&mut is_after_underscore) {
            true => letter.to_ascii_uppercase(),
            false => letter,
        };
        if found.next() != Some(expected) {
            return false;
        }
    }
    found.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(json: &str, read: impl FnOnce(Fields<'_>) -> Result<T, EtcdError>) -> Option<T> {
        let value = message(json.as_bytes()).unwrap();
        read(Fields::of(&value).unwrap()).ok()
    }

    #[test]
    fn a_body_has_so_many_messages_and_no_more() {
        for value in ["0", "null", "{}", r#""""#] {
            let body = |len: usize| vec![value; len].join(" ");
            assert_eq!(messages(body(MESSAGES_MAX).as_bytes()).unwrap().len(), MESSAGES_MAX);
            messages(body(MESSAGES_MAX + 1).as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn names_are_those_of_the_proto_or_in_camel_case() {
        for json in [r#"{"range_end":"YQ=="}"#, r#"{"rangeEnd":"YQ=="}"#] {
            assert_eq!(read(json, |it| it.bytes("range_end")).unwrap(), "a");
        }
        assert!(read(r#"{"range_End":"YQ=="}"#, |it| it.bytes("range_end")).unwrap().is_empty());
        assert_eq!(read(r#"{"TTL":7}"#, |it| it.int64("TTL")), Some(7));
        assert_eq!(
            read(r#"{"maxCreateRevision":7}"#, |it| it.int64("max_create_revision")),
            Some(7)
        );
    }

    #[test]
    fn integers_are_numbers_or_strings() {
        let int = |json: &str| read(&format!(r#"{{"n":{json}}}"#), |it| it.int64("n"));
        assert_eq!(int("7"), Some(7));
        assert_eq!(int(r#""-7""#), Some(-7));
        assert_eq!(int("9223372036854775807"), Some(i64::MAX));
        assert_eq!(int("null"), Some(0));
        assert_eq!(int("-0"), Some(0));
        assert_eq!(int(r#"" 7 ""#), Some(7));
        for bad in ["1.5", r#""x""#, r#""""#, "true", "[]", "9223372036854775808", "1e3"] {
            assert_eq!(int(bad), None, "{bad}");
        }
        assert_eq!(read(r#"{"n":"18446744073709551615"}"#, |it| it.uint64("n")), Some(u64::MAX));
    }

    #[test]
    fn bytes_are_base64_of_either_alphabet() {
        let bytes = |json: &str| read(&format!(r#"{{"b":{json}}}"#), |it| it.bytes("b"));
        for json in [r#""//4=""#, r#""__4=""#, r#""//4""#, r#""__4""#] {
            assert_eq!(bytes(json).unwrap(), &b"\xff\xfe"[..], "{json}");
        }
        assert_eq!(bytes("null").unwrap(), "");
        for bad in [r#""Y""#, r#""Y*==""#, "7", r#""YQ=a""#] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn enums_are_names_or_numbers() {
        let order = |json: &str| read(json, |it| it.choice("sort_order", &["NONE", "ASCEND"]));
        assert_eq!(order("{}"), Some(0));
        assert_eq!(order(r#"{"sortOrder":"ASCEND"}"#), Some(1));
        assert_eq!(order(r#"{"sort_order":1}"#), Some(1));
        for bad in [r#"{"sort_order":2}"#, r#"{"sort_order":"UP"}"#, r#"{"sort_order":-1}"#] {
            assert_eq!(order(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_body_without_a_message_is_the_empty_message() {
        for body in ["", " \n", "null", "{}"] {
            let value = message(body.as_bytes()).unwrap();
            assert!(Fields::of(&value).unwrap().get("key").is_none(), "{body:?}");
        }
        // What follows the first message is ignored.
        assert!(message(b"{} x").is_ok());
        assert_eq!(messages(b"{\"ID\":1}\n{\"ID\":2}").unwrap().len(), 2);
        assert_eq!(messages(b"").unwrap().len(), 0);
    }

    #[test]
    fn bad_json_is_refused_before_it_costs_much() {
        for body in [&b"{\"key\":"[..], b"x", b"\"", b"{\"a\":\xff}"] {
            assert!(message(body).is_err(), "{body:?}");
        }
        for body in ["[".repeat(1 << 20), "{\"a\":".repeat(1 << 18), "{},".repeat(1 << 20)] {
            assert!(message(body.as_bytes()).is_err());
        }
        // As a field that is not looked at.
        let objects = "{\"a\":1},".repeat(2_000);
        assert!(message(format!("{{\"x\":[{objects}{{}}]}}").as_bytes()).is_err());
        // Brackets in text are text.
        let text = format!("{{\"a\":\"\\\"{}\"}}", "[{".repeat(1000));
        assert!(message(text.as_bytes()).is_ok());
        for body in ["[]", "7", "\"a\"", "true"] {
            assert!(Fields::of(&message(body.as_bytes()).unwrap()).is_err(), "{body}");
        }
    }
}
