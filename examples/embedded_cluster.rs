//! A whole cluster inside this process, as in an integration test: three members on free ports,
//! each with a log of its own in a temporary directory.
//!
//! ```sh
//! cargo run --example embedded_cluster
//! ```

use std::error::Error;

use syncraft::testing::Cluster;

fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::start(3)?;
    let clerk = cluster.clerk();
    clerk.put("k", "survives")?;

    let leader = cluster.leader()?;
    cluster.kill(leader);
    println!("member {leader} led and was killed; now member {} leads", cluster.leader()?);
    println!(
        "k is still {:?}",
        clerk.get("k")?.map(|value| String::from_utf8_lossy(&value).into_owned())
    );

    for id in cluster.ids() {
        cluster.kill(id);
    }
    for id in cluster.ids() {
        cluster.restart(id)?;
    }
    println!("after all three were killed: {:?}", clerk.get("k")?.map(|value| value.len()));
    Ok(())
}
