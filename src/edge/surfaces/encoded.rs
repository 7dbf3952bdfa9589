//! What a surface's messages are on the wire, made once for all its readers. An event of a room is asked for by all of them within moments, so the last few are remembered: few, because what is
//! kept here is kept besides the room's own tail.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use smol_str::SmolStr;

use super::packing;
use crate::event::{Event, RoomKey};

/// How many events a surface remembers; with the largest events that is some 6 MB.
const PLACES: usize = 64;

/// A message: its JSON, and what it is on a stream of Server-Sent Events.
#[derive(Debug)]
pub(in crate::edge) struct Message {
    /// `event:` where it has a name, `data:`, and for an event of a room its seq as `id:` and the end.
    whole: Bytes,
    /// Where in it the JSON stands.
    json: std::ops::Range<usize>,
    packed: OnceLock<packing::Block>,
}

impl Message {
    /// A message of this JSON; `name` is that of the event on SSE, where it has one.
    pub(in crate::edge) fn new(name: Option<&str>, json: &[u8]) -> Self {
        Self::with_seq(name, json, None)
    }

    /// A message made of an event of a room.
    pub(in crate::edge) fn of(event: &Event, name: Option<&str>, json: &[u8]) -> Self {
        Self::with_seq(name, json, Some(event.seq))
    }

    fn with_seq(name: Option<&str>, json: &[u8], seq: Option<u64>) -> Self {
        let mut whole = BytesMut::with_capacity(json.len() + 64);
        if let Some(name) = name {
            whole.put_slice(b"event: ");
            whole.put_slice(name.as_bytes());
            whole.put_u8(b'\n');
        }
        whole.put_slice(b"data: ");
        let json_at = whole.len();
        if memchr::memchr2(b'\n', b'\r', json).is_some() {
            // JSON that came in with line ends between its parts; inside of a text there are none.
            whole.extend(json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
        } else {
            whole.put_slice(json);
        }
        let json = json_at..whole.len();
        whole.put_u8(b'\n');
        if let Some(seq) = seq {
            whole.put_slice(format!("id: {seq}\n\n").as_bytes());
        }
        Self { whole: whole.freeze(), json, packed: OnceLock::new() }
    }

    /// Its JSON.
    pub(in crate::edge) fn json(&self) -> Bytes {
        self.whole.slice(self.json.clone())
    }

    /// All of it on a stream whose cursor is the event's seq.
    pub(super) fn whole(&self) -> &Bytes {
        &self.whole
    }

    /// Its lines on a stream, but for its id and its end.
    pub(super) fn lines(&self) -> &[u8] {
        &self.whole[..=self.json.end]
    }

    /// The same, packed.
    pub(super) fn packed(&self) -> &packing::Block {
        self.packed.get_or_init(|| packing::Block::of(self.lines()))
    }
}

/// The messages of an event; most often one.
pub(in crate::edge) type Messages = smallvec::SmallVec<[Arc<Message>; 1]>;

type Place = Mutex<Option<(RoomKey, u64, SmolStr, Messages)>>;

/// What a surface remembers of the last events.
#[derive(Debug)]
pub(in crate::edge) struct Encoded(LazyLock<(RandomState, Vec<Place>)>);

impl Encoded {
    /// Nothing yet.
    pub(in crate::edge) const fn new() -> Self {
        Self(LazyLock::new(|| (RandomState::new(), (0..PLACES).map(|_| Mutex::default()).collect())))
    }

    /// An event's messages; they are made where nobody else has asked for them of late. `how` tells apart ways of encoding, where a surface has several.
    pub(in crate::edge) fn of(&self, event: &Event, how: &'static str, make: impl FnOnce() -> Messages) -> Messages {
        let (hasher, places) = &*self.0;
        #[allow(clippy::cast_possible_truncation, reason = "a place")]
        let at = hasher.hash_one((event.room.name().as_str(), event.seq, how)) as usize % PLACES;
        // Held while it is made, so that it is made once; a change of the same place waits a moment.
        let mut place = places[at].lock();
        if let Some((room, seq, as_, messages)) = &*place
            && (room, *seq, as_.as_str()) == (&event.room, event.seq, how)
        {
            return messages.clone();
        }
        let messages = make();
        *place = Some((event.room.clone(), event.seq, SmolStr::new_static(how), messages.clone()));
        messages
    }
}
