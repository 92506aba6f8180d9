//! [`Instance`]: one server of a service, and its text in the store.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::rpc::{Endpoint, EndpointError};

/// One server of a service. Its text is the endpoint on the first line, and a line `name=value` for
/// each piece of metadata:
///
/// ```
/// use syncraft::registry::Instance;
/// use syncraft::rpc::Endpoint;
///
/// let endpoint = Endpoint::new("10.0.0.7:7001").weighted(2);
/// let instance = Instance::new(endpoint).with("zone", "a")?;
/// assert_eq!(instance.to_string(), "10.0.0.7:7001 2\nzone=a\n");
/// assert_eq!("10.0.0.7:7001 2\nzone=a".parse(), Ok(instance));
/// # Ok::<(), syncraft::registry::InstanceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    endpoint: Endpoint,
    metadata: BTreeMap<String, String>,
}

/// Why text is no instance, or metadata cannot be part of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstanceError {
    /// The first line is no endpoint.
    #[error("the first line is no endpoint")]
    Endpoint(#[from] EndpointError),
    /// A line is not `name=value`: it has no `=`, no name, or a name or value with a line break.
    #[error("{0:?} is not name=value on one line")]
    Metadata(String),
}

impl Instance {
    /// The instance at this endpoint, without metadata.
    pub fn new(endpoint: impl Into<Endpoint>) -> Instance {
        Instance { endpoint: endpoint.into(), metadata: BTreeMap::new() }
    }

    /// The same instance with one more piece of metadata, or with another value of it.
    ///
    /// # Errors
    /// [`InstanceError::Metadata`]: the name is empty or has a `=`, or there is a line break.
    pub fn with(mut self, name: &str, value: &str) -> Result<Instance, InstanceError> {
        let is_bad = |text: &str| text.contains(['\n', '\r']);
        if name.is_empty() || name.contains('=') || is_bad(name) || is_bad(value) {
            return Err(InstanceError::Metadata(format!("{name}={value}")));
        }
        self.metadata.insert(name.to_owned(), value.to_owned());
        Ok(self)
    }

    /// Where it is, and its share of the load.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What else it says of itself, by name.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.endpoint)?;
        self.metadata.iter().try_for_each(|(name, value)| writeln!(f, "{name}={value}"))
    }
}

impl FromStr for Instance {
    type Err = InstanceError;

    fn from_str(text: &str) -> Result<Instance, InstanceError> {
        let mut lines = text.lines();
        let instance = Instance::new(lines.next().unwrap_or_default().parse::<Endpoint>()?);
        lines.filter(|line| !line.is_empty()).try_fold(instance, |instance, line| {
            let metadata = line.split_once('=');
            let (name, value) = metadata.ok_or_else(|| InstanceError::Metadata(line.to_owned()))?;
            instance.with(name, value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_instance_is_refused_in_words() {
        let check = |text: &str, words: &str| {
            let error = text.parse::<Instance>().unwrap_err();
            let words_found = crate::ErrorChain(&error).to_string();
            assert!(words_found.contains(words), "{text:?}: {words_found}");
        };
        check("", "the address is missing");
        check("a:1 0", "the weight is not a number");
        check("a:1\nzone", "\"zone\" is not name=value");
        check("a:1\n=b", "\"=b\" is not name=value");
        assert!(Instance::new("a:1").with("a", "b\nc").is_err());
        assert!(Instance::new("a:1").with("a=b", "c").is_err());
    }
}
