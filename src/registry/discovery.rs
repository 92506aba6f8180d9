//! [`Discovery`]: the instances of a service, as they are now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Instance, PAUSE, RegistryError, check_name, keys};
use crate::ErrorChain;
use crate::clerk::{Clerk, ClerkError, Watch};
use crate::kv::model::{Changes, Revision};
use crate::rpc::{Endpoint, FixedSource, Source};

/// How long the thread tries to reach the store, before it tries again.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the thread waits for changes before it looks whether it should end.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The instances of a service: a [`Source`] for [`Targets`](crate::rpc::Targets) that follows the
/// registry.
///
/// ```no_run
/// # fn example(clerk: &syncraft::Clerk) -> Result<(), Box<dyn std::error::Error>> {
/// use syncraft::registry::Discovery;
/// use syncraft::rpc::{Channel, Targets};
///
/// let friends = Targets::builder(Discovery::start(clerk, "friends")?)
///     .channel(|addr| Channel::builder(addr).caller("me"))
///     .build();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Discovery {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    list: FixedSource,
    instances: Mutex<BTreeMap<Bytes, Instance>>,
    is_stopped: AtomicBool,
}

impl Discovery {
    /// Reads the instances of `service`, and follows them from now on.
    ///
    /// # Errors
    /// [`RegistryError`]: the first list cannot be read. Later on, the last list stays while the
    /// store cannot be reached.
    pub fn start(clerk: &Clerk, service: &str) -> Result<Discovery, RegistryError> {
        check_name(service)?;
        let shared = Arc::new(Shared {
            list: FixedSource::default(),
            instances: Mutex::default(),
            is_stopped: AtomicBool::new(false),
        });
        let revision = shared.read(clerk, service)?;
        let follower = Follower {
            shared: shared.clone(),
            // It tries again and again, so a try is short: a stop waits for it.
            clerk: clerk.clone().with_timeout(TRY_TIMEOUT),
            service: service.to_owned(),
            next: revision.next(),
        };
        let thread = thread::Builder::new().name("discovery".to_owned());
        let thread = thread.spawn(move || follower.run()).map_err(RegistryError::Thread)?;
        Ok(Discovery { shared, thread: Some(thread) })
    }

    /// The instances, in the order of their keys.
    pub fn instances(&self) -> Vec<Instance> {
        self.shared.instances.lock().values().cloned().collect()
    }
}

impl Source for Discovery {
    fn endpoints(&self) -> Vec<Endpoint> {
        self.shared.list.endpoints()
    }

    fn generation(&self) -> u64 {
        self.shared.list.generation()
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Release);
        // A thread that has panicked has said so.
        self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    /// Reads the whole list, and returns its revision.
    fn read(&self, clerk: &Clerk, service: &str) -> Result<Revision, ClerkError> {
        let mut scan = clerk.scan(keys(service));
        let mut found = BTreeMap::new();
        for entry in &mut scan {
            let entry = entry?;
            insert(&mut found, &entry.key, &entry.value);
        }
        *self.instances.lock() = found;
        self.publish();
        Ok(scan.revision())
    }

    fn apply(&self, changes: &Changes) {
        let mut instances = self.instances.lock();
        for change in &changes.changes {
            match change.value() {
                Some(value) => insert(&mut instances, change.key(), value),
                None => drop(instances.remove(change.key())),
            }
        }
        drop(instances);
        self.publish();
    }

    fn publish(&self) {
        let instances = self.instances.lock();
        self.list.set(instances.values().map(|it| it.endpoint().clone()).collect());
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }
}

/// A value that is no instance takes away the one that was there.
fn insert(instances: &mut BTreeMap<Bytes, Instance>, key: &Bytes, value: &Bytes) {
    match String::from_utf8_lossy(value).parse() {
        Ok(instance) => drop(instances.insert(key.clone(), instance)),
        Err(error) => {
            log::warn!("registry: {} is no instance: {}", key.escape_ascii(), ErrorChain(&error));
            instances.remove(key);
        }
    }
}

/// What the thread has.
struct Follower {
    shared: Arc<Shared>,
    clerk: Clerk,
    service: String,
    /// The first revision that the list does not have.
    next: Revision,
}

impl Follower {
    fn run(mut self) {
        while !self.shared.is_stopped() {
            match self.clerk.watch(keys(&self.service)).from(self.next).start() {
                Ok(watch) => self.follow(watch),
                Err(error) if error.is_final() => self.read_anew(),
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    /// Follows a watch until it ends.
    fn follow(&mut self, mut watch: Watch) {
        while !self.shared.is_stopped() {
            match watch.next_timeout(LOOK_EVERY) {
                Ok(Some(changes)) => {
                    self.shared.apply(&changes);
                    self.next = changes.revision.next();
                }
                Ok(None) => self.next = self.next.max(watch.revision().next()),
                Err(error) if error.is_final() => return self.read_anew(),
                // No member serves it at the moment: the list stays.
                Err(_) => {}
            }
        }
    }

    /// The history no longer has what the list lacks. If it is short, that may be so again and
    /// again, so there is a pause in any case.
    fn read_anew(&mut self) {
        thread::sleep(PAUSE);
        if let Ok(revision) = self.shared.read(&self.clerk, &self.service) {
            self.next = revision.next();
        }
    }
}
