//! Which members a Clerk has in its list, and under which addresses. Needs neither socket nor
//! clock.
//!
//! A Clerk begins with the addresses that its user gave it, its *seeds*. Members tell it who the
//! members are. Three things may be wrong with an address that a member tells: the member there may
//! be down, it may have moved since, or the address may not work from here, and a seed does. So:
//!
//! - Of a member whose address works, the list has this address and no other.
//! - Of any other member, the list has the address that was told, that of a seed, and those that
//!   were not tried yet.
//! - Who is told to have left is not in the list. Nor is a seed of which nobody knows whose it is,
//!   once it has failed. When nobody in the list answers, all seeds come back ([`lost_all`]).
//!
//! So the list has at most [`KNOWN_MEMBERS_MAX`] entries, however often members come and go.

use super::endpoints::Endpoint;
use crate::members::{MEMBERS_MAX, check_addr};
use syncraft_types::MemberId;

/// The most addresses in the list. It is more than any cluster has members, and bounds what a
/// hostile member can make us remember.
pub(super) const KNOWN_MEMBERS_MAX: usize = 2 * MEMBERS_MAX;

/// What the last attempt at an address has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contact {
    /// There was none yet.
    Untried,
    /// A member answered, whatever it said.
    Answered,
    /// Nobody did.
    Failed,
}

/// An address in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Its number in the list.
    pub(super) number: usize,
    pub(super) endpoint: Endpoint,
    pub(super) contact: Contact,
}

/// What a member said about who the members are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) version: Version,
    pub(super) members: Vec<Endpoint>,
}

/// How new it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Version {
    /// 0: not known.
    pub(super) cluster_id: u64,
    /// The entry of the configuration. 0: it is not certain who is a member.
    pub(super) index: u64,
}

/// How the list changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Numbers in the list.
    pub(super) remove: Vec<usize>,
    pub(super) add: Vec<Endpoint>,
    /// The ids of addresses in the list.
    pub(super) ids: Vec<(usize, MemberId)>,
}

impl Version {
    /// Whether this is no older than the newest that is known. Who was removed, or belongs to
    /// another cluster, still answers with what it knows.
    pub(super) fn is_news_to(self, newest: Version) -> bool {
        let is_same = self.cluster_id == newest.cluster_id;
        newest == Version::default() || (is_same && (self.index == 0 || self.index >= newest.index))
    }

    pub(super) fn is_certain(self) -> bool {
        self.index > 0
    }
}

/// How the list becomes what was told.
pub(super) fn told(list: &[Known], seeds: &[Endpoint], told: &Told) -> Plan {
    let mut plan = Plan::default();
    let mut stay: Vec<usize> = Vec::new();
    for member in told.members.iter().take(MEMBERS_MAX) {
        let of: Vec<&Known> = list.iter().filter(|known| known.is_of(member)).collect();
        plan.ids.extend(of.iter().filter_map(|known| known.learns(member)));
        let works = |known: &&&Known| known.contact == Contact::Answered;
        if of.iter().any(|known| works(&known)) {
            stay.extend(of.iter().filter(works).map(|known| known.number));
            continue;
        }
        let seed = seeds.iter().filter(|seed| seed.id == member.id && seed.id.is_some());
        let wanted: Vec<&Endpoint> = std::iter::once(member).chain(seed).collect();
        let is_wanted = |known: &&&Known| {
            known.contact == Contact::Untried
                || wanted.iter().any(|it| known.endpoint.is_at(&it.addr))
        };
        stay.extend(of.iter().filter(is_wanted).map(|known| known.number));
        for endpoint in wanted {
            if !of.iter().any(|known| known.endpoint.is_at(&endpoint.addr)) {
                plan.add(Endpoint { id: member.id, addr: endpoint.addr.clone() });
            }
        }
    }
    if stay.is_empty() && plan.add.is_empty() {
        // Nobody who could be asked was named.
        return Plan::default();
    }
    let leaves = |known: &&Known| match known.endpoint.id {
        _ if stay.contains(&known.number) || !told.version.is_certain() => false,
        Some(_) => true,
        None => known.contact == Contact::Failed || plan.names(known),
    };
    plan.remove = list.iter().filter(leaves).map(|known| known.number).collect();
    plan.fit(list.len());
    plan
}

/// How the list grows when nobody in it answers.
pub(super) fn lost_all(list: &[Known], seeds: &[Endpoint]) -> Plan {
    let is_missing = |seed: &&Endpoint| !list.iter().any(|known| known.endpoint.is_at(&seed.addr));
    let mut plan = Plan::default();
    seeds.iter().filter(is_missing).for_each(|seed| plan.add(seed.clone()));
    plan.fit(list.len());
    plan
}

/// Where a leader is that a member has hinted at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hinted {
    /// At this address in the list.
    At(usize),
    /// At an address that is not in the list.
    New(Endpoint),
}

/// Where the leader with this id and address is. Our own address for it counts until it fails.
pub(super) fn hinted(list: &[Known], id: Option<MemberId>, addr: &str) -> Option<Hinted> {
    let has_id = |known: &&Known| id.is_some() && known.endpoint.id == id;
    let works = |known: &&Known| has_id(known) && known.contact == Contact::Answered;
    let may_work = |known: &&Known| has_id(known) && known.contact != Contact::Failed;
    let is_there = |known: &&Known| known.endpoint.is_at(addr);
    let known = list.iter().find(works).or_else(|| list.iter().find(may_work));
    let known = known.or_else(|| list.iter().find(is_there));
    if let Some(known) = known {
        return Some(Hinted::At(known.number));
    }
    let is_usable = check_addr(addr, addr).is_ok() && list.len() < KNOWN_MEMBERS_MAX;
    match is_usable {
        true => Some(Hinted::New(Endpoint { id, addr: addr.to_owned() })),
        false => list.iter().find(has_id).map(|known| Hinted::At(known.number)),
    }
}

impl Known {
    /// Whether it is an address of this member: by its id, or because it is the same address.
    fn is_of(&self, member: &Endpoint) -> bool {
        let has_id = self.endpoint.id.is_some() && self.endpoint.id == member.id;
        has_id || self.endpoint.is_at(&member.addr)
    }

    /// The id, if that is news.
    fn learns(&self, member: &Endpoint) -> Option<(usize, MemberId)> {
        let id = member.id.filter(|_| self.endpoint.id != member.id)?;
        Some((self.number, id))
    }
}

impl Plan {
    /// Whether it has just turned out whose address it is.
    fn names(&self, known: &Known) -> bool {
        self.ids.iter().any(|(number, _)| *number == known.number)
    }

    fn add(&mut self, endpoint: Endpoint) {
        let is_new = !self.add.iter().any(|other| other.is_at(&endpoint.addr));
        if is_new && check_addr(&endpoint.addr, &endpoint.addr).is_ok() {
            self.add.push(endpoint);
        }
    }

    /// Adds no more than there is room for.
    fn fit(&mut self, len: usize) {
        self.add.truncate(KNOWN_MEMBERS_MAX.saturating_sub(len - self.remove.len()));
    }
}

impl Endpoint {
    fn is_at(&self, addr: &str) -> bool {
        self.addr.eq_ignore_ascii_case(addr)
    }
}

#[cfg(test)]
mod tests {
    use super::Contact::{Answered, Failed, Untried};
    use super::*;

    /// `2=b:2`, or `b:2` if the id is not known.
    fn endpoint(text: &str) -> Endpoint {
        let (id, addr) = match text.split_once('=') {
            Some((id, addr)) => (Some(MemberId(id.parse().expect("an id"))), addr),
            None => (None, text),
        };
        Endpoint { id, addr: addr.to_owned() }
    }

    fn endpoints(texts: &[&str]) -> Vec<Endpoint> {
        texts.iter().map(|text| endpoint(text)).collect()
    }

    /// In order, with numbers from 0.
    fn list(entries: &[(&str, Contact)]) -> Vec<Known> {
        let known = |(number, (text, contact)): (usize, &(&str, Contact))| Known {
            number,
            endpoint: endpoint(text),
            contact: *contact,
        };
        entries.iter().enumerate().map(known).collect()
    }

    /// The list after it was told, as text.
    fn after(before: &[(&str, Contact)], seeds: &[&str], index: u64, members: &[&str]) -> String {
        let before = list(before);
        let version = Version { cluster_id: 7, index };
        let plan = told(&before, &endpoints(seeds), &Told { version, members: endpoints(members) });
        let stays = |known: &&Known| !plan.remove.contains(&known.number);
        let named = |known: &Known| {
            let id = plan.ids.iter().find(|(number, _)| *number == known.number);
            let id = id.map(|(_, id)| *id).or(known.endpoint.id);
            Endpoint { id, addr: known.endpoint.addr.clone() }
        };
        let all = before.iter().filter(stays).map(named).chain(plan.add.clone());
        let text = |it: Endpoint| match it.id {
            Some(id) => format!("{id}={}", it.addr),
            None => it.addr,
        };
        all.map(text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_list_becomes_what_was_told() {
        let told = ["1=a:1", "2=b:2", "3=c:3"];
        // One address is known at first, with an id or without.
        assert_eq!(after(&[("a:1", Answered)], &["a:1"], 9, &told), "1=a:1 2=b:2 3=c:3");
        assert_eq!(after(&[("1=A:1", Answered)], &["1=A:1"], 9, &told), "1=A:1 2=b:2 3=c:3");
        // Who has left goes, whether it answers or not.
        let before =
            [("1=a:1", Answered), ("2=b:2", Untried), ("3=c:3", Answered), ("4=d:4", Failed)];
        assert_eq!(after(&before, &[], 9, &["3=c:3", "5=e:5"]), "3=c:3 5=e:5");
        // Who is not certain removes nobody.
        assert_eq!(after(&before, &[], 0, &["5=e:5"]), "1=a:1 2=b:2 3=c:3 4=d:4 5=e:5");
    }

    #[test]
    fn a_member_that_moved_gets_its_new_address_once_the_old_one_fails() {
        let check = |contact, expected: &str| {
            assert_eq!(after(&[("1=a:1", contact)], &[], 9, &["1=b:1"]), expected);
        };
        check(Answered, "1=a:1");
        check(Untried, "1=a:1 1=b:1");
        check(Failed, "1=b:1");
        // The seed stays until the new address has answered: it may not work from here.
        assert_eq!(after(&[("1=a:1", Failed)], &["1=a:1"], 9, &["1=b:1"]), "1=a:1 1=b:1");
        let both = [("1=a:1", Failed), ("1=b:1", Answered)];
        assert_eq!(after(&both, &["1=a:1"], 9, &["1=b:1"]), "1=b:1");
        let both = [("1=a:1", Answered), ("1=b:1", Failed)];
        assert_eq!(after(&both, &["1=a:1"], 9, &["1=b:1"]), "1=a:1");
        // It comes back if the new address fails, too.
        assert_eq!(after(&[("1=b:1", Failed)], &["1=a:1"], 9, &["1=b:1"]), "1=b:1 1=a:1");
    }

    #[test]
    fn an_address_without_an_id_stays_while_it_may_work() {
        let check = |contact, expected: &str| {
            assert_eq!(after(&[("x:1", contact)], &["x:1"], 9, &["1=a:1"]), expected);
        };
        check(Untried, "x:1 1=a:1");
        check(Answered, "x:1 1=a:1");
        check(Failed, "1=a:1");
    }

    #[test]
    fn seeds_come_back_when_nobody_answers() {
        let plan = lost_all(&list(&[("4=d:4", Failed)]), &endpoints(&["1=a:1", "D:4"]));
        assert_eq!(plan, Plan { add: endpoints(&["1=a:1"]), ..Plan::default() });
    }

    #[test]
    fn the_list_stays_bounded_whatever_it_is_told() {
        let many: Vec<String> = (1..100).map(|id| format!("{id}=m:{id}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let len = |list: String| list.split(' ').count();
        assert_eq!(len(after(&[("1=m:1", Answered)], &[], 0, &many)), MEMBERS_MAX);
        let full: Vec<(&str, Contact)> =
            many[20..50].iter().map(|member| (*member, Untried)).collect();
        assert_eq!(len(after(&full, &[], 0, &many)), KNOWN_MEMBERS_MAX);
        assert_eq!(len(after(&full, &[], 9, &many)), MEMBERS_MAX);
        assert_eq!(after(&[("1=a:1", Answered)], &[], 9, &["2=no-port"]), "1=a:1");
    }

    #[test]
    fn only_news_counts() {
        let of = |cluster_id, index| Version { cluster_id, index };
        for news in [of(7, 5), of(7, 6), of(7, 0)] {
            assert!(news.is_news_to(of(7, 5)) && news.is_news_to(Version::default()), "{news:?}");
        }
        for old in [of(7, 4), of(8, 6), of(8, 0)] {
            assert!(!old.is_news_to(of(7, 5)), "{old:?}");
        }
    }

    #[test]
    fn a_hint_finds_the_address_that_works() {
        let check = |entries: &[(&str, Contact)], expected: Hinted| {
            let found = hinted(&list(entries), Some(MemberId(2)), "b:2");
            assert_eq!(found, Some(expected), "{entries:?}");
        };
        let new = || Hinted::New(endpoint("2=b:2"));
        check(&[("1=a:1", Answered)], new());
        check(&[("b:2", Failed)], Hinted::At(0));
        check(&[("2=x:2", Untried)], Hinted::At(0));
        check(&[("2=x:2", Answered), ("2=b:2", Failed)], Hinted::At(0));
        check(&[("2=x:2", Untried), ("2=b:2", Answered)], Hinted::At(1));
        // It has moved.
        check(&[("2=x:2", Failed)], new());
        check(&[("2=x:2", Failed), ("2=b:2", Untried)], Hinted::At(1));
        assert_eq!(hinted(&[], Some(MemberId(2)), "no-port"), None);
        let known = list(&[("2=x:2", Failed)]);
        assert_eq!(hinted(&known, Some(MemberId(2)), "no-port"), Some(Hinted::At(0)));
    }
}
