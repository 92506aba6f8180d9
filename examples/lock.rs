//! Counts under a lock. Start it several times at once:
//!
//! ```sh
//! scripts/cluster.sh start
//! cargo run --example lock -- 1=127.0.0.1:7001,2=127.0.0.1:7002,3=127.0.0.1:7003
//! ```

use std::error::Error;
use std::time::Duration;

use syncraft::clerk::Clerk;

fn main() -> Result<(), Box<dyn Error>> {
    let members = std::env::args().nth(1).ok_or("usage: lock ID=HOST:PORT,...")?;
    let clerk = Clerk::builder().members(&members).build()?;

    let lock = clerk.lock("counter").ttl(Duration::from_secs(5)).wait(Duration::from_secs(60));
    let guard = lock.acquire()?;
    println!("the lock is held, fence {}", guard.fence());
    for _ in 0..10 {
        let count: u64 = match clerk.get("count")? {
            Some(text) => String::from_utf8(text.to_vec())?.parse()?,
            None => 0,
        };
        // Whatever happens in between, this changes nothing once the lock is lost.
        let written = guard.txn().then_put("count", (count + 1).to_string()).commit()?;
        if !written.held {
            return Err("the lock was lost".into());
        }
        println!("{}", count + 1);
    }
    guard.unlock()?;
    Ok(())
}
