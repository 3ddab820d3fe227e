//! The Tahoe door: the reference's own tests, and the rules of the protocol that they do not have.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod reference;
mod rig;
mod rules;
