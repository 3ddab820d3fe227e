//! Versions of files, what is kept beside them, and what accounts pay for them: each sequence of
//! changes gives what a simple model gives.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod rig;

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{TryStreamExt as _, stream};
use proptest::prelude::*;
use raic_array::{
    Array, ArrayError, DEFAULT_BUCKET, Details, FileInfo, FileName, FileVersion, ListRequest,
    Listed, PutOptions, Replace, Transfer, VersionId, Versioning,
};
use rig::{Rig, content, named, settle};

const BUCKET: &str = "photos";

fn photo(name: &str) -> FileName {
    FileName {
        bucket: BUCKET.to_owned(),
        name: name.to_owned(),
    }
}

fn at(name: &str, version: VersionId) -> FileVersion {
    FileVersion {
        name: photo(name),
        version: Some(version),
    }
}

async fn store(array: &Array, name: &FileName, length: usize) -> FileInfo {
    let pieces = stream::iter([Ok::<_, String>(content(length))]);
    array
        .put(name, pieces, PutOptions::default())
        .await
        .unwrap()
}

async fn read(array: &Array, file: impl Into<FileVersion>) -> Result<Bytes, ArrayError> {
    let (_, _, content) = array.get(file, None, Transfer::default()).await?;
    Ok(content.try_collect::<Vec<_>>().await?.concat().into())
}

/// Lists all versions of all files, by pages of `limit`.
async fn versions(array: &Array, limit: usize) -> Vec<FileInfo> {
    let mut request = ListRequest {
        listed: Listed::Versions,
        bucket: BUCKET.to_owned(),
        limit,
        ..ListRequest::default()
    };
    let mut all = Vec::new();
    loop {
        let page = array.list(request.clone()).await.unwrap();
        all.extend(page.files);
        let Some(next) = page.next else { return all };
        (request.after, request.after_version) = (next, page.next_version);
    }
}

#[tokio::test]
async fn old_versions_are_read_restored_and_removed_by_their_ids() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    array
        .create_bucket(BUCKET, None, Versioning::On)
        .await
        .unwrap();
    let first = store(&array, &photo("cat"), 10).await;
    let second = store(&array, &photo("cat"), 20).await;
    assert!(second.has_replaced && second.version != first.version);
    let mark = array.remove(&photo("cat")).await.unwrap().unwrap();
    let gone = array.stat(&photo("cat")).await;
    assert!(matches!(gone, Err(ArrayError::NoSuchFile(_))), "{gone:?}");
    let buckets = array.buckets().await.unwrap();
    let photos = buckets.iter().find(|bucket| bucket.name == BUCKET).unwrap();
    assert_eq!((photos.files, photos.bytes), (0, 0));

    let listed = versions(&array, 100).await;
    let seen: Vec<_> = listed
        .iter()
        .map(|info| (info.version, info.is_current, info.is_delete_mark))
        .collect();
    let expected = [
        (mark, true, true),
        (second.version, false, false),
        (first.version, false, false),
    ];
    assert_eq!(seen, expected);
    for limit in 1..4 {
        assert_eq!(versions(&array, limit).await, listed, "pages of {limit}");
    }
    assert_eq!(
        read(&array, at("cat", first.version)).await.unwrap(),
        content(10)
    );
    let refused = read(&array, at("cat", mark)).await;
    assert!(
        matches!(refused, Err(ArrayError::DeleteMark { .. })),
        "{refused:?}"
    );
    let refused = read(&array, at("dog", first.version)).await;
    assert!(
        matches!(refused, Err(ArrayError::NoSuchVersion { .. })),
        "{refused:?}"
    );

    // An old version is restored as the newest one, and shares what is stored.
    let objects = rig.objects();
    let restored = array
        .copy(at("cat", first.version), &photo("cat"), Replace::Yes)
        .await
        .unwrap();
    assert_eq!(rig.objects(), objects);
    assert_eq!(read(&array, &photo("cat")).await.unwrap(), content(10));
    // Without it, and without the mark, the one before is what the name stands for again.
    for version in [restored.version, mark] {
        array.remove_version(&photo("cat"), version).await.unwrap();
    }
    assert_eq!(read(&array, &photo("cat")).await.unwrap(), content(20));
    let refused = array.remove_bucket(BUCKET).await;
    assert!(
        matches!(refused, Err(ArrayError::BucketNotEmpty(_))),
        "{refused:?}"
    );
    for version in [second.version, first.version] {
        array.remove_version(&photo("cat"), version).await.unwrap();
    }
    settle(|| rig.objects() == 0).await;
    let refused = array.set_versioning(BUCKET, Versioning::Off).await;
    assert!(
        matches!(refused, Err(ArrayError::VersioningStays(_))),
        "{refused:?}"
    );
    array.remove_bucket(BUCKET).await.unwrap();
}

#[tokio::test]
async fn a_page_of_versions_goes_on_if_its_last_one_was_removed_meanwhile() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    array
        .create_bucket(BUCKET, None, Versioning::On)
        .await
        .unwrap();
    for length in [1, 2, 3, 4] {
        store(&array, &photo("cat"), length).await;
    }
    store(&array, &photo("dog"), 5).await;
    // As a client does that removes all versions page by page.
    let mut request = ListRequest {
        listed: Listed::Versions,
        bucket: BUCKET.to_owned(),
        limit: 2,
        ..ListRequest::default()
    };
    loop {
        let page = array.list(request.clone()).await.unwrap();
        for info in page.files {
            let name = photo(&info.name);
            array.remove_version(&name, info.version).await.unwrap();
        }
        let Some(next) = page.next else { break };
        (request.after, request.after_version) = (next, page.next_version);
    }
    assert_eq!(versions(&array, 100).await, []);
}

#[tokio::test]
async fn what_is_kept_beside_a_file_comes_back_and_goes_with_copies() {
    let rig = Rig::new(4);
    let array = rig.open().await;
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    let details = Details {
        content_type: Some("image/jpeg".to_owned()),
        etag: Some("0cc175b9c0f1b6a831c399e269772661".to_owned()),
        metadata: map(&[("author", "Ana \"A\" Ávila"), ("empty", "")]),
        tags: map(&[("project", "sky")]),
        checksums: map(&[("crc64nvme", "AAAAAAAAAAA=")]),
    };
    let with = |details: &Details| PutOptions {
        details: details.clone(),
        ..PutOptions::default()
    };
    let pieces = || stream::iter([Ok::<_, String>(content(10))]);
    let stored = array.put(&named("file"), pieces(), with(&details)).await;
    assert_eq!(stored.unwrap().details, details);
    array
        .copy(&named("file"), &named("copy"), Replace::Yes)
        .await
        .unwrap();
    array
        .set_tags(&named("file"), map(&[("project", "sea"), ("done", "")]))
        .await
        .unwrap();
    assert_eq!(array.stat(&named("copy")).await.unwrap().details, details);
    let changed = array.stat(&named("file")).await.unwrap().details;
    assert_eq!(changed.tags, map(&[("project", "sea"), ("done", "")]));
    assert_eq!(changed.metadata, details.metadata);
    let request = ListRequest {
        bucket: DEFAULT_BUCKET.to_owned(),
        limit: 1,
        ..ListRequest::default()
    };
    let page = array.list(request).await.unwrap();
    assert_eq!(page.files[0].details, details, "lists have it, too");

    let too_much = Details {
        metadata: map(&[("a", &"x".repeat(3000))]),
        ..Details::default()
    };
    let refused = array.put(&named("file"), pieces(), with(&too_much)).await;
    assert!(
        matches!(refused, Err(ArrayError::Details(_))),
        "{refused:?}"
    );
    let eleven: BTreeMap<_, _> = (0..11).map(|n| (n.to_string(), String::new())).collect();
    let refused = array.set_tags(&named("file"), eleven).await;
    assert!(
        matches!(refused, Err(ArrayError::Details(_))),
        "{refused:?}"
    );
    assert_eq!(array.stat(&named("file")).await.unwrap().details, changed);
}

/// A change of the bucket.
#[derive(Clone, Debug)]
enum Change {
    Put(usize, usize),
    Copy(usize, usize, Option<usize>),
    Move(usize, usize),
    Remove(usize),
    RemoveVersion(usize, usize),
    Versioning(Versioning),
}

const NAMES: [&str; 3] = ["a", "b", "c/d"];

fn change() -> impl Strategy<Value = Change> {
    let name = || 0..NAMES.len();
    prop_oneof![
        4 => (name(), 0_usize..5000).prop_map(|(name, size)| Change::Put(name, size)),
        2 => (name(), name(), proptest::option::of(0_usize..4))
            .prop_map(|(from, to, version)| Change::Copy(from, to, version)),
        1 => (name(), name()).prop_map(|(from, to)| Change::Move(from, to)),
        2 => name().prop_map(Change::Remove),
        2 => (name(), 0_usize..4).prop_map(|(name, version)| Change::RemoveVersion(name, version)),
        1 => prop_oneof![Just(Versioning::On), Just(Versioning::Suspended)]
            .prop_map(Change::Versioning),
    ]
}

/// A version, as the model has it. The last of a name is the current one.
#[derive(Clone, Debug)]
struct Version {
    id: VersionId,
    /// Bytes of content; `None` for a delete mark.
    size: Option<usize>,
    is_unversioned: bool,
}

#[derive(Debug, Default)]
struct Model {
    versioning: Versioning,
    files: BTreeMap<&'static str, Vec<Version>>,
}

impl Model {
    fn current(&self, name: &str) -> Option<(VersionId, usize)> {
        let last = self.files.get(name)?.last()?;
        Some((last.id, last.size?))
    }

    fn add(&mut self, name: &'static str, id: VersionId, size: Option<usize>) {
        let is_unversioned = self.versioning != Versioning::On;
        let versions = self.files.entry(name).or_default();
        if is_unversioned {
            versions.retain(|version| !version.is_unversioned);
        }
        versions.push(Version {
            id,
            size,
            is_unversioned,
        });
    }

    fn remove(&mut self, name: &'static str, mark: Option<VersionId>) {
        match mark {
            Some(mark) => self.add(name, mark, None),
            None => {
                self.files.get_mut(name).unwrap().pop();
            }
        }
    }

    async fn apply(&mut self, array: &Array, change: Change) {
        match change {
            Change::Put(name, size) => {
                let info = store(array, &photo(NAMES[name]), size).await;
                assert_eq!(info.has_replaced, self.current(NAMES[name]).is_some());
                self.add(NAMES[name], info.version, Some(size));
            }
            Change::Copy(from, to, version) => {
                let (from, to) = (NAMES[from], NAMES[to]);
                let of = self.files.get(from).cloned().unwrap_or_default();
                let chosen = version.and_then(|version| of.get(version)).cloned();
                let file = FileVersion {
                    name: photo(from),
                    version: chosen.as_ref().map(|version| version.id),
                };
                let source = match &chosen {
                    Some(version) => version.size.map(|size| (version.id, size)),
                    None => self.current(from),
                };
                let copied = array.copy(file, &photo(to), Replace::Yes).await;
                match source {
                    None => drop(copied.unwrap_err()),
                    Some((id, size)) => {
                        let copied = copied.unwrap();
                        // The current version onto itself is no change.
                        if from != to || self.current(from).map(|(id, _)| id) != Some(id) {
                            self.add(to, copied.version, Some(size));
                        }
                    }
                }
            }
            Change::Move(from, to) => {
                let (from, to) = (NAMES[from], NAMES[to]);
                let source = self.current(from);
                let moved = array.rename(&photo(from), &photo(to), Replace::Yes).await;
                match source {
                    None => drop(moved.unwrap_err()),
                    Some(_) if from == to => drop(moved.unwrap()),
                    Some((_, size)) => {
                        self.add(to, moved.unwrap().version, Some(size));
                        let mark = self.mark_of(array, from).await;
                        self.remove(from, mark);
                    }
                }
            }
            Change::Remove(name) => {
                let name = NAMES[name];
                let removed = array.remove(&photo(name)).await;
                match self.current(name) {
                    None => drop(removed.unwrap_err()),
                    Some(_) => self.remove(name, removed.unwrap()),
                }
            }
            Change::RemoveVersion(name, version) => {
                let name = NAMES[name];
                let Some(versions) = self.files.get_mut(name) else {
                    return;
                };
                if version < versions.len() {
                    let removed = versions.remove(version);
                    let gone = array.remove_version(&photo(name), removed.id).await;
                    gone.unwrap();
                }
            }
            Change::Versioning(versioning) => {
                array.set_versioning(BUCKET, versioning).await.unwrap();
                self.versioning = versioning;
            }
        }
    }

    /// The delete mark that a move left, which it does not tell.
    async fn mark_of(&self, array: &Array, name: &str) -> Option<VersionId> {
        let listed = versions(array, 100).await;
        let marks = listed.into_iter().filter(|info| info.name == name);
        let mark = marks
            .into_iter()
            .find(|info| info.is_current && info.is_delete_mark);
        mark.map(|info| info.version)
    }

    async fn compare(&self, array: &Array, limit: usize) -> Result<(), TestCaseError> {
        let mut expected = Vec::new();
        let (mut files, mut bytes, mut paid, mut paying) = (0_u64, 0_u64, 0_u64, 0_u64);
        for (name, versions) in &self.files {
            for (position, version) in versions.iter().enumerate().rev() {
                let is_current = position + 1 == versions.len();
                expected.push((*name, version.id, is_current, version.size));
                if let Some(size) = version.size {
                    // Two of four shares suffice: twice the content.
                    paid += 2 * size as u64;
                    paying += 1;
                    files += u64::from(is_current);
                    bytes += if is_current { size as u64 } else { 0 };
                }
            }
        }
        let listed = versions(array, limit).await;
        let seen: Vec<_> = listed
            .iter()
            .map(|info| {
                let size = (!info.is_delete_mark).then_some(info.size as usize);
                (&*info.name, info.version, info.is_current, size)
            })
            .collect();
        prop_assert_eq!(seen, expected);
        for info in listed.iter().filter(|info| !info.is_delete_mark) {
            let content_of = read(array, at(&info.name, info.version)).await.unwrap();
            prop_assert_eq!(content_of, content(info.size as usize));
        }
        let buckets = array.buckets().await.unwrap();
        let photos = buckets.iter().find(|bucket| bucket.name == BUCKET).unwrap();
        prop_assert_eq!((photos.files, photos.bytes), (files, bytes));
        let usage = array.leasedb().usage_by_account().await.unwrap();
        let of = |name: &str| usage.iter().find(|usage| usage.name == name).unwrap();
        let anonymous = of("anonymous");
        prop_assert_eq!(
            (anonymous.shares, anonymous.files, anonymous.bytes),
            (0, paying, paid)
        );
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn changes_give_what_a_simple_model_gives(
        first in prop_oneof![Just(Versioning::Off), Just(Versioning::On)],
        changes in proptest::collection::vec(change(), 1..24),
        limit in 1_usize..5,
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let rig = Rig { extent_size: 2_000, ..Rig::new(4) };
            let array = rig.open().await;
            array.create_bucket(BUCKET, None, first).await.unwrap();
            let mut model = Model { versioning: first, ..Model::default() };
            for change in changes {
                model.apply(&array, change).await;
            }
            model.compare(&array, limit).await?;
            // Everything that is removed goes from the clouds, and is paid no longer.
            for info in versions(&array, 100).await {
                array.remove_version(&photo(&info.name), info.version).await.unwrap();
            }
            model.files.clear();
            model.compare(&array, limit).await?;
            settle(|| rig.objects() == 0).await;
            Ok::<_, TestCaseError>(())
        })?;
    }
}
