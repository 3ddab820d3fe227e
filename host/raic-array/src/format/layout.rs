//! Where the blocks and hash pages of a share lie.

use super::{GROUP, Geometry, HASH, HEADER, MAX_MANIFEST, MAX_SEGMENT, MAX_STREAM, TAG, trailer};

/// The layout of every share of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Geometry of the stream.
    pub geometry: Geometry,
    /// Bytes of content in every segment but the last one of the content, and the last one of the
    /// manifest.
    pub segment_size: u32,
    /// Bytes of content in the whole stream, with its padding.
    pub padded: u64,
    /// Bytes of the manifest. Its segments follow those of the content.
    pub manifest_length: u32,
}

impl Layout {
    /// Returns whether the numbers are those of a stream. Only then the other methods have meaning,
    /// and a segment and a trailer can be held in memory.
    pub fn is_sound(&self) -> bool {
        self.geometry.is_possible()
            && (1..=MAX_SEGMENT).contains(&self.segment_size)
            && self.padded <= MAX_STREAM
            && (1..=MAX_MANIFEST).contains(&self.manifest_length)
    }

    /// Returns the number of segments that hold content.
    pub fn data_segments(&self) -> u64 {
        self.padded.div_ceil(self.segment_size.into())
    }

    /// Returns the number of all segments: those of the content, and those of the manifest.
    pub fn segments(&self) -> u64 {
        let of_manifest = self.manifest_length.div_ceil(self.segment_size);
        self.data_segments() + u64::from(of_manifest)
    }

    /// Returns the length of a segment before it is sealed, in bytes.
    pub fn segment_length(&self, segment: u64) -> u64 {
        let (size, data) = (u64::from(self.segment_size), self.data_segments());
        let left = match segment.checked_sub(data) {
            None => self.padded - segment * size,
            Some(of_manifest) => u64::from(self.manifest_length) - of_manifest * size,
        };
        size.min(left)
    }

    /// Returns the length of a segment's block, in bytes.
    pub fn block_length(&self, segment: u64) -> u64 {
        block_length(self.segment_length(segment), self.geometry)
    }

    /// Returns the offset at which a segment's block begins, in bytes.
    pub fn block_offset(&self, segment: u64) -> u64 {
        let pages = segment / GROUP * (GROUP * HASH as u64);
        let full = block_length(self.segment_size.into(), self.geometry);
        let data = self.data_segments();
        // All blocks before are full, except perhaps that of the content's last segment.
        let blocks = if data > 0 && segment >= data {
            (segment - 1) * full + self.block_length(data - 1)
        } else {
            segment * full
        };
        HEADER + blocks + pages
    }

    /// Returns the number of hash pages of a share.
    pub fn pages(&self) -> u64 {
        self.segments().div_ceil(GROUP)
    }

    /// Returns the number of blocks of a group.
    pub fn blocks_in(&self, group: u64) -> u64 {
        GROUP.min(self.segments() - group * GROUP)
    }

    /// Returns the offset at which a group's hash page begins, in bytes.
    pub fn page_offset(&self, group: u64) -> u64 {
        let last = group * GROUP + self.blocks_in(group) - 1;
        self.block_offset(last) + self.block_length(last)
    }

    /// Returns the offset at which the trailer begins, in bytes.
    pub fn trailer_offset(&self) -> u64 {
        let last = self.pages() - 1;
        self.page_offset(last) + self.blocks_in(last) * HASH as u64
    }

    /// Returns the range of the share that holds the hashes of the pages. It lies in the trailer.
    pub fn page_hashes(&self) -> std::ops::Range<u64> {
        let start = self.trailer_offset() + trailer::BEFORE_HASHES;
        start..start + self.pages() * HASH as u64
    }

    /// Returns the length of a share, in bytes.
    pub fn share_length(&self) -> u64 {
        let roots = u64::from(self.geometry.n) * HASH as u64;
        self.page_hashes().end + roots + super::FOOTER as u64
    }
}

/// Returns the length of a block of a segment that has `length` bytes, in bytes.
pub fn block_length(length: u64, geometry: Geometry) -> u64 {
    (length + TAG).div_ceil(geometry.k.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The formulas give the offsets at which the pieces lie one after the other.
        #[test]
        fn pieces_lie_one_after_the_other(
            (k, m) in (1..8_u8, 1..8_u8), segment_size in 1..200_u32, padded in 0..100_000_u64, manifest_length in 1..2000_u32,
        ) {
            let geometry = Geometry { k, n: k + m };
            let layout = Layout { geometry, segment_size, padded, manifest_length };
            prop_assert!(layout.is_sound());
            let (mut at, mut content, mut manifest) = (HEADER, 0, 0);
            for segment in 0..layout.segments() {
                prop_assert_eq!(layout.block_offset(segment), at);
                at += layout.block_length(segment);
                let sum = if segment < layout.data_segments() { &mut content } else { &mut manifest };
                *sum += layout.segment_length(segment);
                let group = segment / GROUP;
                if segment + 1 == layout.segments() || (segment + 1) % GROUP == 0 {
                    prop_assert_eq!(layout.page_offset(group), at);
                    at += layout.blocks_in(group) * HASH as u64;
                }
            }
            prop_assert_eq!(layout.trailer_offset(), at);
            prop_assert_eq!((content, manifest), (padded, u64::from(manifest_length)));
        }
    }
}
