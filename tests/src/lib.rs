//! What the tests across crates share: real servers on loopback, and the built connectors.

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

/// A port of loopback that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
