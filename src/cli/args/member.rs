//! The arguments of `syncraft member`, and their examples.

const ADD_HELP: &str = "\
Start the new member first; it waits until it is added:
  syncraft server --id 4 --join 1=HOST:PORT,... --listen HOST:PORT --data-dir DIR
Then:
  syncraft member add 4=HOST:PORT

The new member is filled, and votes once it has caught up. Its progress goes to standard error. \
--timeout counts from the last progress. It is safe to repeat the command: it goes on where it was, \
and says so if the member votes already.";

/// What to do with the members.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum MemberCommand {
    /// Print all members: who votes, who leads, who is how far behind
    List(MemberListArgs),
    /// Add a member that was started with --join, and wait until it is a voter
    Add(AddArgs),
    /// Make a learner that has caught up a voter
    Promote(MemberIdArgs),
    /// Remove a member for ever: it stops, and its id is not used again
    Remove(MemberIdArgs),
    /// Change the address at which a member is reached
    Move(MoveArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct MemberListArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = ADD_HELP)]
pub(crate) struct AddArgs {
    /// The new member's id, which no member has or ever had, and the address at which it is reached
    #[arg(value_name = "ID=HOST:PORT")]
    pub(crate) member: String,
    /// Return at once, and leave it a learner, which does not vote, until `syncraft member promote`
    #[arg(long)]
    pub(crate) learner: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MemberIdArgs {
    /// The member
    #[arg(value_parser = member_id())]
    pub(crate) id: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MoveArgs {
    /// The member, which answers at the new address already
    #[arg(value_parser = member_id())]
    pub(crate) id: u64,
    /// The new address
    #[arg(value_name = "HOST:PORT")]
    pub(crate) addr: String,
}

fn member_id() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}
