//! What a cloud says where the service refuses. The service must be set up for each of these, so
//! they are none of [`BEHAVIOURS`](super::BEHAVIOURS): whoever has a container that is not there,
//! or a key that may only read, calls them.

use std::time::Duration;

use futures::future::BoxFuture;

use super::{Finding, Verdict, delete, fails, key, list_all, pattern, put, read, reads, worked};
use crate::{Cloud, CloudError, ErrorKind, ObjectKey, Payload, Result, WriteMode};

/// That a result is a failure of one of these kinds; gives the failure.
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

/// Where the container is missing, nothing is said of an object alone: what must be made is named.
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
    // Some services answer a missing object and a missing container alike.
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
    // What is in no container is gone.
    match cloud.delete(&key, None).await {
        Ok(()) => {}
        deleted => drop(refused_as(deleted, either, "a delete without a container")?),
    }
    Ok(Finding::Holds)
}

/// A container that is not there is made, is kept while it has objects, and is removed; also where
/// something of that is wrong, as far as it can be, so that the next check finds none.
pub async fn container(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let checked = made_and_removed(cloud, prefix).await;
    if checked.is_err() {
        // What it was matters more than what cannot be removed.
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

/// A key that may only read reads; what it may not is said to be the permission. `writer` stores
/// what is read.
pub async fn read_only(cloud: &dyn Cloud, writer: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    put(writer, &key, pattern(50)).await?;
    reads(cloud, &key, &pattern(50)).await?;
    worked(cloud.head(&key).await, "head by a key that may read")?;
    let listed = list_all(cloud, prefix, 10).await?;
    ensure!(
        listed == [key.clone()],
        "a key that may read lists {} objects of one",
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

/// Credentials that are wrong, or were good once, are said to be the reason.
pub async fn unauthenticated(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    // A service that has no 401, or that tells nobody which keys there are, says 403.
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

/// Where the clock by which the connector signs is `off`, the service refuses, and that is said to
/// be the reason.
pub async fn clock_skew(cloud: &dyn Cloud, prefix: &str, off: Duration) -> Verdict {
    let key = key(prefix, "object")?;
    match cloud.probe().await {
        Ok(()) => {
            let why = format!(
                "the service takes requests whose time is {} s off",
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

/// While the service answers every request by "too many" and names a time to wait, every operation
/// fails so and tells that time.
pub async fn throttled(cloud: &dyn Cloud, prefix: &str, wait: Duration) -> Verdict {
    busy(cloud, prefix, &[ErrorKind::Throttled], Some(wait)).await
}

/// While the service answers every request by an error of its own, every operation fails in a way
/// that is tried again.
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
            "{name}: the service names {wait:?} to wait, the error {:?}",
            e.retry_after
        );
    }
    Ok(Finding::Holds)
}
