//! Which errors a cloud reports if the service refuses.
//!
//! The service must be set up for each of these behaviours, so they are not in
//! [`BEHAVIOURS`](super::BEHAVIOURS). A caller needs, for instance, a container that does not exist
//! or a key that may only read.

use std::time::Duration;

use futures::future::BoxFuture;

use super::{Finding, Verdict, delete, fails, key, list_all, pattern, put, read, reads, worked};
use crate::{Cloud, CloudError, ErrorKind, ObjectKey, Payload, Result, WriteMode};

/// Checks that a result is a failure of one of these kinds. Returns the failure.
fn refused_as(result: Result<()>, kinds: &[ErrorKind], what: &str) -> Verdict<CloudError> {
    match result {
        Err(e) if kinds.contains(&e.kind) => Ok(e),
        Err(e) => Err(format!(
            "{what} must fail as {}, not as {}: {e:#}",
            words(kinds),
            e.kind
        )),
        Ok(()) => Err(format!(
            "{what} must fail as {}, and succeeded",
            words(kinds)
        )),
    }
}

fn words(kinds: &[ErrorKind]) -> String {
    kinds
        .iter()
        .map(|kind| kind.as_str())
        .collect::<Vec<_>>()
        .join(" or ")
}

async fn store(cloud: &dyn Cloud, key: &ObjectKey) -> Result<()> {
    cloud
        .put(key, Payload::from(pattern(7)), WriteMode::Overwrite)
        .await
        .map(drop)
}

/// If the container is missing, errors name the container and not an object alone, so that the
/// operator knows what to create.
pub async fn missing_container(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    let named = &[ErrorKind::ContainerNotFound];
    refused_as(cloud.probe().await, named, "a probe without a container")?;
    refused_as(
        cloud.list(prefix, None, 10).await.map(drop),
        named,
        "a list without a container",
    )?;
    refused_as(store(cloud, &key).await, named, "a put without a container")?;
    // Some services give the same answer to a missing object and to a missing container.
    let either = &[ErrorKind::ContainerNotFound, ErrorKind::NotFound];
    refused_as(
        cloud.head(&key).await.map(drop),
        either,
        "a head without a container",
    )?;
    refused_as(
        read(cloud, &key, None).await.map(drop),
        either,
        "a get without a container",
    )?;
    // An object of a missing container is gone, so its deletion may succeed.
    match cloud.delete(&key, None).await {
        Ok(()) => {}
        deleted => drop(refused_as(deleted, either, "a delete without a container")?),
    }
    Ok(Finding::Holds)
}

/// A missing container is created, is kept while it has objects, and is deleted when it is empty.
/// If this fails, the function still tries to delete the object and the container, so that the next
/// check finds none.
pub async fn container(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let checked = made_and_removed(cloud, prefix).await;
    if checked.is_err() {
        // The first failure matters more than what cannot be deleted.
        let _ = cloud.delete(&key(prefix, "object")?, None).await;
        let _ = cloud.delete_container().await;
    }
    checked
}

async fn made_and_removed(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    match cloud.create_container().await {
        Err(e) if e.kind == ErrorKind::Unsupported => return Ok(Finding::Lacks(e.message)),
        made => worked(made, "create of the container")?,
    }
    worked(
        cloud.create_container().await,
        "create of a container that is there",
    )?;
    worked(cloud.probe().await, "probe of a container that was made")?;
    let key = key(prefix, "object")?;
    put(cloud, &key, pattern(7)).await?;
    match cloud.delete_container().await {
        Err(e) if e.kind == ErrorKind::Unsupported => {
            delete(cloud, &key).await?;
            return Ok(Finding::Lacks(e.message));
        }
        removed => fails(
            removed,
            ErrorKind::PreconditionFailed,
            "removing a container with an object",
        )?,
    };
    reads(cloud, &key, &pattern(7)).await?;
    delete(cloud, &key).await?;
    worked(
        cloud.delete_container().await,
        "removing the empty container",
    )?;
    worked(
        cloud.delete_container().await,
        "removing a container that is gone",
    )?;
    let gone = cloud.probe().await;
    refused_as(
        gone,
        &[ErrorKind::ContainerNotFound],
        "a probe of a container that was removed",
    )?;
    Ok(Finding::Holds)
}

/// A key that may only read can read and list; its puts and deletions fail as permission-denied.
/// `writer` stores the object that is read.
pub async fn read_only(cloud: &dyn Cloud, writer: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    put(writer, &key, pattern(50)).await?;
    reads(cloud, &key, &pattern(50)).await?;
    worked(cloud.head(&key).await, "head by a key that may read")?;
    let listed = list_all(cloud, prefix, 10).await?;
    ensure!(
        listed == [key.clone()],
        "a key that may read lists {} objects, not one",
        listed.len()
    );
    let denied = &[ErrorKind::PermissionDenied];
    refused_as(
        store(cloud, &key).await,
        denied,
        "a put by a key that may only read",
    )?;
    let new = super::key(prefix, "new")?;
    let created = cloud
        .put(&new, Payload::from(pattern(7)), WriteMode::CreateOnly)
        .await
        .map(drop);
    refused_as(
        created,
        denied,
        "a create-only put by a key that may only read",
    )?;
    refused_as(
        cloud.delete(&key, None).await,
        denied,
        "a delete by a key that may only read",
    )?;
    match cloud.delete_many(std::slice::from_ref(&key)).await {
        Err(e) if e.kind == ErrorKind::Unsupported => {}
        Ok(failed) if failed.len() == 1 && failed[0].1.kind == ErrorKind::PermissionDenied => {}
        other => {
            let what = "a delete of several by a key that may only read";
            refused_as(other.map(drop), denied, what)?;
        }
    }
    reads(writer, &key, &pattern(50)).await?;
    delete(writer, &key).await?;
    Ok(Finding::Holds)
}

/// Wrong or expired credentials are reported as the reason of a failure.
pub async fn unauthenticated(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    // Some services have no 401, or do not reveal which keys exist, and answer 403.
    let kinds = &[ErrorKind::Unauthenticated, ErrorKind::PermissionDenied];
    refused_as(
        store(cloud, &key).await,
        kinds,
        "a put by credentials that are not good",
    )?;
    refused_as(
        cloud.probe().await,
        kinds,
        "a probe by credentials that are not good",
    )?;
    refused_as(
        cloud.list(prefix, None, 10).await.map(drop),
        kinds,
        "a list by credentials that are not good",
    )?;
    Ok(Finding::Holds)
}

/// If the clock by which the connector signs is wrong by `off`, the service refuses, and the error
/// reports the clock as the reason.
pub async fn clock_skew(cloud: &dyn Cloud, prefix: &str, off: Duration) -> Verdict {
    let key = key(prefix, "object")?;
    match cloud.probe().await {
        Ok(()) => {
            let why = format!(
                "the service accepts requests whose time is wrong by {} s",
                off.as_secs()
            );
            return Ok(Finding::Lacks(why));
        }
        probed => refused_as(
            probed,
            &[ErrorKind::ClockSkew],
            "a probe by a clock that is off",
        )?,
    };
    refused_as(
        store(cloud, &key).await,
        &[ErrorKind::ClockSkew],
        "a put by a clock that is off",
    )?;
    Ok(Finding::Holds)
}

/// While the service answers every request with "too many requests" and a time to wait, every
/// operation fails as throttled and reports that time.
pub async fn throttled(cloud: &dyn Cloud, prefix: &str, wait: Duration) -> Verdict {
    busy(cloud, prefix, &[ErrorKind::Throttled], Some(wait)).await
}

/// While the service answers every request with an error of its own, every operation fails with a
/// kind that is retried.
pub async fn unavailable(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    busy(
        cloud,
        prefix,
        &[ErrorKind::Unavailable, ErrorKind::Throttled],
        None,
    )
    .await
}

async fn busy(
    cloud: &dyn Cloud,
    prefix: &str,
    kinds: &[ErrorKind],
    wait: Option<Duration>,
) -> Verdict {
    let key = &key(prefix, "object")?;
    let operations: [(&str, BoxFuture<'_, Result<()>>); 6] = [
        ("probe", cloud.probe()),
        ("put", Box::pin(store(cloud, key))),
        (
            "get",
            Box::pin(async move { cloud.get(key, None, None).await.map(drop) }),
        ),
        (
            "head",
            Box::pin(async move { cloud.head(key).await.map(drop) }),
        ),
        (
            "list",
            Box::pin(async move { cloud.list(prefix, None, 10).await.map(drop) }),
        ),
        ("delete", cloud.delete(key, None)),
    ];
    for (name, run) in operations {
        let e = refused_as(
            run.await,
            kinds,
            &format!("{name} at a service that is busy"),
        )?;
        ensure!(
            wait.is_none() || e.retry_after == wait,
            "{name}: the service asks for a wait of {wait:?}, the error reports {:?}",
            e.retry_after
        );
    }
    Ok(Finding::Holds)
}
