//! The daemon's Tahoe door, if the configuration has one.

use std::{future::Future, sync::Arc};

use raic_gateway::{
    Live,
    tahoe::{TahoeDoor, TahoeIdentity},
};
use tokio::net::TcpListener;

use crate::{
    config::TahoeSection,
    error::{Failed, Outcome},
    home::Home,
    key,
};

/// A door and the listener that it serves.
pub(super) type Door = (Arc<TahoeDoor>, TcpListener);

/// Opens the door that a section of the configuration describes.
pub(super) async fn listen(
    home: &Home,
    section: Option<&TahoeSection>,
    live: &Live,
) -> Outcome<Option<Door>> {
    let Some(section) = section else {
        return Ok(None);
    };
    let (keyring, _) = key::keyrings(home)?;
    let listener = TcpListener::bind(section.listen).await.map_err(|e| {
        Failed::configuration(format!(
            "tahoe: cannot listen at {}: {e}; set another address in config.toml",
            section.listen
        ))
    })?;
    let identity = TahoeIdentity::new(keyring);
    let door = TahoeDoor::new(live.clone(), identity, section.listen);
    tracing::info!("serving Tahoe-LAFS clients at {}", section.listen);
    Ok(Some((Arc::new(door), listener)))
}

/// Serves a door until `stop` is ready and the requests under way have ended.
pub(super) async fn serve(
    door: Option<Door>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Outcome {
    match door {
        None => Ok(()),
        Some((door, listener)) => door.serve(listener, stop).await.map_err(Failed::other),
    }
}
