//! Real programs, started as their users start them.
//!
//! - The `syncraft` command: what it says and how it ends ([`commands`], [`output`]); members that
//!   are killed, paused and wiped ([`faults`]); their files, addresses and limits ([`files`],
//!   [`addresses`], [`descriptors`], [`memory`], [`task_limits`]); [`existing_clients`] over
//!   restarts.
//!   Members that come and go: [`members`].
//!   The commands that read and write entries: [`store_commands`]; those that wait for changes:
//!   [`watch_commands`], [`lock_commands`]. Clusters that are copied and begin anew: [`backups`].
//!   A whole cluster in one process: [`dev`], [`dev_faults`].
//! - Scripts and documents: [`cluster_sh`], [`mutants`], [`readme`], [`http_docs`], [`etcd_docs`],
//!   [`dev_docs`], [`backup_docs`].
//! - Shared helpers: members as processes ([`processes`]), a cluster as one ([`dev_process`]),
//!   commands that run ([`running`]), examples of documents ([`doc_examples`]).

mod addresses;
#[path = "../support/alone.rs"]
mod alone;
mod backup_docs;
mod backups;
mod cluster_sh;
mod commands;
mod descriptors;
mod dev;
mod dev_docs;
mod dev_faults;
mod dev_process;
mod doc_examples;
mod etcd_docs;
mod existing_clients;
mod faults;
mod files;
mod http_docs;
mod layers;
mod lease_commands;
mod lock_commands;
mod members;
#[cfg(target_os = "linux")]
mod memory;
mod mutants;
mod output;
mod processes;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/raw.rs"]
#[allow(dead_code, reason = "the tests of the RPC use the rest of it")]
mod raw;
mod readme;
mod running;
mod store_commands;
#[cfg(target_os = "linux")]
mod task_limits;
mod watch_commands;
