//! Streams: items both ways, credit, limits ([`flow`]), several at once ([`together`]); how they end
//! ([`ends`]) in any order ([`races`]); frames that break the rules ([`garbage`]); who reads them
//! ([`lent`]); servers and callers that do not stream ([`strangers`]).

mod ends;
mod flow;
mod garbage;
mod lent;
mod races;
mod strangers;
mod support;
mod together;
