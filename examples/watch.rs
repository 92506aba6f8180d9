//! Prints the changes of the keys that begin with a prefix, whichever members live:
//!
//! ```sh
//! scripts/cluster.sh start
//! cargo run --example watch -- 1=127.0.0.1:7001,2=127.0.0.1:7002,3=127.0.0.1:7003 user/
//! ```

use std::error::Error;

use syncraft::ErrorChain;
use syncraft::clerk::Clerk;
use syncraft::kv::model::{Change, KeyRange};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let members = args.next().ok_or("usage: watch ID=HOST:PORT,... [PREFIX]")?;
    let clerk = Clerk::builder().members(&members).build()?;

    for told in clerk.watch(KeyRange::prefix(args.next().unwrap_or_default())).start()? {
        match told {
            // All that one revision changed comes together.
            Ok(changes) => changes.changes.iter().for_each(|change| match change {
                Change::Put { entry, .. } => println!("{:?} = {:?}", entry.key, entry.value),
                Change::Delete { key, .. } => println!("{key:?} is gone"),
            }),
            // It has ended, and says where a new one can begin.
            Err(error) if error.is_final() => return Err(error.into()),
            // Nobody serves it for now. It goes on by itself.
            Err(error) => eprintln!("{}", ErrorChain(&error)),
        }
    }
    Ok(())
}
