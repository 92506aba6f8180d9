//! [`Registration`]: an instance in the registry, for as long as it lives.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;

use super::{Instance, PAUSE, check_name, prefix};
use crate::clerk::{Clerk, ClerkError, Lease};

/// How long the thread waits for the loss of the lease before it looks whether it should end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long the thread tries to register anew, before it tries again.
const TRY_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a registration that is dropped tries to take itself out.
const DROP_TIMEOUT: Duration = Duration::from_secs(1);

/// Why an instance is not registered, or instances are not found.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The name of the service is empty, or has a `/`.
    #[error("{0:?} cannot be the name of a service: it is empty, or has a slash")]
    Name(String),
    /// The store refused, or could not be reached.
    #[error("the store did not serve the registry")]
    Store(#[source] ClerkError),
    /// The system gives no more threads.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// An instance in the registry. Dropping it takes the instance out, if the store can be reached
/// within a second or two; otherwise it is gone one TTL later.
///
/// ```no_run
/// # fn example(clerk: &syncraft::Clerk) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use syncraft::registry::{Instance, Registration};
///
/// let instance = Instance::new("10.0.0.7:7001").with("zone", "a")?;
/// let registered = Registration::start(clerk, "friends", instance, Duration::from_secs(10))?;
/// // ... serve ... and at a stop, before the server stops accepting:
/// registered.deregister()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Registration {
    clerk: Clerk,
    key: Bytes,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<Lease>>>,
}

impl Registration {
    /// Registers an instance of `service`. It stays registered until it is taken out, or this
    /// process has not reached the store for the TTL. Another registration at the same address
    /// replaces this one.
    ///
    /// # Errors
    /// [`RegistryError`]: it may be registered nevertheless, for the TTL at most.
    pub fn start(
        clerk: &Clerk,
        service: &str,
        instance: Instance,
        ttl: Duration,
    ) -> Result<Registration, RegistryError> {
        check_name(service)?;
        let key =
            Bytes::from([&prefix(service)[..], instance.endpoint().addr().as_bytes()].concat());
        let is_stopped = Arc::new(AtomicBool::new(false));
        let keeper = Keeper {
            clerk: clerk.clone(),
            key: key.clone(),
            value: instance.to_string().into(),
            ttl,
            is_stopped: is_stopped.clone(),
        };
        let lease = keeper.register()?;
        // From now on it tries again and again, so a try is short: a stop waits for it.
        let keeper = Keeper { clerk: clerk.clone().with_timeout(TRY_TIMEOUT), ..keeper };
        let thread = thread::Builder::new().name("registration".to_owned());
        let thread = thread.spawn(move || keeper.run(lease)).map_err(RegistryError::Thread)?;
        Ok(Registration { clerk: clerk.clone(), key, is_stopped, thread: Some(thread) })
    }

    /// The key of the instance.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// Takes the instance out of the registry. Call this before the server stops: then callers that
    /// follow the registry lose no call.
    ///
    /// # Errors
    /// The store could not be reached in time: the instance is gone one TTL later.
    pub fn deregister(mut self) -> Result<(), RegistryError> {
        let clerk = self.clerk.clone();
        self.end(&clerk)
    }

    fn end(&mut self, clerk: &Clerk) -> Result<(), RegistryError> {
        self.is_stopped.store(true, Ordering::Release);
        // A thread that has panicked has said so.
        let lease = self.thread.take().and_then(|thread| thread.join().ok()).flatten();
        let Some(lease) = lease else { return Ok(()) };
        // Its keys end with it. Another registration at this address has its own lease.
        clerk.revoke_lease(lease.id())?;
        Ok(())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let clerk = self.clerk.clone().with_timeout(DROP_TIMEOUT);
            if let Err(error) = self.end(&clerk) {
                log::warn!("registry: {}", crate::ErrorChain(&error));
            }
        }
    }
}

/// What the thread has.
struct Keeper {
    clerk: Clerk,
    key: Bytes,
    value: Bytes,
    ttl: Duration,
    is_stopped: Arc<AtomicBool>,
}

impl Keeper {
    /// Writes the instance under a lease of its own.
    fn register(&self) -> Result<Lease, ClerkError> {
        let lease = self.clerk.lease(self.ttl)?;
        match self.clerk.put_with(&self.key, &self.value, lease.id()) {
            Ok(()) => Ok(lease),
            // It may be registered nevertheless. If this fails as well, it is for one TTL.
            Err(error) => {
                let _ = lease.revoke();
                Err(error)
            }
        }
    }

    /// Registers anew whenever the lease is lost, until it is told to end. Returns the lease.
    fn run(self, lease: Lease) -> Option<Lease> {
        let mut lease = Some(lease);
        while !self.is_stopped.load(Ordering::Acquire) {
            match &lease {
                Some(held) if !held.wait_lost(LOOK_EVERY) => {}
                _ => {
                    let key = self.key.escape_ascii();
                    match self.register() {
                        Ok(new) => {
                            log::warn!("registry: the lease of {key} was lost: registered again");
                            lease = Some(new);
                        }
                        Err(error) => {
                            let why = crate::ErrorChain(&error);
                            log::warn!("registry: {key} cannot be registered again: {why}");
                            lease = None;
                            thread::sleep(PAUSE);
                        }
                    }
                }
            }
        }
        lease
    }
}
