//! `instance MEMBERS`: an instance of the friend service, at any free port of this machine. It is
//! in the registry until its standard input ends, or it dies.

use std::error::Error;
use std::io;
use std::time::Duration;

use friend_service::{FriendService, Friends};
use syncraft::Clerk;
use syncraft::registry::{Instance, Registration};
use syncraft::rpc::Server;

/// How long it is still listed after its death.
const TTL: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn Error>> {
    let members = std::env::args().nth(1).ok_or("usage: instance ID=HOST:PORT,...")?;
    let clerk = Clerk::builder().members(&members).build()?;
    let service = Friends::default().into_service();
    let server = Server::builder().service(service).bind("127.0.0.1:0").build()?.start();
    let instance = Instance::new(server.local_addr());
    let registration = Registration::start(&clerk, "friends", instance, TTL)?;
    println!("serving on {}", server.local_addr());
    io::copy(&mut io::stdin(), &mut io::sink())?;
    // First out of the registry, so that nobody calls it any more. Then the calls that have come
    // are answered.
    registration.deregister()?;
    server.drain(Duration::from_secs(5));
    Ok(())
}
