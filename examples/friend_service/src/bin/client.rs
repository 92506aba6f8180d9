//! `client ADDR USER` lists a user's friends; `client ADDR USER FRIEND` adds one; `client ADDR USER
//! --follow` shows each new one as it comes.

use std::error::Error;
use std::time::{Duration, Instant};

use friend_service::{AddArgs, FriendServiceStub, ListArgs};
use syncraft_rpc::{Channel, Retry, Retrying};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(addr), Some(user), friend) = (args.next(), args.next(), args.next()) else {
        return Err("usage: client ADDR USER [FRIEND | --follow]".into());
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    let channel = Channel::builder(addr).lazy();
    // Waits until the server answers, which may be later than until it accepts connections.
    channel.connect_wait(deadline)?;
    if friend.as_deref() == Some("--follow") {
        // A stream goes over one connection, and ends with it.
        for friend in FriendServiceStub::new(channel).follow(&ListArgs { user }, None) {
            println!("{}", friend?.name);
        }
        return Ok(());
    }
    let stub = FriendServiceStub::new(Retrying::new(channel, Retry::default()));
    match friend {
        Some(friend) => println!("{}", stub.add(&AddArgs { user, friend }, deadline)?.friends),
        None => println!("{}", stub.list(&ListArgs { user }, deadline)?.friends.join("\n")),
    }
    Ok(())
}
