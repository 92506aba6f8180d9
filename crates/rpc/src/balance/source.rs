//! Where the list of endpoints comes from: the trait [`Source`], and a list set by code.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Endpoint;

/// A list of endpoints that may change: from code, from a file, from a registry.
pub trait Source: Send + Sync {
    /// The list as it is now. If it is empty, calls fail. If an address occurs twice, the first
    /// endpoint counts. Callers wait for this method, so a source that asks other programs should
    /// do so beforehand, on a thread of its own.
    fn endpoints(&self) -> Vec<Endpoint>;

    /// A number that grows with each change of the list, *after* the change. It is read before each
    /// call, so it should cost no more than reading an atomic. The list is read only when the
    /// number has grown.
    fn generation(&self) -> u64;
}

impl<S: Source + ?Sized> Source for Arc<S> {
    fn endpoints(&self) -> Vec<Endpoint> {
        (**self).endpoints()
    }

    fn generation(&self) -> u64 {
        (**self).generation()
    }
}

/// A list that code sets. In an [`Arc`] it can be replaced while [`Targets`](super::Targets) use
/// it.
#[derive(Debug, Default)]
pub struct FixedSource {
    endpoints: Mutex<Vec<Endpoint>>,
    generation: AtomicU64,
}

impl FixedSource {
    /// A source of these endpoints. Each is an [`Endpoint`], or an address ("host:port" or a
    /// `SocketAddr`) with weight 1.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<Endpoint>>) -> Self {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        FixedSource { endpoints: Mutex::new(endpoints), generation: AtomicU64::new(0) }
    }

    /// Replaces the list. Calls that begin from now on use the new list.
    pub fn set(&self, endpoints: Vec<Endpoint>) {
        *self.endpoints.lock() = endpoints;
        self.generation.fetch_add(1, Ordering::Release);
    }
}

impl Source for FixedSource {
    fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints.lock().clone()
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_list_is_a_new_generation() {
        let source = Arc::new(FixedSource::new(["a:1", "b:1"]));
        let before = source.generation();
        assert_eq!(source.endpoints(), [Endpoint::new("a:1"), Endpoint::new("b:1")]);
        source.set(vec![Endpoint::new("c:1").weighted(2)]);
        assert!(source.generation() > before);
        assert_eq!(source.endpoints(), [Endpoint::new("c:1").weighted(2)]);
    }
}
