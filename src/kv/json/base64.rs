//! Base64 (RFC 4648, section 4, with padding): how JSON carries bytes that are no text.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            // A chunk of n bytes has n + 1 digits.
            text.push(match place <= chunk.len() {
                true => ALPHABET[(bits >> (18 - 6 * place)) as usize & 63].into(),
                false => '=',
            });
        }
    }
    text
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
    let value = ALPHABET.iter().position(|&known| known == digit)?;
    Some(value as u32)
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
    fn what_is_no_base64_is_refused() {
        for text in ["Z", "Zg", "Zg=", "Z===", "====", "Zg==Zg==", "Zh==", "Zm9=", "Zm 9", "Zm-_"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
