//! Cuts the content of an upload into extents and segments, hashes it, and holds the sender to the
//! length that was announced.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};

use crate::{ArrayError, Result};

/// The content of an upload, as it comes.
pub(crate) struct Ingest<S> {
    content: S,
    /// Bytes that came and were not taken.
    rest: Bytes,
    /// Bytes that came.
    received: u64,
    /// Bytes of the whole content, if the caller announced them.
    announced: Option<u64>,
    /// How long the content may pause. An upload does not hold its memory for a sender that sends
    /// nothing.
    idle: Duration,
    has_ended: bool,
}

impl<S, E> Ingest<S>
where
    S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
    E: std::fmt::Display,
{
    pub(crate) fn new(content: S, announced: Option<u64>, idle: Duration) -> Self {
        Self {
            content,
            rest: Bytes::new(),
            received: 0,
            announced,
            idle,
            has_ended: false,
        }
    }

    /// Returns whether the content has ended. Waits for its next bytes if need be.
    ///
    /// # Errors
    /// Fails with [`ArrayError::Content`] if the content breaks off, pauses too long, or is not as
    /// long as announced.
    pub(crate) async fn has_ended(&mut self) -> Result<bool> {
        while self.rest.is_empty() && !self.has_ended {
            self.receive().await?;
        }
        Ok(self.rest.is_empty())
    }

    /// Takes the next segments, up to `most` of `size` bytes each and `limit` bytes in all. They
    /// are fewer only at the end of the content. Each has room for a tag.
    ///
    /// # Errors
    /// Fails as [`Ingest::has_ended`] does.
    pub(crate) async fn segments(
        &mut self,
        most: usize,
        size: usize,
        limit: u64,
    ) -> Result<Vec<Vec<u8>>> {
        let mut left = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut segments = Vec::new();
        while segments.len() < most && left > 0 && !self.has_ended().await? {
            let wanted = size.min(left);
            let mut segment = Vec::with_capacity(wanted + crate::format::TAG as usize);
            while segment.len() < wanted && !self.has_ended().await? {
                let room = (wanted - segment.len()).min(self.rest.len());
                segment.extend_from_slice(&self.rest.split_to(room));
            }
            left -= segment.len();
            segments.push(segment);
        }
        Ok(segments)
    }

    async fn receive(&mut self) -> Result<()> {
        let piece = tokio::time::timeout(self.idle, self.content.next())
            .await
            .map_err(|_| ArrayError::Content(format!("nothing came for {:?}", self.idle)))?;
        let Some(piece) = piece else {
            self.has_ended = true;
            return match self.announced {
                Some(size) if self.received < size => Err(ArrayError::Content(format!(
                    "it ended after {} of the {size} bytes that were announced",
                    self.received
                ))),
                _ => Ok(()),
            };
        };
        self.rest = piece.map_err(|e| ArrayError::Content(e.to_string()))?;
        self.received += self.rest.len() as u64;
        // Memory and quota were reserved for the announced size. A file that changes while it is
        // sent is another file.
        match self.announced {
            Some(size) if self.received > size => Err(ArrayError::Content(format!(
                "it is longer than the {size} bytes that were announced"
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use proptest::prelude::*;

    fn ingest(
        pieces: &[Vec<u8>],
        announced: Option<u64>,
    ) -> Ingest<impl Stream<Item = Result<Bytes, String>> + Send + Unpin> {
        let pieces: Vec<_> = pieces
            .iter()
            .map(|p| Ok(Bytes::copy_from_slice(p)))
            .collect();
        Ingest::new(stream::iter(pieces), announced, Duration::from_secs(1))
    }

    proptest! {
        /// However the content comes, its segments are full but for the last of an extent.
        #[test]
        fn segments_are_full_and_extents_end_where_they_should(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20),
            size in 1..20_usize, most in 1..5_usize, extent in 1..200_u64,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let whole = pieces.concat();
                let mut ingest = ingest(&pieces, Some(whole.len() as u64));
                let mut read = Vec::new();
                while !ingest.has_ended().await.unwrap() {
                    let mut left = extent;
                    while left > 0 {
                        let segments = ingest.segments(most, size, left).await.unwrap();
                        if segments.is_empty() {
                            break;
                        }
                        let taken = segments.concat();
                        let is_end = left == taken.len() as u64 || read.len() + taken.len() == whole.len();
                        prop_assert!(segments.len() == most || is_end);
                        let (last, full) = segments.split_last().unwrap();
                        prop_assert!(full.iter().all(|segment| segment.len() == size));
                        prop_assert!(last.len() == size || is_end);
                        left -= taken.len() as u64;
                        read.extend(taken);
                    }
                }
                prop_assert_eq!(read, whole);
                Ok(())
            })?;
        }
    }

    #[tokio::test]
    async fn a_content_of_another_length_than_announced_is_refused() {
        for (announced, reason) in [(3, "longer than the 3"), (5, "after 4 of the 5")] {
            let pieces = [b"four".to_vec()];
            let mut ingest = ingest(&pieces, Some(announced));
            let refused = ingest.segments(9, 9, 99).await.unwrap_err().to_string();
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
