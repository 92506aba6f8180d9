//! The service of `proto/friends.proto`, and an implementation that keeps friends in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use syncraft_rpc::Done;

syncraft_rpc::include_proto!("friends");

/// The friends of each user.
#[derive(Debug, Default)]
pub struct Friends {
    of: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

impl FriendService for Friends {
    fn add(&self, args: AddArgs, done: Done<AddReply>) {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let friends = of.entry(args.user).or_default();
        friends.insert(args.friend);
        done.run(AddReply { friends: friends.len() as u32 });
    }

    fn list(&self, args: ListArgs, done: Done<ListReply>) {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let friends = of.get(&args.user).into_iter().flatten().cloned().collect();
        done.run(ListReply { friends });
    }
}
