//! The container header: what a share's first bytes say of it, so that its length tells whole from
//! torn.
//!
//! | first bytes | what | its length |
//! | --- | --- | --- |
//! | `RAICSHR1` | a share of an array | in its trailer, which ends with `RAICEND1` |
//! | version 1 or 2, size, 0 (32 bits each) | an immutable Tahoe share, no leases | in the header |
//! | `RAICIMM1`, size (64 bits) | the same, where 32 bits cannot say the size | in the header |
//! | `RAICMUT1`, size (64 bits), enabler's hash | a mutable share in a file | in the header |
//!
//! Numbers are big-endian. Source of the Tahoe header: its specification of the share file format.

/// The bytes of a share's beginning that tell all of this.
pub(crate) const HEADER: usize = 48;
/// The bytes of an array share's end that tell whether it is one.
pub(crate) const FOOTER: usize = 16;

const ARRAY: &[u8; 8] = b"RAICSHR1";
const ARRAY_END: &[u8; 8] = b"RAICEND1";
const LARGE: &[u8; 8] = b"RAICIMM1";
const MUTABLE: &[u8; 8] = b"RAICMUT1";
const TAHOE: u32 = 2;
const TAHOE_HEADER: u64 = 12;
const LARGE_HEADER: u64 = 16;
/// Where a mutable share's bytes begin in its file.
pub(crate) const MUTABLE_HEADER: u64 = 48;

/// What a share's first bytes say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// Of an array; its end says how long it is.
    Array,
    /// Of Tahoe-LAFS, immutable.
    Immutable {
        /// Bytes of the header.
        header: u64,
        /// Bytes of the share after it.
        length: u64,
    },
    /// Of Tahoe-LAFS, mutable, in one file.
    Mutable {
        /// Bytes of the share after the header.
        length: u64,
        /// The write enabler's hash.
        enabler: [u8; 32],
    },
}

impl Container {
    /// Reads the beginning of a share, as much of 48 bytes as it has; none where it is no share of
    /// ours.
    pub fn parse(beginning: &[u8]) -> Option<Self> {
        let number = |at: usize| {
            let bytes = beginning.get(at..at + 8)?;
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

    /// The header of an immutable Tahoe share of `length` bytes.
    pub fn immutable(length: u64) -> Vec<u8> {
        match u32::try_from(length) {
            Ok(size) if size != u32::MAX => [TAHOE, size, 0].map(u32::to_be_bytes).concat(),
            _ => [&LARGE[..], &length.to_be_bytes()].concat(),
        }
    }

    /// The header of a mutable share's file.
    pub(crate) fn mutable(length: u64, enabler: &[u8; 32]) -> Vec<u8> {
        [&MUTABLE[..], &length.to_be_bytes(), enabler].concat()
    }

    /// Whether a share of `total` bytes that ends with `end` (its last 16 bytes) is whole.
    pub fn is_whole(&self, total: u64, end: &[u8]) -> bool {
        match self {
            Self::Immutable { header, length } => header.checked_add(*length) == Some(total),
            Self::Mutable { length, .. } => MUTABLE_HEADER.checked_add(*length) == Some(total),
            Self::Array => {
                // The trailer's own length, in bytes: it lies after the header and ends where the
                // share does.
                let trailer = end
                    .get(..8)
                    .and_then(|b| b.try_into().ok())
                    .map(u64::from_be_bytes);
                end.get(8..) == Some(&ARRAY_END[..]) && trailer.is_some_and(|t| t > 16 && t < total)
            }
        }
    }
}

/// Whether a share's last 16 bytes look like the end of an array's with some bits changed: content
/// does so by chance once in many millions.
pub(crate) fn resembles_an_end(end: &[u8]) -> bool {
    let magic = end.get(8..16).map(|end| {
        end.iter()
            .zip(ARRAY_END)
            .map(|(a, b)| (a ^ b).count_ones())
            .sum::<u32>()
    });
    // Or its magic is gone, and what stands before it is a length of few bytes.
    magic.is_some_and(|changed| changed <= 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tahoes_header_up_to_where_it_ends_then_ours() {
        assert_eq!(
            Container::immutable(5),
            [0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0]
        );
        for length in [0, 1, 0xffff_fffe, 0xffff_ffff, 1 << 32, u64::MAX >> 1] {
            let header = Container::immutable(length);
            let parsed = Container::parse(&header).unwrap();
            assert_eq!(
                parsed,
                Container::Immutable {
                    header: header.len() as u64,
                    length
                }
            );
            assert!(parsed.is_whole(header.len() as u64 + length, b""));
            assert!(
                !parsed.is_whole(header.len() as u64 + length + 1, b"") && !parsed.is_whole(3, b"")
            );
        }
        assert_eq!(Container::immutable(0xffff_ffff).len(), 16);
        // A lease count that is not zero is Tahoe's own file, not a share of ours.
        assert_eq!(
            Container::parse(&[0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 1]),
            None
        );
    }

    #[test]
    fn an_arrays_share_is_whole_by_its_end() {
        let array = Container::parse(b"RAICSHR1 and more").unwrap();
        let end = [&200_u64.to_be_bytes()[..], b"RAICEND1"].concat();
        assert!(array.is_whole(1_000, &end) && !array.is_whole(200, &end));
        assert!(!array.is_whole(1_000, b"something else..") && !array.is_whole(1_000, b""));
    }

    #[test]
    fn a_mutable_share_carries_length_and_enabler() {
        let header = Container::mutable(7, &[9; 32]);
        assert_eq!(header.len() as u64, MUTABLE_HEADER);
        assert_eq!(
            Container::parse(&header),
            Some(Container::Mutable {
                length: 7,
                enabler: [9; 32]
            })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), total: u64) {
            if let Some(container) = Container::parse(&bytes) {
                container.is_whole(total, &bytes);
            }
        }
    }
}
