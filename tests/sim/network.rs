//! The network between members: when, how often, and whether a message arrives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use syncraft::raft::{MemberId, Message};

use crate::member::Affiliation;
use crate::plan::Plan;

/// How many past messages can come back.
const REMEMBERED_MAX: usize = 300;

type Link = (MemberId, MemberId);

/// A message, and the cluster of its sender.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) message: Message,
    pub(crate) sender: Affiliation,
}

pub(crate) struct Network {
    rng: fastrand::Rng,
    cut: BTreeSet<Link>,
    /// When the last message of each link arrives.
    last_arrival_us: BTreeMap<Link, u64>,
    past: VecDeque<Letter>,
    dropped: u64,
    duplicated: u64,
    replayed: u64,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Network {
        Network {
            rng: fastrand::Rng::with_seed(seed),
            cut: BTreeSet::new(),
            last_arrival_us: BTreeMap::new(),
            past: VecDeque::new(),
            dropped: 0,
            duplicated: 0,
            replayed: 0,
        }
    }

    /// When copies of `letter`, and of older letters that come back, arrive.
    pub(crate) fn send(&mut self, plan: &Plan, now_us: u64, letter: Letter) -> Vec<(u64, Letter)> {
        let message = &letter.message;
        let mut arrivals = Vec::new();
        if self.rng.f64() < plan.faults.replay && !self.past.is_empty() {
            let old = self.past[self.rng.usize(..self.past.len())].clone();
            arrivals.push((now_us + self.delay_us(plan), old));
            self.replayed += 1;
        }
        if plan.faults.replay > 0.0 {
            self.remember(&letter);
        }
        if self.is_cut(message.from, message.to) || self.rng.f64() < plan.faults.drop {
            self.dropped += 1;
            return arrivals;
        }
        if self.rng.f64() < plan.faults.duplicate {
            self.duplicated += 1;
            arrivals.push((now_us + self.delay_us(plan), letter.clone()));
        }
        arrivals.push((self.arrival_us(plan, now_us, message), letter));
        arrivals
    }

    /// What it has done to messages, including cut links.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 3] {
        [
            ("message dropped", self.dropped),
            ("message duplicated", self.duplicated),
            ("message replayed", self.replayed),
        ]
    }

    fn arrival_us(&mut self, plan: &Plan, now_us: u64, message: &Message) -> u64 {
        let at_us = now_us + self.delay_us(plan);
        if !plan.is_fifo {
            return at_us;
        }
        let last_us = self.last_arrival_us.entry((message.from, message.to)).or_default();
        *last_us = at_us.max(*last_us);
        *last_us
    }

    fn delay_us(&mut self, plan: &Plan) -> u64 {
        let is_long = self.rng.f64() < plan.faults.delay_long;
        let factor = if is_long { self.rng.u64(10..200) } else { 1 };
        self.rng.u64(plan.delay_us.clone()) * factor
    }

    fn remember(&mut self, letter: &Letter) {
        if self.past.len() == REMEMBERED_MAX {
            // Forgets at random, so that some very old messages stay.
            let at = self.rng.usize(..REMEMBERED_MAX);
            self.past.swap_remove_back(at);
        }
        self.past.push_back(letter.clone());
    }

    pub(crate) fn is_cut(&self, from: MemberId, to: MemberId) -> bool {
        self.cut.contains(&(from, to))
    }

    pub(crate) fn cut(&mut self, from: MemberId, to: MemberId) {
        self.cut.insert((from, to));
    }

    /// Cuts links in one of several shapes, and returns a description.
    pub(crate) fn partition(&mut self, members: &[MemberId]) -> String {
        self.cut.clear();
        let links: Vec<Link> =
            members.iter().flat_map(|&a| members.iter().map(move |&b| (a, b))).collect();
        let links = links.into_iter().filter(|(a, b)| a != b);
        let victim = members[self.rng.usize(..members.len())];
        let side: BTreeSet<MemberId> =
            members.iter().copied().filter(|_| self.rng.bool()).collect();
        let words = match self.rng.u8(0..6) {
            0 => {
                self.cut.extend(links.filter(|&(a, b)| a == victim || b == victim));
                format!("{victim} is isolated")
            }
            1 => {
                self.cut.extend(links.filter(|&(a, _)| a == victim));
                format!("nobody hears {victim}")
            }
            2 => {
                self.cut.extend(links.filter(|&(_, b)| b == victim));
                format!("{victim} hears nobody")
            }
            3 => {
                let rng = &mut self.rng;
                self.cut.extend(links.filter(|_| rng.u8(0..3) == 0));
                "each link, one way, by chance".to_owned()
            }
            4 => {
                // Two halves that share only one member.
                let is_cut = |&(a, b): &Link| {
                    a != victim && b != victim && side.contains(&a) != side.contains(&b)
                };
                self.cut.extend(links.filter(is_cut));
                format!("{side:?} meet the others only in {victim}")
            }
            _ => {
                self.cut.extend(links.filter(|(a, b)| side.contains(a) != side.contains(b)));
                format!("{side:?} against the others")
            }
        };
        format!("partition: {words}")
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    /// Nothing is cut, and nothing waits behind slow messages.
    pub(crate) fn calm(&mut self) {
        self.cut.clear();
        self.last_arrival_us.clear();
    }
}
