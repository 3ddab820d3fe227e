//! The array: files, encrypted and erasure-coded over storage servers of which any n-k may fail.
//!
//! [`Array`] stores, reads, lists and removes files over n storage servers, one a cloud. On the way
//! down a file passes `segment` (sealed, coded, hashed), `upload` (to all clouds at once) and
//! `catalog` (one transaction); on the way up `download` reads blocks from any k clouds and
//! verifies each. `format` says where a share has what.
//!
//! **Invariant:** a byte that goes out was verified by its block's hash and its segment's seal, or
//! it is an error. **Invariant:** no file and no share is ever held whole.

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

pub use array::{Array, ArrayConfig, CloudState, PutOptions, Status};
pub use catalog::{FileInfo, Lacking, Totals};
pub use download::Content;
pub use error::{ArrayError, Fault, Result};
pub use format::Geometry;
pub use health::{LastFailure, Work};
pub use keyring::{Key, Keyring, RecoveryKey};
pub use transfer::Transfer;
