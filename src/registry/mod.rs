//! A registry of services in the store: instances register themselves, and callers find them
//! without a file.
//!
//! ```text
//! instance ─ Registration ─ key under a lease ─> store ─ watch ─> Discovery ─ Source ─> Targets
//!             kept alive, deregistered at a stop                   (of callers)
//! ```
//!
//! An instance of the service `friends` at `10.0.0.7:7001` is the key
//! `services/friends/10.0.0.7:7001`. Its value is text: the [`Endpoint`](crate::rpc::Endpoint),
//! which is the address and its weight, and a line `name=value` for each piece of metadata. So
//! scripts can read and write it as well:
//!
//! ```text
//! syncraft put services/friends/10.0.0.7:7001 '10.0.0.7:7001 2' --lease "$(syncraft lease grant 10s)"
//! syncraft watch services/friends/ --prefix
//! ```
//!
//! # Promises
//! - An instance that has died is gone one TTL later. One that
//!   [deregisters](Registration::deregister) before it stops is gone at once, so callers that
//!   follow lose no call to it.
//! - An instance that lives is registered again if its lease ends nevertheless: the store was away
//!   for longer than the TTL.
//! - If the store cannot be reached, callers keep the last list.
//!
//! # Threads
//! `registration` for each [`Registration`], `discovery` for each [`Discovery`].

mod discovery;
mod instance;
mod registration;

pub use discovery::Discovery;
pub use instance::{Instance, InstanceError};
pub use registration::{Registration, RegistryError};

use std::time::Duration;

use bytes::Bytes;

use crate::clerk::ClerkError;
use crate::kv::model::KeyRange;

/// The pause after a call that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// The keys of a service's instances.
fn keys(service: &str) -> KeyRange {
    KeyRange::prefix(prefix(service))
}

/// What the keys of a service's instances begin with.
fn prefix(service: &str) -> Bytes {
    format!("services/{service}/").into()
}

/// The name of a service is part of a key, and no other service's keys may begin with it.
fn check_name(service: &str) -> Result<(), RegistryError> {
    match service.is_empty() || service.contains('/') {
        true => Err(RegistryError::Name(service.to_owned())),
        false => Ok(()),
    }
}

impl From<ClerkError> for RegistryError {
    fn from(error: ClerkError) -> RegistryError {
        RegistryError::Store(error)
    }
}
