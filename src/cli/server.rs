//! `server`: runs one member until it is told to stop or fails.

use super::args::{Common, ServerArgs};
use super::{Failure, Outcome};

pub(super) fn run(common: &Common, args: ServerArgs) -> Outcome {
    let ServerArgs { id, data_dir, http, heartbeat, election_timeout } = args;
    let members: syncraft::members::Members =
        common.members()?.parse().map_err(|error| Failure::usage(format!("--members: {error}")))?;
    log::debug!("{id} of {members} in {data_dir:?}, {http:?}, {heartbeat:?}, {election_timeout:?}");
    Err(Failure::usage("this build has no server yet"))
}
