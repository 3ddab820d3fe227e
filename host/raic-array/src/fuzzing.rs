//! Entry points of the fuzz targets in `fuzz/`. Each function gives foreign bytes to a parser and
//! asserts properties of the outcome.

use bytes::Bytes;
use data_encoding::BASE32_NOPAD;
use raic_storage::{ShareNum, StorageIndex};

use crate::{
    Geometry, Key, Keyring, RecoveryKey,
    codec::Codec,
    encoder::{Encoder, decode},
    format::{GROUP, HASH, HEADER, Header, Layout, Padding, Role, Trailer, proof, root},
    manifest::Manifest,
    sealer::Sealer,
    share_hasher::is_authentic,
};

const INDEX: StorageIndex = StorageIndex([9; 16]);
const MANIFEST: &[u8] = &[b' '; 256];

fn keyring() -> Keyring {
    let text = format!(
        r#"{{"array":{:?},"generations":[{{"id":{:?},"key":{:?}}}],"identity":{:?}}}"#,
        [1_u8; 16], [4_u8; 16], [2_u8; 32], [3_u8; 32]
    );
    Keyring::from_json(text.as_bytes()).expect("a keyring of one generation")
}

/// Reads a file from shares that were changed, as a recovery without a catalog does. The input
/// gives the geometry, the sizes and the changes.
///
/// Only stored bytes are read, whatever was changed. k shares without a change suffice.
pub fn share(data: &[u8]) {
    let Some((&[k, more, segment_size, length], changes)) = data.split_first_chunk::<4>() else {
        return;
    };
    let k = 1 + k % 4;
    let geometry = Geometry {
        k,
        n: k + 1 + more % 3,
    };
    let content: Vec<u8> = (0..length).collect();
    let stored = shares(geometry, 1 + u32::from(segment_size % 64), &content);

    let mut changed = stored.clone();
    for change in changes.chunks_exact(4).take(64) {
        let share = usize::from(change[0]) % changed.len();
        let share = &mut changed[share];
        let place = usize::from(u16::from_be_bytes([change[1], change[2]]));
        match change[3] {
            0 => share.truncate(place % (share.len() + 1)),
            bits => {
                let place = place % share.len().max(1);
                share
                    .iter_mut()
                    .skip(place)
                    .take(1)
                    .for_each(|b| *b ^= bits);
            }
        }
    }
    let untouched = changed.iter().zip(&stored).filter(|(a, b)| a == b).count();
    match read(&changed) {
        Some(read) => {
            let padding = read.len() - content.len() - MANIFEST.len();
            assert_eq!(read, [&content[..], &vec![0; padding], MANIFEST].concat());
        }
        None => assert!(untouched < usize::from(k), "{untouched} shares are whole"),
    }
}

fn stream_key() -> Key {
    Key::new([0x42; 32])
}

/// Returns the shares of a file.
fn shares(geometry: Geometry, segment_size: u32, content: &[u8]) -> Vec<Vec<u8>> {
    let (keyring, key) = (keyring(), stream_key());
    let header = Header {
        array: keyring.array,
        index: INDEX,
        share: ShareNum(0),
        geometry,
        role: Role::File,
        segment_size,
        may_ignore: 0,
    };
    let codec = Codec::new(geometry).expect("a geometry that can be");
    let sealer = Sealer::new(&key, &keyring.array, INDEX, Role::File);
    let mut encoder = Encoder::new(codec, sealer, header);
    let size = usize::try_from(segment_size).expect("a small size");
    let mut padded = content.to_vec();
    let length = Padding::Padme.padded(content.len() as u64);
    padded.resize(usize::try_from(length).expect("a small size"), 0);
    let segments: Vec<Vec<u8>> = padded.chunks(size).map(<[u8]>::to_vec).collect();
    let begun = encoder.encode(segments).expect("segments are sealed");
    let ended = encoder.finish(MANIFEST).expect("segments are sealed");
    let layout = Layout {
        geometry,
        segment_size,
        padded: length,
        manifest_length: MANIFEST.len() as u32,
    };
    let wrapped = keyring.wrap(
        keyring.newest(),
        INDEX,
        &key,
        &proof(&header, &layout, &ended.roots),
    );
    let key = wrapped.expect("a key is wrapped");
    let share = |((begin, end), page_hashes): ((Bytes, Bytes), _)| {
        let trailer = Trailer {
            padded: length,
            manifest_length: layout.manifest_length,
            key,
            page_hashes,
            roots: ended.roots.clone(),
        };
        [&begin[..], &end, &trailer.encode()].concat()
    };
    let pieces = begun.into_iter().zip(ended.pieces);
    pieces.zip(ended.page_hashes).map(share).collect()
}

/// A share whose header, trailer and hash pages match each other.
struct Opened<'a> {
    bytes: &'a [u8],
    header: Header,
    trailer: Trailer,
    layout: Layout,
}

impl<'a> Opened<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let header = Header::decode(bytes.get(..usize::try_from(HEADER).ok()?)?)?;
        let (_, footer) = bytes.split_last_chunk::<16>()?;
        let length = u64::from_be_bytes(*footer.first_chunk::<8>()?);
        let start = bytes.len().checked_sub(usize::try_from(length).ok()?)?;
        let trailer = Trailer::decode(&bytes[start..], &header)?;
        let layout = trailer.layout(&header);
        let own = trailer.roots.get(usize::from(header.share.0))?;
        let is_whole = layout.share_length() == bytes.len() as u64
            && root(&header.encode(), &trailer.page_hashes) == *own;
        is_whole.then_some(Self {
            bytes,
            header,
            trailer,
            layout,
        })
    }

    /// Returns whether this is another share of the same stream.
    fn is_beside(&self, other: &Self) -> bool {
        let same_header = Header {
            share: other.header.share,
            ..self.header
        } == other.header;
        let of_stream = |opened: &Self| Trailer {
            page_hashes: Vec::new(),
            ..opened.trailer.clone()
        };
        same_header && of_stream(self) == of_stream(other)
    }

    fn part(&self, start: u64, length: u64) -> &'a [u8] {
        let place = |at: u64| usize::try_from(at).expect("it lies in the share");
        &self.bytes[place(start)..place(start + length)]
    }

    /// Returns a segment's block, if the block and its hash page are the stored ones.
    fn block(&self, segment: u64) -> Option<(ShareNum, Bytes)> {
        let group = segment / GROUP;
        let page_length = self.layout.blocks_in(group) * HASH as u64;
        let page = self.part(self.layout.page_offset(group), page_length);
        let hash = self.trailer.page_hashes.get(usize::try_from(group).ok()?)?;
        let block = self.part(
            self.layout.block_offset(segment),
            self.layout.block_length(segment),
        );
        let is_sound = blake3::hash(page) == *hash && is_authentic(block, page, segment % GROUP);
        is_sound.then(|| (self.header.share, Bytes::copy_from_slice(block)))
    }
}

/// Returns the content and the manifest of a file, if k blocks of every segment are authentic.
fn read(shares: &[Vec<u8>]) -> Option<Vec<u8>> {
    let opened: Vec<_> = shares.iter().filter_map(|s| Opened::new(s)).collect();
    let first = opened.first()?;
    let Header {
        array,
        index,
        geometry,
        ..
    } = first.header;
    let Trailer { key, roots, .. } = &first.trailer;
    let proof = proof(&first.header, &first.layout, roots);
    let key = keyring().unwrap(index, key, &proof).ok()?;
    let codec = Codec::new(geometry).ok()?;
    let sealer = Sealer::new(&key, &array, index, first.header.role);
    let mut whole = Vec::new();
    for segment in 0..first.layout.segments() {
        let beside = opened.iter().filter(|other| first.is_beside(other));
        let blocks = beside.filter_map(|share| share.block(segment));
        let blocks: Vec<_> = blocks.take(geometry.k.into()).collect();
        if blocks.len() < usize::from(geometry.k) {
            return None;
        }
        let content = decode(&codec, &sealer, &first.layout, index, segment, &blocks);
        whole.extend_from_slice(&content.ok()?);
    }
    Some(whole)
}

/// Reads the input as a recovery key, as a sealed keyring and as a keyring. Also makes each of them
/// from the input.
///
/// A recovery key is read as it was written down; with a slip it is not a recovery key. Only the
/// recovery key opens a sealed keyring, and only with every byte unchanged.
pub fn keys(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(key) = RecoveryKey::from_text(text)
    {
        assert_eq!(letters(&key.to_text()), letters(text));
    }
    let bytes: [u8; 32] = std::array::from_fn(|i| data.get(i).copied().unwrap_or_default());
    let check = blake3::hash(&bytes);
    let written = BASE32_NOPAD.encode(&[&bytes[..], &check.as_bytes()[..3]].concat());
    let Ok(recovery) = RecoveryKey::from_text(&written) else {
        panic!("{written} is a recovery key");
    };
    assert_eq!(letters(&recovery.to_text()), written);
    // The last letters belong to the check alone, so that no slip in them fits by chance.
    let slip = data.get(32).copied().unwrap_or_default();
    let (at, letter) = (
        written.len() - 1 - usize::from(slip % 4),
        (b'A' + slip / 10) as char,
    );
    let mut wrong = written.clone();
    wrong.replace_range(at..=at, &letter.to_string());
    assert_eq!(RecoveryKey::from_text(&wrong).is_ok(), wrong == written);

    assert!(Keyring::open(data, &recovery).is_err(), "nobody sealed it");
    check_keyring(data, data, &recovery);
    let generations = data.chunks_exact(48).take(4).map(|generation| {
        let (id, key) = generation.split_at(16);
        format!(r#"{{"id":{id:?},"key":{key:?}}}"#)
    });
    let generations: Vec<String> = generations.collect();
    let made = format!(
        r#"{{"array":{:?},"generations":[{}],"identity":{bytes:?}}}"#,
        &bytes[..16],
        generations.join(",")
    );
    let is_keyring = check_keyring(made.as_bytes(), data, &recovery);
    assert_eq!(is_keyring, !generations.is_empty(), "{made}");
}

/// Returns the letters and digits of a recovery key, in upper case.
fn letters(text: &str) -> String {
    let letters: String = text.chars().filter(|c| c.is_alphanumeric()).collect();
    letters.to_uppercase()
}

/// Checks a text as a keyring in the host's form, and returns whether it is one.
fn check_keyring(text: &[u8], data: &[u8], recovery: &RecoveryKey) -> bool {
    let Ok(keyring) = Keyring::from_json(text) else {
        return false;
    };
    let json = keyring.to_json();
    let again = Keyring::from_json(&json).expect("a keyring that was written");
    assert_eq!(again.to_json(), json);
    assert!(keyring.generation() >= 1);

    let mut sealed = keyring.seal(recovery).expect("the system has randomness");
    let opened = Keyring::open(&sealed, recovery).expect("a keyring that was sealed");
    assert_eq!(opened.to_json(), json);
    let at = data.iter().map(|byte| usize::from(*byte)).sum::<usize>() % sealed.len();
    sealed[at] ^= 1;
    assert!(Keyring::open(&sealed, recovery).is_err(), "byte {at}");

    let wrapped = keyring.wrap(keyring.newest(), INDEX, &stream_key(), data);
    let wrapped = wrapped.expect("a key is wrapped");
    let unwrapped = keyring.unwrap(INDEX, &wrapped, data);
    assert_eq!(unwrapped.expect("a key that was wrapped"), stream_key());
    let other = StorageIndex([8; 16]);
    assert!(keyring.unwrap(other, &wrapped, data).is_err());
    let other = [data, b"!"].concat();
    assert!(keyring.unwrap(INDEX, &wrapped, &other).is_err());
    true
}

/// Reads the input as a manifest. One that is read is written again as it was, but for its padding.
pub fn manifest(data: &[u8]) {
    let Some(manifest) = Manifest::decode(data) else {
        return;
    };
    let Ok(written) = manifest.encode() else {
        return;
    };
    assert_eq!(Manifest::decode(&written), Some(manifest));
}
