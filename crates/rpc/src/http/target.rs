//! The target of a request: its path and its query. Pure.

use std::borrow::Cow;

use super::Refusal;

/// What a request is about. It has no byte but printable ASCII, and each of its percent signs
/// begins an escape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    path: String,
    query: Option<String>,
}

impl Target {
    /// Reads a target in origin-form, in absolute-form (as sent to proxies), or `*` (RFC 9112
    /// §3.2).
    pub(super) fn parse(target: &str) -> Result<Target, Refusal> {
        let is_plain = |byte: u8| (0x21..=0x7e).contains(&byte) && byte != b'#';
        if !target.bytes().all(is_plain) {
            return Err(Refusal::Target);
        }
        check_escapes(target.as_bytes())?;
        let local = match target.as_bytes().first() {
            Some(b'/') => target,
            Some(b'*') if target == "*" => target,
            _ => without_authority(target).ok_or(Refusal::Target)?,
        };
        let (path, query) = match local.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (local, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Target { path: path.to_owned(), query })
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
}

/// What follows the authority of `http://AUTHORITY/PATH?QUERY`.
fn without_authority(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    let is_known = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    (is_known && end > 0).then(|| &rest[end..])
}

fn check_escapes(text: &[u8]) -> Result<(), Refusal> {
    let mut parts = text.split(|&byte| byte == b'%');
    // What comes before the first percent sign.
    parts.next();
    let is_escape = |part: &[u8]| part.len() >= 2 && part[..2].iter().all(u8::is_ascii_hexdigit);
    if parts.all(is_escape) { Ok(()) } else { Err(Refusal::Escape) }
}

/// The bytes that `text` stands for. Its escapes were checked.
pub(super) fn decode(text: &str) -> Cow<'_, [u8]> {
    let Some(first) = text.find('%') else { return Cow::Borrowed(text.as_bytes()) };
    let mut decoded = text.as_bytes()[..first].to_vec();
    for part in text[first + 1..].split('%') {
        let byte = u8::from_str_radix(&part[..2], 16).expect("escapes are checked at the start");
        decoded.push(byte);
        decoded.extend_from_slice(&part.as_bytes()[2..]);
    }
    Cow::Owned(decoded)
}

/// The bytes of a part of a query, in which a plus sign stands for a space.
pub(super) fn decode_query(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('+') {
        return decode(text);
    }
    Cow::Owned(decode(&text.replace('+', "%20")).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, expected: Result<(&str, Option<&str>), Refusal>) {
        let found = Target::parse(target);
        let found = found.as_ref().map(|it| (it.path(), it.query())).map_err(|error| *error);
        assert_eq!(found, expected, "{target}");
    }

    #[test]
    fn targets_have_three_forms() {
        check("/", Ok(("/", None)));
        check("/a/../b//c?", Ok(("/a/../b//c", Some(""))));
        check("/a?b=c&d?e", Ok(("/a", Some("b=c&d?e"))));
        check("*", Ok(("*", None)));
        check("http://host:80/a?b", Ok(("/a", Some("b"))));
        check("HTTP://host", Ok(("/", None)));
        check("http://host?b", Ok(("/", Some("b"))));
        for bad in ["a", "*x", "http:///a", "ftp://host/a", "host:80", "/a#b", "/\u{e4}", "?a", ""]
        {
            check(bad, Err(Refusal::Target));
        }
        for bad in ["/%", "/%4", "/%4g", "/a?b=%", "/%%20"] {
            check(bad, Err(Refusal::Escape));
        }
    }

    #[test]
    fn escapes_are_any_bytes() {
        let check = |text: &str, path: &[u8], query: &[u8]| {
            assert_eq!((&*decode(text), &*decode_query(text)), (path, query), "{text}");
        };
        check("abc", b"abc", b"abc");
        check("%2e%2E/%00%ff+%25", b"../\0\xff+%", b"../\0\xff %");
    }
}
