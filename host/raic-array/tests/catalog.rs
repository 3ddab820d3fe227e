//! Buckets, lists of files, copies and renames.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod rig;

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::stream;
use proptest::prelude::*;
use raic_array::{
    Array, ArrayError, DEFAULT_BUCKET, FileName, ListPage, ListRequest, PutOptions, Replace,
    Transfer, Versioning,
};
use raic_storage::Moment;
use rig::{Rig, content, get, named, put, settle};

fn in_bucket(bucket: &str, name: &str) -> FileName {
    FileName {
        bucket: bucket.to_owned(),
        name: name.to_owned(),
    }
}

async fn put_with(
    array: &Array,
    name: &FileName,
    options: PutOptions,
) -> Result<raic_array::FileInfo, ArrayError> {
    let pieces = stream::iter([Ok::<_, String>(Bytes::from_static(b"content"))]);
    array.put(name, pieces, options).await
}

#[tokio::test]
async fn buckets_are_apart_and_only_empty_ones_go() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    array
        .create_bucket("photos", None, Versioning::Off)
        .await
        .unwrap();
    put(&array, "file", content(10)).await.unwrap();
    put_with(&array, &in_bucket("photos", "file"), PutOptions::default())
        .await
        .unwrap();
    let buckets = array.buckets().await.unwrap();
    let seen: Vec<_> = buckets
        .iter()
        .map(|bucket| (&*bucket.name, bucket.files, bucket.bytes))
        .collect();
    assert_eq!(seen, [("files", 1, 10), ("photos", 1, 7)]);
    assert_eq!(get(&array, "file", None).await.unwrap(), content(10));

    let kind = |refused: Result<(), ArrayError>| refused.unwrap_err();
    let refused = kind(array.create_bucket("photos", None, Versioning::Off).await);
    assert!(matches!(refused, ArrayError::BucketExists(_)), "{refused}");
    let refused = kind(array.create_bucket("Photos", None, Versioning::Off).await);
    assert!(
        matches!(refused, ArrayError::BucketName { .. }),
        "{refused}"
    );
    let refused = kind(array.remove_bucket("photos").await);
    assert!(
        matches!(refused, ArrayError::BucketNotEmpty(_)),
        "{refused}"
    );
    let refused = kind(array.remove_bucket(DEFAULT_BUCKET).await);
    assert!(matches!(refused, ArrayError::DefaultBucket), "{refused}");
    for refused in [
        put_with(&array, &in_bucket("nobody", "x"), PutOptions::default())
            .await
            .map(drop),
        array.stat(&in_bucket("nobody", "x")).await.map(drop),
        array.remove(&in_bucket("nobody", "x")).await.map(drop),
        array.remove_bucket("nobody").await,
    ] {
        let refused = kind(refused);
        assert!(matches!(refused, ArrayError::NoSuchBucket(_)), "{refused}");
    }
    array.remove(&in_bucket("photos", "file")).await.unwrap();
    array.remove_bucket("photos").await.unwrap();
    assert_eq!(array.buckets().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_file_that_may_not_be_replaced_stays() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    let keeping = PutOptions {
        replace: Replace::No,
        source_modified: Some(Moment::from_millis(1_234_567)),
        ..PutOptions::default()
    };
    let first = put_with(&array, &named("file"), keeping.clone()).await;
    assert_eq!(
        first.unwrap().source_modified,
        Some(Moment::from_millis(1_234_567))
    );
    let objects = rig.objects();
    let refused = put_with(&array, &named("file"), keeping.clone()).await;
    assert!(
        matches!(refused, Err(ArrayError::FileExists(_))),
        "{refused:?}"
    );
    // Of two that race, one is stored; the other's shares go.
    let raced = named("raced");
    let racing = put_with(&array, &raced, keeping.clone());
    let other = put_with(&array, &raced, keeping);
    let (one, other) = futures::join!(racing, other);
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    settle(|| rig.objects() == 2 * objects).await;
    let info = array.stat(&named("file")).await.unwrap();
    assert_eq!(info.source_modified, Some(Moment::from_millis(1_234_567)));
}

#[tokio::test]
async fn copies_share_what_is_stored_and_it_goes_with_the_last() {
    let rig = Rig {
        extent_size: 4_000,
        ..Rig::new(4)
    };
    let array = rig.open().await;
    array
        .create_bucket("other", None, Versioning::Off)
        .await
        .unwrap();
    put(&array, "file", content(10_000)).await.unwrap();
    let objects = rig.objects();
    let copy = in_bucket("other", "copy");
    let made = array.copy(&named("file"), &copy, Replace::Yes).await;
    assert!(!made.unwrap().has_replaced);
    assert_eq!(rig.objects(), objects, "nothing is stored anew");
    let refused = array.copy(&named("file"), &copy, Replace::No).await;
    assert!(matches!(refused, Err(ArrayError::FileExists(_))));
    // A copy onto itself is the file.
    array
        .copy(&named("file"), &named("file"), Replace::Yes)
        .await
        .unwrap();

    put(&array, "file", content(5)).await.unwrap();
    let (_, _, read) = array.get(&copy, None, Transfer::default()).await.unwrap();
    let read: Vec<Bytes> = futures::TryStreamExt::try_collect(read).await.unwrap();
    assert_eq!(read.concat(), content(10_000));

    let moved = array
        .rename(&copy, &named("moved"), Replace::Yes)
        .await
        .unwrap();
    assert_eq!((moved.name.as_str(), moved.size), ("moved", 10_000));
    assert!(array.stat(&copy).await.is_err());
    assert_eq!(get(&array, "moved", None).await.unwrap(), content(10_000));
    // A rename onto another file replaces it.
    let moved = array
        .rename(&named("moved"), &named("file"), Replace::Yes)
        .await;
    assert!(moved.unwrap().has_replaced);
    settle(|| rig.objects() == objects).await;
    array.remove(&named("file")).await.unwrap();
    settle(|| rig.objects() == 0).await;
    for bucket in array.buckets().await.unwrap() {
        assert_eq!((bucket.files, bucket.bytes), (0, 0), "{bucket:?}");
    }
}

/// Lists all pages of a request.
async fn all_pages(array: &Array, mut request: ListRequest) -> (Vec<String>, Vec<String>) {
    let (mut files, mut prefixes) = (Vec::new(), Vec::new());
    loop {
        let ListPage {
            files: more,
            prefixes: common,
            next,
            next_version: _,
        } = array.list(request.clone()).await.unwrap();
        assert!(more.len() + common.len() <= request.limit);
        files.extend(more.into_iter().map(|file| file.name));
        prefixes.extend(common);
        match next {
            None => return (files, prefixes),
            Some(next) => {
                assert!(next > request.after, "{next:?} after {:?}", request.after);
                request.after = next;
            }
        }
    }
}

#[test]
fn lists_are_those_of_a_plain_loop_over_all_names() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let names: BTreeSet<String> = {
        let mut names = BTreeSet::new();
        let parts = [
            "a",
            "b",
            "a/",
            "/",
            "ä",
            "\u{d7ff}",
            "\u{10ffff}",
            "//",
            "b-",
        ];
        for one in parts {
            for two in parts {
                names.insert(format!("{one}{two}"));
                names.insert(format!("{one}{two}a"));
            }
        }
        names
    };
    let rig = Rig::new(4);
    let array = runtime.block_on(async {
        let array = rig.open().await;
        put(&array, "a", content(1)).await.unwrap();
        for name in names.iter().filter(|name| *name != "a") {
            array
                .copy(&named("a"), &named(name), Replace::Yes)
                .await
                .unwrap();
        }
        array.remove(&named("a")).await.unwrap();
        array
    });
    let text = prop::sample::select(vec![
        "",
        "a",
        "a/",
        "/",
        "//",
        "b",
        "ä",
        "\u{d7ff}",
        "\u{10ffff}",
        "zz",
    ]);
    let delimiter = prop::sample::select(vec!["", "/", "//", "a", "ä"]);
    let case = (text.clone(), delimiter, text, 1..40_usize);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(300));
    let outcome = runner.run(&case, |(prefix, delimiter, after, limit)| {
        let (mut files, mut prefixes) = (Vec::new(), Vec::new());
        // A page that begins behind a common prefix does not tell it again.
        for name in names.iter().filter(|name| name.starts_with(prefix)) {
            let rest = &name[prefix.len()..];
            match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
                Some(at) => {
                    let common = &name[..prefix.len() + at + delimiter.len()];
                    if common > after && !after.starts_with(common) {
                        prefixes.push(common.to_owned());
                    }
                }
                None if name.as_str() > after => files.push(name.clone()),
                None => {}
            }
        }
        prefixes.dedup();
        let request = ListRequest {
            bucket: DEFAULT_BUCKET.to_owned(),
            prefix: prefix.to_owned(),
            delimiter: delimiter.to_owned(),
            after: after.to_owned(),
            limit,
            ..ListRequest::default()
        };
        let listed = runtime.block_on(all_pages(&array, request));
        prop_assert_eq!(listed, (files, prefixes));
        Ok(())
    });
    outcome.unwrap();
}
