//! Arithmetic of GF(2^8) on whole blocks: `out += coefficient * input`.
//!
//! The field is that of `reed-solomon-erasure`. The tables here are made with that library, so the
//! two cannot differ.

use reed_solomon_erasure::galois_8;

/// Adds `coefficient * input` to `out`, byte by byte, over the shorter of the two.
pub(crate) fn mul_add(coefficient: u8, input: &[u8], out: &mut [u8]) {
    if coefficient == 0 {
        return;
    }
    let done = fast(coefficient, input, out);
    portable(coefficient, &input[done..], &mut out[done..]);
}

fn portable(coefficient: u8, input: &[u8], out: &mut [u8]) {
    let products: [u8; 256] = std::array::from_fn(|x| galois_8::mul(coefficient, x as u8));
    for (out, byte) in out.iter_mut().zip(input) {
        *out ^= products[usize::from(*byte)];
    }
}

/// Handles as many bytes as this processor has a fast way for. Returns their number.
fn fast(coefficient: u8, input: &[u8], out: &mut [u8]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // A product is the sum of the products of its two nibbles. Each nibble has a table of 16,
        // which one shuffle looks up 32 times.
        let low = std::array::from_fn(|x| galois_8::mul(coefficient, x as u8));
        let high = std::array::from_fn(|x| galois_8::mul(coefficient, (x as u8) << 4));
        #[allow(unsafe_code, reason = "the processor was asked")]
        // SAFETY: AVX2 was detected just above.
        return unsafe { avx2::mul_add(&low, &high, input, out) };
    }
    let _ = (coefficient, input, out);
    0
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_loadu_si256,
        _mm256_set1_epi8, _mm256_shuffle_epi8, _mm256_srli_epi64, _mm256_storeu_si256,
        _mm256_xor_si256,
    };

    const LANES: usize = 32;

    /// Handles the whole vectors of both slices. Returns their length in bytes.
    #[target_feature(enable = "avx2")]
    #[allow(unsafe_code, reason = "loads and stores of whole vectors")]
    pub(super) fn mul_add(low: &[u8; 16], high: &[u8; 16], input: &[u8], out: &mut [u8]) -> usize {
        // SAFETY: each table is 16 bytes long, and the load needs no alignment.
        let (low, high) = unsafe {
            (
                _mm_loadu_si128(low.as_ptr().cast()),
                _mm_loadu_si128(high.as_ptr().cast()),
            )
        };
        let (low, high) = (
            _mm256_broadcastsi128_si256(low),
            _mm256_broadcastsi128_si256(high),
        );
        let nibble = _mm256_set1_epi8(0x0f);
        let mut done = 0;
        for (input, out) in input.chunks_exact(LANES).zip(out.chunks_exact_mut(LANES)) {
            // SAFETY: both chunks are 32 bytes long, and loads and stores need no alignment.
            unsafe {
                let bytes = _mm256_loadu_si256(input.as_ptr().cast());
                let below = _mm256_shuffle_epi8(low, _mm256_and_si256(bytes, nibble));
                let above = _mm256_and_si256(_mm256_srli_epi64::<4>(bytes), nibble);
                let product = _mm256_xor_si256(below, _mm256_shuffle_epi8(high, above));
                let sum = _mm256_xor_si256(_mm256_loadu_si256(out.as_ptr().cast()), product);
                _mm256_storeu_si256(out.as_mut_ptr().cast(), sum);
            }
            done += LANES;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The fast way and the portable way give the library's product, at every length and
        /// alignment.
        #[test]
        fn every_way_gives_the_same_bytes(
            coefficient: u8, bytes in proptest::collection::vec(any::<u8>(), 0..300), skip in 0..40_usize, before: u8,
        ) {
            let input = &bytes[skip.min(bytes.len())..];
            let expected: Vec<u8> = input.iter().map(|b| before ^ galois_8::mul(coefficient, *b)).collect();
            let mut out = vec![before; input.len()];
            mul_add(coefficient, input, &mut out);
            prop_assert_eq!(&out, &expected);
            let mut out = vec![before; input.len()];
            portable(coefficient, input, &mut out);
            prop_assert_eq!(&out, &expected);
        }
    }
}
