//! [`Input`]: a snapshot while it is read, one record at a time.
//!
//! Entries and changes are most of a snapshot. They are read into buffers that serve the next ones,
//! so that a record costs no more memory than the state keeps of it.

use std::io::{self, BufRead, BufReader, Read};

use bincode::Options;
use serde::de::DeserializeOwned;

use super::records::Section;
use super::{invalid, io_error, options};
use crate::kv::model::{LeaseId, Revision};
use crate::kv::state::{Before, BeforeValue, OwnLease, Record, Stored, Value};
use crate::kv::{KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::raft::Index;

const BUFFER_LEN: usize = 64 << 10;

pub(super) struct Input<'a> {
    body: BufReader<&'a mut dyn Read>,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl<'a> Input<'a> {
    pub(super) fn new(body: &'a mut dyn Read) -> Input<'a> {
        let body = BufReader::with_capacity(BUFFER_LEN, body);
        Input { body, key: Vec::new(), value: Vec::new() }
    }

    /// A record of one of the short sections.
    pub(super) fn record<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        options().deserialize_from(&mut self.body).map_err(|error| io_error(*error))
    }

    /// The head of the next section, whichever it is.
    pub(super) fn next_section(&mut self) -> io::Result<Section> {
        self.record()
    }

    /// The number of records in the next section, which must have this tag.
    pub(super) fn section(&mut self, expected: u32) -> io::Result<u64> {
        let Section { tag, records } = self.next_section()?;
        match tag == expected {
            true => Ok(records),
            false => Err(invalid(format!("section {tag} in place of {expected}"))),
        }
    }

    /// A key, and the lease of its own that it has.
    pub(super) fn own_lease(&mut self) -> io::Result<(&[u8], OwnLease)> {
        let key_len = self.key("a key with a lease that is over its limit")?;
        let [deadline_ms, index] = self.numbers()?;
        let operation = u32::from_le_bytes(self.array()?);
        let own = OwnLease { deadline_ms, index: Index(index), operation };
        Ok((&self.key[..key_len], own))
    }

    /// A key, and what it holds.
    pub(super) fn entry(&mut self) -> io::Result<(&[u8], Stored)> {
        let key_len = self.key("a key or a value over its limit")?;
        let value_len = self.value("a key or a value over its limit")?;
        let value = Value::from(&self.value[..value_len]);
        let [create_revision, mod_revision, version, lease] = self.numbers()?;
        let (create_revision, mod_revision) = (Revision(create_revision), Revision(mod_revision));
        let stored =
            Stored { value, create_revision, mod_revision, version, lease: LeaseId(lease) };
        Ok((&self.key[..key_len], stored))
    }

    /// A record of the history.
    pub(super) fn change(&mut self) -> io::Result<Record<'_>> {
        let [revision] = self.numbers()?;
        let key_len = self.key("a key of the history over its limit")?;
        let before = match self.array()? {
            [0] => None,
            [1] => Some(self.before()?),
            [other] => return Err(invalid(format!("a key of the history that is {other}"))),
        };
        let before = before.map(|(value_len, before)| Before {
            value: match value_len {
                Some(len) => BeforeValue::Whole(&self.value[..len]),
                None => before.value,
            },
            ..before
        });
        Ok(Record { revision: Revision(revision), key: &self.key[..key_len], before })
    }

    /// What a key held before, but for its value: that is in the buffer, if it has a length here.
    fn before(&mut self) -> io::Result<(Option<usize>, Before<&'static [u8]>)> {
        let (value_len, value) = match u32::from_le_bytes(self.array()?) {
            0 => {
                let len = self.value("a value of the history over its limit")?;
                (Some(len), BeforeValue::Whole(&[][..]))
            }
            1 => {
                let [len] = self.numbers()?;
                if len > VALUE_LEN_MAX as u64 {
                    return Err(invalid("a value of the history over its limit"));
                }
                (None, BeforeValue::Prefix(len as usize))
            }
            kind => return Err(invalid(format!("a value of the history of kind {kind}"))),
        };
        let [create_revision, mod_revision, version, lease] = self.numbers()?;
        let (create_revision, mod_revision) = (Revision(create_revision), Revision(mod_revision));
        let lease = LeaseId(lease);
        Ok((value_len, Before { value, create_revision, mod_revision, version, lease }))
    }

    /// Fails unless everything has been read.
    pub(super) fn end(&mut self) -> io::Result<()> {
        match self.body.fill_buf()?.is_empty() {
            true => Ok(()),
            false => Err(invalid("bytes after the end")),
        }
    }

    fn key(&mut self, too_long: &'static str) -> io::Result<usize> {
        let [len] = self.numbers()?;
        read_bytes(&mut self.body, len, KEY_LEN_MAX, &mut self.key, too_long)
    }

    fn value(&mut self, too_long: &'static str) -> io::Result<usize> {
        let [len] = self.numbers()?;
        read_bytes(&mut self.body, len, VALUE_LEN_MAX, &mut self.value, too_long)
    }

    fn numbers<const N: usize>(&mut self) -> io::Result<[u64; N]> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = u64::from_le_bytes(self.array()?);
        }
        Ok(numbers)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.body.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// Reads `len` bytes to the beginning of `out`. Returns their number.
fn read_bytes(
    body: &mut impl Read,
    len: u64,
    len_max: usize,
    out: &mut Vec<u8>,
    too_long: &'static str,
) -> io::Result<usize> {
    if len > len_max as u64 {
        return Err(invalid(too_long));
    }
    let len = len as usize;
    if out.len() < len {
        out.resize(len, 0);
    }
    body.read_exact(&mut out[..len])?;
    Ok(len)
}
