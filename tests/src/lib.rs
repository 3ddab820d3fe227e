//! What the tests across crates share: real servers on loopback, and the built connectors.

pub mod adapter;
pub mod azurite;
pub mod components;
pub mod gcs;
pub mod listing;
pub mod openstack;
mod python_server;
pub mod radosgw;
pub mod s3s_fs;
pub mod webdav;

use std::net::{Ipv4Addr, TcpListener};

use raic_cloud::{
    Cloud,
    conformance::{Extent, all_to},
};

/// Every behaviour of a cloud: quickly in CI, in full for `cargo xtask test clouds`.
///
/// # Panics
/// With all that is wrong.
pub async fn conforms(cloud: &dyn Cloud, prefix: &str) {
    let is_full = std::env::var_os("RAIC_FULL").is_some();
    all_to(cloud, prefix, if is_full { Extent::Full } else { Extent::Quick }).await;
}

/// A port of loopback that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
