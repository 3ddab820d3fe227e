//! The front doors of the daemon.
//!
//! [`admin`] is the admin door: HTTP over a unix socket in the daemon's home, for the command
//! `raic`. [`tahoe`] is the door for clients of Tahoe-LAFS, over HTTPS. [`wire`] has the documents
//! that the door and its clients exchange. [`Live`] holds the array that is open now. Every door
//! asks [`Live`] at each request, so that a reload reaches all doors. [`Control`] is what the doors
//! ask of the daemon.

mod accounts;
pub mod admin;
mod content;
mod control;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod leases;
mod live;
mod status;
pub mod tahoe;
mod tahoe_admin;
mod tahoe_folder;
mod walks;
pub mod wire;

pub use control::{Control, Reload};
pub use live::{Live, Opened};
