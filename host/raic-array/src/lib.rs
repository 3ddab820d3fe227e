//! The array: files, encrypted and erasure-coded over storage servers of which any n-k may fail.
//!
//! [`Array`] stores, reads, lists and removes files over n storage servers, one for each cloud. On
//! the way down a file passes `segment` (sealed, coded, hashed), `upload` (to all clouds at once)
//! and `catalog` (one transaction). On the way up `download` reads blocks from any k clouds and
//! verifies each. `format` describes the bytes of a share.
//!
//! **Invariant:** a byte that goes out was verified by its block's hash and by its segment's seal.
//! If either does not match, the read fails.
//!
//! **Invariant:** no file and no share is ever held whole.

mod array;
mod catalog;
mod codec;
mod download;
mod error;
pub mod format;
mod galois;
mod health;
mod keyring;
mod keyring_copies;
mod segment;
mod transfer;
mod upload;
#[cfg(test)]
mod vectors;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

pub use array::{Array, ArrayConfig, CloudState, PutOptions, Status};
pub use catalog::{FileInfo, Lacking, Totals};
pub use download::Content;
pub use error::{ArrayError, Fault, Result};
pub use format::Geometry;
pub use health::{LastFailure, Work};
pub use keyring::{Key, Keyring, RecoveryKey};
pub use transfer::Transfer;
