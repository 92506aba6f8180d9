//! [`Names`]: what the placeholders of a case stand for, and the comparison of an answer with what
//! its step expects.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Fields that an error has beyond the recorded ones: newer gateways of etcd have them.
const MORE_IN_ERRORS: [&str; 4] = ["error", "message", "code", "details"];
const MORE_IN_STREAM_ERRORS: [&str; 3] = ["code", "details", "http_status"];

/// The names of a case that are bound, without the `$`.
#[derive(Debug)]
pub(super) struct Names {
    case: String,
    bound: BTreeMap<String, Value>,
}

impl Names {
    pub(super) fn new(case: &str) -> Names {
        Names { case: case.to_owned(), bound: BTreeMap::new() }
    }

    pub(super) fn bind(&mut self, name: &str, value: Value) {
        self.bound.insert(name.to_owned(), value);
    }

    /// Those whose names begin so.
    pub(super) fn beginning(&self, prefix: &str) -> Vec<Value> {
        let named = self.bound.iter().filter(|(name, _)| name.starts_with(prefix));
        named.map(|(_, value)| value.clone()).collect()
    }

    /// A text with its placeholders replaced. What is not bound stays.
    pub(super) fn text(&self, text: &str) -> String {
        let (mut out, mut rest) = (String::new(), text);
        while let Some(at) = rest.find('$') {
            out += &rest[..at];
            let (replaced, taken) = self.placeholder(&rest[at..]);
            out += &replaced;
            rest = &rest[at + taken..];
        }
        out + rest
    }

    /// What the placeholder at the beginning of `text` stands for, and its length.
    fn placeholder(&self, text: &str) -> (String, usize) {
        if let Some(rest) = text.strip_prefix("$k:") {
            let is_key = |it: char| it.is_ascii_alphanumeric() || it == '_' || it == '/';
            let key = &rest[..rest.find(|it| !is_key(it)).unwrap_or(rest.len())];
            return (base64(format!("golden/{}/{key}", self.case).as_bytes()), 3 + key.len());
        }
        let name = &text[1..];
        let name = &name[..name.find(|it: char| !it.is_ascii_alphanumeric()).unwrap_or(name.len())];
        let taken = 1 + name.len();
        if name == "end" {
            return (base64(format!("golden/{}0", self.case).as_bytes()), taken);
        }
        let Some(value) = self.bound.get(name) else { return (text[..taken].to_owned(), taken) };
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let sign = text[taken..].starts_with(['+', '-']);
        let digits = text[taken..].chars().skip(1).take_while(char::is_ascii_digit).count();
        if !sign || digits == 0 {
            return (value, taken);
        }
        let end = taken + 1 + digits;
        let offset: i64 = text[taken..end].parse().unwrap();
        ((value.parse::<i64>().unwrap() + offset).to_string(), end)
    }

    /// A value with its placeholders replaced.
    pub(super) fn expand(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.expand_text(text),
            Value::Array(parts) => parts.iter().flat_map(|part| self.expand_part(part)).collect(),
            Value::Object(fields) => {
                let expanded = |(name, part): (&String, _)| (name.clone(), self.expand(part));
                Value::Object(fields.iter().map(expanded).collect())
            }
            other => other.clone(),
        }
    }

    fn expand_text(&self, text: &str) -> Value {
        if let Some(plain) = text.strip_prefix("$b:") {
            return base64(plain.as_bytes()).into();
        }
        if let Some(length) = text.strip_prefix("$bytes:") {
            return base64(&vec![b'a'; length.parse().unwrap()]).into();
        }
        if let Some(offset) = text.strip_prefix("$head") {
            let revision = self.text(&format!("$rev{offset}"));
            return json!({
                "cluster_id": "$any", "member_id": "$any", "revision": revision, "raft_term": "$any"
            });
        }
        self.text(text).into()
    }

    /// An element of a list: several, if it is a repetition.
    fn expand_part(&self, part: &Value) -> Vec<Value> {
        let Some(times) = part.get("$times").and_then(Value::as_u64) else {
            return vec![self.expand(part)];
        };
        let of = part["of"].to_string();
        let nth = |n| serde_json::from_str(&of.replace("$n", &format!("{n:04}"))).unwrap();
        (0..times).map(|n| self.expand(&nth(n))).collect()
    }

    /// Adds to `found` where `actual` is not as `expected`, which is expanded. Binds the names that
    /// are met first.
    pub(super) fn compare(
        &mut self,
        expected: &Value,
        actual: &Value,
        at: &str,
        found: &mut Vec<String>,
    ) {
        match (expected, actual) {
            (Value::String(name), _) if name == "$any" => {}
            (Value::String(name), _) if name.starts_with('$') => {
                self.bind(&name[1..], actual.clone());
            }
            (Value::Object(expected), Value::Object(actual)) => {
                self.compare_fields(expected, actual, at, found);
            }
            (Value::Array(expected), Value::Array(actual)) => {
                self.compare_parts(expected, actual, at, found);
            }
            _ if expected == actual => {}
            _ => found.push(format!("{at} is {actual}, not {expected}")),
        }
    }

    fn compare_fields(
        &mut self,
        expected: &Map<String, Value>,
        actual: &Map<String, Value>,
        at: &str,
        found: &mut Vec<String>,
    ) {
        for (name, value) in expected {
            match actual.get(name) {
                Some(other) => self.compare(value, other, &format!("{at}/{name}"), found),
                None => found.push(format!("{at}/{name} is missing, not {value}")),
            }
        }
        let is_error = expected.contains_key("error") || expected.contains_key("message");
        let more: &[&str] = match expected.contains_key("grpc_code") {
            _ if !is_error => &[],
            true => &MORE_IN_STREAM_ERRORS,
            false => &MORE_IN_ERRORS,
        };
        for (name, value) in actual {
            if !expected.contains_key(name) && !more.contains(&name.as_str()) {
                found.push(format!("{at}/{name} is {value}, not missing"));
            }
        }
    }

    fn compare_parts(
        &mut self,
        expected: &[Value],
        actual: &[Value],
        at: &str,
        found: &mut Vec<String>,
    ) {
        let each = expected.first().and_then(|it| it.get("$each"));
        if each.is_none() && expected.len() != actual.len() {
            let (actual_len, expected_len) = (actual.len(), expected.len());
            found.push(format!("{at} has {actual_len} elements, not {expected_len}"));
            return;
        }
        if actual.is_empty() && each.is_some() {
            found.push(format!("{at} is empty"));
        }
        for (n, other) in actual.iter().enumerate() {
            self.compare(each.unwrap_or_else(|| &expected[n]), other, &format!("{at}/{n}"), found);
        }
    }
}

/// Standard alphabet, padded.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let mut number = 0;
        for place in 0..3 {
            number = number << 8 | u32::from(group.get(place).copied().unwrap_or(0));
        }
        for place in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * place)) as usize & 63] as char;
            out.push(if place <= group.len() { digit } else { '=' });
        }
    }
    out
}

#[test]
fn placeholders_stand_for_what_the_case_has() {
    let mut names = Names::new("kv/x");
    names.bind("rev", "7".into());
    names.bind("lease1", "12".into());
    let key = base64(b"golden/kv/x/a");
    let check = |text: &str, expected: Value| assert_eq!(names.expand(&text.into()), expected);
    check("$b:ab", "YWI=".into());
    check("$bytes:4", "YWFhYQ==".into());
    check("$k:a", key.clone().into());
    check("$end", base64(b"golden/kv/x0").into());
    check("$rev", "7".into());
    check("$rev+3", "10".into());
    check("$lease1", "12".into());
    check("$lease2", "$lease2".into());
    check(
        "$head-1",
        json!({"cluster_id": "$any", "member_id": "$any", "revision": "6",
                            "raft_term": "$any"}),
    );
    let body = names.text(r#"{"key":"$k:a","lease":$lease1}"#);
    assert_eq!(body, format!(r#"{{"key":"{key}","lease":12}}"#));
    let twice = json!([{"$times": 2, "of": {"key": "$n"}}]);
    assert_eq!(names.expand(&twice), json!([{"key": "0000"}, {"key": "0001"}]));
}

#[test]
fn only_errors_may_have_more_fields() {
    let check = |expected: Value, actual: Value, is_same: bool| {
        let mut found = Vec::new();
        Names::new("x").compare(&expected, &actual, "", &mut found);
        assert_eq!(found.is_empty(), is_same, "{found:?}");
    };
    check(json!({"a": 1}), json!({"a": 1}), true);
    check(json!({"a": 1}), json!({"a": 1, "code": 3}), false);
    check(json!({"a": 1}), json!({}), false);
    check(json!({"error": "x"}), json!({"error": "x", "details": []}), true);
    check(json!({"error": "x"}), json!({"error": "x", "more": 1}), false);
    check(json!({"a": "$any"}), json!({"a": [1]}), true);
    check(json!({"a": "$any"}), json!({}), false);
    check(json!([{"$each": {"a": "$any"}}]), json!([{"a": 1}, {"a": 2}]), true);
    check(json!([{"$each": {"a": "$any"}}]), json!([]), false);
    check(json!([1, 2]), json!([1]), false);
}
