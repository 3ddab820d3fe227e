//! What the tests across crates share: real servers on loopback, and the built connectors.

pub mod adapter;
pub mod azurite;
pub mod b2;
mod certificates;
pub mod components;
pub mod entra;
pub mod gcs;
pub mod listing;
pub mod openstack;
mod python_server;
pub mod radosgw;
pub mod s3s_fs;
pub mod tahoe_client;
pub mod webdav;

use std::{
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use raic_cloud::{
    Cloud,
    conformance::{self, Extent, Finding, all_to},
};
use raic_wasm::{ConnectorCloud, Rehearsal, RehearsedAnswer};

/// Tries every behaviour of a cloud: quickly, or in full if `RAIC_FULL` is set, which
/// `cargo xtask test clouds` does.
///
/// # Panics
/// If a behaviour is wrong; the message has all that are.
pub async fn conforms(cloud: &dyn Cloud, prefix: &str) {
    let is_full = std::env::var_os("RAIC_FULL").is_some();
    all_to(
        cloud,
        prefix,
        if is_full { Extent::Full } else { Extent::Quick },
    )
    .await;
}

/// Checks what a connector reports if its service refuses. `missing` is the same cloud with a
/// container that is not there. Returns whether the service minds a clock that is off.
///
/// # Panics
/// If the connector reports something else; the message says what.
pub async fn refusals(cloud: &ConnectorCloud, missing: &ConnectorCloud) -> Finding {
    let clock = rehearsals(cloud).await;
    conformance::missing_container(missing, "missing/")
        .await
        .expect("conforms");
    conformance::container(missing, "container/")
        .await
        .expect("conforms");
    clock
}

/// Checks what a connector reports by a clock that is off, and of a service that is busy or fails.
/// Returns whether the service minds the clock.
///
/// # Panics
/// If the connector reports something else; the message says what.
pub async fn rehearsals(cloud: &ConnectorCloud) -> Finding {
    let off = Duration::from_secs(2 * 3600);
    let late = Rehearsal {
        clock_ahead_ms: -7_200_000,
        ..Rehearsal::default()
    };
    let clock = conformance::clock_skew(&cloud.rehearsing(late), "skewed/", off)
        .await
        .expect("conforms");
    let answered = |status, headers| {
        let answer = Some(RehearsedAnswer { status, headers });
        cloud.rehearsing(Rehearsal {
            answer,
            ..Rehearsal::default()
        })
    };
    let wait = vec![("retry-after".to_owned(), "7".to_owned())];
    let throttled =
        conformance::throttled(&answered(429, wait), "throttled/", Duration::from_secs(7)).await;
    throttled.expect("conforms");
    for status in [500, 502, 503, 504] {
        conformance::unavailable(&answered(status, Vec::new()), "failing/")
            .await
            .expect("conforms");
    }
    clock
}

/// Returns a port of loopback that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
