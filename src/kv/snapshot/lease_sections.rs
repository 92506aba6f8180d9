//! The sections of a snapshot that hold the time and the leases. A store without them writes none.

use std::collections::BTreeMap;
use std::io::{self, Write};

use imbl::OrdSet;

use super::input::Input;
use super::records::{Borrowed, LeaseRecord, OwnLeaseRecord, Section, TimeRecord};
use super::{TAG_LEASES, TAG_OWN_LEASES, TAG_TIME, invalid, put};
use crate::kv::limits::Limits;
use crate::kv::model::{LeaseId, TTL_MAX_MS};
use crate::kv::state::{Key, Lease, Leases, State, Tree};

/// The keys of each lease, as the entries name them.
#[derive(Default)]
pub(super) struct Attached(BTreeMap<LeaseId, OrdSet<Key>>);

impl Attached {
    pub(super) fn add(&mut self, lease: LeaseId, key: &[u8]) {
        self.0.entry(lease).or_default().insert(key.into());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub(super) fn write(out: &mut impl Write, state: &State) -> io::Result<()> {
    let State { leases, limits, .. } = state;
    let time = TimeRecord { time_ms: leases.time_ms(), leases_max: limits.leases_max };
    if is_left_out(&time, leases) {
        return Ok(());
    }
    put(out, &Section { tag: TAG_TIME, records: 1 })?;
    put(out, &time)?;
    put(out, &Section { tag: TAG_LEASES, records: leases.len() as u64 })?;
    for (LeaseId(id), &Lease { ttl_ms, deadline_ms, .. }) in leases.iter() {
        put(out, &LeaseRecord { id, ttl_ms, deadline_ms })?;
    }
    put(out, &Section { tag: TAG_OWN_LEASES, records: leases.own_len() as u64 })?;
    for (key, own) in leases.iter_own() {
        let (key, deadline_ms) = (Borrowed(key), own.deadline_ms);
        let (index, operation) = (own.index.0, own.operation);
        put(out, &OwnLeaseRecord { key, deadline_ms, index, operation })?;
    }
    Ok(())
}

/// Whether a store with this time and these leases writes nothing of them.
fn is_left_out(time: &TimeRecord, leases: &Leases) -> bool {
    let default = TimeRecord { time_ms: 0, leases_max: Limits::default().leases_max };
    (time.time_ms, time.leases_max, leases.len(), leases.own_len())
        == (default.time_ms, default.leases_max, 0, 0)
}

/// Reads the sections, of which the first one has this many records. Returns the leases and their
/// limit.
pub(super) fn read(
    input: &mut Input<'_>,
    times: u64,
    mut attached: Attached,
    tree: &Tree,
) -> io::Result<(Leases, u64)> {
    if times != 1 {
        return Err(invalid("more or less than one time"));
    }
    let time: TimeRecord = input.record()?;
    let mut leases = Leases::at(time.time_ms);
    read_leases(input, &mut attached, &mut leases)?;
    if !attached.is_empty() {
        return Err(invalid("keys of leases that are not there"));
    }
    read_own_leases(input, tree, &mut leases)?;
    // Otherwise the members that loaded this snapshot would write another one.
    match is_left_out(&time, &leases) {
        true => Err(invalid("sections of leases in a store without leases")),
        false => Ok((leases, time.leases_max)),
    }
}

fn read_leases(
    input: &mut Input<'_>,
    attached: &mut Attached,
    leases: &mut Leases,
) -> io::Result<()> {
    let mut last = LeaseId::NONE;
    for _ in 0..input.section(TAG_LEASES)? {
        let LeaseRecord { id, ttl_ms, deadline_ms } = input.record()?;
        let id = LeaseId(id);
        if id <= last || id > LeaseId::MAX || !(1..=TTL_MAX_MS).contains(&ttl_ms) {
            return Err(invalid("a lease that no store has"));
        }
        let keys = attached.0.remove(&id).unwrap_or_default();
        leases.insert(id, Lease { ttl_ms, deadline_ms, keys });
        last = id;
    }
    Ok(())
}

fn read_own_leases(input: &mut Input<'_>, tree: &Tree, leases: &mut Leases) -> io::Result<()> {
    let mut last: Option<Key> = None;
    for _ in 0..input.section(TAG_OWN_LEASES)? {
        let (key, own) = input.own_lease()?;
        let is_in_order = last.as_ref().is_none_or(|last| last[..] < *key);
        let has_no_other = tree.get(key).is_some_and(|stored| stored.lease == LeaseId::NONE);
        if !is_in_order || !has_no_other || !leases.insert_own(key.into(), own) {
            return Err(invalid("a key with a lease that no store has"));
        }
        last = Some(key.into());
    }
    Ok(())
}
