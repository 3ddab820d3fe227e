//! The documents of the Tahoe-LAFS storage protocol, in CBOR (RFC 8949). Their schemas are closed:
//! a key that is not known is refused.
//!
//! Source: the Tahoe-LAFS storage protocol (http-storage-node-protocol).

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    ops::Range,
};

use bytes::Bytes;
use minicbor::{
    Decoder, Encoder,
    data::{Tag, Type},
    encode,
};
use raic_storage::{ReadTestWritten, ShareNum, TestWrite};

/// The tag of a set (registered with IANA).
const SET: Tag = Tag::new(258);
/// Most tests or reads of one list.
const MOST_VECTORS: usize = 30;
/// Most writes of one share. A client writes a mutable file of the format MDMF by segments, all in
/// one request.
const MOST_WRITES: usize = 16_384;
/// Most shares of one request: as many as there are share numbers.
const MOST_SHARES: usize = 256;
/// Longest reason of an advisory, in bytes.
const LONGEST_REASON: usize = 32_765;

/// A document that is not what the protocol has. Holds what is wrong, as the rest of a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl From<minicbor::decode::Error> for Malformed {
    fn from(_: minicbor::decode::Error) -> Self {
        Self("it is not the CBOR that is expected here")
    }
}

type Decoded<T> = Result<T, Malformed>;
type Encoded = Result<(), encode::Error<Infallible>>;

/// A request to allocate shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Allocate {
    pub(crate) shares: BTreeSet<ShareNum>,
    /// Length of each share's content, in bytes.
    pub(crate) size: u64,
}

/// A request to test, write and read the shares of a slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadTestWrite {
    pub(crate) vectors: BTreeMap<ShareNum, TestWrite>,
    pub(crate) reads: Vec<Range<u64>>,
}

/// What a storage server offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Length of the longest immutable share that it takes, in bytes; 0 if it takes none.
    pub(crate) immutable: u64,
    /// Length of the longest mutable share that it takes, in bytes.
    pub(crate) mutable: u64,
    /// Bytes that it can still take.
    pub(crate) available: u64,
}

/// Reads the items of a map or array, of known or unknown length. `each` reads one item.
fn items<'b>(
    decoder: &mut Decoder<'b>,
    length: Option<u64>,
    most: usize,
    mut each: impl FnMut(&mut Decoder<'b>) -> Decoded<()>,
) -> Decoded<()> {
    let mut count = 0;
    loop {
        match length {
            Some(length) if count as u64 >= length => return Ok(()),
            None if decoder.datatype()? == Type::Break => {
                decoder.set_position(decoder.position() + 1);
                return Ok(());
            }
            _ => {}
        }
        if count >= most {
            return Err(Malformed("a list in it is too long"));
        }
        each(decoder)?;
        count += 1;
    }
}

/// Reads a map whose keys are texts. `each` gets each key once.
fn fields<'b>(
    decoder: &mut Decoder<'b>,
    mut each: impl FnMut(&'b str, &mut Decoder<'b>) -> Decoded<()>,
) -> Decoded<()> {
    let length = decoder.map()?;
    let mut seen = BTreeSet::new();
    items(decoder, length, 16, |decoder| {
        let key = decoder.str()?;
        if !seen.insert(key) {
            return Err(Malformed("it has a key twice"));
        }
        each(key, decoder)
    })
}

fn list<'b>(
    decoder: &mut Decoder<'b>,
    most: usize,
    each: impl FnMut(&mut Decoder<'b>) -> Decoded<()>,
) -> Decoded<()> {
    let length = decoder.array()?;
    items(decoder, length, most, each)
}

const UNKNOWN: Malformed = Malformed("it has an unknown key");
const LACKS: Malformed = Malformed("it lacks a key");

fn share(decoder: &mut Decoder<'_>) -> Decoded<ShareNum> {
    let number = decoder.u64()?;
    u8::try_from(number)
        .map(ShareNum)
        .map_err(|_| Malformed("a share number in it is above 255"))
}

/// Requires that the document ends here.
fn ended<T>(decoder: &Decoder<'_>, read: T) -> Decoded<T> {
    match decoder.position() == decoder.input().len() {
        true => Ok(read),
        false => Err(Malformed("it goes on after its end")),
    }
}

impl Allocate {
    /// Reads the request from its document.
    pub(crate) fn decode(document: &[u8]) -> Decoded<Self> {
        let decoder = &mut Decoder::new(document);
        let (mut shares, mut size) = (None, None);
        fields(decoder, |key, decoder| {
            match key {
                "share-numbers" => {
                    if decoder.tag()? != SET {
                        return Err(Malformed("its share numbers are not a set"));
                    }
                    let mut set = BTreeSet::new();
                    list(decoder, MOST_SHARES, |decoder| {
                        set.insert(share(decoder)?);
                        Ok(())
                    })?;
                    shares = Some(set);
                }
                "allocated-size" => size = Some(decoder.u64()?),
                _ => return Err(UNKNOWN),
            }
            Ok(())
        })?;
        let read = Self {
            shares: shares.ok_or(LACKS)?,
            size: size.ok_or(LACKS)?,
        };
        ended(decoder, read)
    }
}

/// Returns the part of `document` that `part` is, without a copy.
fn shared(document: &Bytes, part: &[u8]) -> Bytes {
    if part.is_empty() {
        return Bytes::new();
    }
    document.slice_ref(part)
}

/// One test, write or read, of which each has two or three of these.
#[derive(Default)]
struct Vector<'b> {
    offset: Option<u64>,
    size: Option<u64>,
    data: Option<&'b [u8]>,
}

/// Reads one test, write or read. `data_key` is the key of its bytes.
fn vector<'b>(decoder: &mut Decoder<'b>, data_key: &str) -> Decoded<Vector<'b>> {
    let mut vector = Vector::default();
    fields(decoder, |key, decoder| {
        match key {
            "offset" => vector.offset = Some(decoder.u64()?),
            "size" => vector.size = Some(decoder.u64()?),
            key if key == data_key => vector.data = Some(decoder.bytes()?),
            _ => return Err(UNKNOWN),
        }
        Ok(())
    })?;
    Ok(vector)
}

fn test_write(document: &Bytes, decoder: &mut Decoder<'_>) -> Decoded<TestWrite> {
    let (mut tests, mut writes, mut new_length) = (None, None, None);
    fields(decoder, |key, decoder| {
        match key {
            "test" => {
                let mut all = Vec::new();
                list(decoder, MOST_VECTORS, |decoder| {
                    match vector(decoder, "specimen")? {
                        Vector {
                            offset: Some(offset),
                            size: Some(size),
                            data: Some(specimen),
                        } => {
                            all.push((offset, size, shared(document, specimen)));
                        }
                        _ => return Err(LACKS),
                    }
                    Ok(())
                })?;
                tests = Some(all);
            }
            "write" => {
                let mut all = Vec::new();
                list(decoder, MOST_WRITES, |decoder| {
                    match vector(decoder, "data")? {
                        Vector {
                            offset: Some(offset),
                            size: None,
                            data: Some(data),
                        } => {
                            all.push((offset, shared(document, data)));
                        }
                        _ => return Err(LACKS),
                    }
                    Ok(())
                })?;
                writes = Some(all);
            }
            "new-length" => {
                let is_null = decoder.datatype()? == Type::Null;
                new_length = Some(match is_null {
                    true => {
                        decoder.null()?;
                        None
                    }
                    false => Some(decoder.u64()?),
                });
            }
            _ => return Err(UNKNOWN),
        }
        Ok(())
    })?;
    Ok(TestWrite {
        tests: tests.ok_or(LACKS)?,
        writes: writes.ok_or(LACKS)?,
        new_length: new_length.ok_or(LACKS)?,
    })
}

impl ReadTestWrite {
    /// Reads the request from its document, whose bytes it shares.
    pub(crate) fn decode(document: &Bytes) -> Decoded<Self> {
        let decoder = &mut Decoder::new(document);
        let (mut vectors, mut reads) = (None, None);
        fields(decoder, |key, decoder| {
            match key {
                "test-write-vectors" => {
                    let mut all = BTreeMap::new();
                    let length = decoder.map()?;
                    items(decoder, length, MOST_SHARES, |decoder| {
                        let share = share(decoder)?;
                        let vector = test_write(document, decoder)?;
                        match all.insert(share, vector) {
                            None => Ok(()),
                            Some(_) => Err(Malformed("it has a share twice")),
                        }
                    })?;
                    vectors = Some(all);
                }
                "read-vector" => {
                    let mut all = Vec::new();
                    list(decoder, MOST_VECTORS, |decoder| {
                        match vector(decoder, "")? {
                            Vector {
                                offset: Some(offset),
                                size: Some(size),
                                data: None,
                            } => {
                                all.push(offset..offset.saturating_add(size));
                            }
                            _ => return Err(LACKS),
                        }
                        Ok(())
                    })?;
                    reads = Some(all);
                }
                _ => return Err(UNKNOWN),
            }
            Ok(())
        })?;
        let read = Self {
            vectors: vectors.ok_or(LACKS)?,
            reads: reads.ok_or(LACKS)?,
        };
        ended(decoder, read)
    }
}

/// Reads the reason of an advisory from its document.
pub(crate) fn decode_reason(document: &[u8]) -> Decoded<String> {
    let decoder = &mut Decoder::new(document);
    let mut reason = None;
    fields(decoder, |key, decoder| {
        if key != "reason" {
            return Err(UNKNOWN);
        }
        reason = Some(decoder.str()?);
        Ok(())
    })?;
    let reason = reason.ok_or(LACKS)?;
    if reason.is_empty() || reason.len() > LONGEST_REASON {
        return Err(Malformed("its reason is empty or too long"));
    }
    ended(decoder, reason.to_owned())
}

/// Makes a document.
fn document(encode: impl FnOnce(&mut Encoder<Vec<u8>>) -> Encoded) -> Bytes {
    let mut encoder = Encoder::new(Vec::new());
    // Writing into a vector does not fail.
    let Ok(()) = encode(&mut encoder) else {
        return Bytes::new();
    };
    encoder.into_writer().into()
}

fn encode_set(encoder: &mut Encoder<Vec<u8>>, shares: &BTreeSet<ShareNum>) -> Encoded {
    encoder.tag(SET)?.array(shares.len() as u64)?;
    for share in shares {
        encoder.u8(share.0)?;
    }
    Ok(())
}

/// Makes the document of a set of shares.
pub(crate) fn set(shares: &BTreeSet<ShareNum>) -> Bytes {
    document(|encoder| encode_set(encoder, shares))
}

/// Makes the answer to an allocation.
pub(crate) fn allocated(
    already_have: &BTreeSet<ShareNum>,
    allocated: &BTreeSet<ShareNum>,
) -> Bytes {
    document(|encoder| {
        encoder.map(2)?.str("already-have")?;
        encode_set(encoder, already_have)?;
        encoder.str("allocated")?;
        encode_set(encoder, allocated)
    })
}

/// Makes the answer to a write of an upload: the ranges that are still to be written.
pub(crate) fn required(ranges: &[Range<u64>]) -> Bytes {
    document(|encoder| {
        encoder
            .map(1)?
            .str("required")?
            .array(ranges.len() as u64)?;
        for range in ranges {
            encoder.map(2)?.str("begin")?.u64(range.start)?;
            encoder.str("end")?.u64(range.end)?;
        }
        Ok(())
    })
}

/// Makes the answer to a test, write and read.
pub(crate) fn written(answer: &ReadTestWritten) -> Bytes {
    document(|encoder| {
        encoder.map(2)?.str("success")?.bool(answer.is_written)?;
        encoder.str("data")?.map(answer.data.len() as u64)?;
        for (share, data) in &answer.data {
            encoder.u8(share.0)?.array(data.len() as u64)?;
            for part in data {
                encoder.bytes(part)?;
            }
        }
        Ok(())
    })
}

/// Makes the answer that tells what a storage server is and offers. All of its keys are bytes.
pub(crate) fn version(offer: Offer) -> Bytes {
    document(|encoder| {
        encoder
            .map(2)?
            .bytes(b"http://allmydata.org/tahoe/protocols/storage/v1")?
            .map(3)?;
        for (key, value) in [
            ("maximum-immutable-share-size", offer.immutable),
            ("maximum-mutable-share-size", offer.mutable),
            ("available-space", offer.available),
        ] {
            encoder.bytes(key.as_bytes())?.u64(value)?;
        }
        let version = concat!("raic/", env!("CARGO_PKG_VERSION"));
        encoder
            .bytes(b"application-version")?
            .bytes(version.as_bytes())?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(encode: impl FnOnce(&mut Encoder<Vec<u8>>) -> Encoded) -> Vec<u8> {
        document(encode).to_vec()
    }

    fn allocate(shares: &[u64], tag: u64) -> Vec<u8> {
        encoded(|e| {
            e.map(2)?.str("share-numbers")?.tag(Tag::new(tag))?;
            e.array(shares.len() as u64)?;
            for share in shares {
                e.u64(*share)?;
            }
            e.str("allocated-size")?.u64(123)?;
            Ok(())
        })
    }

    #[test]
    fn an_allocation_is_read_whole_or_not_at_all() {
        let document = allocate(&[1, 255], 258);
        let read = Allocate::decode(&document).unwrap();
        assert_eq!(read.size, 123);
        assert_eq!(read.shares, [ShareNum(1), ShareNum(255)].into());
        for end in 0..document.len() {
            assert!(Allocate::decode(&document[..end]).is_err(), "{end}");
        }
        assert!(Allocate::decode(&[&document[..], &[0]].concat()).is_err());
        assert!(Allocate::decode(&allocate(&[256], 258)).is_err());
        assert!(Allocate::decode(&allocate(&[1], 259)).is_err());
        let many: Vec<u64> = (0..300).map(|share| share % 256).collect();
        assert!(Allocate::decode(&allocate(&many, 258)).is_err());
    }

    #[test]
    fn a_key_too_many_or_too_few_is_refused() {
        let with = |keys: &[&str]| {
            encoded(|e| {
                e.map(keys.len() as u64)?;
                for key in keys {
                    e.str(key)?.str("text")?;
                }
                Ok(())
            })
        };
        assert_eq!(decode_reason(&with(&["reason"])).unwrap(), "text");
        for keys in [
            &[][..],
            &["reason", "other"],
            &["reason", "reason"],
            &["other"],
        ] {
            assert!(decode_reason(&with(keys)).is_err(), "{keys:?}");
        }
        let of = |text: &str| {
            let text = text.to_owned();
            decode_reason(&encoded(|e| e.map(1)?.str("reason")?.str(&text)?.ok()))
        };
        assert!(of("").is_err() && of(&"x".repeat(32_766)).is_err());
        assert!(of(&"x".repeat(32_765)).is_ok());
    }

    #[test]
    fn tests_writes_and_reads_are_read_without_a_copy() {
        let document: Bytes = encoded(|e| {
            e.map(2)?.str("test-write-vectors")?.map(1)?.u8(3)?.map(3)?;
            e.str("test")?.array(1)?.map(3)?;
            e.str("offset")?
                .u8(1)?
                .str("size")?
                .u8(2)?
                .str("specimen")?
                .bytes(b"ab")?;
            e.str("write")?.begin_array()?.begin_map()?;
            e.str("offset")?
                .u8(4)?
                .str("data")?
                .bytes(b"data")?
                .end()?
                .end()?;
            e.str("new-length")?.null()?;
            e.str("read-vector")?.array(1)?.map(2)?;
            e.str("offset")?.u64(5)?.str("size")?.u64(u64::MAX)?.ok()
        })
        .into();
        let read = ReadTestWrite::decode(&document).unwrap();
        let vector = &read.vectors[&ShareNum(3)];
        assert_eq!(vector.tests, [(1, 2, Bytes::from_static(b"ab"))]);
        assert_eq!(vector.writes, [(4, Bytes::from_static(b"data"))]);
        assert_eq!(vector.new_length, None);
        assert_eq!((read.reads.len(), &read.reads[0]), (1, &(5..u64::MAX)));
        let whole = document.as_ptr_range();
        assert!(whole.contains(&vector.writes[0].1.as_ptr()));
        for end in 0..document.len() {
            assert!(
                ReadTestWrite::decode(&document.slice(..end)).is_err(),
                "{end}"
            );
        }
    }

    #[test]
    fn a_hostile_length_takes_no_memory() {
        // A map of 2^60 items, and an array nested in arrays.
        assert!(Allocate::decode(&[0xbb, 0x10, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(Allocate::decode(&[0x81; 100_000]).is_err());
        assert!(
            decode_reason(&[0xa1, 0x66, b'r', b'e', b'a', b's', b'o', b'n', 0x7b, 0xff]).is_err()
        );
    }

    #[test]
    fn the_version_has_bytes_for_keys() {
        let offer = Offer {
            immutable: 1,
            mutable: 2,
            available: u64::MAX,
        };
        let document = version(offer);
        let mut decoder = Decoder::new(&document);
        assert_eq!(decoder.map().unwrap(), Some(2));
        let key = decoder.bytes().unwrap();
        assert!(key.ends_with(b"/storage/v1"));
        assert_eq!(decoder.map().unwrap(), Some(3));
    }
}
