//! Base64 (RFC 4648, section 4, with padding): how JSON carries bytes that are no text.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    encode_to(&mut text, bytes);
    String::from_utf8(text).expect("its digits are ASCII")
}

/// Writes the base64 of `bytes` behind what is in `text`.
pub(crate) fn encode_to(text: &mut Vec<u8>, bytes: &[u8]) {
    text.reserve(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            // A chunk of n bytes has n + 1 digits.
            text.push(match place <= chunk.len() {
                true => ALPHABET[(bits >> (18 - 6 * place)) as usize & 63],
                false => b'=',
            });
        }
    }
}

/// As [`decode`], for other programs' base64: also of the URL alphabet (RFC 4648, section 5),
/// without padding, with line ends, and with bits behind the last byte, which are lost.
pub(crate) fn decode_any(text: &str) -> Option<Vec<u8>> {
    if text.contains(['\r', '\n']) {
        return decode_any(&text.replace(['\r', '\n'], ""));
    }
    let digits = text.as_bytes();
    let padding = digits.iter().rev().take(2).take_while(|&&digit| digit == b'=').count();
    if padding > 0 && !digits.len().is_multiple_of(4) {
        return None;
    }
    let digits = &digits[..digits.len() - padding];
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for chunk in digits.chunks(4) {
        if chunk.len() == 1 {
            return None;
        }
        let mut bits = 0;
        for (place, &digit) in chunk.iter().enumerate() {
            bits |= match digit {
                b'-' => 62,
                b'_' => 63,
                digit => value(digit)?,
            } << (18 - 6 * place);
        }
        bytes.extend_from_slice(&u32::to_be_bytes(bits)[1..chunk.len()]);
    }
    Some(bytes)
}

/// `None` if it is not the base64 of anything.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take(2).take_while(|&&digit| digit == b'=').count();
    let (digits, mut bytes) = (&text[..text.len() - padding], Vec::new());
    for chunk in digits.chunks(4) {
        let mut bits = 0;
        for place in 0..4 {
            let value = chunk.get(place).map_or(Some(0), |&digit| value(digit))?;
            bits |= value << (18 - 6 * place);
        }
        let [_, triple @ ..] = u32::to_be_bytes(bits);
        let (kept, rest) = triple.split_at(chunk.len() - 1);
        // Bits behind the last byte would be lost.
        if rest.iter().any(|&byte| byte != 0) {
            return None;
        }
        bytes.extend_from_slice(kept);
    }
    Some(bytes)
}

fn value(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of RFC 4648, section 10.
    #[test]
    fn as_in_the_rfc() {
        let check = |bytes: &str, text: &str| {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        };
        check("", "");
        check("f", "Zg==");
        check("fo", "Zm8=");
        check("foo", "Zm9v");
        check("foob", "Zm9vYg==");
        check("fooba", "Zm9vYmE=");
        check("foobar", "Zm9vYmFy");
    }

    #[test]
    fn every_byte_comes_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        for len in 0..=256 {
            assert_eq!(decode(&encode(&bytes[..len])).as_deref(), Some(&bytes[..len]));
        }
    }

    #[test]
    fn other_forms_are_read_where_they_are_asked_for() {
        let check = |text: &str, bytes: Option<&[u8]>| {
            assert_eq!(decode_any(text).as_deref(), bytes, "{text}");
        };
        check("", Some(b""));
        check("Zg==", Some(b"f"));
        check("Zg", Some(b"f"));
        check("Zm8", Some(b"fo"));
        check("-_8=", Some(b"\xfb\xff"));
        check("+/8", Some(b"\xfb\xff"));
        check("Zh==", Some(b"f"));
        check("Zm\r\n9v\n", Some(b"foo"));
        for text in ["Z", "Zg=", "Z===", "====", "Zg==Zg==", "Zm 9", "Zm9vY"] {
            check(text, None);
        }
        let bytes: Vec<u8> = (0..=255).collect();
        for len in 0..=256 {
            check(&encode(&bytes[..len]), Some(&bytes[..len]));
        }
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for text in ["Z", "Zg", "Zg=", "Z===", "====", "Zg==Zg==", "Zh==", "Zm9=", "Zm 9", "Zm-_"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
