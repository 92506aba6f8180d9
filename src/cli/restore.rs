//! `restore` and `recover`: data directories with which a new cluster begins.

use syncraft::backup::{self, Recovered, Restored, Survivor};
use syncraft::raft::MemberId;

use super::args::{Common, RecoverArgs, RestoreArgs};
use super::output::print;
use super::{Exit, Failure, Outcome};

pub(super) fn restore(common: &Common, args: &RestoreArgs) -> Outcome {
    let RestoreArgs { file, data_dir, id, token } = args;
    let (members, id) = (common.member_list()?, MemberId(*id));
    let Restored { cluster_id, revision, .. } =
        backup::restore(file, data_dir, &members, id, token)?;
    let dir = data_dir.display();
    let line = format!(
        "{dir}: member {id} of cluster {cluster_id:016x}, at revision {revision}; start it with \
         --members {members}\n"
    );
    print(&[line.as_bytes()])?;
    Ok(Exit::Done)
}

pub(super) fn recover(common: &Common, args: &RecoverArgs) -> Outcome {
    let survivor = Survivor::open(&args.data_dir)?;
    let (id, old, dir) = (survivor.id(), survivor.cluster_id(), args.data_dir.display());
    let list = common.members.is_some().then(|| common.member_list()).transpose()?;
    if !args.force {
        return Err(Failure::usage(format!(
            "{dir} holds member {id} of cluster {old:016x}: to make it a cluster of one loses every \
             write that the other members have acknowledged and this one has not received; nothing \
             has changed; if the others are lost for ever, say --force"
        )));
    }
    let (kept_in, addr) = if survivor.is_half_recovered()? {
        let kept_in = survivor.finish()?;
        print(&[format!("{dir}: an earlier recovery was finished\n").as_bytes()])?;
        (kept_in, list.and_then(|it| it.addr(id).map(str::to_owned)))
    } else {
        let Recovered { began, addr, last_index, entries, kept_in, was_removed } =
            survivor.recover(list.as_ref())?;
        let Restored { cluster_id, revision, .. } = began;
        let line = format!(
            "{dir}: member {id} is cluster {cluster_id:016x} now, alone, at revision {revision}\n\
             its log ended with entry {last_index}; all {entries} entries behind its snapshot were \
             applied, whether they were committed or not; what came after them is lost\n"
        );
        print(&[line.as_bytes()])?;
        if was_removed {
            let line = format!(
                "its log says that member {id} was removed from cluster {old:016x}: what the \
                 others have written since is not here\n"
            );
            print(&[line.as_bytes()])?;
        }
        (kept_in, Some(addr))
    };
    let addr = addr.as_deref().unwrap_or("HOST:PORT");
    let line = format!(
        "the old files are in {}\nstart it with --members {id}={addr}; never start the other \
         members with their old data\n",
        kept_in.display()
    );
    print(&[line.as_bytes()])?;
    Ok(Exit::Done)
}
