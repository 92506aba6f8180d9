//! The service of `proto/friends.proto`, and an implementation that keeps friends in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use syncraft_rpc::{Done, Outgoing};

syncraft_rpc::include_proto!("friends");

/// The friends of each user.
#[derive(Debug, Default)]
pub struct Friends {
    of: Mutex<BTreeMap<String, User>>,
}

#[derive(Debug, Default)]
struct User {
    friends: BTreeSet<String>,
    /// Where each new friend goes. Dropping one ends its stream.
    followers: Vec<Outgoing<Friend>>,
}

impl FriendService for Friends {
    fn add(&self, args: AddArgs, done: Done<AddReply>) {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let user = of.entry(args.user).or_default();
        if user.friends.insert(args.friend.clone()) {
            let friend = Friend { name: args.friend };
            // Those who are gone, or too slow, follow no longer.
            user.followers.retain(|it| it.try_send(&friend).is_ok());
        }
        done.run(AddReply { friends: user.friends.len() as u32 });
    }

    fn list(&self, args: ListArgs, done: Done<ListReply>) {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let friends = of.get(&args.user).map(|user| user.friends.iter().cloned().collect());
        let friends = friends.unwrap_or_default();
        done.run(ListReply { friends });
    }

    fn follow(&self, args: ListArgs, replies: Outgoing<Friend>) {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let user = of.entry(args.user).or_default();
        user.followers.retain(|it| !it.is_over());
        let mut friends = user.friends.iter().map(|name| Friend { name: name.clone() });
        if friends.all(|friend| replies.try_send(&friend).is_ok()) {
            user.followers.push(replies);
        }
    }
}
