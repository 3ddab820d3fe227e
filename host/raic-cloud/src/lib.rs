//! One interface to all clouds.
//!
//! A [`Cloud`] holds *objects*: immutable named byte strings in one container at one provider. The
//! trait mirrors the connector contract in `wit/`, so that a connector, the in-memory cloud and
//! every decorator can stand in for each other:
//!
//! - [`MemoryCloud`] keeps objects in memory, for tests;
//! - [`Retry`], [`Limit`], [`Meter`] and [`Breaker`] are what the daemon puts around every
//!   connector;
//! - [`Prefix`] is one folder of a container, so that several arrays can share the container;
//! - [`Faulty`] makes a cloud misbehave, reproducibly by a seed, for tests.
//!
//! **Invariant:** nothing here knows a provider, a connector or a share.
//!
//! **Invariant:** in this crate only [`Retry`] repeats a request.
//!
//! ```
//! use raic_cloud::{
//!     Cloud, FaultPlan, Faulty, MemoryCloud, ObjectKey, Payload, Retry, RetryPolicy, WriteMode,
//!     collect_body,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A cloud that fails once and works from then on, behind the decorator that retries.
//! let plan = FaultPlan { error: 1.0, first: Some(1), ..FaultPlan::default() };
//! let faulty = Faulty::new(MemoryCloud::new("memory"), 1, plan);
//! let cloud = Retry::new(faulty, RetryPolicy::default());
//!
//! let key = ObjectKey::new("notes/today")?;
//! let content = Payload::from(&b"hello"[..]);
//! cloud.put(&key, content, WriteMode::CreateOnly).await?;
//! let object = cloud.get(&key, None, None).await?;
//! assert_eq!(collect_body("memory", object.body, 1024).await?, "hello");
//! # Ok(())
//! # }
//! ```

mod breaker;
mod cloud;
mod error;
mod fault;
mod key;
mod limit;
mod memory;
mod meter;
mod payload;
mod prefix;
mod retry;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use breaker::Breaker;
pub use cloud::{
    Body, ByteRange, Cloud, CloudUsage, Listed, MAX_PAGE, Object, ObjectInfo, Page, WriteMode,
    body_of, collect_body, delete_all, empty_body, put_same,
};
pub use error::{CloudError, ErrorKind, Operation, Result};
pub use fault::{FaultPlan, Faulty, Invented};
pub use key::{InvalidKey, MAX_KEY_LEN, ObjectKey};
pub use limit::Limit;
pub use memory::MemoryCloud;
pub use meter::{LatencySummary, Meter, Metering, Meters};
pub use payload::{Digests, Payload};
pub use prefix::{MAX_PREFIX, Prefix};
pub use retry::{Retry, RetryPolicy};
