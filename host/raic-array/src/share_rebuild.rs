//! Computes shares from k others, without a key, and stores them bit for bit as they would have
//! been.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use raic_storage::{ShareId, ShareNum, ShareWriter, StorageServer, Stored, StreamMemory};

use crate::{
    Result, Transfer,
    codec::Codec,
    format::{GROUP, Header, Layout, Trailer},
    share_hasher::ShareHasher,
    share_reader::ShareReader,
    share_upload::WriteFault,
};

/// Segments whose blocks are read at once.
const BATCH: u64 = 32;

/// Shares of one stream that are computed from others.
pub(crate) struct Rebuild {
    pub(crate) codec: Codec,
    /// Readers of other shares: k of them or more. Those beyond k are asked if others fail.
    pub(crate) sources: Vec<ShareReader>,
    /// Header of any share of the stream.
    pub(crate) header: Header,
    pub(crate) layout: Layout,
    /// The trailer, without the hashes of a share's pages.
    pub(crate) trailer: Trailer,
    /// How long a batch may take to be read or written.
    pub(crate) patience: Duration,
    /// The memory of the stream's writers. A share that failed and is sent again has the same
    /// chunks.
    pub(crate) memory: Arc<StreamMemory>,
    /// Counts what each cloud takes.
    pub(crate) transfer: Transfer,
}

/// Why no shares were computed, or one was not stored.
pub(crate) struct RebuildFault {
    /// The cloud at fault.
    pub(crate) cloud: String,
    pub(crate) fault: WriteFault,
}

/// A share that is being computed and written.
struct Target {
    share: ShareNum,
    server: Arc<StorageServer>,
    writer: Box<dyn ShareWriter>,
    hasher: ShareHasher,
}

fn at_fault(server: &StorageServer, fault: impl Into<WriteFault>) -> RebuildFault {
    RebuildFault {
        cloud: server.name().to_owned(),
        fault: fault.into(),
    }
}

impl Rebuild {
    /// Stores shares on servers. Each is the one whose root is in the trailer, or none is stored.
    /// All are computed from one pass over the others.
    pub(crate) async fn store_on(
        &self,
        shares: Vec<(ShareNum, Arc<StorageServer>)>,
    ) -> Result<Vec<Stored>, RebuildFault> {
        let mut targets = Vec::new();
        for (share, server) in shares {
            let header = Header {
                share,
                ..self.header
            };
            let id = ShareId {
                index: header.index,
                share,
            };
            let created = server
                .create(id, Some(self.layout.share_length()), self.memory.clone())
                .await;
            let hasher = ShareHasher::new(header.encode());
            let mut target = Target {
                share,
                writer: created.map_err(|e| at_fault(&server, e))?,
                server,
                hasher,
            };
            let header = Bytes::copy_from_slice(target.hasher.header());
            self.write(&mut target, header).await?;
            targets.push(target);
        }
        let (segments, mut at) = (self.layout.segments(), 0);
        let failed = Mutex::default();
        let block = u64::from(self.layout.segment_size).div_ceil(self.layout.geometry.k.into());
        let held = u64::from(self.layout.geometry.k) + targets.len() as u64;
        // Without memory for more, one segment at a time.
        let reserved = self.memory.beside((BATCH * block * held) as usize);
        let batch = if reserved.is_some() { BATCH } else { 1 };
        while at < segments {
            let end = segments.min(at + batch).min((at / GROUP + 1) * GROUP);
            let blocks = self.blocks(at..end, &failed).await?;
            let codec = self.codec.clone();
            let work = move || {
                let mut pieces = Vec::new();
                for target in &mut targets {
                    pieces.push(target.add(&codec, &blocks)?);
                }
                Ok::<_, WriteFault>((targets, pieces))
            };
            let done = tokio::task::spawn_blocking(work).await;
            let nobody = |fault: WriteFault| RebuildFault {
                cloud: String::new(),
                fault,
            };
            let pieces;
            (targets, pieces) = done
                .map_err(|e| nobody(e.to_string().into()))?
                .map_err(nobody)?;
            let writes = targets.iter_mut().zip(pieces);
            let writes = writes.map(|(target, piece)| self.write(target, piece));
            futures::future::try_join_all(writes).await?;
            at = end;
        }
        let ends = targets.into_iter().map(|target| self.finish(target));
        futures::future::try_join_all(ends).await
    }

    async fn finish(&self, target: Target) -> Result<Stored, RebuildFault> {
        let Target {
            share,
            server,
            mut writer,
            hasher,
        } = target;
        let (page, page_hashes, root) = hasher.finish();
        if self.trailer.roots.get(usize::from(share.0)) != Some(&root) {
            let what = format!("share {share} was not computed as it was hashed");
            return Err(at_fault(&server, what));
        }
        let trailer = Trailer {
            page_hashes,
            ..self.trailer.clone()
        };
        let end = [page.unwrap_or_default(), trailer.encode()].concat();
        let work = async {
            writer.write(end.into()).await?;
            writer.finish().await
        };
        match tokio::time::timeout(self.patience, work).await {
            Ok(stored) => stored.map_err(|e| at_fault(&server, e)),
            Err(_) => Err(self.too_slow(&server)),
        }
    }

    async fn write(&self, target: &mut Target, piece: Bytes) -> Result<(), RebuildFault> {
        let length = piece.len();
        let written = target.writer.write(piece);
        match tokio::time::timeout(self.patience, written).await {
            Ok(written) => written.map_err(|e| at_fault(&target.server, e))?,
            Err(_) => return Err(self.too_slow(&target.server)),
        }
        self.transfer.add(target.server.name(), length);
        Ok(())
    }

    fn too_slow(&self, server: &StorageServer) -> RebuildFault {
        let text = format!(
            "cloud {:?}: too slow: it took nothing for {:?}",
            server.name(),
            self.patience
        );
        at_fault(server, text)
    }

    /// Reads the blocks of some segments of one group from k sources. `failed` has the places of
    /// sources that are not asked any more.
    async fn blocks(
        &self,
        segments: Range<u64>,
        failed: &Mutex<Vec<usize>>,
    ) -> Result<Vec<Vec<(ShareNum, Bytes)>>, RebuildFault> {
        let k = usize::from(self.layout.geometry.k);
        let mut last = None;
        loop {
            let is_asked = |place: &usize| !failed.lock().contains(place);
            let asked = (0..self.sources.len()).filter(is_asked).take(k);
            let asked: Vec<usize> = asked.collect();
            if asked.len() < k {
                return Err(last.unwrap_or_else(|| RebuildFault {
                    cloud: String::new(),
                    fault: format!("fewer than {k} shares are left").into(),
                }));
            }
            let read = asked
                .iter()
                .map(|place| self.blocks_of(*place, segments.clone()));
            let read = futures::future::join_all(read).await;
            let mut all = Vec::new();
            for (place, blocks) in asked.iter().zip(read) {
                match blocks {
                    Ok(blocks) => all.push((self.sources[*place].share(), blocks)),
                    Err(fault) => {
                        tracing::warn!("{}; computing from another share", fault.fault.text);
                        failed.lock().push(*place);
                        last = Some(fault);
                    }
                }
            }
            if all.len() == k {
                let count = (segments.end - segments.start) as usize;
                let of_segment = |i: usize| {
                    let blocks = all.iter();
                    blocks
                        .map(|(share, blocks)| (*share, blocks[i].clone()))
                        .collect()
                };
                return Ok((0..count).map(of_segment).collect());
            }
        }
    }

    async fn blocks_of(
        &self,
        place: usize,
        segments: Range<u64>,
    ) -> Result<Vec<Bytes>, RebuildFault> {
        let source = &self.sources[place];
        let read = tokio::time::timeout(self.patience, source.blocks(segments)).await;
        let read = read.unwrap_or_else(|_| Err(source.lie("it did not come in time")));
        let wrong = || source.lie("a block is not the one that was stored");
        let whole = |blocks: Vec<Option<Bytes>>| {
            let blocks = blocks.into_iter().map(|block| block.ok_or_else(wrong));
            blocks.collect::<Result<Vec<_>, String>>()
        };
        read.and_then(whole)
            .map_err(|text| at_fault(source.server(), text))
    }
}

impl Target {
    /// Computes the share's blocks of some segments, with the pages that follow them.
    fn add(
        &mut self,
        codec: &Codec,
        blocks: &[Vec<(ShareNum, Bytes)>],
    ) -> Result<Bytes, WriteFault> {
        let mut piece = BytesMut::new();
        for blocks in blocks {
            let block = compute(codec, self.share, blocks)?;
            piece.extend_from_slice(&block);
            piece.extend_from_slice(&self.hasher.add(&block).unwrap_or_default());
        }
        Ok(piece.freeze())
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
