//! The threads that drive one Raft core: queues, disk and network around a pure function.
//!
//! # Stages
//! ```text
//!   clients' requests ────┐                   ┌─> peers: messages
//!   peers' messages ──────┤                   │
//!   ticks ────────────────┼─> inbox ─> core ──┼─> log: one write, one fdatasync ─> peers: promises
//!   closed connections ───┤                   │    └── what is durable ──> inbox
//!   finished snapshots ───┘                   │
//!                                             └─> applier: the state machine ─> clients' answers
//!                                                  └── a view ──> snapshot thread ──> inbox
//! ```
//! The core (`driver`), the log (`persister`) and the state machine (`applier`) are *stages*
//! (`stage`). A stage is a queue and one worker, which does everything that waits in the queue as
//! one batch. A worker knows its inputs and outputs, and no other stage; `pipeline` connects them.
//!
//! - The **core** takes everything that has arrived, steps `Raft` once, and carries out the effects
//!   in their order. It sends messages itself, through `post`. It never waits.
//! - The **log** writes what the core wants persisted. One fdatasync serves all writes that wait.
//!   Then it sends the messages that had to wait for it.
//! - The **applier** applies committed entries and answers clients.
//!
//! # Threads
//! A thread that brings work runs the stages itself, as far as it may (`mailbox::MayDo`). So work
//! is not handed from thread to thread, which would cost a wake-up each time. The work that it may
//! not do is left to the stage's own thread. If another thread is running the stage, that thread
//! does the new work next.
//!
//! | name | does | waits for |
//! | --- | --- | --- |
//! | `raft-N` | steps the core when no other thread does | being woken |
//! | `wal-N` | writes the log, except what a leader's connection brings | being woken, the disk |
//! | `wal-spare-N` | zeroes the next segment of the log ahead | being woken, the disk |
//! | `apply-N` | applies entries when no other thread does | being woken |
//! | `tick-N` | has the core step when a tick matters (`ticker`) | the clock |
//! | `snap-N` | writes snapshots, and receives those that a leader sends | the disk |
//! | `data-N` | checks that the data directory is still there | the clock |
//! | `peer-N-M` | keeps the connections to member M, while it is one (`peers`) | the network |
//! | `snap-N-M` | sends a snapshot to member M; runs only while it sends | the network |
//! | connections and channels (`rpc`) | what their frames bring, as below | their sockets |
//!
//! | a thread that brings | steps the core | answers reads | applies entries | writes the log |
//! | --- | --- | --- | --- | --- |
//! | a tick, a report of this member's own threads | yes | no | no | no |
//! | a heartbeat, a vote, an answer to one | yes | yes | no | no |
//! | a client's request, a peer's answer about entries | yes | yes | yes | no |
//! | a leader's entries | yes | yes | yes | yes |
//!
//! While the state machine or the disk is slow, only the stage's own thread waits for it.
//!
//! # A put, step by step
//! Member 1 of three leads; members 2 and 3 follow, and do the same. The only threads that wake up
//! are those whose socket has something to read, and `wal-1`.
//!
//! 1. On member 1, the **connection thread** of the client reads the frame. The service decodes it
//!    and calls [`NodeHandle`], which pushes the command and a `Responder` into the inbox. When
//!    every call that has arrived is pushed, the thread steps the core.
//! 2. The core appends an entry. Its effects, in order: `Proposed`, so the responder goes to the
//!    applier's queue, where it waits for the entry; `Send`, so the entry leaves for member 2;
//!    `Persist`, so the entry goes to the log's queue. The thread wakes `wal-1` and reads its
//!    connection again.
//! 3. **`wal-1`** writes the entry and calls fdatasync, while member 2 does the same. It pushes
//!    `Persisted` into the inbox and steps the core, which counts member 1.
//! 4. On member 2, the **connection thread** of member 1 reads the entry, pushes it into the inbox
//!    and steps the core. `Persist` carries the entry, and the reply that promises it. The same
//!    thread runs the log: it writes, calls fdatasync, and only then sends the reply.
//! 5. On member 1, the **reader thread** of the channel to member 2 reads this reply, pushes it
//!    into the inbox and steps the core. A majority has the entry, so the core returns `Apply`. The
//!    same thread runs the applier: it applies the command and gives the outcome to the responder,
//!    whose callback queues the frame of the answer. The frame leaves at the end of the turn. (If
//!    `wal-1` is the last that the majority needs, it wakes `apply-1`, which does this.)
//! 6. Member 2 learns that the entry is committed from the next message. If a heartbeat brings it,
//!    its thread may not apply entries, and `apply-2` does.
//!
//! A read goes the same way without the log: the core confirms that its member leads, and
//! `ReadReady` lets the applier answer. Reads that come meanwhile wait for each other
//! (`raft::reads`). Under a lease, the thread that brings a read answers it at once (`leased`).
//!
//! # Invariants
//! - A stage has one worker, which does one batch after another. Effects are carried out in order.
//! - What the core does not order is not done: nothing is written, applied, released or promised to
//!   a peer without an effect that says so. A read is answered when the core says that it is ready,
//!   or while the core's lease lasts (`Raft::lease_end_us`).
//! - The messages in `Persist::then` leave after the fdatasync of that write, from the thread that
//!   did it.
//! - No thread but the stage's own waits for a busy worker.
//! - A thread that applies entries waits for the queries that clients' threads are making under a
//!   lease. Each takes microseconds; after one that does not, those threads make none for a while.
//! - A thread that carries heartbeats, votes or the clock never waits for the disk, and never
//!   applies entries.
//! - An [`Observer`] of the state machine is told of an entry on the thread that applies it, before
//!   the entry has an outcome for anybody.
//! - Clients' callbacks run on any of these threads, so they must not block.
//! - A member whose state is at a feature level that its program does not know answers nobody from
//!   it, and stops (`levels`).
//! - A member whose state differs from that of a majority answers nobody from it
//!   ([`NodeHandle::divergence`]).
//! - Every request ends: with its outcome, a refusal, its deadline, or the node's stop.
//! - A panic in a stage, a failed write, or a data directory that is gone stops the node, and
//!   [`NodeHandle::failure`] says why.

mod applier;
mod changes;
mod config;
mod configured;
mod divergence;
mod driver;
mod gate;
mod handle;
mod identity;
mod inbox;
mod joining;
mod leased;
mod levels;
mod mailbox;
mod peer;
mod peers;
mod persister;
mod pipeline;
mod post;
mod proto;
mod request;
mod requests;
mod service;
mod shared;
mod snapshot_sender;
mod snapshotter;
mod stage;
mod start;
mod state_machine;
mod ticker;
mod warnings;
mod watch;
mod wire;

pub use changes::ChangeError;
pub use config::{COMMAND_LEN_MAX, Detour, FRAME_LEN_MIN, NodeConfig, ReadMode, Timing};
pub use configured::{Members as ConfiguredMembers, PeerProgress, SnapshotProgress};
pub use divergence::Divergence;
#[cfg(feature = "testing")]
pub(crate) use gate::Gate;
pub use handle::NodeHandle;
pub(crate) use request::Proposal;
pub use request::{RequestError, Stale};
pub use shared::NodeFailure;
pub use start::{Node, NodeError};
pub use state_machine::{Observer, StateMachine, StateView};
