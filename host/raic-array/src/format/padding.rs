//! Padding, which hides the length of a stream's content from the clouds.

use super::MAX_STREAM;

/// How the content of a stream is padded before it is sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// Not at all: clouds see the length of each extent.
    #[default]
    None,
    /// By the scheme Padmé: at most 12 % more, and 2 log log L bits of the length are seen (Nikitin
    /// and others, "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs",
    /// 2019, section 4).
    Padme,
}

impl Padding {
    /// Returns the padded length of a content of `length` bytes, in bytes. A content that a stream
    /// can hold stays one.
    pub fn padded(self, length: u64) -> u64 {
        match self {
            Self::None => length,
            Self::Padme => padme(length).min(length.max(MAX_STREAM)),
        }
    }
}

/// Rounds a length up until its binary form has as few significant bits as the exponent has bits.
fn padme(length: u64) -> u64 {
    let Some(exponent) = length.checked_ilog2().filter(|e| *e > 0) else {
        return length;
    };
    let low_bits = exponent.saturating_sub(exponent.ilog2() + 1);
    length
        .checked_next_multiple_of(1 << low_bits)
        .unwrap_or(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_those_of_the_paper() {
        // The paper's example: 9 becomes 10, as 0b1001 has one bit more than is kept.
        let padded = [0, 1, 2, 3, 7, 8, 9, 17, 1000, 1 << 20, (1 << 20) + 1].map(padme);
        assert_eq!(
            padded,
            [
                0,
                1,
                2,
                3,
                7,
                8,
                10,
                18,
                1024,
                1 << 20,
                (1 << 20) + (1 << 15)
            ]
        );
        assert_eq!(Padding::Padme.padded(MAX_STREAM - 1), MAX_STREAM);
    }

    proptest! {
        #[test]
        fn padding_costs_an_eighth_at_most_and_is_stable(length in 0..=MAX_STREAM) {
            let padded = padme(length);
            prop_assert!(padded >= length && padded - length <= length / 8);
            prop_assert_eq!(padme(padded), padded);
        }
    }
}
