//! What the first three bytes of a connection tell: which framing, or which other protocol. The
//! parent's page has the proof.

use std::fmt;

use super::{FrameError, HeadSize};

/// How many bytes it takes to decide.
pub(super) const DETECT_LEN_BYTES: usize = 3;

/// A peer that speaks another protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OtherProtocol {
    /// HTTP: a browser, a health check, a scraper.
    Http,
    /// TLS: a client that expects an encrypted port.
    Tls,
    /// An unknown protocol, with its first three bytes.
    Unknown([u8; DETECT_LEN_BYTES]),
}

impl fmt::Display for OtherProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OtherProtocol::Http => f.write_str("an HTTP request: this port speaks RPC"),
            OtherProtocol::Tls => f.write_str("a TLS hello: this port speaks RPC in the clear"),
            OtherProtocol::Unknown(first) => {
                write!(f, "bytes of an unknown protocol (they begin {first:02x?})")
            }
        }
    }
}

/// The first three bytes of the methods of HTTP/1 and of the preface of HTTP/2 ("PRI * HTTP/2.0").
const HTTP_VERBS: [&[u8; DETECT_LEN_BYTES]; 10] =
    [b"GET", b"POS", b"HEA", b"PUT", b"DEL", b"OPT", b"CON", b"TRA", b"PAT", b"PRI"];

/// The framing of a connection, by its first bytes.
pub(super) fn detect(first: [u8; DETECT_LEN_BYTES]) -> Result<HeadSize, FrameError> {
    match first {
        [_, 0..=4, 0] => Ok(HeadSize::U32Le),
        [0..0x80, 0x0a, _] | [0x80..=0xff, 0..0x80, 0x0a] => Ok(HeadSize::Varint),
        [0x16, 0x03, 0x01..=0x04] => Err(FrameError::OtherProtocol(OtherProtocol::Tls)),
        _ if HTTP_VERBS.contains(&&first) => Err(FrameError::OtherProtocol(OtherProtocol::Http)),
        _ => Err(FrameError::OtherProtocol(OtherProtocol::Unknown(first))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::HEAD_LEN_MAX_BYTES;
    use prost::encoding::encode_varint;

    /// The length, then the start of a header: its first tag and the length of the service name.
    fn first_bytes(prefix: &[u8], name_len: u8) -> [u8; 3] {
        let bytes = [prefix, &[0x0a, name_len]].concat();
        [bytes[0], bytes[1], bytes[2]]
    }

    #[test]
    fn every_length_of_either_framing_is_told_apart() {
        for len in 1..=HEAD_LEN_MAX_BYTES {
            for name_len in 0..=255 {
                let first = first_bytes(&(len as u32).to_le_bytes(), name_len);
                assert_eq!(detect(first).unwrap(), HeadSize::U32Le, "{len}");
                let mut varint = Vec::new();
                encode_varint(len as u64, &mut varint);
                assert_eq!(
                    detect(first_bytes(&varint, name_len)).unwrap(),
                    HeadSize::Varint,
                    "{len}"
                );
            }
        }
    }

    #[test]
    fn other_protocols_are_named() {
        let protocol = |first: &[u8; 3]| match detect(*first) {
            Err(FrameError::OtherProtocol(protocol)) => protocol,
            other => panic!("{other:?}"),
        };
        for verb in HTTP_VERBS {
            assert_eq!(protocol(verb), OtherProtocol::Http);
        }
        for minor in 1..=4 {
            assert_eq!(protocol(&[0x16, 3, minor]), OtherProtocol::Tls);
        }
        assert_eq!(protocol(b"SSH"), OtherProtocol::Unknown(*b"SSH"));
        assert_eq!(protocol(&[0xff; 3]), OtherProtocol::Unknown([0xff; 3]));
    }
}
