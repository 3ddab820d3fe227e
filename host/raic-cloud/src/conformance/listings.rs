//! Behaviours of listings.

use std::collections::BTreeSet;

use futures::{StreamExt as _, stream};

use super::{Verdict, capability, delete, key, list_all, pattern, put, remove};
use crate::Cloud;

/// `count` keys, listed in pages of `limit`, are all listed, once each. No page is longer than
/// asked.
pub async fn listing_pages(cloud: &dyn Cloud, prefix: &str, count: usize, limit: u32) -> Verdict {
    let expected: BTreeSet<_> = (0..count)
        .map(|i| key(prefix, &format!("{count}/{i:05}")))
        .collect::<Verdict<_>>()?;
    let prefix = &format!("{prefix}{count}/");
    let puts: Vec<_> = expected
        .iter()
        .map(|key| put(cloud, key, pattern(3)))
        .collect();
    for stored in stream::iter(puts)
        .buffer_unordered(16)
        .collect::<Vec<_>>()
        .await
    {
        stored?;
    }
    let listed = list_all(cloud, prefix, limit).await?;
    ensure!(
        listed.len() == count,
        "{} keys of {count} are listed in pages of {limit}",
        listed.len()
    );
    let unique: BTreeSet<_> = listed.iter().cloned().collect();
    ensure!(
        unique == expected,
        "in pages of {limit} other keys are listed than were stored"
    );
    if capability(cloud, "ordered-list").await?.as_deref() == Some("yes") {
        ensure!(
            listed.is_sorted(),
            "keys are listed out of order, though describe reports ordered-list = yes"
        );
    }
    remove(cloud, listed).await
}

/// A prefix matches keys as text: `1.` does not match `10.1`. The test's own prefix lists all its
/// keys.
pub async fn listing_matches_prefixes_exactly(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    for name in ["1", "1.1", "10", "10.1", "2/1"] {
        put(cloud, &key(prefix, name)?, pattern(2)).await?;
    }
    for (under, expected) in [
        ("1", 4),
        ("1.", 1),
        ("10", 2),
        ("10.", 1),
        ("2/", 1),
        ("", 5),
        ("3", 0),
    ] {
        let listed = list_all(cloud, &format!("{prefix}{under}"), 2).await?;
        ensure!(
            listed.len() == expected,
            "with the prefix {under:?} {} keys are listed, not {expected}",
            listed.len()
        );
    }
    remove(cloud, list_all(cloud, prefix, 1000).await?).await
}

/// While other objects come and go, each object that exists throughout is listed once.
pub async fn listing_under_writes(cloud: &dyn Cloud, prefix: &str) -> Verdict {
    let steady: Vec<_> = (0..20)
        .map(|i| key(prefix, &format!("{i:02}-steady")))
        .collect::<Verdict<_>>()?;
    for key in &steady {
        put(cloud, key, pattern(3)).await?;
    }
    let come_and_go = async {
        for i in 0..20 {
            let key = key(prefix, &format!("{i:02}-passing"))?;
            put(cloud, &key, pattern(4)).await?;
            if i % 2 == 0 {
                delete(cloud, &key).await?;
            }
        }
        Verdict::Ok(())
    };
    let list = async {
        for _ in 0..3 {
            let listed = list_all(cloud, prefix, 3).await?;
            for key in &steady {
                let times = listed.iter().filter(|listed| *listed == key).count();
                ensure!(
                    times == 1,
                    "{key} is listed {times} times, not once, while others are written"
                );
            }
        }
        Verdict::Ok(())
    };
    let (written, listed) = futures::join!(come_and_go, list);
    written.and(listed)?;
    remove(cloud, list_all(cloud, prefix, 1000).await?).await
}
