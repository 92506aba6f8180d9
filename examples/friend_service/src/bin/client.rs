//! `client ADDR USER` lists a user's friends; `client ADDR USER FRIEND` adds one.

use std::error::Error;
use std::time::{Duration, Instant};

use friend_service::{AddArgs, FriendServiceStub, ListArgs};
use syncraft_rpc::{Channel, Retry, Retrying};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(addr), Some(user), friend) = (args.next(), args.next(), args.next()) else {
        return Err("usage: client ADDR USER [FRIEND]".into());
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    let channel = Channel::builder(addr).lazy();
    // Waits until the server answers, which may be later than until it accepts connections.
    channel.connect_wait(deadline)?;
    let stub = FriendServiceStub::new(Retrying::new(channel, Retry::default()));
    match friend {
        Some(friend) => println!("{}", stub.add(&AddArgs { user, friend }, deadline)?.friends),
        None => println!("{}", stub.list(&ListArgs { user }, deadline)?.friends.join("\n")),
    }
    Ok(())
}
