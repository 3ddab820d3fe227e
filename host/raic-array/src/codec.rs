//! The erasure code of a geometry: Reed-Solomon over GF(2^8) with the matrix of
//! `reed-solomon-erasure`.
//!
//! The library gives the coefficients, by coding blocks of one byte. [`crate::galois`] codes the
//! blocks themselves: it is many times faster than the library's portable code and gives the same
//! bytes.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use raic_storage::ShareNum;
use reed_solomon_erasure::galois_8::ReedSolomon;

use crate::{ArrayError, Result, format::Geometry, galois::mul_add};

/// Most sets of shares whose coefficients are remembered.
const REMEMBERED: usize = 256;

/// The coefficients that make one block out of k blocks, one for each of them.
type Coefficients = Vec<u8>;

/// The erasure code of a geometry. All streams of the geometry share it.
#[derive(Clone, Debug)]
pub(crate) struct Codec(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    k: usize,
    n: usize,
    library: ReedSolomon,
    /// For each parity block, its coefficients over the data blocks.
    parity: Vec<Coefficients>,
    /// For each set of k shares, the coefficients of every data block over their blocks.
    data: Mutex<HashMap<Vec<ShareNum>, Arc<Vec<Coefficients>>>>,
}

fn failed(e: reed_solomon_erasure::Error) -> ArrayError {
    ArrayError::Task(format!("erasure code: {e:?}"))
}

impl Codec {
    pub(crate) fn new(geometry: Geometry) -> Result<Self> {
        let Geometry { k, n } = geometry;
        let refused = ArrayError::Geometry { k, n: n.into() };
        if !geometry.is_possible() {
            return Err(refused);
        }
        let (k, n) = (usize::from(k), usize::from(n));
        // The library knows no single copy. Its one parity block is a copy, too, and stays unused.
        let library = ReedSolomon::new(k, (n - k).max(1)).map_err(|_| refused)?;
        let mut parity = vec![vec![0; k]; n - k];
        for column in 0..k {
            let mut unit = vec![[0_u8]; n.max(k + 1)];
            unit[column] = [1];
            library.encode(&mut unit).map_err(failed)?;
            parity
                .iter_mut()
                .zip(&unit[k..])
                .for_each(|(row, block)| row[column] = block[0]);
        }
        Ok(Self(Arc::new(Inner {
            k,
            n,
            library,
            parity,
            data: Mutex::default(),
        })))
    }

    /// Adds parity block `number` (from 0) of the k data blocks to `out`. `out` must be zero, and
    /// as long as each data block.
    pub(crate) fn parity(&self, number: usize, data: &[&[u8]], out: &mut [u8]) {
        self.0.parity[number]
            .iter()
            .zip(data)
            .for_each(|(c, block)| mul_add(*c, block, out));
    }

    /// Makes the k data blocks, one after the other, from any k blocks of different shares.
    pub(crate) fn data(&self, blocks: &[(ShareNum, Bytes)]) -> Result<Vec<u8>> {
        let Inner { k, .. } = *self.0;
        let mut blocks: Vec<_> = blocks.iter().take(k).collect();
        blocks.sort_unstable_by_key(|(share, _)| *share);
        let length = blocks.first().map_or(0, |(_, block)| block.len());
        let mut out = Vec::with_capacity(k * length);
        for wanted in 0..k {
            if let Some((_, block)) = blocks
                .iter()
                .find(|(share, _)| usize::from(share.0) == wanted)
            {
                out.extend_from_slice(block);
                continue;
            }
            let coefficients =
                self.data_coefficients(blocks.iter().map(|(share, _)| *share).collect())?;
            let start = out.len();
            out.resize(start + length, 0);
            for (c, (_, block)) in coefficients[wanted].iter().zip(&blocks) {
                mul_add(*c, block, &mut out[start..]);
            }
        }
        Ok(out)
    }

    /// Returns the coefficients of every data block over the blocks of `shares`, in their order.
    fn data_coefficients(&self, shares: Vec<ShareNum>) -> Result<Arc<Vec<Coefficients>>> {
        let Inner { k, n, .. } = *self.0;
        let lock = || self.0.data.lock();
        if let Some(known) = lock().get(&shares) {
            return Ok(known.clone());
        }
        let mut rows = vec![vec![0; k]; k];
        for column in 0..shares.len() {
            let mut unit: Vec<Option<Vec<u8>>> = vec![None; n];
            for (i, share) in shares.iter().enumerate() {
                unit[usize::from(share.0)] = Some(vec![u8::from(i == column)]);
            }
            self.0.library.reconstruct_data(&mut unit).map_err(failed)?;
            rows.iter_mut()
                .zip(unit.into_iter().flatten())
                .for_each(|(row, block)| row[column] = block[0]);
        }
        let rows = Arc::new(rows);
        let mut known = lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(shares, rows.clone());
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        /// Parity is bit for bit that of the library, and any k blocks give the data back.
        #[test]
        fn blocks_are_those_of_the_library(
            k in 1..8_usize, m in 1..6_usize, length in 0..200_usize, seed: u64,
        ) {
            let codec = Codec::new(Geometry { k: k as u8, n: (k + m) as u8 }).unwrap();
            let byte = |i: usize, j: usize| (seed.rotate_left((i * 7 + j) as u32 % 64) as u8).wrapping_add((i * j) as u8);
            let data: Vec<Vec<u8>> = (0..k).map(|i| (0..length).map(|j| byte(i, j)).collect()).collect();
            let mut expected = data.clone();
            expected.resize(k + m, vec![0; length]);
            if length > 0 {
                codec.0.library.encode(&mut expected).unwrap();
            }
            let slices: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
            for p in 0..m {
                let mut block = vec![0; length];
                codec.parity(p, &slices, &mut block);
                prop_assert_eq!(&block, &expected[k + p]);
            }
            let mut order: Vec<usize> = (0..k + m).collect();
            order.rotate_left(seed as usize % (k + m));
            let some: Vec<_> =
                order.iter().take(k).map(|i| (ShareNum(*i as u8), Bytes::from(expected[*i].clone()))).collect();
            prop_assert_eq!(codec.data(&some).unwrap(), data.concat());
        }
    }

    #[test]
    fn impossible_geometries_are_refused() {
        for (k, n) in [(0, 4), (4, 4), (5, 4), (2, 33)] {
            assert!(Codec::new(Geometry { k, n }).is_err(), "{k}-of-{n}");
        }
    }
}
