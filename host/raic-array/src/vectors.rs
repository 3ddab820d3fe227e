//! Tests share format v1 with test vectors that were made once and are kept. Old shares are read
//! now, and new shares have the same bytes.

use std::{fs, path::PathBuf};

use bytes::Bytes;
use raic_storage::{ShareNum, StorageIndex};

use crate::{
    Keyring,
    codec::Codec,
    format::{GROUP, Geometry, HEADER, Header, Layout, Trailer, root},
    keyring::Key,
    segment::{Encoder, Sealer, decode, is_authentic},
};

const INDEX: StorageIndex = StorageIndex(*b"storage index 16");
const GEOMETRY: Geometry = Geometry { k: 2, n: 4 };
const MANIFEST: &[u8] = br#"{"name":"a file"}"#;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn content() -> Vec<u8> {
    (0..250_u8).collect()
}

fn keyring() -> Keyring {
    Keyring::from_json(&fs::read(folder().join("keyring.json")).unwrap()).unwrap()
}

/// Makes the shares as this code writes them.
fn written() -> Vec<Vec<u8>> {
    let (keyring, key) = (keyring(), Key::new([0x42; 32]));
    let header = Header {
        array: keyring.array,
        index: INDEX,
        share: ShareNum(0),
        geometry: GEOMETRY,
        segment_size: 100,
    };
    let sealer = Sealer::new(&key, &keyring.array, INDEX);
    let mut encoder = Encoder::new(Codec::new(GEOMETRY).unwrap(), sealer, header);
    let mut segments: Vec<_> = content().chunks(100).map(<[u8]>::to_vec).collect();
    segments.push(MANIFEST.to_vec());
    let mut shares: Vec<_> = encoder
        .encode(segments, true)
        .unwrap()
        .iter()
        .map(|b| b.to_vec())
        .collect();
    let (generation, wrapped_key) = keyring.wrap(INDEX, &key).unwrap();
    let (pages, roots): (Vec<_>, Vec<_>) = encoder.finish().into_iter().unzip();
    for (share, page_hashes) in shares.iter_mut().zip(pages) {
        let (length, manifest_length) = (250, MANIFEST.len() as u32);
        let roots = roots.clone();
        share.extend(
            Trailer {
                length,
                manifest_length,
                generation,
                wrapped_key,
                page_hashes,
                roots,
            }
            .encode(),
        );
    }
    shares
}

#[test]
fn shares_are_written_as_they_were() {
    for (i, share) in written().iter().enumerate() {
        assert!(
            fs::read(folder().join(format!("v1-share-{i}.bin"))).unwrap() == *share,
            "share {i}"
        );
    }
}

/// Old shares are read from the shares and the keyring alone, as a recovery would do.
#[test]
fn old_shares_read_without_a_catalog() {
    let shares: Vec<Bytes> = (1..=2)
        .map(|i| {
            fs::read(folder().join(format!("v1-share-{i}.bin")))
                .unwrap()
                .into()
        })
        .collect();
    let header = Header::decode(&shares[0][..HEADER as usize]).unwrap();
    assert_eq!(
        (header.share, header.geometry, header.index),
        (ShareNum(1), GEOMETRY, INDEX)
    );
    let footer = shares[0].len() - 16..shares[0].len() - 8;
    let length = u64::from_be_bytes(shares[0][footer].try_into().unwrap()) as usize;
    let trailer = Trailer::decode(&shares[0][shares[0].len() - length..], &header).unwrap();
    assert_eq!(
        root(&header.encode(), &trailer.page_hashes),
        trailer.roots[1]
    );
    let layout = Layout {
        geometry: GEOMETRY,
        segment_size: header.segment_size,
        length: trailer.length,
        manifest_length: trailer.manifest_length,
    };
    assert_eq!(layout.share_length(), shares[0].len() as u64);
    let key = keyring()
        .unwrap(INDEX, trailer.generation, &trailer.wrapped_key)
        .unwrap();
    let (codec, sealer) = (
        Codec::new(GEOMETRY).unwrap(),
        Sealer::new(&key, &header.array, INDEX),
    );
    let mut read = Vec::new();
    for segment in 0..layout.segments() {
        let start = layout.block_offset(segment) as usize;
        let block =
            |share: &Bytes| share.slice(start..start + layout.block_length(segment) as usize);
        let page = &shares[0][layout.page_offset(segment / GROUP) as usize..];
        assert!(is_authentic(&block(&shares[0]), page, segment % GROUP));
        let blocks = [
            (ShareNum(1), block(&shares[0])),
            (ShareNum(2), block(&shares[1])),
        ];
        read.extend(decode(&codec, &sealer, &layout, INDEX, segment, &blocks).unwrap());
    }
    assert_eq!(read, [&content()[..], MANIFEST].concat());
}
