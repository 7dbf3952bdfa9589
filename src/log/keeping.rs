//! Keeping house: retention, the log's budget, copying the little that is kept of old generations, deleting them, noting how far everything is written.
//!
//! All of it blocks on the disk. What frees space comes first, because on a full disk nothing else goes on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::bounded;

use super::directory::Head;
use super::generation::Generation;
use super::index::{Place, RoomIndex};
use super::writer::{Copy, Order};
use super::{Log, LogError, Shared};
use crate::clock;
use crate::metrics::record;

/// A generation of which less than this part is still kept is copied and deleted, in percent.
const COPY_BELOW_PERCENT: u64 = 20;
/// Sections that are copied at once.
const COPY_SECTIONS: usize = 256;
/// How long one copy may take before keeping house goes on without it.
const COPY_WAIT: Duration = Duration::from_secs(5);
/// A sealed generation that nobody reads is closed after this time.
const REST_AFTER: Duration = Duration::from_secs(10);
/// Sealed generations that readers keep open at once: each has a cache of its own, and threads of its database.
pub(super) const OPEN: usize = 16;

/// What is still kept of sealed generations.
pub(super) struct Kept {
    /// All that were sealed before it was looked up: of what is sealed later nothing is known.
    sealed: Vec<Arc<Generation>>,
    /// Bytes by generation; none where nothing is.
    bytes: HashMap<u32, u64>,
}

impl Log {
    /// Retention, copying, deleting, marking how far everything is written. Blocks; to be called about once a second.
    ///
    /// # Errors
    /// What the disk refuses; the next call tries again.
    pub fn housekeep(&self) -> Result<(), LogError> {
        // What frees space comes first: on a full disk the writer goes on only then.
        self.shared.expire();
        self.settle_copies();
        // Looked up once for all that follows: with many rooms it is most of the work.
        let kept = self.shared.kept();
        self.shared.delete_dead(&kept)?;
        self.shared.expel_over_budget()?;
        if self.fault().is_none() {
            self.copy_mostly_dead(&kept);
        }
        self.shared.index.forget_empty();
        self.shared.rest();
        self.shared.mark_head()
    }

    /// Has the writer copy what is kept of generations of which little is, so that quiet rooms do not keep large ones for ever.
    fn copy_mostly_dead(&self, kept: &Kept) {
        for (generation, rooms) in self.shared.mostly_dead(kept) {
            generation.copying.store(true, Ordering::Release);
            let places: Vec<_> =
                rooms.iter().flat_map(|(room, places)| places.iter().map(move |place| (room, *place))).collect();
            // Some at a time: the writer has others to serve. While it cannot write, copying is not what is needed.
            for some in places.chunks(COPY_SECTIONS) {
                if !self.copy(&generation, some) {
                    return;
                }
            }
        }
    }

    /// Whether the copies were made.
    fn copy(&self, generation: &Generation, places: &[(&Arc<RoomIndex>, Place)]) -> bool {
        let mut sections = Vec::with_capacity(places.len());
        for (room, place) in places {
            match generation.get(place.position) {
                Ok(chunk) => sections.push((Arc::clone(room), *place, chunk)),
                Err(error) => {
                    tracing::error!(room = %room.name, %error, "log: events that should be copied cannot be read");
                    return false;
                }
            }
        }
        let (done, copied) = bounded(1);
        let sent = self.orders.try_send(Order::Copy(Copy { sections, done })).is_ok();
        sent && copied.recv_timeout(COPY_WAIT).is_ok()
    }

    /// Makes sure that copies are on the disk, so that their originals may go.
    fn settle_copies(&self) {
        let copied: Vec<_> =
            self.shared.sealed().into_iter().filter(|generation| generation.copying.load(Ordering::Acquire)).collect();
        if copied.is_empty() || self.fault().is_some() {
            return;
        }
        let current = self.shared.generations.read().last().cloned();
        let settled = current.is_some_and(|current| current.flush().and_then(|()| current.sync()).is_ok());
        if settled {
            copied.iter().for_each(|generation| generation.copying.store(false, Ordering::Release));
        }
    }
}

impl Shared {
    pub(super) fn expire(&self) {
        let now_ms = clock::now_ms();
        for room in self.index.rooms() {
            let gone = room.expire(now_ms);
            if gone > 0 {
                record::log_expired(room.name.namespace(), gone);
            }
        }
    }

    /// What is still kept of sealed generations; without a look at the rooms where there are none.
    pub(super) fn kept(&self) -> Kept {
        let (sealed, mut bytes) = (self.sealed(), HashMap::new());
        let rooms = if sealed.is_empty() { Vec::new() } else { self.index.rooms() };
        for (generation, kept) in rooms.iter().flat_map(|room| room.bytes_by_generation()) {
            *bytes.entry(generation).or_default() += kept;
        }
        Kept { sealed, bytes }
    }

    /// Lets the oldest generations go while all together are over `log.bytes_max`, even if their rooms would keep them.
    pub(super) fn expel_over_budget(&self) -> Result<(), LogError> {
        loop {
            let oldest = {
                let generations = self.generations.read();
                let bytes: u64 = generations.iter().map(|generation| generation.written()).sum();
                if bytes <= self.settings.bytes_max || generations.len() < 2 {
                    return Ok(());
                }
                Arc::clone(&generations[0])
            };
            let events: u64 = self.index.rooms().iter().map(|room| room.expel(oldest.number)).sum();
            if events > 0 {
                tracing::warn!(
                    events,
                    bytes_max = self.settings.bytes_max,
                    "log: over log.bytes_max, events went before their retention ended"
                );
                record::log_expelled(events);
            }
            self.delete(&oldest)?;
        }
    }

    /// Sealed generations of which little is kept, with what is.
    #[allow(clippy::type_complexity, reason = "a list of generations and rooms with their places, used once")]
    pub(super) fn mostly_dead(&self, kept: &Kept) -> Vec<(Arc<Generation>, Vec<(Arc<RoomIndex>, Vec<Place>)>)> {
        let little = |generation: &Arc<Generation>| {
            let kept = kept.bytes.get(&generation.number).copied().unwrap_or(0);
            // One that went meanwhile, because all were over their budget, is not there any more.
            kept > 0
                && kept * 100 < generation.written() * COPY_BELOW_PERCENT
                && self.generation(generation.number).is_some()
        };
        let sealed: Vec<_> = kept.sealed.iter().filter(|generation| little(generation)).cloned().collect();
        if sealed.is_empty() {
            return Vec::new();
        }
        let rooms = self.index.rooms();
        let with_rooms = |generation: Arc<Generation>| {
            let places = rooms.iter().map(|room| (Arc::clone(room), room.places_in(generation.number)));
            let places = places.filter(|(_, places)| !places.is_empty()).collect();
            (generation, places)
        };
        sealed.into_iter().map(with_rooms).collect()
    }

    /// All generations but the one that is written to.
    pub(super) fn sealed(&self) -> Vec<Arc<Generation>> {
        self.generations.read().split_last().map(|(_, sealed)| sealed.to_vec()).unwrap_or_default()
    }

    pub(super) fn delete_dead(&self, kept: &Kept) -> Result<(), LogError> {
        let dead = |generation: &Arc<Generation>| {
            !kept.bytes.contains_key(&generation.number) && !generation.copying.load(Ordering::Acquire)
        };
        kept.sealed.iter().filter(|generation| dead(generation)).try_for_each(|generation| self.delete(generation))
    }

    pub(super) fn delete(&self, generation: &Arc<Generation>) -> Result<(), LogError> {
        self.generations.write().retain(|other| other.number != generation.number);
        self.cache.forget(generation.number);
        tracing::debug!(generation = generation.number, "log: generation deleted");
        generation.delete()
    }

    /// Closes the one of the sealed generations that was not read for longest, if this one is to be opened and there are [`OPEN`] already: readers that stand anywhere would have all open.
    pub(super) fn close_for(&self, wanted: &Generation) {
        if wanted.is_open() {
            return;
        }
        let sealed = self.sealed();
        let open: Vec<_> = sealed.iter().filter(|other| other.number != wanted.number && other.is_open()).collect();
        if open.len() >= OPEN
            && let Some(oldest) = open.iter().min_by_key(|generation| generation.read_ms())
        {
            oldest.close();
        }
    }

    pub(super) fn rest(&self) {
        let before = clock::now_ms().saturating_sub(u64::try_from(REST_AFTER.as_millis()).unwrap_or(u64::MAX));
        self.sealed().iter().for_each(|generation| generation.rest(before));
    }

    pub(super) fn mark_head(&self) -> Result<(), LogError> {
        let (generation, position) = *self.flushed.lock();
        let head = Head { generation, position, floor: self.index.floor() };
        if self.directory.read_head() == Some(head) {
            return Ok(());
        }
        // It must never be ahead of what the disk has, or a loss of power would look like damage.
        if let Some(current) = self.generation(generation) {
            current.sync()?;
        }
        self.directory.write_head(head)
    }
}
