//! The list of members and their addresses: `1=127.0.0.1:7001,2=127.0.0.1:7002,3=127.0.0.1:7003`.
//!
//! An address is `host:port`: a host name, an IPv4 address, or an IPv6 address in brackets. Names
//! are resolved at each connect, not here. An IPv6 address may have a zone, `[fe80::1%eth0]:7001`,
//! which is an interface of the machine that uses the address.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

pub use syncraft_types::MemberId;

/// The most members a cluster may have. Beyond a handful, each further member only slows commits.
pub const MEMBERS_MAX: usize = 15;

/// The members of a cluster, by id: at least one. No id and no address occurs twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members(BTreeMap<MemberId, String>);

/// Why a list of members is refused. `Display` is one line that quotes the bad part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembersError {
    /// The list is empty.
    #[error("the list of members is empty")]
    Empty,
    /// There are two commas in a row, or one at an end.
    #[error("the list of members has an empty entry: {0:?}")]
    EmptyPart(String),
    /// A part has no `=`.
    #[error("{0:?} is not ID=HOST:PORT")]
    NotAPair(String),
    /// The id is not a positive number.
    #[error("{part:?}: the id {id:?} is not a positive number")]
    BadId {
        /// The bad part.
        part: String,
        /// The text before its `=`.
        id: String,
    },
    /// The address is not `host:port`.
    #[error("{part:?}: {why}")]
    BadAddress {
        /// The bad part.
        part: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An id occurs twice.
    #[error("{part:?}: member {id} is already in the list, as {addr}")]
    DuplicateId {
        /// The bad part.
        part: String,
        /// The id.
        id: MemberId,
        /// Its address in the earlier part.
        addr: String,
    },
    /// An address occurs twice.
    #[error("{0:?}: that address is already in the list")]
    DuplicateAddress(String),
    /// There are more than [`MEMBERS_MAX`].
    #[error("{0} members are too many: the most is {MEMBERS_MAX}")]
    TooMany(usize),
}

impl Members {
    /// A list from pairs of id and address.
    ///
    /// # Errors
    /// The same as for parsing; the bad part is written as `id=address`.
    pub fn new(
        pairs: impl IntoIterator<Item = (MemberId, String)>,
    ) -> Result<Members, MembersError> {
        let mut members = Members(BTreeMap::new());
        for (id, addr) in pairs {
            let part = format!("{id}={addr}");
            if id.0 == 0 {
                return Err(MembersError::BadId { part, id: "0".to_owned() });
            }
            members.add(&part, id, addr)?;
        }
        members.checked()
    }

    /// The address of a member.
    pub fn addr(&self, id: MemberId) -> Option<&str> {
        self.0.get(&id).map(String::as_str)
    }

    /// Whether there is such a member.
    pub fn contains(&self, id: MemberId) -> bool {
        self.0.contains_key(&id)
    }

    /// All members, in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (MemberId, &str)> {
        self.0.iter().map(|(&id, addr)| (id, addr.as_str()))
    }

    /// The number of members: at least one.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All members, as voters of the consensus core.
    #[cfg(feature = "server")]
    pub fn membership(&self) -> crate::raft::Membership {
        crate::raft::Membership::new(self.0.keys().copied())
    }

    fn add(&mut self, part: &str, id: MemberId, addr: String) -> Result<(), MembersError> {
        check_addr(part, &addr)?;
        if let Some(first) = self.0.get(&id) {
            return Err(MembersError::DuplicateId {
                part: part.to_owned(),
                id,
                addr: first.clone(),
            });
        }
        if self.0.values().any(|other| other.eq_ignore_ascii_case(&addr)) {
            return Err(MembersError::DuplicateAddress(part.to_owned()));
        }
        self.0.insert(id, addr);
        Ok(())
    }

    fn checked(self) -> Result<Members, MembersError> {
        match self.0.len() {
            0 => Err(MembersError::Empty),
            len if len > MEMBERS_MAX => Err(MembersError::TooMany(len)),
            _ => Ok(self),
        }
    }
}

impl FromStr for Members {
    type Err = MembersError;

    fn from_str(list: &str) -> Result<Members, MembersError> {
        let mut members = Members(BTreeMap::new());
        for part in parts(list)? {
            let (id, addr) =
                part.split_once('=').ok_or_else(|| MembersError::NotAPair(part.to_owned()))?;
            members.add(part, parse_id(part, id)?, addr.to_owned())?;
        }
        members.checked()
    }
}

/// The form that [`FromStr`] parses.
impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (id, addr)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{id}={addr}")?;
        }
        Ok(())
    }
}

/// The parts of a comma-separated list, trimmed. None is empty.
pub(crate) fn parts(list: &str) -> Result<Vec<&str>, MembersError> {
    if list.trim().is_empty() {
        return Err(MembersError::Empty);
    }
    let parts: Vec<&str> = list.split(',').map(str::trim).collect();
    if parts.contains(&"") {
        return Err(MembersError::EmptyPart(list.to_owned()));
    }
    Ok(parts)
}

pub(crate) fn parse_id(part: &str, id: &str) -> Result<MemberId, MembersError> {
    // Not "+1", which would parse as a number.
    let digits = Some(id).filter(|id| id.bytes().all(|b| b.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(id) if id > 0 => Ok(MemberId(id)),
        _ => Err(MembersError::BadId { part: part.to_owned(), id: id.to_owned() }),
    }
}

/// The longest address of a member, in bytes: the longest host name, and room for a port. The core
/// refuses longer ones, too.
const ADDR_LEN_MAX: usize = 300;

/// Refuses what cannot be `host:port`, with a message for each common mistake.
pub(crate) fn check_addr(part: &str, addr: &str) -> Result<(), MembersError> {
    let refuse = |why| Err(MembersError::BadAddress { part: part.to_owned(), why });
    if addr.contains(|c: char| c.is_whitespace() || c == '=' || c == '/') {
        return refuse("an address is HOST:PORT, without blanks, '=' or '/'");
    }
    if addr.len() > ADDR_LEN_MAX {
        return refuse("an address has at most 300 bytes");
    }
    let Some((host, port)) = addr.rsplit_once(':') else { return refuse("the port is missing") };
    if host.is_empty() {
        return refuse("the host is missing");
    }
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    if is_bracketed {
        let inner = &host[1..host.len() - 1];
        let (ip, zone) = inner.split_once('%').map_or((inner, None), |(ip, zone)| (ip, Some(zone)));
        if ip.parse::<std::net::Ipv6Addr>().is_err() {
            return refuse("the part in brackets is not an IPv6 address");
        }
        if zone.is_some_and(|zone| !is_zone(zone)) {
            return refuse(
                "the zone of an IPv6 address, after '%', must be the name of an interface",
            );
        }
    }
    if !is_bracketed && host.contains([':', '[', ']']) {
        return refuse("an IPv6 address needs brackets, and a port after them");
    }
    match port.parse::<u16>() {
        Ok(1..) if port.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        _ => refuse("the port is not a number from 1 to 65535"),
    }
}

/// Whether this can be the name or number of an interface. Does not ask the machine.
fn is_zone(zone: &str) -> bool {
    !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(list: &str, expected: Result<&str, &str>) {
        let parsed = list
            .parse::<Members>()
            .map(|members| members.to_string())
            .map_err(|error| error.to_string());
        assert_eq!(parsed.as_deref().map_err(String::as_str), expected, "{list:?}");
    }

    #[test]
    fn lists_that_are_right() {
        check("1=127.0.0.1:7001", Ok("1=127.0.0.1:7001"));
        check(" 2=b:2 , 1=a.example:1 ", Ok("1=a.example:1,2=b:2"));
        check("7=[::1]:7001,8=localhost:65535", Ok("7=[::1]:7001,8=localhost:65535"));
        check("1=[fe80::1%eth0]:1,2=[fe80::2%3]:1", Ok("1=[fe80::1%eth0]:1,2=[fe80::2%3]:1"));
    }

    #[test]
    fn each_mistake_has_its_own_line() {
        check("", Err("the list of members is empty"));
        check("  ", Err("the list of members is empty"));
        check("1=a:1,", Err("the list of members has an empty entry: \"1=a:1,\""));
        check("1=a:1,,2=b:2", Err("the list of members has an empty entry: \"1=a:1,,2=b:2\""));
        check("127.0.0.1:7001", Err("\"127.0.0.1:7001\" is not ID=HOST:PORT"));
        check("0=a:1", Err("\"0=a:1\": the id \"0\" is not a positive number"));
        check("+1=a:1", Err("\"+1=a:1\": the id \"+1\" is not a positive number"));
        check("=a:1", Err("\"=a:1\": the id \"\" is not a positive number"));
        check(
            "99999999999999999999=a:1",
            Err(
                "\"99999999999999999999=a:1\": the id \"99999999999999999999\" is not a positive number",
            ),
        );
        check("1=a", Err("\"1=a\": the port is missing"));
        check("1=:7001", Err("\"1=:7001\": the host is missing"));
        check("1=a:0", Err("\"1=a:0\": the port is not a number from 1 to 65535"));
        check("1=a:+5", Err("\"1=a:+5\": the port is not a number from 1 to 65535"));
        check("1=a:65536", Err("\"1=a:65536\": the port is not a number from 1 to 65535"));
        check("1=a:", Err("\"1=a:\": the port is not a number from 1 to 65535"));
        check(
            "1=::1:7001",
            Err("\"1=::1:7001\": an IPv6 address needs brackets, and a port after them"),
        );
        check("1=[::1]", Err("\"1=[::1]\": an IPv6 address needs brackets, and a port after them"));
        check("1=[zz]:1", Err("\"1=[zz]:1\": the part in brackets is not an IPv6 address"));
        for list in ["1=[fe80::1%]:1", "1=[fe80::1%a%b]:1", "1=[fe80::1%a:b]:1"] {
            let why = "the zone of an IPv6 address, after '%', must be the name of an interface";
            check(list, Err(&format!("{list:?}: {why}")));
        }
        check("1=[%eth0]:1", Err("\"1=[%eth0]:1\": the part in brackets is not an IPv6 address"));
        check(
            "1=http://a:1",
            Err("\"1=http://a:1\": an address is HOST:PORT, without blanks, '=' or '/'"),
        );
        check(
            "1=a:1 2=b:2",
            Err("\"1=a:1 2=b:2\": an address is HOST:PORT, without blanks, '=' or '/'"),
        );
        let long = format!("1={}:7001", "a".repeat(300));
        check(&long, Err(&format!("{long:?}: an address has at most 300 bytes")));
        check("1=a:1,1=b:2", Err("\"1=b:2\": member 1 is already in the list, as a:1"));
        check("1=a:1,2=A:1", Err("\"2=A:1\": that address is already in the list"));
    }

    #[test]
    fn so_many_and_no_more() {
        let list =
            |len: usize| (1..=len).map(|i| format!("{i}=a:{i}")).collect::<Vec<_>>().join(",");
        check(&list(15), Ok(&list(15)));
        check(&list(16), Err("16 members are too many: the most is 15"));
    }

    #[test]
    fn every_member_on_the_list_votes() {
        let members: Members = "1=a:1,3=c:3,2=b:2".parse().expect("a good list");
        let voters: Vec<MemberId> = members.membership().iter().collect();
        assert_eq!(voters, [MemberId(1), MemberId(2), MemberId(3)]);
        assert!(voters.iter().all(|&id| members.membership().is_voter(id)));
    }
}
