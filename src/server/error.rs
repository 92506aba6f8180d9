//! [`StartError`].

use std::io;
use std::path::PathBuf;

use crate::members::{Members, MembersError};
use crate::node::NodeError;
use crate::raft::MemberId;
use crate::rpc::ServerError;
use crate::storage::StorageError;

/// Why a member does not start: one line for an operator, with [`ErrorChain`](crate::ErrorChain).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The id is not in the list of members.
    #[error("member {id} is not in the list of members: {members}")]
    NotAMember {
        /// The id.
        id: MemberId,
        /// The list.
        members: Members,
    },
    /// The address to listen on is invalid.
    #[error("bad address to listen on")]
    BadListen(#[source] MembersError),
    /// What is to be advertised is no URL.
    #[error("{url:?} is not a URL such as http://HOST:PORT")]
    BadUrl {
        /// What was given.
        url: String,
    },
    /// etcd's clients are told where the members are, and cannot connect to an address that stands
    /// for all of a machine's.
    #[error("etcd's clients cannot connect to {addr}: it needs a URL to advertise")]
    NothingToAdvertise {
        /// Where the member would listen.
        addr: String,
    },
    /// The others cannot reach this member at an address that stands for all of a machine's.
    #[error("the others cannot reach this member at {addr}")]
    NoOwnAddr {
        /// Where the member would listen.
        addr: String,
    },
    /// The data belongs to a cluster with other members.
    #[error(
        "data directory {} belongs to a cluster with other members than {members}: until they are \
         recorded in the log, start it with the list of its first start",
        dir.display()
    )]
    OtherMembers {
        /// The data directory.
        dir: PathBuf,
        /// The list that was given.
        members: Members,
    },
    /// The only member of a cluster cannot be rebuilt.
    #[error("member {id} cannot be rebuilt: there is no other member to copy the data from")]
    NobodyToRebuildFrom {
        /// The id.
        id: MemberId,
    },
    /// A rebuild needs all other members, and one does not answer, or has no vote yet because it is
    /// being filled itself. Nothing was discarded.
    #[error(
        "cannot rebuild, so no data was discarded: all other members must be up and have their \
         data, but member {id} at {addr} cannot be counted on: {reason}"
    )]
    OtherAway {
        /// The other member.
        id: MemberId,
        /// The address at which it was asked.
        addr: String,
        /// The reason.
        reason: String,
    },
    /// The times contradict each other.
    #[error("{0}")]
    Timing(String),
    /// Frames would be too short for what members send each other.
    #[error(
        "the frame limit of {len_bytes} bytes is too low for the longest entry: at least {least_bytes} are needed"
    )]
    FrameLimit {
        /// `limits.frame.body_len_max_bytes`.
        len_bytes: usize,
        /// The lowest limit allowed.
        least_bytes: usize,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The member's own address, or that of a front.
        addr: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The node does not start.
    #[error(transparent)]
    Node(NodeError),
    /// The server does not start.
    #[error(transparent)]
    Server(#[from] ServerError),
}

impl From<NodeError> for StartError {
    fn from(error: NodeError) -> StartError {
        match error {
            NodeError::Storage(error) => StartError::Storage(error),
            error => StartError::Node(error),
        }
    }
}
