//! What a reader joins and leaves: rooms by name, rooms by pattern, rooms that come to be later, and those that it may not read any more.

use std::sync::Arc;

use tidegate_actors::{Inbox, Level};

use super::super::{Change, Contract, Control, Delivery, Dialect, Notice};
use super::{Follow, Served, Session, books};
use crate::auth::Identity;
use crate::engine::connections::thin::Thin;
use crate::engine::rooms::{Gap, Joined, PublishError, Snapshot, StartAt, Terms};
use crate::event::{Pattern, RoomKey, RoomName};

/// What a reader that joins cannot have.
#[derive(Debug)]
pub struct Missed {
    /// In each room, what it misses, and the state that it has to begin with.
    begins: Vec<(RoomName, Option<Gap>, Option<Arc<Snapshot>>)>,
    /// Rooms that it followed before: there nothing has changed.
    pub already: Vec<RoomName>,
    /// Whether there were more rooms than it may follow.
    pub too_many: bool,
}

/// How a stream began.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// Whether there was something to tell at once: what is missing, or a state.
    pub something: bool,
    /// Whether there were more rooms than it may follow.
    pub too_many: bool,
}

impl<D: Dialect> Session<D> {
    /// Follows the first rooms; the dialect is told the welcome, then gaps.
    ///
    /// # Errors
    /// Where a room does not take readers now.
    pub async fn begin(
        &mut self,
        patterns: &[Pattern],
        start: &StartAt,
        contract: Option<Arc<Contract>>,
    ) -> Result<Begun, PublishError> {
        let granted = contract.as_ref().map(|contract| contract.granted(self.mailbox().bounds().messages));
        let missed = self.join(patterns, start, contract).await?;
        let rooms: Vec<String> = self.profile.patterns().iter().map(ToString::to_string).collect();
        let granted = granted.as_deref();
        self.tell(&Notice::Welcome { connection: self.subscriber.id, rooms: &rooms, granted });
        let begun = Begun { something: !missed.begins.is_empty(), too_many: missed.too_many };
        self.tell_begins(missed);
        Ok(begun)
    }

    /// Follows more rooms, or none of them. Of what a pattern matches, only what the reader may read.
    ///
    /// # Errors
    /// Where a room does not take readers now; everything is as it was then.
    pub async fn join(
        &mut self,
        patterns: &[Pattern],
        start: &StartAt,
        contract: Option<Arc<Contract>>,
    ) -> Result<Missed, PublishError> {
        let left = (self.rooms_max as usize).saturating_sub(self.follows.len());
        self.take_in_again(|name| patterns.iter().any(|pattern| pattern.matches(name)));
        let before = self.profile.patterns();
        let new: Vec<Pattern> = patterns.iter().filter(|pattern| !before.contains(pattern)).cloned().collect();
        self.alone = self.profile.set_patterns(|all| all.extend(new.iter().cloned()));
        let identity = self.profile.identity();
        let may = |name: &RoomName| identity.rights.may_read(name);
        let terms = contract.as_ref().map_or(Terms::default(), |contract| contract.terms());
        // Before the rooms hear of it: what they send finds its contract here.
        self.enter_contract(&new, contract.as_ref());
        let followed = match self.rooms.follow(&self.subscriber, patterns, start, terms, left, &may).await {
            Ok(followed) => followed,
            Err(error) => {
                self.alone = self.profile.set_patterns(|all| all.retain(|pattern| !new.contains(pattern)));
                self.rooms.unwatch(self.subscriber.id, Some(&new));
                self.forget_contracts(&new);
                return Err(error);
            }
        };
        let live = matches!(start, StartAt::Live);
        let mut missed = Missed { begins: Vec::new(), already: Vec::new(), too_many: followed.too_many };
        for joined in followed.joined {
            if joined.already {
                // Where it stands does not change. If it came by a pattern just now, its own word is still in the mailbox.
                missed.already.push(joined.room.name().clone());
                continue;
            }
            if joined.gap.is_some() || joined.snapshot.is_some() {
                missed.begins.push((joined.room.name().clone(), joined.gap, joined.snapshot.clone()));
            }
            self.enter(joined, live);
        }
        // Most readers follow one room for ever, and there are many of them.
        self.follows.shrink_to_fit();
        Ok(missed)
    }

    /// Tells what is missing at the beginning, and the state that there is to begin with.
    pub fn tell_begins(&mut self, missed: Missed) {
        for (room, gap, snapshot) in missed.begins {
            if let Some(gap) = gap {
                self.tell_gap(&room, gap);
            }
            if let Some(snapshot) = snapshot {
                self.tell(&Notice::Snapshot { room: &room, snapshot: &snapshot });
            }
        }
    }

    /// Remembers how what these patterns match is to be served.
    fn enter_contract(&mut self, patterns: &[Pattern], contract: Option<&Arc<Contract>>) {
        if contract.is_none() && self.contracts.is_none() {
            return;
        }
        // From the first one on that says something: what was asked for without is served as it was.
        let others = self.profile.patterns().into_iter().filter(|pattern| !patterns.contains(pattern));
        let contracts = self.contracts.get_or_insert_with(|| Box::new(others.map(|pattern| (pattern, None)).collect()));
        contracts.extend(patterns.iter().map(|pattern| (pattern.clone(), contract.cloned())));
    }

    fn forget_contracts(&mut self, patterns: &[Pattern]) {
        if let Some(contracts) = &mut self.contracts {
            contracts.retain(|(pattern, _)| !patterns.contains(pattern));
        }
    }

    /// How a room is to be served: by name goes before by pattern, and what was asked for first before what came later.
    fn contract_of(&self, room: &RoomName) -> Option<Arc<Contract>> {
        let contracts = self.contracts.as_ref()?;
        let by_name = contracts.iter().find(|(pattern, _)| matches!(pattern, Pattern::Room(name) if name == room));
        let found = by_name.or_else(|| contracts.iter().find(|(pattern, _)| pattern.matches(room)));
        found.and_then(|(_, contract)| contract.clone())
    }

    /// Stops following; what was gathered stays.
    pub fn unfollow(&mut self, patterns: &[Pattern]) {
        self.rooms.unwatch(self.subscriber.id, Some(patterns));
        self.alone = self.profile.set_patterns(|all| all.retain(|pattern| !patterns.contains(pattern)));
        let left = self.profile.patterns();
        let still = |key: &RoomKey| left.iter().any(|pattern| pattern.matches(key.name()));
        let gone: Vec<RoomKey> = self.follows.keys().filter(|key| !still(key)).cloned().collect();
        gone.iter().for_each(|key| self.leave(key));
        self.forget_contracts(patterns);
    }

    /// Follows more rooms on somebody else's word. The rooms are asked beside it, because a reader does not wait; what they say comes through its mailbox.
    pub(super) fn follow_too(&mut self, change: Change, contract: Option<Arc<Contract>>) {
        let Change { rooms, say, done } = change;
        self.take_in_again(|name| rooms.contains(name));
        let before = self.profile.patterns();
        let wanted = rooms.iter().cloned().map(Pattern::Room);
        let new: Vec<Pattern> = wanted.filter(|pattern| !before.contains(pattern)).collect();
        self.alone = self.profile.set_patterns(|all| all.extend(new.iter().cloned()));
        self.enter_contract(&new, contract.as_ref());
        let terms = contract.map_or(Terms::default(), |contract| contract.terms());
        let (registry, subscriber) = (self.rooms.clone(), Arc::clone(&self.subscriber));
        // Bounded by who sends changes, and each in time.
        tokio::spawn(async move {
            for room in rooms {
                if registry.invite(&subscriber, &room, terms).await.is_err() {
                    Delivery::control(&subscriber.mailbox, Control::NotFollowed(room));
                }
            }
            Delivery::control(&subscriber.mailbox, Control::Say(say));
            let _ = done.send(());
        });
    }

    /// Leaves rooms, also where a pattern of its own names them.
    pub fn leave_out(&mut self, rooms: &[RoomName]) {
        self.unfollow(&rooms.iter().cloned().map(Pattern::Room).collect::<Vec<_>>());
        for name in rooms {
            if !self.profile.wants(|pattern| pattern.matches(name)) {
                continue;
            }
            let left_out = self.left_out.get_or_insert_default();
            if !left_out.contains(name) {
                left_out.push(name.clone());
            }
            if let Some(key) = self.follows.keys().find(|key| key.name() == name).cloned() {
                self.leave(&key);
            }
        }
    }

    fn take_in_again(&mut self, asked: impl Fn(&RoomName) -> bool) {
        if let Some(left_out) = &mut self.left_out {
            left_out.retain(|name| !asked(name));
        }
    }

    /// Whether it may read a room, as things are.
    fn may_read(&self, identity: &Identity, room: &RoomName) -> bool {
        let role = self.contract_of(room).and_then(|contract| contract.role);
        identity.rights.may_read(room) && role.is_none_or(|role| identity.has_role(role))
    }

    /// What it may do has changed: rooms that it may not read any more are left, and it is told which.
    pub fn leave_what_is_not_allowed(&mut self) {
        let identity = self.profile.identity();
        let rights = &identity.rights;
        let forbidden: Vec<RoomKey> =
            self.follows.keys().filter(|key| !self.may_read(&identity, key.name())).cloned().collect();
        for key in &forbidden {
            self.leave(key);
            let message = format!("the credential does not allow to read {} any more", key.name());
            self.tell(&Notice::error("forbidden", &message));
        }
        let gone: Vec<Pattern> =
            self.profile.patterns().into_iter().filter(|pattern| !rights.may_read_some(pattern)).collect();
        self.rooms.unwatch(self.subscriber.id, Some(&gone));
        self.alone = self.profile.set_patterns(|all| all.retain(|pattern| !gone.contains(pattern)));
        self.forget_contracts(&gone);
    }

    fn leave(&mut self, key: &RoomKey) {
        if let Some(follow) = self.follows.shift_remove(key) {
            let due = books::leave(follow, self.subscriber.id, &self.profile.books, self.meter);
            self.left_due = self.left_due.wrapping_add(due);
        }
        self.subscriber.mailbox.forget(key);
        self.shed.retain(|run| run.stream != *key);
        self.behind.retain(|other| other != key);
    }

    fn enter(&mut self, joined: Joined, live: bool) {
        let key = joined.room.key().clone();
        let contract = self.contract_of(joined.room.name());
        let state_seq = joined.snapshot.as_ref().map_or(0, |snapshot| snapshot.seq);
        let served = (contract.is_some() || state_seq > 0).then(|| {
            let thin = contract.as_ref().and_then(|contract| Thin::of(contract, live));
            Box::new(Served { contract, thin, state_seq })
        });
        // Joined twice, by name and by pattern: the first place holds.
        self.follows.entry(key).or_insert(Follow {
            room: joined.room,
            reached: joined.after,
            since_ms: joined.since_ms,
            joined_at: joined.head,
            settled: joined.head,
            told_ahead: 0,
            served,
        });
    }

    /// A room that it has joined and does not follow: what was due to it meanwhile comes to nobody.
    pub(super) fn pass_over(&self, joined: &Joined) {
        let offered = joined.room.leave(self.subscriber.id);
        let head = if joined.head == 0 { joined.room.created().saturating_sub(1) } else { joined.head };
        self.meter.abandoned(offered.saturating_sub(head));
    }

    /// A room that came to be and matches a pattern.
    pub(super) fn joined(&mut self, joined: Joined, inbox: &mut Inbox<Delivery>) {
        let (room, key) = (Arc::clone(&joined.room), joined.room.key().clone());
        let may = self.may_read(&self.profile.identity(), room.name());
        let left_out = self.left_out.as_ref().is_some_and(|names| names.contains(room.name()));
        let wanted = may && !left_out && self.profile.wants(|pattern| pattern.matches(room.name()));
        let full = self.follows.len() >= self.rooms_max as usize;
        if !wanted || full {
            self.pass_over(&joined);
            inbox.mailbox().forget(&key);
            if wanted {
                let (name, max) = (room.name(), self.rooms_max);
                let message =
                    format!("the room {name} is not followed: there are {max} already (limits.rooms_per_connection)");
                self.tell(&Notice::error("too_many_rooms", &message));
            }
            return;
        }
        let (gap, after, snapshot) = (joined.gap, joined.after, joined.snapshot.clone());
        self.enter(joined, true);
        self.tell_begins(Missed {
            begins: vec![(room.name().clone(), gap, snapshot)],
            already: Vec::new(),
            too_many: false,
        });
        // Whether it begins behind may have been told before the room was known.
        if !self.behind.contains(&key) && inbox.level(&key, after) != Level::Live {
            self.behind.push_back(key);
        }
    }
}
