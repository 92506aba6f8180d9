//! A configuration: who the members of a cluster are, and where they are reached.
//!
//! Configurations are entries of the log. A member uses the newest one in its log, whether it is
//! committed or not (thesis §4.1), and takes it back if that entry is removed. A snapshot carries
//! the one that was in force at its last entry.
//!
//! The core uses the sets of ids, and hands the rest (addresses, numbers of directories, the
//! cluster's id) to its shell.
//!
//! # Bytes
//! Log entries, snapshots and messages carry the same bytes. Integers are little-endian.
//!
//! | size | field | why |
//! |---|---|---|
//! | 1 | 1: the number of this layout | a later layout is refused, not misread |
//! | 8 | `cluster_id` | |
//! | 8 | `list_id` | |
//! | 2 | the number of members | |
//! | | each member: id (8), kind (1), directory (8), length of the address (2), address | kind: a sum of 1 (voter) and 2 (outgoing voter); 0: learner |
//! | 4 | the number of removed ids | |
//! | 8 each | the removed ids, ascending | |

use std::collections::{BTreeMap, BTreeSet};

use super::membership::Membership;
use super::types::MemberId;

const LAYOUT: u8 = 1;
const VOTER: u8 = 1;
const OUTGOING: u8 = 2;

/// Who the members of a cluster are, and where they are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The id of the cluster. All its configurations have the same.
    pub cluster_id: u64,
    /// A hash of the list of members with which the cluster was first started. Messages name it
    /// until their sender knows the cluster's id.
    pub list_id: u64,
    /// Who votes and who learns.
    pub membership: Membership,
    /// Where each member is.
    pub places: BTreeMap<MemberId, Place>,
    /// Ids of former members. They never become members again: their data may still exist.
    pub removed: BTreeSet<MemberId>,
}

/// Where a member is: its address, and the directory with its promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where the other members and clients reach it. The core does not look inside.
    pub addr: String,
    /// The random number of the data directory with which it became a member; 0 for a member of the
    /// first configuration. Who comes with another directory has lost its data.
    pub directory: u64,
}

/// Bytes that are not a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadConfiguration {
    /// They end too early, go on behind the end, or contradict themselves.
    Damaged,
    /// They are of this layout, which is not known here.
    Layout(u8),
}

impl std::error::Error for BadConfiguration {}

impl std::fmt::Display for BadConfiguration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BadConfiguration::Damaged => f.write_str("this is not a configuration of members"),
            BadConfiguration::Layout(found) => write!(
                f,
                "the configuration of members has layout {found}, and this program knows {LAYOUT}"
            ),
        }
    }
}

impl Configuration {
    /// The first configuration of a cluster: these voters, at these addresses.
    ///
    /// # Panics
    /// If there are none.
    pub fn first(
        cluster_id: u64,
        list_id: u64,
        addrs: impl IntoIterator<Item = (MemberId, String)>,
    ) -> Configuration {
        let place = |addr| Place { addr, directory: 0 };
        let places: BTreeMap<MemberId, Place> =
            addrs.into_iter().map(|(id, addr)| (id, place(addr))).collect();
        let membership = Membership::new(places.keys().copied());
        Configuration { cluster_id, list_id, membership, places, removed: BTreeSet::new() }
    }

    /// Where a member is reached.
    pub fn addr(&self, id: MemberId) -> Option<&str> {
        self.places.get(&id).map(|place| place.addr.as_str())
    }

    /// All members and their addresses, in order of their ids.
    pub fn addrs(&self) -> impl Iterator<Item = (MemberId, &str)> {
        self.places.iter().map(|(&id, place)| (id, place.addr.as_str()))
    }

    /// The same cluster without the voters that are on their way out (thesis §4.3, C-new).
    ///
    /// # Panics
    /// If the membership is not joint.
    pub(super) fn settled(&self) -> Configuration {
        assert!(self.membership.is_joint(), "only a joint configuration has to be settled");
        let voters = Membership::new(self.membership.voters());
        let membership = voters.with_learners(self.membership.learners());
        let mut settled = Configuration { membership, ..self.clone() };
        settled.forget_strangers();
        settled
    }

    /// Moves the ids that are no members any more to those that were removed.
    pub(super) fn forget_strangers(&mut self) {
        let membership = &self.membership;
        let gone = self.places.extract_if(.., |&id, _| !membership.contains(id));
        self.removed.extend(gone.map(|(id, _)| id));
    }

    /// The bytes that logs, snapshots and messages carry.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![LAYOUT];
        bytes.extend(self.cluster_id.to_le_bytes());
        bytes.extend(self.list_id.to_le_bytes());
        // Fits: a change refuses more members, longer addresses and more former members.
        bytes.extend((self.places.len() as u16).to_le_bytes());
        for (&id, place) in &self.places {
            bytes.extend(id.0.to_le_bytes());
            bytes.push(self.kind(id));
            bytes.extend(place.directory.to_le_bytes());
            bytes.extend((place.addr.len() as u16).to_le_bytes());
            bytes.extend(place.addr.as_bytes());
        }
        bytes.extend((self.removed.len() as u32).to_le_bytes());
        self.removed.iter().for_each(|id| bytes.extend(id.0.to_le_bytes()));
        bytes
    }

    fn kind(&self, id: MemberId) -> u8 {
        let voter = u8::from(self.membership.voters().any(|it| it == id)) * VOTER;
        voter + u8::from(self.membership.outgoing().any(|it| it == id)) * OUTGOING
    }

    /// A configuration from its bytes, which must be all of them.
    ///
    /// # Errors
    /// [`BadConfiguration`]
    pub fn decode(bytes: &[u8]) -> Result<Configuration, BadConfiguration> {
        let mut input = Input(bytes);
        match input.take::<1>()? {
            [LAYOUT] => {}
            [layout] => return Err(BadConfiguration::Layout(layout)),
        }
        let (cluster_id, list_id) = (input.u64()?, input.u64()?);
        let (mut places, mut kinds) = (BTreeMap::new(), Vec::new());
        for _ in 0..input.u16()? {
            let (id, [kind], directory) = (MemberId(input.u64()?), input.take()?, input.u64()?);
            let addr = input.text()?;
            kinds.push((id, kind));
            places.insert(id, Place { addr, directory });
        }
        let count = input.u32()?;
        let removed = (0..count).map(|_| input.u64().map(MemberId)).collect::<Result<_, _>>()?;
        if !input.0.is_empty() || places.len() != kinds.len() {
            return Err(BadConfiguration::Damaged);
        }
        let membership = membership_of(&kinds).ok_or(BadConfiguration::Damaged)?;
        Ok(Configuration { cluster_id, list_id, membership, places, removed })
    }
}

/// `None` if nobody votes, or a kind is not known.
fn membership_of(kinds: &[(MemberId, u8)]) -> Option<Membership> {
    let of = |is_kind: fn(u8) -> bool| {
        kinds.iter().filter(move |(_, kind)| is_kind(*kind)).map(|(id, _)| *id)
    };
    let voters = of(|kind| kind & VOTER != 0).collect::<BTreeSet<_>>();
    let outgoing = of(|kind| kind & OUTGOING != 0).collect::<BTreeSet<_>>();
    if voters.is_empty() || kinds.iter().any(|(_, kind)| *kind > VOTER + OUTGOING) {
        return None;
    }
    let membership = Membership::new(voters);
    let membership = match outgoing.is_empty() {
        true => membership,
        false => membership.joint_with(outgoing),
    };
    Some(membership.with_learners(of(|kind| kind == 0)))
}

/// Bytes that are being decoded.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadConfiguration> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(BadConfiguration::Damaged)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, BadConfiguration> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, BadConfiguration> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, BadConfiguration> {
        self.take().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, BadConfiguration> {
        let len = usize::from(self.u16()?);
        let (text, rest) = self.0.split_at_checked(len).ok_or(BadConfiguration::Damaged)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).map_err(|_| BadConfiguration::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joint() -> Configuration {
        let addrs = (1..=4).map(|id| (MemberId(id), format!("host{id}:7000")));
        let mut configuration = Configuration::first(0xC1, 0x15, addrs);
        configuration.membership = Membership::new([2, 3].map(MemberId))
            .joint_with([1, 2].map(MemberId))
            .with_learners([MemberId(4)]);
        configuration.places.get_mut(&MemberId(4)).unwrap().directory = 77;
        configuration.removed = [MemberId(9)].into();
        configuration
    }

    #[test]
    fn bytes_are_read_back() {
        let bytes = joint().encode();
        assert_eq!(Configuration::decode(&bytes), Ok(joint()));
    }

    #[test]
    fn damaged_bytes_are_refused_and_never_panic() {
        let bytes = joint().encode();
        for len in 0..bytes.len() {
            assert_eq!(
                Configuration::decode(&bytes[..len]),
                Err(BadConfiguration::Damaged),
                "{len}"
            );
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Configuration::decode(&longer), Err(BadConfiguration::Damaged));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let _ = Configuration::decode(&flipped);
            }
        }
    }

    #[test]
    fn a_later_layout_is_named() {
        assert_eq!(Configuration::decode(&[2, 1, 2, 3]), Err(BadConfiguration::Layout(2)));
    }

    #[test]
    fn who_is_settled_out_is_removed_for_ever() {
        let settled = joint().settled();
        assert_eq!(settled.removed, [1, 9].map(MemberId).into());
        assert_eq!(settled.places.keys().copied().collect::<Vec<_>>(), [2, 3, 4].map(MemberId));
        assert!(!settled.membership.is_joint());
    }
}
