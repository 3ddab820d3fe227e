//! Holds transfers to a number of bytes a second.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    config::parse_size,
    error::{Failed, Outcome},
};

/// A pace that several transfers keep together.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace(Option<Arc<Paced>>);

#[derive(Debug)]
struct Paced {
    bytes_a_second: u64,
    /// When the bytes that were moved so far are paid for.
    paid: Mutex<Instant>,
}

impl Pace {
    /// Reads a pace such as `5 MiB`; `None` is without limit.
    pub(super) fn new(limit: Option<&str>) -> Outcome<Self> {
        let Some(limit) = limit else {
            return Ok(Self::default());
        };
        let size = parse_size(limit).map(|size| size.as_u64());
        let Some(bytes_a_second) = size.filter(|bytes| *bytes > 0) else {
            return Err(Failed::usage(format!(
                "{limit:?} is no number of bytes a second, such as \"5 MiB\""
            )));
        };
        Ok(Self(Some(Arc::new(Paced {
            bytes_a_second,
            paid: Mutex::new(Instant::now()),
        }))))
    }

    /// Waits until the bytes of before are paid for, and owes `bytes` more.
    pub(super) async fn keep(&self, bytes: usize) {
        let Some(paced) = &self.0 else { return };
        let took = Duration::from_secs_f64(bytes as f64 / paced.bytes_a_second as f64);
        let from = {
            let mut paid = paced.paid.lock();
            let from = (*paid).max(Instant::now());
            *paid = from + took;
            from
        };
        tokio::time::sleep_until(from).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pace_is_kept_together() {
        let pace = Pace::new(Some("10 kB")).unwrap();
        let began = Instant::now();
        let others = (0..4).map(|_| {
            let pace = pace.clone();
            async move {
                for _ in 0..5 {
                    pace.keep(100).await;
                }
            }
        });
        futures::future::join_all(others).await;
        // The last 100 of 2000 bytes are still owed.
        assert!(began.elapsed() >= Duration::from_millis(190));
        for wrong in ["", "fast", "0"] {
            assert!(Pace::new(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
