//! The arguments of `backup`, `restore` and `recover`, and their examples.

use std::path::PathBuf;

const BACKUP_HELP: &str = "\
Examples:
  syncraft backup nightly.backup
  syncraft backup verify nightly.backup
  syncraft backup verify --json nightly.backup | jq .revision

The file holds everything that was acknowledged before the command: all entries and leases at one \
revision, without what they held before. It is written under another name, checked against what the \
member says that it has sent, synced, read back, and renamed. A file that is there already is not \
replaced. Each part of it may take as long as --timeout says.";

const RESTORE_HELP: &str = "\
Example, on each machine of the new cluster, with its own id:
  syncraft restore nightly.backup --data-dir /var/lib/syncraft --id 1 \\
      --members 1=a.example:7001,2=b.example:7001,3=c.example:7001
  syncraft server --data-dir /var/lib/syncraft --id 1 --members 1=...

All members are restored from the same file with the same list, before they are started. Then they \
are one cluster, which is not the old one: members of the old one are refused. Do not restore a \
member of a cluster that is running: start it with an empty data directory, and the others fill it.";

const RECOVER_HELP: &str = "\
Example, on the machine of the only member that is left, which is not running:
  syncraft recover --data-dir /var/lib/syncraft --force
  syncraft server --data-dir /var/lib/syncraft --id 2 --members 2=b.example:7001

Only if a majority of the members is lost for ever. What the lost members had acknowledged, and this \
one had not received, is lost. Recover the member with the highest LAST in `syncraft status`, and \
never start the others with their old data again.";

/// `backup FILE`, or what to do with a file that is there.
#[derive(Debug, clap::Args)]
#[command(
    after_help = BACKUP_HELP,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    override_usage = "syncraft backup [OPTIONS] <FILE>\n       \
                      syncraft backup verify [OPTIONS] <FILE>"
)]
pub(crate) struct BackupArgs {
    /// The file to write; it must not be there
    #[arg(required = true)]
    pub(crate) file: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<BackupCommand>,
}

/// What to do with a backup.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum BackupCommand {
    /// Read all of a backup, check it, and print what is in it; exit status 3 if it is damaged
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// A backup
    pub(crate) file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = RESTORE_HELP)]
pub(crate) struct RestoreArgs {
    /// A backup
    pub(crate) file: PathBuf,
    /// The data directory to make; it must be absent or empty
    #[arg(long, value_name = "DIR", env = "SYNCRAFT_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    /// The id of this member in the list of members
    #[arg(long, env = "SYNCRAFT_ID")]
    pub(crate) id: u64,
    /// Any text, the same for all members; another one if another cluster with the same list has
    /// been restored from the same file
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) token: String,
}

#[derive(Debug, clap::Args)]
#[command(after_help = RECOVER_HELP)]
pub(crate) struct RecoverArgs {
    /// The data directory of the member that is left
    #[arg(long, value_name = "DIR", env = "SYNCRAFT_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    /// Do it, and accept that writes may be lost
    #[arg(long)]
    pub(crate) force: bool,
}
