//! Behaviours of puts, reads and deletions.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, future::join_all};

use super::{
    CHUNK, Finding, LONGEST_PREFIX, Verdict, capability, delete, fails, key, largest, list_all,
    pattern, put, read, reads, remove, worked,
};
use crate::{
    ByteRange, Cloud, ErrorKind, MAX_KEY_LEN, Payload, WriteMode, collect_body, delete_all,
};

/// An object that was put is read with the same bytes. Put, get, head and list agree about it. A
/// deleted object is gone.
pub async fn put_get_head_delete(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    let info = put(cloud, &key, pattern(1000)).await?;
    let head = worked(cloud.head(&key).await, "head of what was put")?;
    ensure!(
        head.size == 1000,
        "head of 1000 bytes reports {}",
        head.size
    );
    ensure!(
        info.etag.is_none() || info.etag == head.etag,
        "put reports the etag {:?}, head {:?}",
        info.etag,
        head.etag
    );
    let object = worked(cloud.get(&key, None, None).await, "get of what was put")?;
    ensure!(
        object.info.size == 1000,
        "get of 1000 bytes reports {}",
        object.info.size
    );
    ensure!(
        object.info.etag == head.etag,
        "get reports the etag {:?}, head {:?}",
        object.info.etag,
        head.etag
    );
    let content = worked(
        collect_body(cloud.name(), object.body, 1000).await,
        "reading what was put",
    )?;
    ensure!(
        content == pattern(1000),
        "other bytes are read than were put"
    );
    let page = worked(
        cloud.list(key.as_str(), None, 10).await,
        "list of what was put",
    )?;
    let listed = page.entries.iter().find(|entry| entry.key == key);
    let listed = listed.ok_or("an object that was put is not listed")?;
    ensure!(
        listed.info.size == 1000,
        "list of 1000 bytes reports {}",
        listed.info.size
    );
    ensure!(
        listed.info.etag.is_none() || listed.info.etag == head.etag,
        "list reports the etag {:?}, head {:?}",
        listed.info.etag,
        head.etag
    );
    delete(cloud, &key).await?;
    fails(
        cloud.head(&key).await,
        ErrorKind::NotFound,
        "head after delete",
    )?;
    fails(
        read(cloud, &key, None).await,
        ErrorKind::NotFound,
        "get after delete",
    )?;
    Ok(Finding::Holds)
}

/// Objects of these sizes come back bit for bit.
pub async fn sizes(cloud: &dyn Cloud, prefix: &str, sizes: &[usize]) -> Verdict {
    let largest = largest(cloud).await?;
    // Sizes beyond the largest that the service takes are cut to it.
    let tried: BTreeSet<usize> = sizes.iter().map(|size| *size.min(&largest)).collect();
    for size in tried {
        let with_size = |why: String| format!("{size} bytes: {why}");
        let key = key(prefix, &format!("s{size}"))?;
        put(cloud, &key, pattern(size)).await.map_err(with_size)?;
        let head = worked(cloud.head(&key).await, "head").map_err(with_size)?;
        ensure!(
            head.size == size as u64,
            "{size} bytes: head reports {}",
            head.size
        );
        reads(cloud, &key, &pattern(size))
            .await
            .map_err(with_size)?;
        delete(cloud, &key).await.map_err(with_size)?;
    }
    Ok(Finding::Holds)
}

/// Ranges within, at and past the end of an object are read. A range that begins at or past the end
/// is refused.
pub async fn ranges(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    let whole = pattern(10_000);
    put(cloud, &key, whole.clone()).await?;
    for (offset, length) in [
        (0, 1),
        (0, 10_000),
        (17, 4000),
        (9_999, 1),
        (9_000, 5_000),
        (5, 1 << 40),
    ] {
        let what = format!("a get of {length} bytes from {offset} of 10000");
        let range = ByteRange::new(offset, length);
        let expected =
            whole.slice(offset as usize..(offset.saturating_add(length)).min(10_000) as usize);
        let object = worked(cloud.get(&key, range, None).await, &what)?;
        ensure!(
            object.info.size == 10_000,
            "{what} must report the whole object's size, not {}",
            object.info.size
        );
        let bytes = worked(collect_body(cloud.name(), object.body, 10_000).await, &what)?;
        ensure!(
            bytes == expected,
            "{what} returned {} other bytes",
            bytes.len()
        );
    }
    for offset in [10_000, 20_000] {
        let past = read(cloud, &key, ByteRange::new(offset, 10)).await;
        fails(
            past,
            ErrorKind::RangeNotSatisfiable,
            &format!("a range from {offset} of 10000"),
        )?;
    }
    delete(cloud, &key).await?;
    Ok(Finding::Holds)
}

/// An object that was never put is not found, and not listed.
pub async fn missing(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "never")?;
    fails(
        cloud.head(&key).await,
        ErrorKind::NotFound,
        "head of nothing",
    )?;
    fails(
        read(cloud, &key, None).await,
        ErrorKind::NotFound,
        "get of nothing",
    )?;
    fails(
        read(cloud, &key, ByteRange::new(0, 1)).await,
        ErrorKind::NotFound,
        "get of a part of nothing",
    )?;
    let page = worked(cloud.list(prefix, None, 10).await, "list of nothing")?;
    ensure!(
        page.entries.is_empty(),
        "list of nothing returns {} objects",
        page.entries.len()
    );
    Ok(Finding::Holds)
}

/// A second put replaces the first.
pub async fn overwrite(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    let first = put(cloud, &key, pattern(100)).await?;
    let second = put(cloud, &key, pattern(99)).await?;
    ensure!(
        first.etag.is_none() || first.etag != second.etag,
        "the etag stays though the content changes"
    );
    reads(cloud, &key, &pattern(99)).await?;
    delete(cloud, &key).await?;
    Ok(Finding::Holds)
}

/// A create-only put does what `describe` reports of it.
pub async fn create_only(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    let create = |content: Bytes| cloud.put(&key, Payload::from(content), WriteMode::CreateOnly);
    worked(create(pattern(10)).await, "create-only put of a new object")?;
    let again = create(pattern(11)).await;
    let described = capability(cloud, "create-only").await?;
    let finding = match described.as_deref() {
        Some(way @ ("native" | "emulated")) => {
            fails(
                again,
                ErrorKind::AlreadyExists,
                "a create-only put over an object",
            )?;
            reads(cloud, &key, &pattern(10)).await?;
            match way {
                "native" => Finding::Holds,
                _ => Finding::Lacks(
                    "create-only is emulated: several of the writers that race may win".to_owned(),
                ),
            }
        }
        _ => {
            worked(
                again,
                "a create-only put over an object, which a service without create-only replaces",
            )?;
            Finding::Lacks("the service has no create-only put: it replaces".to_owned())
        }
    };
    delete(cloud, &key).await?;
    Ok(finding)
}

/// If several writers race to create one object, exactly one wins. Checked if `describe` reports
/// create-only as native.
pub async fn create_only_race(cloud: &dyn Cloud, prefix: &str, writers: usize) -> Verdict {
    if capability(cloud, "create-only").await?.as_deref() != Some("native") {
        return Ok(Finding::Lacks(
            "describe does not report create-only = native".to_owned(),
        ));
    }
    let key = key(prefix, "race")?;
    let race = (0..writers)
        .map(|i| cloud.put(&key, Payload::from(pattern(100 + i)), WriteMode::CreateOnly));
    let ended = join_all(race).await;
    let won: Vec<usize> = (0..writers).filter(|i| ended[*i].is_ok()).collect();
    ensure!(
        won.len() == 1,
        "{} of {writers} creators won; describe must not report create-only = native",
        won.len()
    );
    reads(cloud, &key, &pattern(100 + won[0])).await?;
    delete(cloud, &key).await?;
    Ok(Finding::Holds)
}

/// Gets and deletes keep an if-match condition, if the service has etags. Puts keep one, if
/// `describe` reports if-match as native.
pub async fn if_match(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    put(cloud, &key, pattern(10)).await?;
    let Some(old) = worked(cloud.head(&key).await, "head")?.etag else {
        delete(cloud, &key).await?;
        return Ok(Finding::Lacks("the service has no strong etags".to_owned()));
    };
    put(cloud, &key, pattern(20)).await?;
    let stale = cloud.get(&key, None, Some(&old)).await;
    fails(
        stale.map(|o| o.info),
        ErrorKind::PreconditionFailed,
        "get with an older etag",
    )?;
    let new = worked(cloud.head(&key).await, "head")?
        .etag
        .ok_or("head reports an etag at one time and none at another")?;
    worked(cloud.get(&key, None, Some(&new)).await, "get with the etag")?;
    fails(
        cloud.delete(&key, Some(&old)).await,
        ErrorKind::PreconditionFailed,
        "delete with an older etag",
    )?;
    let mut finding =
        Finding::Lacks("describe does not report if-match = native, for puts".to_owned());
    if capability(cloud, "if-match").await?.as_deref() == Some("native") {
        let stale = cloud
            .put(&key, Payload::from(pattern(30)), WriteMode::IfMatch(old))
            .await;
        fails(
            stale,
            ErrorKind::PreconditionFailed,
            "put with an older etag",
        )?;
        reads(cloud, &key, &pattern(20)).await?;
        let put = cloud
            .put(&key, Payload::from(pattern(30)), WriteMode::IfMatch(new))
            .await;
        worked(put, "put with the etag")?;
        finding = Finding::Holds;
    }
    let last = worked(cloud.head(&key).await, "head")?.etag;
    worked(
        cloud.delete(&key, last.as_deref()).await,
        "delete with the etag",
    )?;
    fails(
        cloud.head(&key).await,
        ErrorKind::NotFound,
        "head after delete",
    )?;
    if finding == Finding::Holds {
        let etag = last.ok_or("head reports an etag at one time and none at another")?;
        let gone = cloud
            .put(&key, Payload::from(pattern(40)), WriteMode::IfMatch(etag))
            .await;
        fails(
            gone,
            ErrorKind::PreconditionFailed,
            "put with the etag of an object that is gone",
        )?;
    }
    Ok(finding)
}

/// Keys with unusual characters, and a key of great length, are kept and listed.
pub async fn awkward_keys(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    // The longest key, less the prefix of an array that shares its container. It is divided into
    // segments of a length that a folder's name may also have.
    let mut long = "x".repeat((MAX_KEY_LEN - LONGEST_PREFIX).saturating_sub(prefix.len()));
    for slash in (200..long.len().saturating_sub(1)).step_by(201) {
        long.replace_range(slash..=slash, "/");
    }
    let names = [
        "-", "0", "Z", "_", "a.b", "..a", "a..", "z/-/_/.z", "A", "a", &long,
    ];
    for name in names {
        put(cloud, &key(prefix, name)?, name.as_bytes().to_vec())
            .await
            .map_err(|e| format!("{name}: {e}"))?;
    }
    for name in names {
        reads(cloud, &key(prefix, name)?, name.as_bytes())
            .await
            .map_err(|e| format!("{name}: {e}"))?;
    }
    let listed = list_all(cloud, prefix, 1000).await?;
    let expected: BTreeSet<_> = names
        .iter()
        .map(|name| key(prefix, name))
        .collect::<Verdict<_>>()?;
    if let Some(missing) = expected.iter().find(|key| !listed.contains(key)) {
        return Err(format!("{missing} is not listed"));
    }
    ensure!(
        listed.len() == names.len(),
        "{} keys are listed, not {}",
        listed.len(),
        names.len()
    );
    remove(cloud, listed).await
}

/// Deleting an object that is gone, or never was, succeeds.
pub async fn delete_is_idempotent(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let key = key(prefix, "object")?;
    worked(cloud.delete(&key, None).await, "delete of what never was")?;
    put(cloud, &key, pattern(1)).await?;
    delete(cloud, &key).await?;
    worked(cloud.delete(&key, None).await, "delete of what is gone")?;
    Ok(Finding::Holds)
}

/// Several objects, of which one does not exist, are deleted by one call, and no other object is.
pub async fn delete_many(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let keys: Vec<_> = (0..12)
        .map(|i| key(prefix, &format!("{i}")))
        .collect::<Verdict<_>>()?;
    for key in &keys[1..] {
        put(cloud, key, pattern(5)).await?;
    }
    worked(
        delete_all(cloud, &keys[..11]).await,
        "delete of 11 objects, of which one never was",
    )?;
    let left = list_all(cloud, prefix, 1000).await?;
    ensure!(
        left == keys[11..],
        "{} objects are left, not the one that was to stay",
        left.len()
    );
    let finding = match cloud.delete_many(&keys[11..]).await {
        Err(e) if e.kind == ErrorKind::Unsupported => {
            Finding::Lacks("objects are deleted one by one".to_owned())
        }
        deleted => {
            let failed = worked(deleted, "delete-many of one object")?;
            ensure!(
                failed.is_empty(),
                "an object cannot be deleted: {}",
                failed[0].1
            );
            Finding::Holds
        }
    };
    delete(cloud, &keys[11]).await?;
    Ok(finding)
}

/// An upload that its caller gives up leaves a whole object or none.
pub async fn abandoned_put(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let content = pattern(CHUNK.min(largest(cloud).await?));
    for (i, patience) in [1_u64, 4, 12, 40].into_iter().enumerate() {
        let key = key(prefix, &format!("{i}"))?;
        let put = cloud.put(&key, Payload::from(content.clone()), WriteMode::Overwrite);
        // The service decides whether the put is faster than that.
        let _ = tokio::time::timeout(Duration::from_millis(patience), put).await;
        for _ in 0..5 {
            match cloud.head(&key).await {
                Err(e) if e.kind == ErrorKind::NotFound => {}
                Err(e) => return Err(format!("head of an abandoned upload: {e:#}")),
                Ok(info) => {
                    ensure!(
                        info.size == content.len() as u64,
                        "an abandoned upload of {} bytes left {} of them",
                        content.len(),
                        info.size
                    );
                    reads(cloud, &key, &content).await?;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // An upload may land after the last look.
    tokio::time::sleep(Duration::from_millis(200)).await;
    remove(cloud, list_all(cloud, prefix, 1000).await?).await
}

/// A download that its reader gives up disturbs no other.
pub async fn abandoned_get(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let (key, content) = (
        key(prefix, "object")?,
        pattern(CHUNK.min(largest(cloud).await?)),
    );
    put(cloud, &key, content.clone()).await?;
    for _ in 0..8 {
        let mut object = worked(cloud.get(&key, None, None).await, "get")?;
        // Only the first piece is read.
        if let Some(piece) = object.body.next().await {
            worked(piece, "the first piece of a get")?;
        }
    }
    reads(cloud, &key, &content).await?;
    delete(cloud, &key).await?;
    Ok(Finding::Holds)
}
