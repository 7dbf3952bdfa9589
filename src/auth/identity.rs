//! Who somebody is and what that one may do: the outcome of a checked credential, and nothing of how it was checked.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use smol_str::SmolStr;

use crate::event::{Pattern, RoomName};

/// The role that admin calls need.
pub const ADMIN: &str = "admin";
/// The role of the platform's administrators; by itself it allows no admin call here.
pub const PLATFORM_ADMIN: &str = "platform_admin";
/// The role of a key that does not say its roles.
pub const OPERATOR: &str = "operator";

/// What somebody may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rights {
    /// What it may read.
    pub read: Vec<Pattern>,
    /// Where it may publish.
    pub publish: Vec<Pattern>,
    /// Whether it may make admin calls.
    pub admin: bool,
}

impl Rights {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        let every = || vec![Pattern::Prefix("".into())];
        Self { read: every(), publish: every(), admin: true }
    }

    /// Whether it may read this room.
    #[must_use]
    pub fn may_read(&self, room: &RoomName) -> bool {
        self.read.iter().any(|pattern| pattern.matches(room))
    }

    /// Whether it may publish to this room.
    #[must_use]
    pub fn may_publish(&self, room: &RoomName) -> bool {
        self.publish.iter().any(|pattern| pattern.matches(room))
    }

    /// Whether it may read every room there is or will be.
    #[must_use]
    pub fn may_read_all(&self) -> bool {
        self.read.iter().any(|pattern| matches!(pattern, Pattern::Prefix(prefix) if prefix.is_empty()))
    }

    /// Whether something that `wanted` names could be read: all of it, or a part.
    #[must_use]
    pub fn may_read_some(&self, wanted: &Pattern) -> bool {
        some(&self.read, wanted)
    }

    /// Whether it could publish to a room that `wanted` names.
    #[must_use]
    pub fn may_publish_some(&self, wanted: &Pattern) -> bool {
        some(&self.publish, wanted)
    }
}

/// Whether a room that `wanted` names is among those that are allowed.
fn some(allowed: &[Pattern], wanted: &Pattern) -> bool {
    allowed.iter().any(|pattern| match (pattern, wanted) {
        (_, Pattern::Room(room)) => pattern.matches(room),
        (Pattern::Room(room), Pattern::Prefix(_)) => wanted.matches(room),
        (Pattern::Prefix(may), Pattern::Prefix(wants)) => may.starts_with(&**wants) || wants.starts_with(&**may),
    })
}

/// What a role allows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grant {
    /// Patterns of rooms it may read.
    pub rooms: Vec<Pattern>,
    /// Patterns of rooms it may publish to.
    pub publish: Vec<Pattern>,
}

/// All roles by name.
pub type Roles = BTreeMap<String, Grant>;

/// What a credential says of its holder. A list of rooms takes the place of what the roles allow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Says {
    /// Roles.
    pub roles: Vec<SmolStr>,
    /// What it may read, if it says so itself.
    pub rooms: Option<Vec<Pattern>>,
    /// Where it may publish, if it says so itself.
    pub publish: Option<Vec<Pattern>>,
}

impl Says {
    /// The rights that follow. A role that is not known gives nothing.
    #[must_use]
    pub fn rights(&self, roles: &Roles) -> Rights {
        let mut rights = Rights::default();
        for role in &self.roles {
            if let Some(grant) = roles.get(role.as_str()) {
                rights.read.extend(grant.rooms.iter().cloned());
                rights.publish.extend(grant.publish.iter().cloned());
            }
            rights.admin |= role == ADMIN;
        }
        for patterns in [&mut rights.read, &mut rights.publish] {
            // Two roles may allow the same.
            let mut seen = std::collections::HashSet::new();
            patterns.retain(|pattern| seen.insert(pattern.clone()));
        }
        if let Some(rooms) = &self.rooms {
            rights.read.clone_from(rooms);
        }
        if let Some(publish) = &self.publish {
            rights.publish.clone_from(publish);
        }
        rights
    }
}

/// Reads patterns; the first that is none comes back.
///
/// # Errors
/// The text that is no pattern, and why.
pub fn patterns<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Vec<Pattern>, String> {
    let read = |text: &str| Pattern::parse(text).map_err(|error| format!("{text:?}: {error}"));
    texts.into_iter().map(read).collect()
}

/// How somebody has shown who it is; what it takes to look later whether that still holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A key, by its name and hash.
    Key {
        /// The SHA-256 of the key.
        hash: [u8; 32],
    },
    /// A token made elsewhere.
    Token(Arc<TokenFacts>),
    /// A token that a login gave to a user of the settings.
    User(Arc<TokenFacts>),
    /// In no way: somebody who reads what is open to all.
    Nothing,
}

/// What is remembered of a token.
#[derive(Debug, PartialEq, Eq)]
pub struct TokenFacts {
    /// Its `jti`, or its hash where it has none.
    pub id: String,
    /// Which key it was signed with.
    pub signed_by: [u8; 32],
    /// What it says.
    pub says: Says,
    /// Whether it names roles.
    pub names_roles: bool,
    /// Which password the user had when it was made; for tokens of a login.
    pub password_mark: Option<String>,
    /// When the user signed in, in seconds since 1970; for tokens of a login.
    pub signed_in: Option<u64>,
}

impl Credential {
    /// In one word.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Key { .. } => "key",
            Self::Token(_) => "token",
            Self::User(_) => "user",
            Self::Nothing => "none",
        }
    }
}

/// Somebody who has shown who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name: of the key, or the token's `sub`.
    pub subject: SmolStr,
    /// How it has shown that.
    pub credential: Credential,
    /// Its roles, as it says.
    pub roles: Vec<SmolStr>,
    /// What it may do.
    pub rights: Rights,
    /// When that ends, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

impl Identity {
    /// Whether it has a role.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|own| own == role)
    }
}

/// A token's claims as they are read; what is of another kind than expected makes the token a wrong one.
#[derive(Debug, Default, Deserialize, serde::Serialize)]
pub(super) struct Claims {
    #[serde(default)]
    pub sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<serde_json::Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<serde_json::Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<SmolStr>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rooms: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<Vec<String>>,
    /// Of a login's token: a mark of the password it was made with.
    #[serde(default, rename = "tidegate_user", skip_serializing_if = "Option::is_none")]
    pub password_mark: Option<String>,
    /// Of a login's token: when the user signed in (OpenID Connect Core 1.0, section 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<u64>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn rights(rooms: &[&str]) -> Rights {
        Rights { read: patterns(rooms.iter().copied()).unwrap(), ..Rights::default() }
    }

    #[test]
    fn a_pattern_is_readable_in_part_where_it_meets_a_right() {
        let rights = rights(&["well:*", "host:cpu"]);
        for (wanted, some) in [
            ("*", true),
            ("well:1", true),
            ("w*", true),
            ("well:1*", true),
            ("host:*", true),
            ("host:m*", false),
            ("x", false),
        ] {
            assert_eq!(rights.may_read_some(&Pattern::parse(wanted).unwrap()), some, "{wanted}");
        }
        assert!(!rights.may_read_all());
    }

    #[test]
    fn a_list_of_rooms_takes_the_place_of_what_the_roles_allow() {
        let grant = Grant { rooms: patterns(["*"]).unwrap(), publish: patterns(["*"]).unwrap() };
        let roles = Roles::from([("admin".to_owned(), grant)]);
        let says = Says { roles: vec!["admin".into(), "unknown".into()], rooms: Some(vec![]), publish: None };
        let rights = says.rights(&roles);
        assert!(rights.admin && rights.read.is_empty());
        assert!(rights.may_publish(&RoomName::parse("x").unwrap()));
    }
}
