//! Entry points of the fuzz targets in `fuzz/`. Each function gives foreign bytes to a parser and
//! asserts properties of the outcome.

use std::{collections::BTreeSet, io::Cursor, sync::Arc};

use bytes::Bytes;
use futures::executor::block_on;
use raic_cloud::{Cloud as _, MAX_KEY_LEN, MemoryCloud, ObjectKey, Payload, WriteMode};

use crate::{
    ChunkBudget, CloudBackend, Container as _, Found, Generation, Identity, IssuedRuns,
    MemoryBackend, Owner, Ownership, Run, ServerId, ShareFile, ShareHeader, ShareId, ShareNum,
    Span, StorageIndex,
    commit::Commit,
    object::{ShareObject, parse_key, shareset_prefix},
    share_header::{FOOTER, HEADER, resembles_an_end},
};

/// The key that authenticates commits and owner objects.
const KEY: [u8; 32] = [7; 32];
/// The share to which commits belong.
const SHARE: ShareId = ShareId {
    index: StorageIndex([3; 16]),
    share: ShareNum(1),
};

/// Reads a share's header and end. The input is the share's length, its end, and its beginning.
///
/// A header is written with the bytes from which it was read. Only the first 48 bytes count. Shares
/// of a single length are whole by it.
pub fn share_header(data: &[u8]) {
    let Some((total, rest)) = data.split_first_chunk::<8>() else {
        return;
    };
    let Some((end, beginning)) = rest.split_first_chunk::<FOOTER>() else {
        return;
    };
    let total = u64::from_be_bytes(*total);
    let Some(parsed) = ShareHeader::parse(beginning) else {
        return;
    };
    let needed = &beginning[..beginning.len().min(HEADER)];
    assert_eq!(ShareHeader::parse(needed), Some(parsed));
    let is_whole = parsed.is_whole(total, end);
    match parsed {
        ShareHeader::Array => assert!(!is_whole || resembles_an_end(end)),
        ShareHeader::Immutable { header, length } => {
            let written = ShareHeader::immutable(length);
            let own = written.len() as u64;
            let read = ShareHeader::parse(&written);
            assert_eq!(
                read,
                Some(ShareHeader::Immutable {
                    header: own,
                    length
                })
            );
            // Tahoe has two versions of its header, and a small share may have the large one.
            if header == own && beginning[..4] != [0, 0, 0, 1] {
                assert!(beginning.starts_with(&written));
            }
            check_one_length(parsed, header.checked_add(length), total);
        }
        ShareHeader::Mutable { length, enabler } => {
            let written = ShareHeader::mutable(length, &enabler);
            assert!(beginning.starts_with(&written));
            check_one_length(parsed, length.checked_add(written.len() as u64), total);
        }
    }
}

fn check_one_length(header: ShareHeader, whole: Option<u64>, total: u64) {
    assert_eq!(header.is_whole(total, &[]), whole == Some(total));
    assert!(whole.is_none_or(|whole| header.is_whole(whole, &[])));
}

/// Reads a text as a storage index, a generation, the name of a share's object, and a key. If it is
/// one, it is written as the same text.
pub fn object_name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(index) = text.parse::<StorageIndex>() {
        assert_eq!(index.to_string(), text);
    }
    if let Ok(generation) = text.parse::<Generation>() {
        assert_eq!(generation.to_string(), text);
        assert_eq!(Generation::from_bytes(generation.to_bytes()), generation);
    }
    let prefix = shareset_prefix(SHARE.index);
    if let Some((share, object)) = ShareObject::parse(text) {
        let id = ShareId { share, ..SHARE };
        let key = object.key(id);
        assert_eq!(key.as_str(), format!("{prefix}{text}"));
        assert_eq!(parse_key(&key), Some((id, object)));
    }
    for key in [
        text.to_owned(),
        format!("shares/{text}"),
        format!("{prefix}{text}"),
    ] {
        let Ok(parsed) = ObjectKey::new(&key) else {
            continue;
        };
        assert_eq!(parsed.as_str(), key);
        assert!((1..=MAX_KEY_LEN).contains(&key.len()));
        assert!(!key.split('/').any(|part| matches!(part, "" | "." | "..")));
        if let Some((id, object)) = parse_key(&parsed) {
            assert_eq!(object.key(id), parsed);
        }
    }
}

/// Reads a container whose objects have the names in the input, one on each line. The walk finds
/// the shares that the names stand for, and no others.
pub fn listing(data: &[u8]) {
    let cloud = Arc::new(MemoryCloud::new("memory"));
    let mut named = BTreeSet::new();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let Ok(name) = std::str::from_utf8(line) else {
            continue;
        };
        // Few bytes suffice for two objects of one share.
        let keys = [
            format!("shares/{name}"),
            format!("{}{name}", shareset_prefix(SHARE.index)),
        ];
        for key in keys.iter().filter_map(|key| ObjectKey::new(key).ok()) {
            let content = Payload::from(Bytes::copy_from_slice(line));
            let put = block_on(cloud.put(&key, content, WriteMode::Overwrite));
            put.expect("a cloud in memory takes every object");
            named.extend(parse_key(&key));
        }
    }
    let backend = CloudBackend::new(cloud, 4, ChunkBudget::default());
    let found = block_on(backend.scan(Span::Whole, 1000)).expect("a whole listing");
    for share in &found {
        let objects: BTreeSet<_> = named.iter().filter(|(id, _)| *id == share.id).collect();
        assert!(!objects.is_empty(), "{share:?}");
        let is_immutable = |object: &ShareObject| matches!(object, ShareObject::Chunk(_));
        match &share.found {
            Found::Immutable { chunks, .. } => {
                for (_, object) in objects {
                    let ShareObject::Chunk(number) = *object else {
                        panic!("{object:?} in {share:?}");
                    };
                    // The highest number has no number after it, and no share has so many chunks.
                    let chunk = number..number.saturating_add(1);
                    assert!(chunks.contains(&chunk), "{number} in {share:?}");
                }
            }
            Found::Mutable { commits, chunks } => {
                let mutable = objects.iter().filter(|(_, object)| !is_immutable(object));
                assert_eq!(commits.len() + chunks.len(), mutable.count());
            }
        }
    }
    let ids: BTreeSet<_> = named.iter().map(|(id, _)| *id).collect();
    assert_eq!(found.len(), ids.len());
}

fn authentic(body: &[u8]) -> Vec<u8> {
    let mut mac = blake3::Hasher::new_keyed(&KEY);
    mac.update(&SHARE.index.0)
        .update(&[SHARE.share.0])
        .update(body);
    let mac = mac.finalize();
    [body, mac.as_bytes()].concat()
}

/// Reads the input as a commit of a mutable share, and again with the MAC that the array's own
/// hosts would give it.
///
/// Only a commit with its MAC is read, and only for its own share. It is the same after it was
/// written and read again.
pub fn commit(data: &[u8]) {
    assert_eq!(Commit::decode(data, &KEY, SHARE), None, "it has no MAC");
    check_commit(&authentic(data));
    check_commit(&authentic(&[&b"RAICCOM1"[..], data].concat()));

    // This body has the fixed fields, the right number of chunks, and the chunks.
    let (fixed, chunks) = data.split_at(data.len().min(77));
    let count = chunks.len() / 48;
    let mut body = b"RAICCOM1".to_vec();
    body.extend_from_slice(fixed);
    body.resize(8 + 77, 0);
    body.extend_from_slice(&(count as u32).to_be_bytes());
    body.extend_from_slice(&chunks[..48 * count]);
    let whole = authentic(&body);
    let read = Commit::decode(&whole, &KEY, SHARE).expect("a commit with all its fields");
    assert_eq!(read.chunks.len(), count);
    check_commit(&whole);

    let mut changed = whole;
    let at = data.iter().map(|byte| usize::from(*byte)).sum::<usize>() % changed.len();
    changed[at] ^= 1;
    assert_eq!(Commit::decode(&changed, &KEY, SHARE), None, "byte {at}");
}

fn check_commit(bytes: &[u8]) {
    let Some(commit) = Commit::decode(bytes, &KEY, SHARE) else {
        return;
    };
    let written = commit.encode(&KEY, SHARE);
    assert_eq!(written.len(), bytes.len());
    assert_eq!(
        Commit::decode(&written, &KEY, SHARE).as_ref(),
        Some(&commit)
    );
    assert!(commit.chunk_size > 0 && commit.chunks.len() * 48 < bytes.len());
    assert!(commit.named_beside(&commit).is_empty());
    let other = ShareId {
        share: ShareNum(2),
        ..SHARE
    };
    assert_eq!(Commit::decode(bytes, &KEY, other), None);
    assert_eq!(Commit::decode(bytes, &[8; 32], SHARE), None);
}

/// Reads the objects of a container below `raic/`: an owner object and a run that others wrote.
///
/// An object without its MAC never counts as this array's. With its MAC, its fields count.
pub fn owner(data: &[u8]) {
    let Some((flags, data)) = data.split_first() else {
        return;
    };
    check_owner(*flags, data);
    if let Ok(text) = std::str::from_utf8(data) {
        check_run(text);
    }
}

/// The number of the cloud.
const NUMBER: u32 = 3;
/// The number of this process's run.
const RUN: u64 = 7;

fn own() -> Owner {
    let identity = Identity {
        database: StorageIndex([2; 16]),
        epoch: 5,
    };
    Owner {
        array: [1; 16],
        key: KEY,
        identity,
    }
}

/// Returns the ownership of a container that has these objects.
fn ownership(objects: &[(&str, Vec<u8>)]) -> Ownership {
    let run = Run {
        number: RUN,
        nonce: StorageIndex([4; 16]),
    };
    let issued = IssuedRuns {
        run,
        all: [(run.nonce, run.number)].into(),
    };
    let backend = MemoryBackend::new("memory");
    let checked = block_on(async {
        for (name, content) in objects {
            backend.store_object(name, content.clone().into()).await?;
        }
        own().check(&backend, ServerId::of(NUMBER), &issued).await
    });
    checked.expect("a backend in memory answers")
}

fn check_owner(flags: u8, data: &[u8]) {
    let owner = own();
    let forged = ownership(&[("owner.1.other", data.to_vec())]);
    assert_eq!(forged, Ownership::OtherArray, "it has no MAC");

    let Some(fields) = data.first_chunk::<48>() else {
        return;
    };
    let mut body = *fields;
    let is_record = flags & 1 == 0;
    if is_record {
        body[..8].copy_from_slice(b"RAICOWN1");
        body[8..24].copy_from_slice(&owner.array);
    }
    if flags & 2 == 0 {
        body[24..28].copy_from_slice(&NUMBER.to_be_bytes());
    }
    if flags & 4 == 0 {
        body[28..32].copy_from_slice(&owner.identity.epoch.to_be_bytes());
    }
    if flags & 8 == 0 {
        body[32..].copy_from_slice(&owner.identity.database.0);
    }
    let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| body[at + i]));
    let (cloud, epoch) = (number(24), number(28));
    let expected = if body[..8] != *b"RAICOWN1" || body[8..24] != owner.array {
        Ownership::OtherArray
    } else if body[32..] != owner.identity.database.0 {
        Ownership::OtherDatabase { epoch }
    } else if cloud != NUMBER {
        Ownership::OtherCloud { number: cloud }
    } else if epoch == owner.identity.epoch {
        Ownership::Ours
    } else {
        Ownership::OursBefore
    };
    let mac = blake3::keyed_hash(&KEY, &body);
    let whole = [&body[..], mac.as_bytes()].concat();
    assert_eq!(ownership(&[("owner.1.other", whole)]), expected);

    let written = owner.encode(ServerId::of(NUMBER));
    let name = owner.object();
    assert_eq!(ownership(&[(name.as_str(), written)]), Ownership::Ours);
}

fn check_run(text: &str) {
    let owner = own();
    let (object, record) = (owner.object(), owner.encode(ServerId::of(NUMBER)));
    let name = format!("run.{}.{text}", owner.identity.database);
    let with_run = |content: Vec<u8>| {
        ownership(&[(object.as_str(), record.clone()), (name.as_str(), content)])
    };
    let made_up = with_run(vec![0; 32]);
    assert_eq!(made_up, Ownership::Ours, "the run has no MAC");
    let mac = blake3::keyed_hash(&KEY, name.as_bytes());
    match with_run(mac.as_bytes().to_vec()) {
        Ownership::Ours => {}
        Ownership::Copied { theirs, ours } => {
            let (number, nonce) = text.split_once('.').expect("a number and a nonce");
            assert_eq!((number.parse::<u64>().ok(), ours), (Some(theirs), RUN));
            assert!(nonce.parse::<StorageIndex>().is_ok(), "{nonce:?}");
        }
        other => panic!("{other:?} by the run {name:?}"),
    }
}

/// Reads a file in which Tahoe-LAFS keeps a share. What is read is written as version 2 and read
/// again.
pub fn tahoe_file(data: &[u8]) {
    let read = |bytes: &[u8]| ShareFile::read(&mut Cursor::new(bytes), bytes.len() as u64);
    let Ok(file) = read(data) else {
        return;
    };
    let (start, end) = (file.offset as usize, (file.offset + file.length) as usize);
    let content = &data[start..end];
    let (before, after) = file.around();
    let written = [&before[..], content, &after].concat();
    let again = read(&written).expect("what is written is a share");
    assert_eq!((again.kind, again.length), (file.kind, file.length));
    assert_eq!(again.leases, file.leases);
}
