//! What was read from the log lately, decoded: runs of a room's events, by where they lie. Shared by the reader threads and by the sessions, which take from it without asking a thread.
//!
//! Bound: `log.read_cache_bytes`, counted as [`Event::bytes`]. What is older than retention is never asked for, because readers ask the index and the list of generations first; what lies in a
//! deleted generation is forgotten with it. A run that only one reader reads does not push out what many do.

use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use super::index::Place;
use crate::event::{Event, RoomKey};

/// About what a run weighs: a chunk of small events, decoded.
const RUN_BYTES: usize = 8 << 10;
/// Parts with a lock each. Few, so that a large event fits in one.
const SHARDS: usize = 8;

/// Where a run lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Spot {
    generation: u32,
    offset: u32,
    position: u64,
}

impl From<&Place> for Spot {
    fn from(place: &Place) -> Self {
        Self { generation: place.generation, offset: place.offset, position: place.position }
    }
}

/// All events of one section of a chunk, oldest first.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) events: Arc<[Arc<Event>]>,
    bytes: usize,
}

impl Run {
    pub(super) fn new(events: Vec<Arc<Event>>) -> Self {
        let bytes = events.iter().map(|event| event.bytes() + size_of::<Arc<Event>>()).sum::<usize>() + 128;
        Self { events: events.into(), bytes }
    }
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<Spot, Run> for ByBytes {
    fn weight(&self, _: &Spot, run: &Run) -> u64 {
        run.bytes as u64
    }
}

/// The runs read lately.
pub(super) struct ReadCache(Option<Cache<Spot, Run, ByBytes, ahash::RandomState>>);

impl ReadCache {
    /// Holds so many bytes; none if that is 0.
    pub(super) fn new(bytes_max: usize) -> Self {
        let mut options = OptionsBuilder::new();
        options.shards(SHARDS).estimated_items_capacity(bytes_max / RUN_BYTES).weight_capacity(bytes_max as u64);
        // Fails only where a capacity is missing.
        let options = options.build().ok().filter(|_| bytes_max > 0);
        Self(options.map(|options| {
            Cache::with_options(options, ByBytes, ahash::RandomState::default(), DefaultLifecycle::default())
        }))
    }

    /// The run at a place, if it is held and belongs to this very room: a room that went out of memory and came back is another to its readers.
    pub(super) fn get(&self, place: &Place, key: &RoomKey) -> Option<Run> {
        let run = self.0.as_ref()?.get(&Spot::from(place))?;
        run.events.first().is_some_and(|event| event.room == *key).then_some(run)
    }

    pub(super) fn put(&self, place: &Place, run: &Run) {
        if let Some(cache) = &self.0 {
            cache.insert(Spot::from(place), run.clone());
        }
    }

    /// Whether anything is ever held.
    pub(super) fn holds(&self) -> bool {
        self.0.is_some()
    }

    /// Forgets what lies in a generation.
    pub(super) fn forget(&self, generation: u32) {
        if let Some(cache) = &self.0 {
            cache.retain(|spot, _| spot.generation != generation);
        }
    }

    /// Bytes held.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, Cache::weight)
    }
}
