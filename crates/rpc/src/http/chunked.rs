//! The chunks of a body (RFC 9112 §7.1). Pure: no sockets, no clock.
//!
//! Extensions of chunks and trailers are read over and dropped.

use super::Refusal;
use super::head::is_token;
use super::limits::FIELDS_MAX;

/// The longest line between chunks, and the longest trailer.
const LINE_LEN_MAX_BYTES: usize = 4096;

/// Reads the frame around the bytes of a chunked body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunked {
    state: State,
    /// The bytes of the line that is being read.
    line_len: usize,
    trailers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The size of a chunk, as far as it has arrived, and whether it has a digit.
    Size {
        size: u64,
        has_digits: bool,
    },
    /// The spaces behind the size: an extension or the end of the line follows.
    SizeSpace {
        size: u64,
    },
    /// What stands behind the size and a semicolon, up to the end of the line.
    Extension {
        size: u64,
    },
    /// The LF of the line with the size.
    SizeLf {
        size: u64,
    },
    /// This many bytes of a chunk are to come.
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// The begin of a line after the last chunk.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

/// A step of the decoder: how many bytes it used up, and how many of these, at their end, are the
/// body's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) used: usize,
    pub(super) data: usize,
}

impl Chunked {
    pub(super) fn new() -> Chunked {
        Chunked { state: SIZE, line_len: 0, trailers: 0 }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads on, up to the end of `bytes`, of a chunk, or of the body. Gives at most `data_max`
    /// bytes of the body.
    pub(super) fn step(&mut self, bytes: &[u8], data_max: usize) -> Result<Step, Refusal> {
        let mut used = 0;
        while used < bytes.len() && self.state != State::Done {
            if let State::Data { left } = &mut self.state {
                let data = bytes.len().saturating_sub(used).min(data_max);
                let data = data.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data as u64;
                if *left == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Step { used: used + data, data });
            }
            self.byte(bytes[used])?;
            used += 1;
        }
        Ok(Step { used, data: 0 })
    }

    fn byte(&mut self, byte: u8) -> Result<(), Refusal> {
        self.line_len += 1;
        if self.line_len > LINE_LEN_MAX_BYTES {
            return Err(Refusal::Chunk);
        }
        let next = match (self.state, byte) {
            (State::Size { size, .. }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).expect("it is a hexadecimal digit");
                let size = size.checked_mul(16).ok_or(Refusal::Chunk)? + u64::from(digit);
                State::Size { size, has_digits: true }
            }
            (
                State::Size { size, has_digits: true }
                | State::SizeSpace { size }
                | State::Extension { size },
                b'\r',
            ) => State::SizeLf { size },
            (State::Size { size, has_digits: true } | State::SizeSpace { size }, b' ' | b'\t') => {
                State::SizeSpace { size }
            }
            (State::Size { size, has_digits: true } | State::SizeSpace { size }, b';') => {
                State::Extension { size }
            }
            (State::Extension { size }, b'\t' | 0x20..=0x7e | 0x80..) => State::Extension { size },
            (State::SizeLf { size: 0 }, b'\n') => State::Trailer,
            (State::SizeLf { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => SIZE,
            (State::Trailer, b'\r') => State::LastLf,
            (State::Trailer, byte) if is_token(byte) => self.trailer()?,
            (State::TrailerName, byte) if is_token(byte) => State::TrailerName,
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\t' | 0x20..=0x7e | 0x80..) => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerLf, b'\n') => State::Trailer,
            (State::LastLf, b'\n') => State::Done,
            _ => return Err(Refusal::Chunk),
        };
        if byte == b'\n' {
            self.line_len = 0;
        }
        self.state = next;
        Ok(())
    }

    fn trailer(&mut self) -> Result<State, Refusal> {
        self.trailers += 1;
        if self.trailers > FIELDS_MAX { Err(Refusal::HeadTooLong) } else { Ok(State::TrailerName) }
    }
}

const SIZE: State = State::Size { size: 0, has_digits: false };

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a body that arrives in parts of `part` bytes. Returns the body and what is left.
    fn read(bytes: &[u8], part: usize) -> Result<(Vec<u8>, usize), Refusal> {
        let (mut chunked, mut body, mut at) = (Chunked::new(), Vec::new(), 0);
        while at < bytes.len() && !chunked.is_done() {
            let end = bytes.len().min(at + part);
            let Step { used, data } = chunked.step(&bytes[at..end], 3)?;
            at += used;
            body.extend_from_slice(&bytes[at - data..at]);
        }
        assert!(chunked.is_done(), "it has no end");
        Ok((body, bytes.len() - at))
    }

    fn check(bytes: &str, expected: Result<(&str, usize), Refusal>) {
        let expected = expected.map(|(body, left)| (body.as_bytes().to_vec(), left));
        for part in 1..=bytes.len() {
            assert_eq!(read(bytes.as_bytes(), part), expected, "{bytes:?} in parts of {part}");
        }
    }

    #[test]
    fn a_body_is_the_same_however_it_is_cut() {
        check("0\r\n\r\n", Ok(("", 0)));
        check("5\r\nhello\r\n0\r\n\r\nGET", Ok(("hello", 3)));
        check("a;x=\"y\"\r\n0123456789\r\n00B ;z\r\nhello world\r\n0\r\n\r\n", {
            Ok(("0123456789hello world", 0))
        });
        check("1 \t\r\nx\r\n1\t;a=1\r\ny\r\n0 \r\n\r\n", Ok(("xy", 0)));
        check("1\r\nx\r\n000\r\nTrailer: 1\r\nOther:\r\n\r\n", Ok(("x", 0)));
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for bad in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            " 1\r\n",
            "0x1\r\n",
            "1 2\r\n",
            "1 \t2\r\n",
            "1 x;a\r\n",
            "1\n",
            "1\r\r\n",
            "1\r\nxx",
            "1\r\nx\n",
            "1\r\nx\rx",
            "1;\x01\r\n",
            "1;a\nb",
            "0\r\n\n",
            "0\r\n:\r\n",
            "0\r\na b: 1\r\n",
            "0\r\na: 1\n",
            "ffffffffffffffff1\r\n",
            ";\r\n",
        ] {
            check(bad, Err(Refusal::Chunk));
        }
        check(&"1".repeat(17), Err(Refusal::Chunk));
        let long = format!("1;{}", "a".repeat(LINE_LEN_MAX_BYTES));
        assert_eq!(read(long.as_bytes(), 1000), Err(Refusal::Chunk));
        let many = format!("0\r\n{}", "a: b\r\n".repeat(FIELDS_MAX + 1));
        assert_eq!(read(many.as_bytes(), 1000), Err(Refusal::HeadTooLong));
        let zeroes = "0".repeat(LINE_LEN_MAX_BYTES + 1);
        assert_eq!(read(zeroes.as_bytes(), 1000), Err(Refusal::Chunk));
    }
}
