//! How much one client may take: counts of what is open and rates of what comes, by client address and by subject. Knows no HTTP and no room; a refusal says which limit it was and when to come back.
//!
//! [`client`] finds the address that counts; [`places`] counts what is open; rates are governor's (the generic cell rate algorithm, as leaky bucket).

pub mod client;
pub mod places;
mod publishers;
mod rates;

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use smol_str::SmolStr;

use crate::event::RoomName;
use crate::settings::{Limits as Settings, Surface};
use places::{Place, Places};
use publishers::Publishers;
use rates::Rate;
pub use rates::{MessageRate, Verdict};

/// What one client had too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no more than {allowed} {what} ({limit})")]
pub struct TooMuch {
    /// The setting.
    pub limit: &'static str,
    /// What it counts, in words.
    pub what: &'static str,
    /// Its value.
    pub allowed: usize,
    /// When to come back.
    pub retry: Duration,
}

/// When somebody whose places are taken may look again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Counts and rates of all clients. Clones share them.
#[derive(Debug, Clone)]
pub struct Guards(Arc<Shared>);

/// What a surface allows of its own streams, beside what holds for all; 0 means no limit.
#[derive(Debug, Clone, Copy)]
pub struct Own {
    /// The surface.
    pub surface: Surface,
    /// Its streams at once of one address, and the setting.
    pub per_ip: (usize, &'static str),
    /// New ones an hour of one address, and the setting.
    pub per_ip_per_hour: (u32, &'static str),
}

/// A rate of a surface's new streams, with the limit it holds.
type OwnRate = (u32, Arc<Rate<IpAddr>>);

#[derive(Debug)]
struct Shared {
    rates: ArcSwap<Rates>,
    by_ip: Places<IpAddr>,
    by_user: Places<SmolStr>,
    own_by_ip: Places<(Surface, IpAddr)>,
    /// One for each surface that has such a limit.
    own_opened: Mutex<HashMap<Surface, OwnRate>>,
    publishers: Publishers,
}

/// Rates hold their limit, so new limits are new rates.
#[derive(Debug)]
struct Rates {
    settings: Settings,
    opened: Rate<IpAddr>,
    logins: Rate<IpAddr>,
    publishes: Rate<SmolStr>,
}

impl Rates {
    fn new(settings: Settings) -> Self {
        let per = |count: u32, time: Duration| NonZeroU32::new(count).map(|count| (count, time));
        const SECOND: Duration = Duration::from_secs(1);
        Self {
            opened: Rate::new(per(settings.per_ip_connections_per_hour, SECOND * 3600)),
            logins: Rate::new(per(settings.per_ip_logins_per_minute, SECOND * 60)),
            publishes: Rate::new(per(settings.per_user_publishes_per_second, SECOND)),
            settings,
        }
    }
}

/// The places that one stream takes, given back when it is dropped.
#[derive(Debug, Default)]
pub struct StreamPlaces {
    _ip: Option<Place<IpAddr>>,
    _user: Option<Place<SmolStr>>,
    // In a box, because most streams have none.
    _own: Option<Box<Place<(Surface, IpAddr)>>>,
}

impl Guards {
    /// Nobody has taken anything yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let rates = ArcSwap::from_pointee(Rates::new(settings));
        let (by_ip, by_user) = (Places::default(), Places::default());
        let (own_by_ip, own_opened) = (Places::default(), Mutex::default());
        Self(Arc::new(Shared { rates, by_ip, by_user, own_by_ip, own_opened, publishers: Publishers::default() }))
    }

    /// Whether an address is that of a trusted proxy.
    #[must_use]
    pub fn is_proxy(&self, ip: &IpAddr) -> bool {
        self.0.rates.load().settings.trusted_proxies.iter().any(|network| network.contains(ip))
    }

    /// From now on these limits hold. What is open stays open; rates begin anew.
    pub fn reload(&self, settings: Settings) {
        self.0.rates.store(Arc::new(Rates::new(settings)));
    }

    /// A stream wants to open. `brief` for one that lives for one answer: it counts while it is open, and not as a new one. `own` is what its surface allows.
    ///
    /// # Errors
    /// Which limit it would pass.
    pub fn open_stream(
        &self,
        ip: Option<IpAddr>,
        subject: &SmolStr,
        brief: bool,
        own: Option<&Own>,
    ) -> Result<StreamPlaces, TooMuch> {
        let _ip = self.place_of_address(ip)?;
        let StreamPlaces { _user, .. } = self.open_user(subject)?;
        let _own = match (own, ip) {
            (Some(own), Some(ip)) => self.take_own(own, ip)?.map(Box::new),
            _ => None,
        };
        self.count_new(ip.filter(|_| !brief))?;
        Ok(StreamPlaces { _ip, _user, _own })
    }

    /// Somebody opens a stream who says later who it is: what its address takes.
    ///
    /// # Errors
    /// Which limit it would pass.
    pub fn open_address(&self, ip: Option<IpAddr>) -> Result<StreamPlaces, TooMuch> {
        let _ip = self.place_of_address(ip)?;
        self.count_new(ip)?;
        Ok(StreamPlaces { _ip, ..StreamPlaces::default() })
    }

    /// And what it takes once that is known.
    ///
    /// # Errors
    /// Which limit it would pass.
    pub fn open_user(&self, subject: &SmolStr) -> Result<StreamPlaces, TooMuch> {
        let allowed = self.0.rates.load().settings.per_user_connections;
        let (limit, what) = ("limits.per_user_connections", "connections at once for a user");
        let refusal = TooMuch { limit, what, allowed, retry: LOOK_AGAIN };
        let _user = Some(self.0.by_user.take(subject.clone(), allowed).map_err(|_| refusal)?);
        Ok(StreamPlaces { _user, ..StreamPlaces::default() })
    }

    fn place_of_address(&self, ip: Option<IpAddr>) -> Result<Option<Place<IpAddr>>, TooMuch> {
        let allowed = self.0.rates.load().settings.per_ip_connections;
        let (limit, what) = ("limits.per_ip_connections", "connections at once for an address");
        let refusal = TooMuch { limit, what, allowed, retry: LOOK_AGAIN };
        ip.map(|ip| self.0.by_ip.take(ip, allowed).map_err(|_| refusal)).transpose()
    }

    fn count_new(&self, ip: Option<IpAddr>) -> Result<(), TooMuch> {
        let (rates, Some(ip)) = (self.0.rates.load(), ip) else { return Ok(()) };
        rates.opened.check(&ip).map_err(|retry| TooMuch {
            limit: "limits.per_ip_connections_per_hour",
            what: "new connections an hour for an address",
            allowed: rates.settings.per_ip_connections_per_hour as usize,
            retry,
        })
    }

    /// A place of a surface's own, and one more of its new streams.
    fn take_own(&self, own: &Own, ip: IpAddr) -> Result<Option<Place<(Surface, IpAddr)>>, TooMuch> {
        let (allowed, limit) = own.per_ip;
        let what = "connections at once for an address";
        let refusal = TooMuch { limit, what, allowed, retry: LOOK_AGAIN };
        let place = self.0.own_by_ip.take((own.surface, ip), allowed).map_err(|_| refusal)?;
        let (an_hour, limit) = own.per_ip_per_hour;
        let rate = {
            let mut rates = self.0.own_opened.lock();
            let fresh = || {
                let limit = NonZeroU32::new(an_hour).map(|count| (count, Duration::from_secs(3600)));
                (an_hour, Arc::new(Rate::new(limit)))
            };
            let known = rates.entry(own.surface).or_insert_with(fresh);
            if known.0 != an_hour {
                *known = fresh();
            }
            Arc::clone(&known.1)
        };
        let what = "new connections an hour for an address";
        rate.check(&ip).map_err(|retry| TooMuch { limit, what, allowed: an_hour as usize, retry })?;
        Ok(Some(place))
    }

    /// Somebody wants to sign in.
    ///
    /// # Errors
    /// Which limit that would pass.
    pub fn login(&self, ip: Option<IpAddr>) -> Result<(), TooMuch> {
        let (rates, Some(ip)) = (self.0.rates.load(), ip) else { return Ok(()) };
        rates.logins.check(&ip).map_err(|retry| TooMuch {
            limit: "limits.per_ip_logins_per_minute",
            what: "logins a minute for an address",
            allowed: rates.settings.per_ip_logins_per_minute as usize,
            retry,
        })
    }

    /// Somebody wants to publish.
    ///
    /// # Errors
    /// Which limit that would pass.
    pub fn publish(&self, subject: &SmolStr) -> Result<(), TooMuch> {
        let rates = self.0.rates.load();
        rates.publishes.check(subject).map_err(|retry| TooMuch {
            limit: "limits.per_user_publishes_per_second",
            what: "publishes a second for a user",
            allowed: rates.settings.per_user_publishes_per_second as usize,
            retry,
        })
    }

    /// Somebody wants to publish to a room that may not exist yet; `exists` is asked only where that matters.
    ///
    /// # Errors
    /// Which limit that would pass.
    pub fn new_room(
        &self,
        subject: &SmolStr,
        room: &RoomName,
        exists: impl Fn(&RoomName) -> bool,
    ) -> Result<(), TooMuch> {
        let allowed = self.0.rates.load().settings.rooms_per_publisher;
        let refusal =
            TooMuch { limit: "limits.rooms_per_publisher", what: "rooms of one publisher", allowed, retry: LOOK_AGAIN };
        self.0.publishers.may_bring(subject, room, allowed, exists).map_err(|()| refusal)
    }

    /// Forgets those who have not been here lately; to be called now and then, or they pile up.
    pub fn forget(&self) {
        let rates = self.0.rates.load();
        rates.opened.forget();
        rates.logins.forget();
        rates.publishes.forget();
        self.0.own_opened.lock().values().for_each(|(_, rate)| rate.forget());
    }
}
