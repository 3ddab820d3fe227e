//! Front doors. The admin door: HTTP over a unix socket in the daemon's home, for the `raic`
//! command.

pub mod admin;
pub mod storage;
