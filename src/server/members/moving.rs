//! A member that is not at its configured address asks the leader to move it. One that its log does
//! not name, or names as a learner, asks whether it was removed: it stands for no election, so
//! nobody would tell it. One that has no configuration asks the others where they look for it.
//!
//! So a member that starts again at another address is found again without a restart of the others,
//! and a rolling restart with a new list changes the addresses of all. The leader moves it only if
//! it reaches the member at the new address and not at the configured one: see `probe`.

use std::time::{Duration, Instant};

use super::super::admin_client::AdminClient;
use super::super::config::is_of_all_interfaces;
use super::super::proto::{ChangeOutcome, MoveMemberArgs};
use super::change::{Changer, Wish};
use super::probe;
use crate::ErrorChain;
use crate::members::Members;
use crate::raft::MemberId;

/// The pause after the member was found at its configured address, or has none.
const PAUSE: Duration = Duration::from_secs(5);

/// The first pause after a request that was in vain. The next one is twice as long.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How long the first question may take while the cluster may not have begun: perhaps nobody is
/// there to answer. Later questions get more time, for slow networks.
const GLANCE: Duration = Duration::from_millis(200);

/// Where a member is, as it was started.
pub(in super::super) struct OwnAddress {
    /// Where the others should reach it.
    pub(in super::super) addr: String,
    /// The random number that the member drew when it started.
    pub(in super::super) instance: u64,
    /// The list with which it was started.
    pub(in super::super) listed: Members,
}

/// Looks whether this member is at its configured address.
pub(super) struct Mover {
    changer: Changer,
    own: MemberId,
    address: OwnAddress,
    due: Instant,
    pause: Duration,
    /// What was logged last.
    told: String,
}

/// What a look has found.
enum Found {
    InPlace,
    Moved,
    /// Why not, in words.
    InVain(String),
    /// The newest configuration here does not name this member. It may be on its way to a newer
    /// one.
    Unnamed,
}

impl Mover {
    pub(super) fn new(changer: Changer, own: MemberId, address: OwnAddress) -> Mover {
        let (due, pause) = (Instant::now() + RETRY_PAUSE, RETRY_PAUSE);
        Mover { changer, own, address, due, pause, told: String::new() }
    }

    /// When to look next.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Looks, and asks to be moved if that is due.
    pub(super) fn check(&mut self) {
        let found = self.look();
        let pause = match &found {
            Found::InVain(_) | Found::Unnamed => self.pause,
            Found::InPlace | Found::Moved => PAUSE,
        };
        self.pause = match &found {
            Found::InVain(words) => {
                self.tell(words);
                (2 * self.pause).min(PAUSE)
            }
            Found::Unnamed => (2 * self.pause).min(PAUSE),
            Found::Moved => {
                log::info!("member {}: the others reach it at {}", self.own, self.address.addr);
                RETRY_PAUSE
            }
            Found::InPlace => RETRY_PAUSE,
        };
        self.due = Instant::now() + pause;
    }

    fn tell(&mut self, words: &str) {
        if self.told != words {
            log::warn!("member {}: {words}", self.own);
            words.clone_into(&mut self.told);
        }
    }

    fn look(&self) -> Found {
        let Some(latest) = self.changer.node.members().latest else { return self.look_elsewhere() };
        match latest.addr(self.own) {
            Some(configured) if latest.membership.is_voter(self.own) => self.compare(configured),
            Some(configured) => {
                // A leader that has forgotten it sends it nothing.
                self.ask_about_itself();
                self.compare(configured)
            }
            None => self.ask_about_itself(),
        }
    }

    /// A member that has lost its data, or was stopped before the first configuration reached it,
    /// does not know where the others look for it.
    fn look_elsewhere(&self) -> Found {
        let node = &self.changer.node;
        let (cluster_id, is_joining) = (node.cluster_id(), node.status().is_joining);
        let timeout = match (cluster_id, is_joining) {
            // It asks all others for their cluster before it is of one.
            (0, true) => return Found::InPlace,
            (0, false) => GLANCE.max(self.pause).min(TIMEOUT),
            _ => TIMEOUT,
        };
        let Ok(told) = self.others().members(Instant::now() + timeout) else {
            return Found::Unnamed;
        };
        let is_known = told.index != 0 && [0, told.cluster_id].contains(&cluster_id);
        let own = told.members.iter().find(|member| member.id == self.own.0);
        match own.filter(|_| is_known) {
            Some(own) => self.compare(&own.addr),
            None => self.ask_about_itself(),
        }
    }

    fn compare(&self, configured: &str) -> Found {
        let addr = &self.address.addr;
        let is_there = configured.eq_ignore_ascii_case(addr)
            || is_of_all_interfaces(addr)
            || probe::ask(configured).is_ok_and(|it| it.instance == self.address.instance);
        match is_there {
            true => Found::InPlace,
            false => self.ask_to_be_moved(configured),
        }
    }

    fn ask_about_itself(&self) -> Found {
        let node = &self.changer.node;
        let deadline = Instant::now() + TIMEOUT;
        if self.others().was_removed(self.own, node.cluster_id(), deadline) {
            node.mark_removed();
        }
        Found::Unnamed
    }

    fn ask_to_be_moved(&self, configured: &str) -> Found {
        let (outcome, words) = match self.changer.leads() {
            true => self.move_itself(),
            false => self.ask_the_leader(),
        };
        match outcome {
            ChangeOutcome::Changed | ChangeOutcome::Unchanged => Found::Moved,
            _ => {
                let addr = &self.address.addr;
                Found::InVain(format!(
                    "it is at {addr}, and the others look for it at {configured}; it asks the \
                     leader to move it: {words}"
                ))
            }
        }
    }

    fn move_itself(&self) -> (ChangeOutcome, String) {
        let (id, addr) = (self.own, self.address.addr.clone());
        let wish = Wish::Move { id, addr, if_lost: true };
        let reply = self.changer.change(&wish, Instant::now() + TIMEOUT);
        (reply.outcome(), reply.words)
    }

    fn ask_the_leader(&self) -> (ChangeOutcome, String) {
        let args =
            MoveMemberArgs { id: self.own.0, addr: self.address.addr.clone(), if_lost: true };
        match self.others().change(&args.into(), Instant::now() + TIMEOUT) {
            Ok(done) => (done.outcome, done.words),
            Err(error) => (ChangeOutcome::NotNow, ErrorChain(&error).to_string()),
        }
    }

    /// The other members, at their configured addresses and those of the list.
    fn others(&self) -> AdminClient {
        let node = &self.changer.node;
        let configured = node.addresses();
        let reached = configured.iter().filter_map(|(id, _)| Some((id, node.reach(id)?)));
        let listed = self.address.listed.iter().map(|(id, addr)| (id, addr.to_owned()));
        let others = reached.chain(listed).filter(|(id, _)| *id != self.own);
        AdminClient::new(others.map(|(_, addr)| addr))
    }
}
