//! [`Endpoint`]: the address of a server, and its share of the load.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// The largest weight. It bounds memory: the points of an endpoint on a hash ring are proportional
/// to its weight.
pub const WEIGHT_MAX: u32 = 100;

/// One of several servers that offer the same services: its address, and its weight.
///
/// As text it is `host:port`, or `host:port weight`:
///
/// ```
/// use syncraft_rpc::Endpoint;
///
/// let endpoint: Endpoint = "10.0.0.7:7001 3".parse()?;
/// assert_eq!((endpoint.addr(), endpoint.weight()), ("10.0.0.7:7001", 3));
/// assert_eq!(Endpoint::new("10.0.0.7:7001").weight(), 1);
/// # Ok::<(), syncraft_rpc::EndpointError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    addr: String,
    weight: u32,
}

impl Endpoint {
    /// The endpoint at `addr`, "host:port", with weight 1. The address is not checked before it is
    /// used.
    pub fn new(addr: impl Into<String>) -> Self {
        Endpoint { addr: addr.into(), weight: 1 }
    }

    /// The same endpoint with this weight, raised to 1 or lowered to [`WEIGHT_MAX`] if outside
    /// these.
    pub fn weighted(mut self, weight: u32) -> Self {
        self.weight = weight.clamp(1, WEIGHT_MAX);
        self
    }

    /// The address, as it was given.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Its share of the load relative to the other endpoints: 1 to [`WEIGHT_MAX`].
    pub fn weight(&self) -> u32 {
        self.weight
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.addr, self.weight)
    }
}

impl From<&str> for Endpoint {
    fn from(addr: &str) -> Self {
        Endpoint::new(addr)
    }
}

impl From<String> for Endpoint {
    fn from(addr: String) -> Self {
        Endpoint::new(addr)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Endpoint::new(addr.to_string())
    }
}

/// The text is not `host:port [weight]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {why}")]
pub struct EndpointError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        parse(text).map_err(|why| EndpointError { text: text.to_owned(), why })
    }
}

fn parse(text: &str) -> Result<Endpoint, &'static str> {
    let mut words = text.split_whitespace();
    let addr = words.next().ok_or("the address is missing")?;
    check_addr(addr)?;
    let weight = words.next().map_or(Ok(1), parse_weight)?;
    match words.next() {
        Some(_) => Err("only an address and a weight are expected"),
        None => Ok(Endpoint::new(addr).weighted(weight)),
    }
}

fn check_addr(addr: &str) -> Result<(), &'static str> {
    let (host, port) = addr.rsplit_once(':').ok_or("the port is missing")?;
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    match port.parse::<u16>() {
        _ if host.is_empty() => Err("the host is missing"),
        _ if host.contains(':') && !is_bracketed => {
            Err("an IPv6 address needs brackets, and a port after them")
        }
        Ok(1..) if port.bytes().all(|byte| byte.is_ascii_digit()) => Ok(()),
        _ => Err("the port is not a number from 1 to 65535"),
    }
}

fn parse_weight(word: &str) -> Result<u32, &'static str> {
    match word.parse() {
        Ok(weight @ 1..=WEIGHT_MAX) => Ok(weight),
        _ => Err("the weight is not a number from 1 to 100"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_gives_an_address_and_perhaps_a_weight() {
        let check = |text: &str, addr: &str, weight: u32| {
            assert_eq!(text.parse(), Ok(Endpoint::new(addr).weighted(weight)), "{text:?}");
        };
        check("a:1", "a:1", 1);
        check("  a.b-c:65535\t 100 ", "a.b-c:65535", 100);
        check("[::1]:7001 2", "[::1]:7001", 2);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, words: &str| {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(words), "{text:?}: {error}");
        };
        check("", "address is missing");
        check("a", "port is missing");
        check(":1", "host is missing");
        check("a:0", "port is not a number");
        check("a:+1", "port is not a number");
        check("a:65536", "port is not a number");
        check("::1:7001", "brackets");
        check("a:1 0", "weight is not a number from 1");
        check("a:1 101", "to 100");
        check("a:1 x", "weight");
        check("a:1 1 1", "only an address and a weight");
    }

    #[test]
    fn weights_stay_in_their_range() {
        assert_eq!(WEIGHT_MAX, 100, "the error message of `parse_weight` says so");
        assert_eq!(Endpoint::new("a:1").weighted(0).weight(), 1);
        assert_eq!(Endpoint::new("a:1").weighted(u32::MAX).weight(), WEIGHT_MAX);
    }
}
