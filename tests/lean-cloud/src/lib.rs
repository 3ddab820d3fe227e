//! The lean loopback cloud: a subset of Amazon's S3 API that is kept in memory.
//!
//! - It checks the signature of every request (Signature Version 4, in the headers or in the
//!   query), but not the SHA-256 of a body, so that a benchmark measures its client.
//! - It holds a body in the pieces that came, and sends the same pieces again.
//! - It misbehaves on demand, at each moment of a request: see [`Misbehaviour`].
//!
//! Sources: the Amazon S3 API reference (REST), and "Signature Version 4" of the AWS general
//! reference.

mod answer;
mod listing;
mod misbehaviour;
mod operations;
mod pace;
mod request;
mod service;
mod signature;
mod socket;
mod store;

pub use crate::{
    misbehaviour::{Fault, Misbehaviour, Moment},
    pace::Pace,
    service::{Keys, LeanCloud},
    store::Counts,
};
