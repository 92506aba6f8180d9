//! Changes of the members: what the leader does for an operator, and what a member asks for itself.
//!
//! ```text
//!   syncraft member ... ── AdminClient ──> leader: adminRpc ── Order ──> thread members-N
//!                                                                         │ 1 is it so already?
//!   a member at another address ── AdminClient ──> (the same)             │ 2 ask the address
//!                                                                         │ 3 change_members
//!                                                                         │ 4 wait until settled
//!                                                  answer <───────────────┘
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `change` | one change, from the order to its answer |
//! | `probe` | asks an address who answers there, before it becomes a member's |
//! | `view` | who the members are, for those who ask |
//! | `moving` | a member that is not at its configured address asks to be moved |
//!
//! # Invariants
//! - An address becomes a member's only if that member answers there, as the leader sees it. So a
//!   slip of the pen leaves the cluster as it is.
//! - Every order has an answer, by its deadline. If the answer is that nothing changed, nothing
//!   will.
//! - To repeat an order is safe: the answer says that it was done before.
//!
//! # Threads
//! `members-N` carries out one order after another: the core takes one change at a time anyway. It
//! waits for the cluster and for addresses, which the threads of connections must not. Between
//! orders it looks whether this member is at its configured address.

mod change;
mod moving;
mod probe;
mod view;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use parking_lot::Mutex;

use super::proto::{ChangeOutcome, ChangeReply};
use crate::kv::Store;
use crate::node::NodeHandle;
use crate::raft::MemberId;
use crate::rpc::Done;

pub(super) use change::Wish;
pub(super) use moving::OwnAddress;
pub(super) use view::view;

use change::Changer;
use moving::Mover;

/// How many orders may wait.
const ORDERS_MAX: usize = 16;

/// The deadline of an order that has none.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The time that an answer has to reach the one who waits for it.
const ANSWER_TIME: Duration = Duration::from_millis(100);

/// Carries out changes of the members.
pub(super) struct MemberChanges {
    orders: Mutex<Option<Sender<Order>>>,
    is_stopping: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A change that somebody waits for.
struct Order {
    wish: Wish,
    deadline: Instant,
    done: Done<ChangeReply>,
}

impl MemberChanges {
    /// Starts the thread of member `own`.
    pub(super) fn start(
        node: NodeHandle<Store>,
        own: MemberId,
        address: OwnAddress,
    ) -> io::Result<MemberChanges> {
        let (orders, to_do) = bounded(ORDERS_MAX);
        let is_stopping = Arc::new(AtomicBool::new(false));
        let changer = Changer { node, is_stopping: is_stopping.clone() };
        let mover = Mover::new(changer.clone(), own, address);
        let thread = thread::Builder::new()
            .name(format!("members-{own}"))
            .spawn(move || run(&changer, mover, &to_do))?;
        let (orders, thread) = (Mutex::new(Some(orders)), Mutex::new(Some(thread)));
        Ok(MemberChanges { orders, is_stopping, thread })
    }

    /// Has the change carried out, and `done` answered.
    pub(super) fn order(&self, wish: Wish, done: Done<ChangeReply>) {
        let deadline = done.deadline().unwrap_or_else(|| Instant::now() + TIMEOUT);
        let order = Order { wish, deadline: deadline - ANSWER_TIME, done };
        let sent = match &*self.orders.lock() {
            Some(orders) => orders.try_send(order),
            None => Err(TrySendError::Disconnected(order)),
        };
        if let Err(TrySendError::Full(order) | TrySendError::Disconnected(order)) = sent {
            let words = "too many changes of the members wait, or this member is stopping";
            order.done.run(reply(ChangeOutcome::NotNow, words));
        }
    }

    /// Ends the thread. The orders that wait are refused.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        *self.orders.lock() = None;
        if let Some(thread) = self.thread.lock().take() {
            // A panic has been reported.
            let _ = thread.join();
        }
    }
}

impl Drop for MemberChanges {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(changer: &Changer, mut mover: Mover, orders: &Receiver<Order>) {
    loop {
        match orders.recv_deadline(mover.due()) {
            Ok(Order { wish, deadline, done }) => done.run(changer.change(&wish, deadline)),
            Err(RecvTimeoutError::Timeout) => mover.check(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn reply(outcome: ChangeOutcome, words: impl Into<String>) -> ChangeReply {
    ChangeReply { outcome: outcome.into(), words: words.into(), lacking_entries: 0 }
}
