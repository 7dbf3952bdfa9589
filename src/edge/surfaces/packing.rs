//! gzip (RFC 1952, RFC 1951) for streams that many read: a message is packed once, by itself, and every reader gets the same bytes. A compressor of one's own for each reader would cost some 300 KB.
//!
//! A gzip stream is a header, blocks of deflate, and a trailer. Blocks that refer to nothing before them and end on a byte (a sync flush) may follow one another in any order: so each message is a
//! row of such blocks, made alone. Only the trailer is each reader's own: the CRC-32 of everything, which comes of the messages' own by combining them, and its length.

use std::io::Write as _;

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};

/// What is smaller goes as it is: packing it would cost more than it saves.
const PACK_BYTES: usize = 1024;
/// The header: deflate, no name, no time, system unknown.
pub(super) const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The longest stored block.
const STORED_MAX: usize = 65_535;

/// Whether a client takes gzip.
pub(in crate::edge) fn wanted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse::<f32>().is_ok_and(|q| q <= 0.0));
        matches!(name.trim().to_ascii_lowercase().as_str(), "gzip" | "x-gzip" | "*") && !refused
    })
}

/// A body as gzip, if it is worth it.
pub(in crate::edge) fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    if body.len() < PACK_BYTES {
        return None;
    }
    let mut packer = flate2::write::GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    // Writing into memory does not fail.
    packer.write_all(body).ok()?;
    packer.finish().ok()
}

/// Bytes as blocks of deflate that stand alone, with what the trailer needs of them.
#[derive(Debug, Clone)]
pub(super) struct Block {
    /// The blocks, up to a whole byte.
    pub(super) bytes: Bytes,
    crc: crc32fast::Hasher,
}

impl Block {
    /// Packs bytes; small ones are stored.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut crc = crc32fast::Hasher::new();
        crc.update(bytes);
        let packed = if bytes.len() < PACK_BYTES { None } else { deflate(bytes) };
        let bytes = packed.filter(|packed| packed.len() < bytes.len()).unwrap_or_else(|| stored(bytes));
        Self { bytes: bytes.into(), crc }
    }
}

/// Blocks that end on a byte; `None` if it does not come to its end, which does not happen in memory that is large enough.
fn deflate(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut packer = Compress::new(Compression::fast(), false);
    let mut out = Vec::with_capacity(bytes.len() + 64);
    packer.compress_vec(bytes, &mut out, FlushCompress::Sync).ok()?;
    (packer.total_in() == bytes.len() as u64 && out.ends_with(&[0, 0, 0xff, 0xff])).then_some(out)
}

/// As they are, in stored blocks.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 5);
    for part in bytes.chunks(STORED_MAX) {
        // At most STORED_MAX.
        let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
        out.push(0);
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(part);
    }
    out
}

/// What a reader's trailer will say.
#[derive(Debug, Default)]
pub(super) struct Trailer {
    crc: crc32fast::Hasher,
    length: u32,
}

impl Trailer {
    /// Takes in what was written, with its length before it was packed.
    pub(super) fn add(&mut self, block: &Block, length: usize) {
        self.crc.combine(&block.crc);
        #[allow(clippy::cast_possible_truncation, reason = "the format has it modulo 2^32")]
        let length = length as u32;
        self.length = self.length.wrapping_add(length);
    }

    /// Whether anything was written.
    pub(super) fn is_begun(&self) -> bool {
        self.length > 0
    }

    /// The last block, which is empty, and the trailer.
    pub(super) fn finish(&self) -> Vec<u8> {
        let mut out = vec![3, 0];
        out.extend(self.crc.clone().finalize().to_le_bytes());
        out.extend(self.length.to_le_bytes());
        out
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_packed_alone_are_one_stream_of_gzip(texts in proptest::collection::vec(("[a-z ]{0,30}", 0usize..3000), 0..8)) {
            let (mut stream, mut trailer, mut plain) = (HEADER.to_vec(), Trailer::default(), Vec::new());
            for (text, times) in texts {
                let message = text.repeat(times).into_bytes();
                let block = Block::of(&message);
                prop_assert!(block.bytes.len() <= message.len() + 5 * (message.len() / STORED_MAX + 1));
                trailer.add(&block, message.len());
                stream.extend(&block.bytes);
                plain.extend(message);
            }
            stream.extend(trailer.finish());
            let mut read = Vec::new();
            flate2::read::GzDecoder::new(&stream[..]).read_to_end(&mut read).unwrap();
            prop_assert_eq!(read, plain);
        }
    }

    #[test]
    fn gzip_is_taken_where_it_is_named_and_not_refused() {
        let asks = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, header::HeaderValue::from_static(value));
            wanted(&headers)
        };
        assert!(asks("gzip") && asks("br, GZIP;q=0.5") && asks("*"));
        assert!(!asks("br") && !asks("gzip;q=0") && !asks("identity"));
    }
}
