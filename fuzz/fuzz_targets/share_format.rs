//! Headers and trailers of shares.

#![no_main]

use raic_array::format::{
    Geometry, Header, KeyId, MAX_SEGMENT, Role, Trailer, WrappedKey,
};
use raic_storage::{ShareNum, StorageIndex};

fn run(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<64>() else {
        return;
    };
    if let Some(header) = Header::decode(head) {
        assert_eq!(header.encode(), *head);
        check_trailer(rest, &header);
    }

    let [k, more, share, pages, roots, magic, shift, size_shift, ..] = *head;
    let k = 1 + k % 31;
    let geometry = Geometry {
        k,
        n: k + 1 + more % (32 - k),
    };
    let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| head[at + i]));
    let header = Header {
        array: [1; 16],
        index: StorageIndex([2; 16]),
        share: ShareNum(share % geometry.n),
        geometry,
        role: [Role::File, Role::Log, Role::Snapshot][usize::from(magic / 8 % 3)],
        segment_size: (number(8) as u32 >> (size_shift % 32)).clamp(1, MAX_SEGMENT),
        may_ignore: number(50),
    };
    let mut bytes = header.encode();
    assert_eq!(Header::decode(&bytes), Some(header));
    bytes[usize::from(magic % 8)] ^= 1;
    assert_eq!(Header::decode(&bytes), None);
    check_trailer(rest, &header);

    let root_count = if roots < 128 { geometry.n } else { roots % 33 };
    let trailer = Trailer {
        padded: number(16) >> (shift % 64),
        manifest_length: number(24) as u32 >> (head[32] % 32) << (head[33] % 9),
        key: WrappedKey {
            id: KeyId([head[34]; 16]),
            nonce: [head[35]; 12],
            sealed: [head[40]; 48],
        },
        page_hashes: vec![[head[41]; 32]; usize::from(pages % 4)],
        roots: vec![[head[42]; 32]; root_count.into()],
    };
    let layout = trailer.layout(&header);
    let fits = layout.is_sound()
        && trailer.manifest_length.is_multiple_of(256)
        && layout.pages() == trailer.page_hashes.len() as u64
        && trailer.roots.len() == usize::from(geometry.n);
    let mut bytes = trailer.encode();
    // Hashes too many of one kind may make up for those that the other lacks: the bytes are a
    // trailer then, though another one.
    check_trailer(&bytes, &header);
    if fits {
        assert_eq!(Trailer::decode(&bytes, &header).as_ref(), Some(&trailer));
        let length = layout.share_length() - layout.trailer_offset();
        assert_eq!(length, bytes.len() as u64);
    }
    let at = number(48) as usize % bytes.len();
    bytes[at] ^= 1;
    assert_eq!(Trailer::decode(&bytes, &header), None, "byte {at}");
}

/// What reads as a trailer is written the same.
fn check_trailer(bytes: &[u8], header: &Header) {
    if let Some(trailer) = Trailer::decode(bytes, header) {
        assert_eq!(trailer.encode(), bytes);
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
