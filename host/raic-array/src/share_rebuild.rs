//! Computes a share from k others, without a key, and stores it bit for bit as it would have been.

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use raic_storage::{ShareId, ShareNum, StorageServer, Stored};

use crate::{
    Result,
    codec::Codec,
    format::{GROUP, Header, Layout, Trailer},
    share_hasher::ShareHasher,
    share_reader::ShareReader,
    share_upload::WriteFault,
};

/// Segments whose blocks are read at once.
const BATCH: u64 = 64;

/// A share that is computed from others.
pub(crate) struct Rebuild {
    pub(crate) codec: Codec,
    /// Readers of k other shares.
    pub(crate) sources: Vec<ShareReader>,
    /// Header of the share that is computed.
    pub(crate) header: Header,
    pub(crate) layout: Layout,
    /// The trailer, without the hashes of the share's pages.
    pub(crate) trailer: Trailer,
}

impl Rebuild {
    /// Stores the share on a server. It is the one whose root is in the trailer, or nothing.
    pub(crate) async fn store_on(self, server: Arc<StorageServer>) -> Result<Stored, WriteFault> {
        let id = ShareId {
            index: self.header.index,
            share: self.header.share,
        };
        let mut writer = server.create(id, Some(self.layout.share_length())).await?;
        let mut hasher = ShareHasher::new(self.header.encode());
        writer
            .write(Bytes::copy_from_slice(hasher.header()))
            .await?;
        let (segments, mut at) = (self.layout.segments(), 0);
        while at < segments {
            let end = segments.min(at + BATCH).min((at / GROUP + 1) * GROUP);
            let blocks = self.blocks(at..end).await?;
            let (codec, share) = (self.codec.clone(), self.header.share);
            let work = move || {
                let mut piece = BytesMut::new();
                for blocks in blocks {
                    let block = compute(&codec, share, &blocks)?;
                    piece.extend_from_slice(&block);
                    piece.extend_from_slice(&hasher.add(&block).unwrap_or_default());
                }
                Ok::<_, WriteFault>((hasher, piece.freeze()))
            };
            let done = tokio::task::spawn_blocking(work).await;
            let piece;
            (hasher, piece) = done.map_err(|e| e.to_string())??;
            writer.write(piece).await?;
            at = end;
        }
        let (page, page_hashes, root) = hasher.finish();
        if self.trailer.roots.get(usize::from(self.header.share.0)) != Some(&root) {
            return Err("the other shares give another share than was hashed"
                .to_owned()
                .into());
        }
        let trailer = Trailer {
            page_hashes,
            ..self.trailer
        };
        let end = [page.unwrap_or_default(), trailer.encode()].concat();
        writer.write(end.into()).await?;
        Ok(writer.finish().await?)
    }

    /// Reads the blocks of some segments of one group from all sources.
    async fn blocks(
        &self,
        segments: Range<u64>,
    ) -> Result<Vec<Vec<(ShareNum, Bytes)>>, WriteFault> {
        let read = self.sources.iter().map(|source| async {
            let blocks = source.blocks(segments.clone()).await?;
            let wrong = || source.lie("a block is not the one that was stored");
            let blocks = blocks.into_iter().map(|block| block.ok_or_else(wrong));
            let blocks = blocks.collect::<Result<Vec<_>, String>>()?;
            Ok::<_, String>((source.share(), blocks))
        });
        let read = futures::future::try_join_all(read).await?;
        let count = (segments.end - segments.start) as usize;
        let of_segment = |i: usize| {
            let blocks = read
                .iter()
                .map(|(share, blocks)| (*share, blocks[i].clone()));
            blocks.collect()
        };
        Ok((0..count).map(of_segment).collect())
    }
}

/// Computes a share's block of a segment from k others.
fn compute(
    codec: &Codec,
    share: ShareNum,
    blocks: &[(ShareNum, Bytes)],
) -> Result<Vec<u8>, WriteFault> {
    let length = blocks.first().map_or(0, |(_, block)| block.len());
    let data = codec.data(blocks).map_err(|e| e.to_string())?;
    let data: Vec<&[u8]> = data.chunks(length.max(1)).collect();
    let share = usize::from(share.0);
    if let Some(block) = data.get(share) {
        return Ok(block.to_vec());
    }
    let mut block = vec![0; length];
    codec.parity(share - data.len(), &data, &mut block);
    Ok(block)
}
