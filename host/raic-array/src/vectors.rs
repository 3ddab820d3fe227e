//! Tests share format v1 with test vectors that were made once and are kept. Old shares are read
//! now, and new shares have the same bytes.

use std::{fs, path::PathBuf};

use bytes::Bytes;
use raic_storage::{Moment, ShareNum, StorageIndex};

use crate::{
    FileName, Keyring,
    codec::Codec,
    encoder::{Encoder, decode},
    format::{GROUP, Geometry, HEADER, Header, Padding, Role, Trailer, proof, root},
    keyring::Key,
    manifest::{Described, Manifest, Place},
    sealer::Sealer,
    share_hasher::is_authentic,
};

const INDEX: StorageIndex = StorageIndex(*b"storage index 16");

/// What a vector's shares are made of.
struct Vector {
    name: &'static str,
    geometry: Geometry,
    segment_size: u32,
    length: u64,
    padding: Padding,
    at: Place,
}

const WHOLE: Place = Place {
    position: 0,
    offset: 0,
    is_last: true,
};
const PLAIN: Vector = Vector {
    name: "plain",
    geometry: Geometry { k: 2, n: 4 },
    segment_size: 100,
    length: 250,
    padding: Padding::None,
    at: WHOLE,
};

const VECTORS: &[Vector] = &[
    PLAIN,
    Vector {
        name: "empty",
        length: 0,
        ..PLAIN
    },
    Vector {
        name: "two-pages",
        segment_size: 16,
        length: 4100,
        ..PLAIN
    },
    Vector {
        name: "copies",
        geometry: Geometry { k: 1, n: 3 },
        ..PLAIN
    },
    Vector {
        name: "many",
        geometry: Geometry { k: 10, n: 32 },
        ..PLAIN
    },
    Vector {
        name: "padded",
        length: 1000,
        padding: Padding::Padme,
        ..PLAIN
    },
    Vector {
        name: "later-extent",
        at: Place {
            position: 1,
            offset: 1 << 30,
            is_last: false,
        },
        ..PLAIN
    },
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn keyring() -> Keyring {
    Keyring::from_json(&fs::read(folder().join("keyring.json")).unwrap()).unwrap()
}

impl Vector {
    fn content(&self) -> Vec<u8> {
        (0..self.length)
            .map(|i| ((i * 131 + 7) % 251) as u8)
            .collect()
    }

    fn manifest(&self) -> Manifest {
        let file = Described {
            database: StorageIndex(*b"database of 2026"),
            sequence: 41,
            file: StorageIndex(*b"version of file."),
            name: FileName {
                bucket: "files".to_owned(),
                name: "a file with \u{e4}, and \"quotes\"".to_owned(),
            },
            account: "anonymous".to_owned(),
            modified: Moment::from_millis(1_795_000_000_123),
            wraps: keyring().newest(),
        };
        let content_hash = blake3::hash(&self.content()).into();
        Manifest::of_extent(&file, self.at, self.length, content_hash)
    }

    /// Makes the shares as this code writes them.
    fn written(&self) -> Vec<Vec<u8>> {
        let (keyring, key) = (keyring(), Key::new([0x42; 32]));
        let header = Header {
            array: keyring.array,
            index: INDEX,
            share: ShareNum(0),
            geometry: self.geometry,
            role: Role::File,
            segment_size: self.segment_size,
            may_ignore: 0,
        };
        let sealer = Sealer::new(&key, &keyring.array, INDEX, Role::File);
        let codec = Codec::new(self.geometry).unwrap();
        let mut encoder = Encoder::new(codec, sealer, header);
        let mut padded = self.content();
        padded.resize(self.padding.padded(self.length) as usize, 0);
        let size = self.segment_size as usize;
        let segments = padded.chunks(size).map(<[u8]>::to_vec);
        let pieces = encoder.encode(segments.collect()).unwrap();
        let manifest = self.manifest().encode().unwrap();
        let ended = encoder.finish(&manifest).unwrap();
        let mut trailer = Trailer {
            padded: padded.len() as u64,
            manifest_length: manifest.len() as u32,
            key: keyring
                .wrap_with(keyring.newest(), INDEX, &key, b"", [0x24; 12])
                .unwrap(),
            page_hashes: Vec::new(),
            roots: ended.roots.clone(),
        };
        let proof = proof(&header, &trailer.layout(&header), &ended.roots);
        trailer.key = keyring
            .wrap_with(keyring.newest(), INDEX, &key, &proof, [0x24; 12])
            .unwrap();
        let ends = pieces.iter().zip(&ended.pieces).zip(ended.page_hashes);
        let share = |((begin, end), page_hashes): ((&Bytes, &Bytes), _)| {
            let trailer = Trailer {
                page_hashes,
                ..trailer.clone()
            };
            [&begin[..], end, &trailer.encode()].concat()
        };
        ends.map(share).collect()
    }

    fn path(&self, share: usize) -> PathBuf {
        folder().join(self.name).join(format!("share-{share}.bin"))
    }

    /// Reads k of the kept shares, beginning with number `first`, as a recovery would do.
    fn read(&self, first: usize) -> (Vec<u8>, Manifest) {
        let n = usize::from(self.geometry.n);
        let numbers = (0..usize::from(self.geometry.k)).map(|i| (first + i) % n);
        let shares: Vec<Bytes> = numbers
            .map(|number| fs::read(self.path(number)).unwrap().into())
            .collect();
        let headers: Vec<Header> = shares
            .iter()
            .map(|share| Header::decode(&share[..HEADER as usize]).unwrap())
            .collect();
        let trailers: Vec<Trailer> = shares
            .iter()
            .zip(&headers)
            .map(|(share, header)| {
                let footer = share.len() - 16..share.len() - 8;
                let length = u64::from_be_bytes(share[footer].try_into().unwrap()) as usize;
                Trailer::decode(&share[share.len() - length..], header).unwrap()
            })
            .collect();
        let (header, trailer) = (&headers[0], &trailers[0]);
        assert_eq!((header.index, header.geometry), (INDEX, self.geometry));
        let layout = trailer.layout(header);
        assert_eq!(layout.share_length(), shares[0].len() as u64);
        let proof = proof(header, &layout, &trailer.roots);
        let key = keyring().unwrap(INDEX, &trailer.key, &proof).unwrap();
        let sealer = Sealer::new(&key, &header.array, INDEX, header.role);
        let codec = Codec::new(self.geometry).unwrap();
        let mut read = Vec::new();
        for segment in 0..layout.segments() {
            let group = segment / GROUP;
            let start = layout.block_offset(segment) as usize;
            let range = start..start + layout.block_length(segment) as usize;
            let page = layout.page_offset(group) as usize;
            let page = page..page + layout.blocks_in(group) as usize * 32;
            let blocks = shares.iter().zip(&headers).zip(&trailers);
            let blocks = blocks.map(|((share, header), trailer)| {
                let root = root(&header.encode(), &trailer.page_hashes);
                assert_eq!(root, trailers[0].roots[usize::from(header.share.0)]);
                let page = &share[page.clone()];
                assert_eq!(
                    trailer.page_hashes[group as usize],
                    *blake3::hash(page).as_bytes()
                );
                let block = share.slice(range.clone());
                assert!(is_authentic(&block, page, segment % GROUP));
                (header.share, block)
            });
            let blocks: Vec<_> = blocks.collect();
            read.extend(decode(&codec, &sealer, &layout, INDEX, segment, &blocks).unwrap());
        }
        let manifest = read.split_off(layout.padded as usize);
        (read, Manifest::decode(&manifest).unwrap())
    }
}

/// With RAIC_MAKE_VECTORS set, vectors that are missing are made.
#[test]
fn shares_are_written_as_they_were() {
    for vector in VECTORS {
        for (number, share) in vector.written().iter().enumerate() {
            let path = vector.path(number);
            if std::env::var_os("RAIC_MAKE_VECTORS").is_some() && !path.exists() {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, share).unwrap();
            }
            assert!(fs::read(&path).unwrap() == *share, "{}", path.display());
        }
    }
}

/// Old shares are read from the shares and the keyring alone.
#[test]
fn old_shares_read_without_a_catalog() {
    for vector in VECTORS {
        for first in 0..usize::from(vector.geometry.n) {
            let (mut read, manifest) = vector.read(first);
            let padding = read.split_off(vector.length as usize);
            assert_eq!(read, vector.content(), "{}", vector.name);
            assert_eq!(manifest, vector.manifest());
            assert!(padding.iter().all(|byte| *byte == 0));
            let padded = vector.padding.padded(vector.length);
            assert_eq!(padding.len() as u64, padded - vector.length);
        }
    }
}
