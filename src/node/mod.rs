//! The shell that drives one core. So far only what it drives.

mod state_machine;

pub use state_machine::StateMachine;
