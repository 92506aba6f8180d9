//! `caller MEMBERS`: calls the instances of the friend service, wherever they are, until its
//! standard input ends. Then it says how many calls there were.

use std::error::Error;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use friend_service::{FriendServiceStub, ListArgs};
use syncraft::Clerk;
use syncraft::registry::Discovery;
use syncraft::rpc::{Retry, Retrying, Targets};

fn main() -> Result<(), Box<dyn Error>> {
    let members = std::env::args().nth(1).ok_or("usage: caller ID=HOST:PORT,...")?;
    let clerk = Clerk::builder().members(&members).build()?;
    let targets = Targets::builder(Discovery::start(&clerk, "friends")?).build();
    let stub = FriendServiceStub::new(Retrying::new(targets, Retry::default()));
    let input = thread::spawn(|| io::copy(&mut io::stdin(), &mut io::sink()));
    let (mut calls, mut failed) = (0, 0);
    while !input.is_finished() {
        let deadline = Instant::now() + Duration::from_secs(5);
        calls += 1;
        if let Err(error) = stub.list(&ListArgs { user: "ann".to_owned() }, deadline) {
            failed += 1;
            eprintln!("{}", syncraft::ErrorChain(&error));
        }
        thread::sleep(Duration::from_millis(2));
    }
    println!("{calls} calls, {failed} failed");
    Ok(())
}
