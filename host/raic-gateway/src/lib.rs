//! Front doors of the daemon. The admin door is HTTP over a unix socket in the daemon's home, for
//! the `raic` command.
//!
//! [`wire`] has what a door and its clients write to each other. [`Live`] is the array that is open
//! now; every door reads it anew for each request, so that a reload reaches all of them.
//! [`Control`] is what doors ask of the daemon.

mod accounts;
pub mod admin;
mod content;
mod control;
mod files;
mod leases;
mod live;
mod status;
mod walks;
pub mod wire;

pub use control::{Control, Reload};
pub use live::Live;
