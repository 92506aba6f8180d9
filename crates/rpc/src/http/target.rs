//! The target of a request: its path and its query. Pure.

use std::borrow::Cow;

use super::Refusal;

/// What a request is about. It has no byte but printable ASCII, and each of its percent signs
/// begins an escape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    authority: Option<String>,
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
        let (authority, local) = match target.as_bytes().first() {
            Some(b'/') => (None, target),
            Some(b'*') if target == "*" => (None, target),
            _ => {
                let (authority, local) = split_authority(target).ok_or(Refusal::Target)?;
                (Some(authority.to_owned()), local)
            }
        };
        let (path, query) = match local.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (local, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Target { authority, path: path.to_owned(), query })
    }

    /// The host and port of a target in absolute-form.
    pub(super) fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
}

/// The authority of `http://AUTHORITY/PATH?QUERY`, and what follows it.
fn split_authority(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    let is_known = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, local) = rest.split_at(end);
    (is_known && is_authority(authority.as_bytes())).then_some((authority, local))
}

/// Whether it is `HOST` or `HOST:PORT` (RFC 3986 §3.2.2, §3.2.3). A comma, which the RFC allows, is
/// not: it joins two values of `Host`. Nor is a user's name before the host (RFC 9110 §4.2.4).
pub(super) fn is_authority(text: &[u8]) -> bool {
    let (host, is_host_byte, port): (_, fn(u8) -> bool, _) = match text.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
            (&rest[..end], is_address_byte, &rest[end + 1..])
        }
        None => {
            let end = text.iter().position(|&byte| byte == b':').unwrap_or(text.len());
            (&text[..end], is_name_byte, &text[end..])
        }
    };
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    is_port && !host.is_empty() && host.iter().all(|&byte| is_host_byte(byte))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&byte)
}

fn is_address_byte(byte: u8) -> bool {
    byte.is_ascii_hexdigit() || b":.".contains(&byte)
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
        for bad in [
            "a",
            "*x",
            "http:///a",
            "http://user@host/",
            "http://a,b/",
            "http://:80/",
            "ftp://host/a",
            "host:80",
            "/a#b",
            "/\u{e4}",
            "?a",
            "",
        ] {
            check(bad, Err(Refusal::Target));
        }
        for bad in ["/%", "/%4", "/%4g", "/a?b=%", "/%%20"] {
            check(bad, Err(Refusal::Escape));
        }
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for good in ["x", "a-b_c.example", "10.0.0.1:80", "host:", "[::1]", "[::1]:80", "h%41"] {
            assert!(is_authority(good.as_bytes()), "{good}");
            let target = Target::parse(&format!("http://{good}/a")).unwrap();
            assert_eq!(target.authority(), Some(good));
        }
        for bad in ["", ":80", "a, b", "a,b", "a b", "u@h", "h:x", "h:1:2", "[::1", "[]", "[::1]x"]
        {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
        assert_eq!(Target::parse("/a").unwrap().authority(), None);
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
