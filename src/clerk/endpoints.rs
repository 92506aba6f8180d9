//! [`Endpoints`]: the members that a Clerk knows from the start, and what can be turned into them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::members::{MEMBERS_MAX, Members, MembersError, check_addr, parse_id, parts};
use syncraft_types::MemberId;

/// The members that a Clerk knows from the start: at least one address, each with an id if it is
/// known.
///
/// It is made from [`Members`], from text (`1=127.0.0.1:7001,2=127.0.0.1:7002`, or addresses alone:
/// `127.0.0.1:7001,127.0.0.1:7002`), or from a vector, an array or a slice of addresses, each text
/// or [`SocketAddr`]. It need not be the whole cluster: one address of a current member is enough,
/// because a Clerk learns from members who the others are. While it is used, it also learns who has
/// come, left or moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints(Vec<Endpoint>);

/// One member: its address, and its id if it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The member's id, where the list gave it.
    pub id: Option<MemberId>,
    /// `host:port`.
    pub addr: String,
}

impl Endpoints {
    /// The members, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Endpoint> {
        self.0.iter()
    }

    /// How many members there are: at least one.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn from_parts<'a>(parts: impl IntoIterator<Item = &'a str>) -> Result<Endpoints, MembersError> {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for part in parts {
            let endpoint = parse(part)?;
            if let Some(twin) =
                endpoints.iter().find(|other| other.id.is_some() && other.id == endpoint.id)
            {
                let (id, addr) = (twin.id.unwrap_or(MemberId(0)), twin.addr.clone());
                return Err(MembersError::DuplicateId { part: part.to_owned(), id, addr });
            }
            if endpoints.iter().any(|other| other.addr.eq_ignore_ascii_case(&endpoint.addr)) {
                return Err(MembersError::DuplicateAddress(part.to_owned()));
            }
            endpoints.push(endpoint);
        }
        match endpoints.len() {
            0 => Err(MembersError::Empty),
            len if len > MEMBERS_MAX => Err(MembersError::TooMany(len)),
            _ => Ok(Endpoints(endpoints)),
        }
    }
}

fn parse(part: &str) -> Result<Endpoint, MembersError> {
    let (id, addr) = match part.split_once('=') {
        Some((id, addr)) => (Some(parse_id(part, id)?), addr),
        None => (None, part),
    };
    check_addr(part, addr)?;
    Ok(Endpoint { id, addr: addr.to_owned() })
}

impl FromStr for Endpoints {
    type Err = MembersError;

    fn from_str(list: &str) -> Result<Endpoints, MembersError> {
        Endpoints::from_parts(parts(list)?)
    }
}

impl From<Members> for Endpoints {
    fn from(members: Members) -> Endpoints {
        Endpoints::from(&members)
    }
}

impl From<&Members> for Endpoints {
    fn from(members: &Members) -> Endpoints {
        Endpoints(
            members
                .iter()
                .map(|(id, addr)| Endpoint { id: Some(id), addr: addr.to_owned() })
                .collect(),
        )
    }
}

impl TryFrom<&str> for Endpoints {
    type Error = MembersError;

    fn try_from(list: &str) -> Result<Endpoints, MembersError> {
        list.parse()
    }
}

impl TryFrom<String> for Endpoints {
    type Error = MembersError;

    fn try_from(list: String) -> Result<Endpoints, MembersError> {
        list.parse()
    }
}

impl TryFrom<&String> for Endpoints {
    type Error = MembersError;

    fn try_from(list: &String) -> Result<Endpoints, MembersError> {
        list.parse()
    }
}

impl TryFrom<SocketAddr> for Endpoints {
    type Error = MembersError;

    fn try_from(addr: SocketAddr) -> Result<Endpoints, MembersError> {
        addr.to_string().parse()
    }
}

impl<S: ToString> TryFrom<&[S]> for Endpoints {
    type Error = MembersError;

    fn try_from(addrs: &[S]) -> Result<Endpoints, MembersError> {
        let addrs: Vec<String> = addrs.iter().map(S::to_string).collect();
        Endpoints::from_parts(addrs.iter().map(|addr| addr.trim()))
    }
}

impl<S: ToString> TryFrom<Vec<S>> for Endpoints {
    type Error = MembersError;

    fn try_from(addrs: Vec<S>) -> Result<Endpoints, MembersError> {
        addrs.as_slice().try_into()
    }
}

impl<S: ToString> TryFrom<&Vec<S>> for Endpoints {
    type Error = MembersError;

    fn try_from(addrs: &Vec<S>) -> Result<Endpoints, MembersError> {
        addrs.as_slice().try_into()
    }
}

impl<S: ToString, const N: usize> TryFrom<[S; N]> for Endpoints {
    type Error = MembersError;

    fn try_from(addrs: [S; N]) -> Result<Endpoints, MembersError> {
        addrs.as_slice().try_into()
    }
}

/// [`Members`] convert without failing, lists may fail. With this, one method takes both.
impl From<Infallible> for MembersError {
    fn from(never: Infallible) -> MembersError {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(endpoints: Result<Endpoints, MembersError>, expected: &[(u64, &str)]) {
        let endpoints = endpoints.unwrap_or_else(|error| panic!("{error}"));
        let found: Vec<_> =
            endpoints.iter().map(|e| (e.id.map_or(0, |id| id.0), e.addr.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn anything_that_names_members_is_accepted() {
        check("1=a:1,2=b:2".try_into(), &[(1, "a:1"), (2, "b:2")]);
        check("b:2, a:1".try_into(), &[(0, "b:2"), (0, "a:1")]);
        check("b:2,3=c:3".to_owned().try_into(), &[(0, "b:2"), (3, "c:3")]);
        check(vec!["a:1", "b:2"].try_into(), &[(0, "a:1"), (0, "b:2")]);
        check(["a:1".to_owned()].try_into(), &[(0, "a:1")]);
        check(SocketAddr::from(([127, 0, 0, 1], 7001)).try_into(), &[(0, "127.0.0.1:7001")]);
        check(vec![SocketAddr::from(([127, 0, 0, 1], 1))].try_into(), &[(0, "127.0.0.1:1")]);
        let members: Members = "2=b:2,1=a:1".parse().unwrap_or_else(|error| panic!("{error}"));
        check(Ok(members.into()), &[(1, "a:1"), (2, "b:2")]);
    }

    #[test]
    fn mistakes_are_named_as_for_members() {
        let check = |list: &str, words: &str| {
            let error = list.parse::<Endpoints>().map_err(|error| error.to_string());
            assert!(
                error.as_ref().is_err_and(|error| error.contains(words)),
                "{list:?}: {error:?}"
            );
        };
        check("", "empty");
        check("a:1,", "empty entry");
        check("a", "port is missing");
        check("0=a:1", "not a positive number");
        check("a:1,a:1", "already in the list");
        check("1=a:1,1=b:1", "member 1 is already in the list, as a:1");
        assert_eq!(Endpoints::try_from(Vec::<String>::new()), Err(MembersError::Empty));
    }
}
