//! `cobaltd` and `cobalt`: what the programs are made of.

pub mod agent;
pub mod alarms;
pub mod args;
pub mod callbacks;
pub mod caps;
pub mod cli;
pub mod clock;
pub mod engine;
pub mod http;
pub mod join;
pub mod leading;
pub mod metrics;
pub mod notify;
pub mod offers;
pub mod run;
pub mod secrets;
mod seen_revision;
pub mod standalone;
pub mod stop;
