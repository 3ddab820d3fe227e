//! The header of a share: its first bytes, which lead to its length. The length shows whether the
//! share is whole or torn.
//!
//! | first bytes | kind of share | place of its length |
//! | --- | --- | --- |
//! | `RAICSHR1` | a share of an array | in its trailer, which ends with `RAICEND1` |
//! | version 1 or 2, size, 0 (32 bits each) | an immutable Tahoe share, no leases | in the header |
//! | `RAICIMM1`, size (64 bits) | the same, if the size does not fit 32 bits | in the header |
//! | `RAICMUT1`, size (64 bits), enabler's hash | a mutable share in a file | in the header |
//!
//! Numbers are big-endian. Source of the Tahoe header: its specification of the share file format.

/// Bytes of a share's beginning that [`ShareHeader::parse`] needs, at most.
pub(crate) const HEADER: usize = 48;
/// Bytes of an array share's end that [`ShareHeader::is_whole`] needs.
pub(crate) const FOOTER: usize = 16;

const ARRAY: &[u8; 8] = b"RAICSHR1";
const ARRAY_END: &[u8; 8] = b"RAICEND1";
const LARGE: &[u8; 8] = b"RAICIMM1";
const MUTABLE: &[u8; 8] = b"RAICMUT1";
const TAHOE: u32 = 2;
const TAHOE_HEADER: u64 = 12;
const LARGE_HEADER: u64 = 16;
/// Offset in a mutable share's file at which its content begins.
pub(crate) const MUTABLE_HEADER: u64 = 48;

/// The header of a share, as read from its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareHeader {
    /// A share of an array. Its end has its length.
    Array,
    /// An immutable share of Tahoe-LAFS.
    Immutable {
        /// Length of the header, in bytes.
        header: u64,
        /// Length of the content after the header, in bytes.
        length: u64,
    },
    /// A mutable share of Tahoe-LAFS in one file.
    Mutable {
        /// Length of the content after the header, in bytes.
        length: u64,
        /// Keyed hash of the write enabler.
        enabler: [u8; 32],
    },
}

impl ShareHeader {
    /// Reads the header from the first 48 bytes of a share, or from all of a shorter one. Returns
    /// `None` if they are not the beginning of a share of ours.
    pub fn parse(beginning: &[u8]) -> Option<Self> {
        let number = |offset: usize| {
            let bytes = beginning.get(offset..offset + 8)?;
            Some(u64::from_be_bytes(bytes.try_into().ok()?))
        };
        match beginning.get(..8)? {
            magic if magic == ARRAY => Some(Self::Array),
            magic if magic == LARGE => Some(Self::Immutable {
                header: LARGE_HEADER,
                length: number(8)?,
            }),
            magic if magic == MUTABLE => Some(Self::Mutable {
                length: number(8)?,
                enabler: beginning.get(16..48)?.try_into().ok()?,
            }),
            _ => {
                let (head, leases) = (number(0)?, beginning.get(8..12)?);
                let (version, length) = (head >> 32, head & 0xffff_ffff);
                let known = matches!(version, 1 | 2) && length != 0xffff_ffff && leases == [0; 4];
                known.then_some(Self::Immutable {
                    header: TAHOE_HEADER,
                    length,
                })
            }
        }
    }

    /// Makes the header of an immutable Tahoe share whose content has `length` bytes.
    pub fn immutable(length: u64) -> Vec<u8> {
        match u32::try_from(length) {
            Ok(size) if size != u32::MAX => [TAHOE, size, 0].map(u32::to_be_bytes).concat(),
            _ => [&LARGE[..], &length.to_be_bytes()].concat(),
        }
    }

    /// Makes the header of a mutable share's file, whose content has `length` bytes.
    pub(crate) fn mutable(length: u64, enabler: &[u8; 32]) -> Vec<u8> {
        [&MUTABLE[..], &length.to_be_bytes(), enabler].concat()
    }

    /// Returns whether a share of `total` bytes, header included, is whole. `end` has its last 16
    /// bytes.
    pub fn is_whole(&self, total: u64, end: &[u8]) -> bool {
        match self {
            Self::Immutable { header, length } => header.checked_add(*length) == Some(total),
            Self::Mutable { length, .. } => MUTABLE_HEADER.checked_add(*length) == Some(total),
            Self::Array => {
                // The length of the trailer, in bytes. The trailer lies after the header and ends
                // with the share.
                let trailer = end
                    .get(..8)
                    .and_then(|b| b.try_into().ok())
                    .map(u64::from_be_bytes);
                end.get(8..) == Some(&ARRAY_END[..]) && trailer.is_some_and(|t| t > 16 && t < total)
            }
        }
    }
}

/// Returns whether a share's last 16 bytes look like the end of an array's share with some bits
/// changed. Random content does so once in about 26,000 cases.
pub(crate) fn resembles_an_end(end: &[u8]) -> bool {
    let magic = end.get(8..16).map(|end| {
        end.iter()
            .zip(ARRAY_END)
            .map(|(a, b)| (a ^ b).count_ones())
            .sum::<u32>()
    });
    // At most 16 of the magic's 64 bits are changed.
    magic.is_some_and(|changed| changed <= 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tahoes_header_up_to_where_it_ends_then_ours() {
        assert_eq!(
            ShareHeader::immutable(5),
            [0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0]
        );
        for length in [0, 1, 0xffff_fffe, 0xffff_ffff, 1 << 32, u64::MAX >> 1] {
            let header = ShareHeader::immutable(length);
            let parsed = ShareHeader::parse(&header).unwrap();
            assert_eq!(
                parsed,
                ShareHeader::Immutable {
                    header: header.len() as u64,
                    length
                }
            );
            assert!(parsed.is_whole(header.len() as u64 + length, b""));
            assert!(
                !parsed.is_whole(header.len() as u64 + length + 1, b"") && !parsed.is_whole(3, b"")
            );
        }
        assert_eq!(ShareHeader::immutable(0xffff_ffff).len(), 16);
        // A lease count that is not zero is Tahoe's own file, not a share of ours.
        assert_eq!(
            ShareHeader::parse(&[0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 1]),
            None
        );
    }

    #[test]
    fn an_arrays_share_is_whole_by_its_end() {
        let array = ShareHeader::parse(b"RAICSHR1 and more").unwrap();
        let end = [&200_u64.to_be_bytes()[..], b"RAICEND1"].concat();
        assert!(array.is_whole(1_000, &end) && !array.is_whole(200, &end));
        assert!(!array.is_whole(1_000, b"something else..") && !array.is_whole(1_000, b""));
    }

    #[test]
    fn a_mutable_share_carries_length_and_enabler() {
        let header = ShareHeader::mutable(7, &[9; 32]);
        assert_eq!(header.len() as u64, MUTABLE_HEADER);
        assert_eq!(
            ShareHeader::parse(&header),
            Some(ShareHeader::Mutable {
                length: 7,
                enabler: [9; 32]
            })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), total: u64) {
            if let Some(container) = ShareHeader::parse(&bytes) {
                container.is_whole(total, &bytes);
            }
        }
    }
}
