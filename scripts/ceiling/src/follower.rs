//! A follower: it writes each batch to its log, and tells the leader how many are on disk.
//!
//! A batch begins with its length in bytes, itself included, as a little-endian `u64`. Logs hold
//! batches in the same form. An acknowledgement is the number of all batches on disk, as a
//! little-endian `u64`.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use crate::error::Error;
use crate::log::{LOG_BYTES, Log};
use crate::server;

pub(crate) const NUMBER_BYTES: usize = 8;
/// How much a follower takes from its socket at a time.
const READ_BYTES: usize = 1 << 20;

pub(crate) fn serve(log: &Path) -> Result<(), Error> {
    let log = Log::open(log)?;
    let (listener, addr) = server::listen()?;
    server::spawn_vital("following the leader", move || follow(&listener, log))?;
    server::announce(addr)
}

fn follow(listener: &TcpListener, mut log: Log) -> io::Result<()> {
    let (mut leader, _) = listener.accept()?;
    leader.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(READ_BYTES, leader.try_clone()?);
    let (mut bytes, mut batches) = (Vec::new(), 0u64);
    // An error of the connection means that the leader has ended, and the measurement with it.
    while let Ok(arrived) = read_arrived(&mut reader, &mut bytes) {
        log.append(&bytes)?;
        batches += arrived;
        let _ = leader.write_all(&batches.to_le_bytes());
    }
    Ok(())
}

/// Reads one batch, and those after it that have arrived: one sync serves them all. Returns how
/// many.
fn read_arrived(reader: &mut BufReader<TcpStream>, bytes: &mut Vec<u8>) -> io::Result<u64> {
    bytes.clear();
    let mut batches = 0;
    loop {
        read_batch(reader, bytes)?;
        batches += 1;
        if !starts_with_batch(reader.buffer()) {
            return Ok(batches);
        }
    }
}

fn read_batch(reader: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut number = [0; NUMBER_BYTES];
    reader.read_exact(&mut number)?;
    let len_bytes = u64::from_le_bytes(number);
    if !(NUMBER_BYTES as u64..=LOG_BYTES).contains(&len_bytes) {
        return Err(io::Error::other(format!("a batch of {len_bytes} bytes")));
    }
    let begin = bytes.len();
    bytes.extend_from_slice(&number);
    bytes.resize(begin + len_bytes as usize, 0);
    reader.read_exact(&mut bytes[begin + NUMBER_BYTES..])
}

/// Whether `bytes` hold a whole batch.
fn starts_with_batch(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(|number| u64::from_le_bytes(*number) <= bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_whole_with_all_its_bytes() {
        let batch = [&11u64.to_le_bytes()[..], b"abc"].concat();
        let check = |bytes: &[u8], expected| assert_eq!(starts_with_batch(bytes), expected);
        check(&[], false);
        check(&batch[..7], false);
        check(&batch[..10], false);
        check(&batch, true);
        check(&[&batch[..], b"more"].concat(), true);
    }

    #[test]
    fn a_batch_of_no_possible_length_is_an_error() {
        for len_bytes in [0, NUMBER_BYTES as u64 - 1, LOG_BYTES + 1] {
            assert!(read_batch(&mut &len_bytes.to_le_bytes()[..], &mut Vec::new()).is_err());
        }
    }
}
