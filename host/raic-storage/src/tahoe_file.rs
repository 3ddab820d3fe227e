//! The files in which Tahoe-LAFS keeps shares on a disk.
//!
//! Source: the layouts of its storage folders, versions 1 and 2. Version 1 has the secrets of
//! leases in clear, version 2 has their BLAKE2b-256. Numbers are big-endian.
//!
//! | immutable: offset | bytes | |
//! | --- | --- | --- |
//! | 0 | 4 | version, 1 or 2 |
//! | 4 | 4 | length of the data, or 2^32-1 if it is longer |
//! | 8 | 4 | number of leases |
//! | 12 | | data, and then 72 bytes for each lease |
//!
//! | mutable: offset | bytes | |
//! | --- | --- | --- |
//! | 0 | 32 | magic |
//! | 32 | 20 | id of the server that took the write enabler |
//! | 52 | 32 | write enabler |
//! | 84 | 8 | length of the data |
//! | 92 | 8 | offset of the further leases |
//! | 100 | 368 | four leases of 92 bytes |
//! | 468 | | data, and then the number of further leases (4 bytes) and the leases |

use std::io::{self, Read, Seek, SeekFrom};

use crate::{Moment, RenewSecret, WriteEnabler};

const IMMUTABLE_HEADER: u64 = 12;
const IMMUTABLE_LEASE: u64 = 72;
const MUTABLE_HEADER: u64 = 468;
const MUTABLE_LEASE: u64 = 92;
/// Offset of the first lease of a mutable share.
const SLOTS: usize = 100;
/// Leases that lie before a mutable share's data.
const FIRST_LEASES: usize = 4;
/// Most leases of a file. No honest share has so many.
const MOST_LEASES: u64 = 65_536;
const MAGIC: &[u8; 27] = b"Tahoe mutable container v1\n";
const MAGIC_1: [u8; 5] = [0x75, 0x09, 0x44, 0x03, 0x8e];
const MAGIC_2: [u8; 5] = [0xc3, 0x55, 0x21, 0x99, 0x25];

/// A lease in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLease {
    /// The secret by which its client renews it.
    pub renew: RenewSecret,
    /// When it ends.
    pub expires: Moment,
}

/// The kind of a share in a file, and what only that kind has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// An immutable share.
    Immutable,
    /// A mutable share.
    Mutable {
        /// The secret that guards its slot.
        enabler: WriteEnabler,
        /// Id of the server that took it. Clients derive secrets from it.
        server: [u8; 20],
    },
}

/// What a file has beside a share's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareFile {
    /// Kind of the share.
    pub kind: FileKind,
    /// Offset of the data in the file, in bytes.
    pub offset: u64,
    /// Length of the data, in bytes.
    pub length: u64,
    /// The leases, without those that are empty.
    pub leases: Vec<FileLease>,
}

/// A file that is not a share, or not a whole one.
#[derive(Debug, thiserror::Error)]
pub enum NotAShareFile {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The file is not a share. Holds what is wrong.
    #[error("{0}")]
    Layout(&'static str),
}

type Read1<T> = Result<T, NotAShareFile>;

fn number<const N: usize>(bytes: &[u8], offset: usize) -> Read1<[u8; N]> {
    let part = bytes
        .get(offset..offset + N)
        .and_then(|b| b.try_into().ok());
    part.ok_or(NotAShareFile::Layout("it is too short"))
}

fn u32_at(bytes: &[u8], offset: usize) -> Read1<u32> {
    Ok(u32::from_be_bytes(number(bytes, offset)?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Read1<u64> {
    Ok(u64::from_be_bytes(number(bytes, offset)?))
}

/// How a file keeps the secrets of leases.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Schema {
    Clear,
    Hashed,
}

impl Schema {
    fn renew(self, stored: [u8; 32]) -> Option<RenewSecret> {
        match self {
            Self::Clear => Some(RenewSecret::of(&stored)),
            Self::Hashed => RenewSecret::from_hash(stored),
        }
    }
}

fn lease(schema: Schema, renew: [u8; 32], expires: u32) -> Option<FileLease> {
    Some(FileLease {
        renew: schema.renew(renew)?,
        expires: Moment::from_millis(i64::from(expires) * 1000),
    })
}

fn read_at(file: &mut (impl Read + Seek), offset: u64, length: u64) -> Read1<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    match bytes.len() as u64 == length {
        true => Ok(bytes),
        false => Err(NotAShareFile::Layout("it is too short")),
    }
}

impl ShareFile {
    /// Reads all but the data of a file of `size` bytes.
    ///
    /// # Errors
    /// Fails if the file is not a whole share, or cannot be read.
    pub fn read(file: &mut (impl Read + Seek), size: u64) -> Read1<Self> {
        let beginning = read_at(file, 0, size.min(MUTABLE_HEADER))?;
        let schema = match beginning.get(..32) {
            Some(magic) if magic[..25] == MAGIC[..25] && magic[26] == MAGIC[26] => {
                match (magic[25], &magic[27..]) {
                    (b'1', rest) if *rest == MAGIC_1 => Some(Schema::Clear),
                    (b'2', rest) if *rest == MAGIC_2 => Some(Schema::Hashed),
                    _ => return Err(NotAShareFile::Layout("it is of an unknown version")),
                }
            }
            _ => None,
        };
        match schema {
            Some(schema) => Self::mutable(file, size, schema, &beginning),
            None => Self::immutable(file, size, &beginning),
        }
    }

    fn immutable(file: &mut (impl Read + Seek), size: u64, beginning: &[u8]) -> Read1<Self> {
        let schema = match u32_at(beginning, 0)? {
            1 => Schema::Clear,
            2 => Schema::Hashed,
            _ => return Err(NotAShareFile::Layout("it is neither kind of share")),
        };
        let (field, count) = (u32_at(beginning, 4)?, u64::from(u32_at(beginning, 8)?));
        let body = size - IMMUTABLE_HEADER;
        // The field shows whether the number of leases is right: a server that crashed while it
        // added a lease has left a number that is one too low.
        let fits = |length: u64| {
            u32::try_from(length).unwrap_or(u32::MAX) == field
                || length & 0xffff_ffff == u64::from(field)
        };
        let by_count = count
            .checked_mul(IMMUTABLE_LEASE)
            .and_then(|l| body.checked_sub(l));
        let by_field = body.checked_sub(u64::from(field));
        let length = match (by_count, by_field) {
            (Some(length), _) if fits(length) => length,
            (_, Some(leases)) if leases % IMMUTABLE_LEASE == 0 => u64::from(field),
            _ => {
                return Err(NotAShareFile::Layout(
                    "its length is not what its header says",
                ));
            }
        };
        let leases = body - length;
        if leases / IMMUTABLE_LEASE > MOST_LEASES {
            return Err(NotAShareFile::Layout("it has too many leases"));
        }
        let bytes = read_at(file, IMMUTABLE_HEADER + length, leases)?;
        let mut all = Vec::new();
        for one in bytes.chunks_exact(IMMUTABLE_LEASE as usize) {
            all.extend(lease(schema, number(one, 4)?, u32_at(one, 68)?));
        }
        Ok(Self {
            kind: FileKind::Immutable,
            offset: IMMUTABLE_HEADER,
            length,
            leases: all,
        })
    }

    fn mutable(
        file: &mut (impl Read + Seek),
        size: u64,
        schema: Schema,
        beginning: &[u8],
    ) -> Read1<Self> {
        let (length, further) = (u64_at(beginning, 84)?, u64_at(beginning, 92)?);
        let end = MUTABLE_HEADER.checked_add(length);
        let whole = end.is_some_and(|end| end <= further) && further.checked_add(4).is_some();
        if !whole || further + 4 > size {
            return Err(NotAShareFile::Layout("its data goes past its end"));
        }
        let count = u64::from(u32_at(&read_at(file, further, 4)?, 0)?);
        if count > MOST_LEASES {
            return Err(NotAShareFile::Layout("it has too many leases"));
        }
        let more = read_at(file, further + 4, count * MUTABLE_LEASE)?;
        let first = beginning.get(SLOTS..).unwrap_or_default();
        let mut all = Vec::new();
        for one in first.chunks_exact(92).chain(more.chunks_exact(92)) {
            // Owner 0 is an empty place.
            if u32_at(one, 0)? != 0 {
                all.extend(lease(schema, number(one, 8)?, u32_at(one, 4)?));
            }
        }
        Ok(Self {
            kind: FileKind::Mutable {
                enabler: WriteEnabler(number(beginning, 52)?),
                server: number(beginning, 32)?,
            },
            offset: MUTABLE_HEADER,
            length,
            leases: all,
        })
    }

    /// Makes the bytes of a file of version 2 that stand before and after the data.
    pub fn around(&self) -> (Vec<u8>, Vec<u8>) {
        match self.kind {
            FileKind::Immutable => self.around_immutable(),
            FileKind::Mutable { enabler, server } => self.around_mutable(enabler, server),
        }
    }

    fn around_immutable(&self) -> (Vec<u8>, Vec<u8>) {
        let count = u32::try_from(self.leases.len()).unwrap_or(u32::MAX);
        let length = u32::try_from(self.length).unwrap_or(u32::MAX);
        let before = [2, length, count].map(u32::to_be_bytes).concat();
        let mut after = Vec::new();
        for (i, lease) in self.leases.iter().enumerate() {
            let owner = u32::from(i > 0);
            after.extend(owner.to_be_bytes());
            after.extend(lease.renew.hash());
            after.extend(cancel(lease));
            after.extend(seconds(lease).to_be_bytes());
        }
        (before, after)
    }

    fn around_mutable(&self, enabler: WriteEnabler, server: [u8; 20]) -> (Vec<u8>, Vec<u8>) {
        let further = MUTABLE_HEADER + self.length;
        let mut before = [&MAGIC[..25], b"2\n", &MAGIC_2].concat();
        before.extend(server);
        before.extend(enabler.0);
        before.extend(self.length.to_be_bytes());
        before.extend(further.to_be_bytes());
        let (first, more) = self.leases.split_at(self.leases.len().min(FIRST_LEASES));
        first
            .iter()
            .for_each(|lease| mutable_lease(&mut before, lease, server));
        before.resize(MUTABLE_HEADER as usize, 0);
        let count = u32::try_from(more.len()).unwrap_or(u32::MAX);
        let mut after = count.to_be_bytes().to_vec();
        more.iter()
            .for_each(|lease| mutable_lease(&mut after, lease, server));
        (before, after)
    }
}

fn mutable_lease(bytes: &mut Vec<u8>, lease: &FileLease, server: [u8; 20]) {
    bytes.extend(1_u32.to_be_bytes());
    bytes.extend(seconds(lease).to_be_bytes());
    bytes.extend(lease.renew.hash());
    bytes.extend(cancel(lease));
    bytes.extend(server);
}

fn seconds(lease: &FileLease) -> u32 {
    let seconds = lease.expires.as_millis().div_euclid(1000);
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}

/// The hash of a cancel secret that nobody has. No client uses cancel secrets, but two leases of
/// one share must not have the same: the reference server would end both at once.
fn cancel(lease: &FileLease) -> [u8; 32] {
    blake3::derive_key(
        "RAIC 2026-11 cancel secret of an exported lease v1",
        &lease.renew.hash(),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn written(file: &ShareFile, data: &[u8]) -> Vec<u8> {
        let (before, after) = file.around();
        [&before[..], data, &after].concat()
    }

    fn read(bytes: &[u8]) -> Read1<ShareFile> {
        ShareFile::read(&mut Cursor::new(bytes), bytes.len() as u64)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            is_mutable: bool, data in proptest::collection::vec(any::<u8>(), 0..300),
            leases in proptest::collection::vec((any::<[u8; 32]>(), any::<u32>()), 0..7),
        ) {
            let leases = leases.iter().map(|(secret, expires)| FileLease {
                renew: RenewSecret::of(secret),
                expires: Moment::from_millis(i64::from(*expires) * 1000),
            });
            let (kind, offset) = match is_mutable {
                true => (FileKind::Mutable { enabler: WriteEnabler([7; 32]), server: [9; 20] }, 468),
                false => (FileKind::Immutable, 12),
            };
            let file = ShareFile { kind, offset, length: data.len() as u64, leases: leases.collect() };
            let bytes = written(&file, &data);
            prop_assert_eq!(&read(&bytes).unwrap(), &file);
            for end in [bytes.len() - 1, bytes.len() / 2, 11, 0] {
                // Of an immutable share, leases may be missing: a server may have crashed while it
                // added one.
                let cut = read(&bytes[..end]);
                prop_assert!(cut.is_err() || (!is_mutable && cut.unwrap().length == file.length));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..700), magic: bool) {
            if magic && bytes.len() >= 32 {
                bytes[..32].copy_from_slice(&[&MAGIC[..], &MAGIC_1].concat());
            }
            if let Ok(file) = read(&bytes) {
                prop_assert!(file.offset + file.length <= bytes.len() as u64);
            }
        }
    }

    #[test]
    fn version_1_has_the_secrets_in_clear() {
        let mut bytes = [1, 3, 1].map(u32::to_be_bytes).concat();
        bytes.extend(b"abc");
        bytes.extend(0_u32.to_be_bytes());
        bytes.extend([0x61; 32]);
        bytes.extend([0x62; 32]);
        bytes.extend(1_000_u32.to_be_bytes());
        let file = read(&bytes).unwrap();
        assert_eq!((file.length, file.leases.len()), (3, 1));
        let hash = "cfd2ba025f16d28c90d9ea00770bbb2cb585551b430e7e049c5ce6a8507a03a7";
        let read_hash: String = file.leases[0]
            .renew
            .hash()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(read_hash, hash);
        // A server that crashed while it added a lease.
        bytes[11] = 0;
        assert_eq!(read(&bytes).unwrap(), file);
    }
}
