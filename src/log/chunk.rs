//! How events lie in the log. A chunk is one value of the database, about 4 KB: a checksum and then sections, each a run of one room's events.
//!
//! ```text
//! chunk    crc32 of the rest, 4 bytes little-endian · version, 1 byte · sections
//! sections as they are (version 1), or compressed as one LZ4 block behind their length, 4 bytes little-endian (version 2), where that saves a tenth
//! section  name length · name · the room's very first seq · first seq · count · arrival of the first (ms) · event …
//! event    flags · arrival since the previous one (ms) · [timestamp − arrival, zigzag] · [kind] · [key] · [id] · data
//! flags    bits 0–1 lane · 2 the kind is the previous one's · 3 has a key · 4 has an id · 5 the timestamp is the arrival · 6 is a change of state
//! ```
//! Offsets count in the chunk as it is before it is compressed. Numbers are LEB128, texts and data are preceded by their length. A section's seqs are consecutive. A section can be read alone, from its offset in the chunk:
//! rooms are named in each one, which costs some bytes a section and saves a dictionary that could be lost.

use std::borrow::Cow;

use tidegate_actors::Lane;

use crate::event::{Event, Parts, RoomName};

const PLAIN: u8 = 1;
const COMPRESSED: u8 = 2;
/// The largest chunk that is believed when it says how large it is: some room above the largest event there may be.
const CHUNK_MAX: usize = 80 << 20;
/// Where the first section begins.
const HEAD: usize = 5;
/// How long a compressed chunk was before stands in so many bytes.
const LENGTH: usize = 4;

const SAME_KIND: u8 = 1 << 2;
const HAS_KEY: u8 = 1 << 3;
const HAS_ID: u8 = 1 << 4;
const ARRIVAL_TIME: u8 = 1 << 5;
const CHANGE: u8 = 1 << 6;

/// The chunk is not as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damaged;

/// Builds one chunk.
pub(super) struct Builder {
    bytes: Vec<u8>,
}

/// What a section's events share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: RoomName,
    /// The room's very first seq.
    pub(super) created: u64,
    pub(super) first: u64,
    pub(super) count: u32,
    pub(super) arrived_ms: u64,
}

impl Builder {
    pub(super) fn new() -> Self {
        let mut bytes = Vec::with_capacity(4608);
        bytes.extend_from_slice(&[0, 0, 0, 0, PLAIN]);
        Self { bytes }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() == HEAD
    }

    /// Appends a section and returns its offset.
    pub(super) fn section<'a>(&mut self, header: &Header, events: impl Iterator<Item = Parts<'a>>) -> u32 {
        let offset = self.bytes.len();
        let out = &mut self.bytes;
        put_bytes(out, header.name.as_str().as_bytes());
        put(out, header.created);
        put(out, header.first);
        put(out, u64::from(header.count));
        put(out, header.arrived_ms);
        let (mut kind, mut arrived) = ("", header.arrived_ms);
        for event in events {
            let mut flags = event.priority as u8;
            if event.kind == kind {
                flags |= SAME_KIND;
            }
            if event.key.is_some() {
                flags |= HAS_KEY;
            }
            if event.id.is_some() {
                flags |= HAS_ID;
            }
            if event.timestamp_ms == event.arrived_ms {
                flags |= ARRIVAL_TIME;
            }
            if event.change {
                flags |= CHANGE;
            }
            out.push(flags);
            put(out, event.arrived_ms.saturating_sub(arrived));
            arrived = event.arrived_ms;
            if flags & ARRIVAL_TIME == 0 {
                put(out, zigzag(event.timestamp_ms.wrapping_sub(event.arrived_ms)));
            }
            if flags & SAME_KIND == 0 {
                put_bytes(out, event.kind.as_bytes());
                kind = event.kind;
            }
            for text in [event.key, event.id].into_iter().flatten() {
                put_bytes(out, text.as_bytes());
            }
            put_bytes(out, event.data);
        }
        u32::try_from(offset).unwrap_or(u32::MAX)
    }

    /// The finished chunk as it is stored.
    pub(super) fn finish(self) -> Vec<u8> {
        let plain = &self.bytes[HEAD..];
        // Behind its head at once, so that nothing is copied.
        let mut packed = vec![0; HEAD + LENGTH + lz4_flex::block::get_maximum_output_size(plain.len())];
        let written = lz4_flex::block::compress_into(plain, &mut packed[HEAD + LENGTH..]).unwrap_or(usize::MAX);
        let mut chunk = match u32::try_from(plain.len()) {
            Ok(length) if written.saturating_add(LENGTH).saturating_mul(10) < plain.len() * 9 => {
                packed[HEAD - 1] = COMPRESSED;
                packed[HEAD..HEAD + LENGTH].copy_from_slice(&length.to_le_bytes());
                packed.truncate(HEAD + LENGTH + written);
                // It may wait for its flush in company.
                packed.shrink_to_fit();
                packed
            }
            _ => self.bytes,
        };
        let crc = crc32fast::hash(&chunk[4..]);
        chunk[..4].copy_from_slice(&crc.to_le_bytes());
        chunk
    }
}

/// About how many bytes an event takes in a chunk.
pub(super) fn weight(event: &Event) -> usize {
    let text = |text: &Option<smol_str::SmolStr>| text.as_ref().map_or(0, |text| text.len() + 1);
    event.data().len() + event.kind.len() + text(&event.key) + text(&event.id) + 8
}

/// A stored chunk as it was before it was compressed, if it is as it was written.
pub(super) fn open(stored: &[u8]) -> Result<Cow<'_, [u8]>, Damaged> {
    let (crc, rest) = stored.split_first_chunk::<4>().ok_or(Damaged)?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*crc) {
        return Err(Damaged);
    }
    match rest.split_first() {
        Some((&PLAIN, _)) => Ok(Cow::Borrowed(stored)),
        Some((&COMPRESSED, block)) => {
            let (length, block) = block.split_first_chunk::<4>().ok_or(Damaged)?;
            let length = u32::from_le_bytes(*length) as usize;
            if length > CHUNK_MAX {
                return Err(Damaged);
            }
            // The head is not looked at again; it is there so that offsets are right.
            let mut plain = vec![0; HEAD + length];
            let written = lz4_flex::block::decompress_into(block, &mut plain[HEAD..]).map_err(|_| Damaged)?;
            if written == length { Ok(Cow::Owned(plain)) } else { Err(Damaged) }
        }
        _ => Err(Damaged),
    }
}

/// A section being read.
pub(super) struct Section<'a> {
    pub(super) header: Header,
    rest: &'a [u8],
    kind: &'a str,
    arrived_ms: u64,
    next: u64,
    left: u32,
}

/// All sections of an opened chunk with their offsets, and when the last event of each arrived.
pub(super) fn sections(chunk: &[u8]) -> Result<Vec<(u32, Header, u64)>, Damaged> {
    let mut found = Vec::new();
    let mut at = HEAD;
    while at < chunk.len() {
        let mut section = Section::at(chunk, at)?;
        while section.next()?.is_some() {}
        found.push((u32::try_from(at).map_err(|_| Damaged)?, section.header, section.arrived_ms));
        at = chunk.len() - section.rest.len();
    }
    Ok(found)
}

impl<'a> Section<'a> {
    /// The section at an offset of an opened chunk.
    pub(super) fn at(chunk: &'a [u8], offset: usize) -> Result<Self, Damaged> {
        let mut rest = chunk.get(offset..).ok_or(Damaged)?;
        let name = text(take_bytes(&mut rest)?)?;
        let name = RoomName::stored(name).map_err(|_| Damaged)?;
        let (created, first, count) = (take(&mut rest)?, take(&mut rest)?, take(&mut rest)?);
        let arrived_ms = take(&mut rest)?;
        let count = u32::try_from(count).map_err(|_| Damaged)?;
        let header = Header { name, created, first, count, arrived_ms };
        Ok(Self { header, rest, kind: "", arrived_ms, next: first, left: count })
    }

    /// The next event.
    pub(super) fn next(&mut self) -> Result<Option<Parts<'a>>, Damaged> {
        if self.left == 0 {
            return Ok(None);
        }
        let rest = &mut self.rest;
        let (flags, after) = rest.split_first().ok_or(Damaged)?;
        *rest = after;
        self.arrived_ms = self.arrived_ms.checked_add(take(rest)?).ok_or(Damaged)?;
        let mut timestamp_ms = self.arrived_ms;
        if flags & ARRIVAL_TIME == 0 {
            timestamp_ms = timestamp_ms.wrapping_add(unzigzag(take(rest)?));
        }
        if flags & SAME_KIND == 0 {
            self.kind = text(take_bytes(rest)?)?;
        }
        let key = if flags & HAS_KEY == 0 { None } else { Some(text(take_bytes(rest)?)?) };
        let id = if flags & HAS_ID == 0 { None } else { Some(text(take_bytes(rest)?)?) };
        let data = take_bytes(rest)?;
        let seq = self.next;
        self.next += 1;
        self.left -= 1;
        let priority = Lane::ALL[usize::from(flags & 3)];
        let (arrived_ms, kind, change) = (self.arrived_ms, self.kind, flags & CHANGE != 0);
        Ok(Some(Parts { seq, arrived_ms, timestamp_ms, priority, kind, key, id, change, data }))
    }
}

/// Appends the section at an offset of an opened chunk to another chunk; its offset there, `None` if it cannot be read.
pub(super) fn copy_section(chunk: &[u8], offset: usize, builder: &mut Builder) -> Option<u32> {
    let mut section = Section::at(chunk, offset).ok()?;
    let header = section.header.clone();
    let mut events = Vec::with_capacity(header.count as usize);
    while let Some(event) = section.next().ok()? {
        events.push(event);
    }
    Some(builder.section(&header, events.into_iter()))
}

/// An event's parts, for writing it.
pub(super) fn parts(event: &Event) -> Parts<'_> {
    Parts {
        seq: event.seq,
        arrived_ms: event.arrived_ms,
        timestamp_ms: event.timestamp_ms,
        priority: event.priority,
        kind: &event.kind,
        key: event.key.as_deref(),
        id: event.id.as_deref(),
        change: event.change,
        data: event.data(),
    }
}

pub(super) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).unwrap_or(0) | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or(0));
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn take(rest: &mut &[u8]) -> Result<u64, Damaged> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or(Damaged)?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Damaged)
}

pub(super) fn take_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Damaged> {
    let length = usize::try_from(take(rest)?).map_err(|_| Damaged)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(Damaged)?;
    *rest = after;
    Ok(bytes)
}

pub(super) fn text(bytes: &[u8]) -> Result<&str, Damaged> {
    std::str::from_utf8(bytes).map_err(|_| Damaged)
}

/// A difference in two's complement, small in either direction.
fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ (0_u64.wrapping_sub(difference >> 63))
}

fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (0_u64.wrapping_sub(number & 1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Made = (u64, u64, u8, String, Option<String>, Option<String>, Vec<u8>);

    fn made() -> impl Strategy<Value = Made> {
        (
            0u64..1000,
            any::<u64>(),
            0u8..4,
            "[ab]{1,2}",
            proptest::option::of(".{0,9}"),
            proptest::option::of(".{0,9}"),
            proptest::collection::vec(any::<u8>(), 0..50),
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(made in proptest::collection::vec(made(), 1..20), first in 0u64..u64::MAX / 2) {
            let mut arrived = 1000;
            let parts: Vec<Parts<'_>> = made.iter().enumerate().map(|(index, (later, time, lane, kind, key, id, data))| {
                arrived += later;
                let (priority, seq) = (Lane::ALL[usize::from(*lane)], first + index as u64);
                Parts { seq, arrived_ms: arrived, timestamp_ms: *time, priority, kind, key: key.as_deref(), id: id.as_deref(), change: *time % 2 == 0, data }
            }).collect();
            let header = Header { name: RoomName::parse("a:b").unwrap(), created: 5, first, count: u32::try_from(parts.len()).unwrap(), arrived_ms: parts[0].arrived_ms };
            let mut builder = Builder::new();
            builder.section(&header, parts.iter().copied());
            let offset = builder.section(&header, parts.iter().copied());
            let mut stored = builder.finish();
            let chunk = open(&stored).unwrap().into_owned();
            prop_assert_eq!(sections(&chunk).unwrap().len(), 2);
            let mut section = Section::at(&chunk, offset as usize).unwrap();
            prop_assert_eq!(&section.header, &header);
            for part in &parts {
                let read = section.next().unwrap().unwrap();
                prop_assert_eq!(format!("{read:?}"), format!("{part:?}"));
            }
            prop_assert!(section.next().unwrap().is_none());
            let middle = stored.len() / 2;
            stored[middle] ^= 1;
            prop_assert_eq!(open(&stored), Err(Damaged));
        }

        #[test]
        fn no_bytes_make_the_reading_panic(chunk in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = open(&chunk);
            let _ = sections(&chunk);
            // Also behind a checksum that fits.
            let mut stored = vec![0; 4];
            stored.extend_from_slice(&chunk);
            let crc = crc32fast::hash(&stored[4..]).to_le_bytes();
            stored[..4].copy_from_slice(&crc);
            if let Ok(opened) = open(&stored) {
                let _ = sections(&opened);
            }
        }
    }
}
