//! The queue of the core: everything that happens to a member waits here until the core takes all
//! of it at once. This makes the batches: one write and one message for many proposals.
//!
//! Bounds: requests of clients by count and bytes, messages of peers by count. Past a bound the
//! caller is told at once. What the member's own threads report is bounded by the work that they
//! have. That a tick is due is said once: `ticker` says how many have passed.

use super::changes::{ChangeCallback, ChangeError};
use super::request::{Request, RequestError};
use super::stage::Queue;
use super::state_machine::StateMachine;
use crate::raft::{Change, MemberId, Message, PersistId, SnapshotMeta};
use crate::storage::Snapshot;

const REQUESTS_MAX: usize = 16_384;
const REQUEST_BYTES_MAX: usize = 64 << 20;
const MESSAGES_MAX: usize = 4_096;

/// Something that happened.
pub(super) enum Input<S: StateMachine> {
    Request(Request<S>),
    Message(Message),
    Persisted(PersistId),
    Disconnected(MemberId),
    /// An operator wants another leader: this one, or any.
    Transfer(Option<MemberId>),
    /// An election is wanted without waiting for a timeout.
    #[cfg(feature = "testing")]
    Campaign,
    DiskFull(bool),
    Joined,
    /// An operator wants another membership.
    Change {
        change: Change,
        callback: ChangeCallback,
    },
    /// A snapshot of this member's own is on the disk.
    SnapshotTaken(SnapshotMeta),
    /// A leader's snapshot is on the disk, and the message says so.
    SnapshotReceived {
        message: Message,
        snapshot: Box<Snapshot>,
    },
}

impl<S: StateMachine> Input<S> {
    /// Whether it gets a stamp and puts deadlines off.
    pub(super) fn keeps_alive(&self) -> bool {
        matches!(self, Input::Request(Request::Propose { command, .. }) if S::keeps_alive(command))
    }

    /// Whether it gets a stamp, which may be later than a deadline, and keeps nothing alive.
    pub(super) fn ends_what_is_due(&self) -> bool {
        let Input::Request(Request::Propose { command, .. }) = self else { return false };
        S::is_stamped(command) && !S::keeps_alive(command)
    }
}

/// Puts what keeps something alive before all else. The rest stays in its order.
pub(super) fn put_keep_alives_first<S: StateMachine>(inputs: &mut [Input<S>]) {
    inputs.sort_by_key(|input| !input.keeps_alive());
}

/// What waits for the core.
pub(super) struct Inbox<S: StateMachine> {
    inputs: Vec<Input<S>>,
    requests: usize,
    request_bytes: usize,
    messages: usize,
    has_ticked: bool,
    /// Reads have been answered that the core waits for.
    has_answered: bool,
}

/// Everything that has arrived since the last turn.
pub(super) struct Arrivals<S: StateMachine> {
    pub(super) inputs: Vec<Input<S>>,
    pub(super) has_ticked: bool,
}

impl<S: StateMachine> Default for Inbox<S> {
    fn default() -> Inbox<S> {
        let inputs = Vec::new();
        Inbox {
            inputs,
            requests: 0,
            request_bytes: 0,
            messages: 0,
            has_ticked: false,
            has_answered: false,
        }
    }
}

impl<S: StateMachine> Queue for Inbox<S> {
    type Batch = Arrivals<S>;

    fn take(&mut self) -> Option<Arrivals<S>> {
        self.has_work().then(|| {
            let Inbox { inputs, has_ticked, .. } = std::mem::take(self);
            Arrivals { inputs, has_ticked }
        })
    }

    fn has_work(&self) -> bool {
        !self.inputs.is_empty() || self.has_ticked || self.has_answered
    }
}

impl<S: StateMachine> Inbox<S> {
    /// Takes a client's request out of `request`, if there is room for it.
    pub(super) fn push_request(&mut self, request: &mut Option<Request<S>>) {
        if self.requests >= REQUESTS_MAX || self.request_bytes >= REQUEST_BYTES_MAX {
            return;
        }
        if let Some(request) = request.take() {
            self.requests += 1;
            self.request_bytes += request.len_bytes();
            self.inputs.push(Input::Request(request));
        }
    }

    /// A peer's message. False if there is no room for it.
    pub(super) fn push_message(&mut self, message: Message) -> bool {
        let has_room = self.messages < MESSAGES_MAX;
        if has_room {
            self.messages += 1;
            self.inputs.push(Input::Message(message));
        }
        has_room
    }

    /// The connection to a peer has closed, or a call to it failed. Many calls fail with one
    /// connection: one input is enough.
    pub(super) fn push_disconnected(&mut self, peer: MemberId) {
        if !matches!(self.inputs.last(), Some(Input::Disconnected(last)) if *last == peer) {
            self.inputs.push(Input::Disconnected(peer));
        }
    }

    /// What the member's own threads report, and what operators want.
    pub(super) fn push(&mut self, input: Input<S>) {
        self.inputs.push(input);
    }

    /// Reads have been answered, and the core waits for that.
    pub(super) fn push_answered(&mut self) {
        self.has_answered = true;
    }

    pub(super) fn push_tick(&mut self) {
        self.has_ticked = true;
    }

    /// Refuses the requests that wait: the member stops, and the core has not seen them.
    pub(super) fn refuse(self) {
        for input in self.inputs {
            match input {
                Input::Request(request) => {
                    request.refuse(RequestError::Stopped { may_apply: false });
                }
                Input::Change { callback, .. } => callback(Err(ChangeError::Stopped)),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Instant;

    use bytes::Bytes;

    use super::super::request::Responder;
    use super::super::state_machine::StateView;
    use super::*;
    use crate::raft::Index;

    /// Its commands are names. Those in capitals have a stamp, and those with a K keep something
    /// alive.
    struct Names;

    impl StateMachine for Names {
        type Outcome = ();
        type Query = ();
        type Answer = ();
        type View = Names;

        fn apply(&mut self, _: Index, _: &Bytes) {}

        fn query(&self, (): ()) {}

        fn view(&self) -> Names {
            Names
        }

        fn load(&mut self, _: &mut dyn io::Read) -> io::Result<()> {
            Ok(())
        }

        fn is_stamped(command: &[u8]) -> bool {
            command[0].is_ascii_uppercase()
        }

        fn keeps_alive(command: &[u8]) -> bool {
            command.starts_with(b"K")
        }
    }

    impl StateView for Names {
        fn write(&self, _: &mut dyn io::Write) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_keeps_something_alive_goes_before_what_would_end_it() {
        let propose = |name: &'static str| {
            let (command, responder) = (name.into(), Responder::new(Instant::now(), |_| {}));
            Input::<Names>::Request(Request::Propose { command, responder })
        };
        let name = |input: &Input<Names>| match input {
            Input::Request(Request::Propose { command, .. }) => command.to_vec(),
            _ => b"joined".to_vec(),
        };
        let mut inputs = vec![Input::Joined];
        inputs.extend(["put", "G1", "K1", "R1", "put2", "K2"].map(propose));
        let ends = |input: &Input<Names>| input.ends_what_is_due();
        let ending: Vec<_> = inputs.iter().filter(|it| ends(it)).map(name).collect();
        assert_eq!(ending, [b"G1", b"R1"]);
        put_keep_alives_first(&mut inputs);
        let names: Vec<_> = inputs.iter().map(name).collect();
        assert_eq!(names.join(&b' '), b"K1 K2 joined put G1 R1 put2");
    }
}
