//! Reads and writes a running cluster:
//!
//! ```sh
//! scripts/cluster.sh start
//! cargo run --example clerk -- 1=127.0.0.1:7001,2=127.0.0.1:7002,3=127.0.0.1:7003
//! ```

use std::error::Error;
use std::time::Duration;

use syncraft::ErrorChain;
use syncraft::clerk::{Clerk, ClerkErrorKind};

fn main() -> Result<(), Box<dyn Error>> {
    let members = std::env::args().nth(1).ok_or("usage: clerk ID=HOST:PORT,...")?;
    let clerk = Clerk::builder().members(&members).timeout(Duration::from_secs(5)).build()?;

    clerk.put("greeting", "hello")?;
    clerk.append("greeting", ", world")?;
    if let Some(value) = clerk.get("greeting")? {
        println!("greeting is {:?}", String::from_utf8_lossy(&value));
    }
    println!("an absent key gives {:?}", clerk.get("nobody wrote this")?);

    // Every call ends, and the error of a write says whether it may have happened.
    if let Err(error) = clerk.put("k", "v") {
        match error.kind() == ClerkErrorKind::Unknown {
            true => eprintln!("it may have happened: {}", ErrorChain(&error)),
            false => eprintln!("it did not happen: {}", ErrorChain(&error)),
        }
    }
    Ok(())
}
