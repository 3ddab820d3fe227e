//! Sets of byte ranges, such as the parts of a share that were received.

use std::ops::Range;

/// A set of byte positions. It is kept as ordered ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<Range<u64>>);

impl RangeSet {
    /// Adds a range to the set.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // The range and all ranges that it touches become one.
        let first = self.0.partition_point(|r| r.end < range.start);
        let last = self.0.partition_point(|r| r.start <= range.end);
        let touched = &self.0[first..last];
        let start = touched
            .first()
            .map_or(range.start, |r| r.start.min(range.start));
        let end = touched.last().map_or(range.end, |r| r.end.max(range.end));
        self.0.splice(first..last, std::iter::once(start..end));
    }

    /// Returns whether the whole range is in the set.
    pub fn contains(&self, range: &Range<u64>) -> bool {
        range.is_empty()
            || self
                .0
                .iter()
                .any(|r| r.start <= range.start && range.end <= r.end)
    }

    /// Returns the parts of a range that are in the set, in order.
    pub fn within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let cut = |r: &Range<u64>| r.start.max(range.start)..r.end.min(range.end);
        self.0.iter().map(cut).filter(|r| !r.is_empty()).collect()
    }

    /// Returns the parts of `0..length` that are not in the set, in order.
    pub fn missing(&self, length: u64) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut covered = 0;
        for range in self.0.iter().chain([&(length..length)]) {
            if covered < range.start.min(length) {
                missing.push(covered..range.start.min(length));
            }
            covered = covered.max(range.end);
        }
        missing
    }

    /// The ranges of the set, in order.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_the_set_of_its_positions(ranges in prop::collection::vec((0_u64..60, 0_u64..12), 0..12), asked in (0_u64..60, 0_u64..20)) {
            let mut positions = [false; 80];
            for (start, length) in &ranges {
                positions[*start as usize..(start + length) as usize].fill(true);
            }
            let set: RangeSet = ranges.iter().map(|(start, length)| *start..start + length).collect();
            for pair in set.ranges().windows(2) {
                prop_assert!(pair[0].end < pair[1].start, "{set:?}");
            }
            let asked = asked.0..asked.0 + asked.1;
            prop_assert_eq!(set.contains(&asked), asked.clone().all(|at| positions[at as usize]));
            let inside: Vec<u64> = set.within(&asked).into_iter().flatten().collect();
            prop_assert_eq!(inside, asked.filter(|at| positions[*at as usize]).collect::<Vec<_>>());
            let missing: Vec<u64> = set.missing(70).into_iter().flatten().collect();
            prop_assert_eq!(missing, (0..70).filter(|at| !positions[*at as usize]).collect::<Vec<_>>());
        }
    }
}
