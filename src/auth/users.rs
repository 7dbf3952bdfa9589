//! Users of the settings and their passwords, which are argon2 hashes in PHC form. Checking one takes time and memory on purpose, so it happens off the async threads, few at once.

use std::collections::BTreeMap;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};

use super::identity::Says;

/// The user whose password is `auth.admin_password`.
pub const ADMIN_NAME: &str = "admin";

/// A user of the settings.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// The password's hash in PHC form.
    pub password_hash: String,
    /// Tells one password from the next; nothing that a guess could be checked against without the daemon's secret.
    pub password_source: String,
    /// What the user may do.
    pub says: Says,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("says", &self.says).finish_non_exhaustive()
    }
}

/// All users by name.
pub type Users = BTreeMap<String, User>;

/// A password's hash in PHC form, with the parameters that OWASP recommends (19 MiB, 2 passes).
///
/// # Errors
/// Where the system has no randomness.
pub fn hash(password: &str) -> Result<String, String> {
    Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string()).map_err(|error| error.to_string())
}

/// Whether a text is a hash that a password can be checked against.
#[must_use]
pub fn is_hash(text: &str) -> bool {
    PasswordHash::new(text).is_ok_and(|hash| hash.algorithm.as_str().starts_with("argon2"))
}

/// Checks a password. Where there is no such user it takes as long: `decoy` is checked instead.
#[must_use]
pub fn fits(user: Option<&User>, decoy: &str, password: &str) -> bool {
    let hash = user.map_or(decoy, |user| &user.password_hash);
    let Ok(parsed) = PasswordHash::new(hash) else { return false };
    let fits = Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok();
    fits && user.is_some()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_of_a_known_user_fits() {
        let password_hash = hash("right").unwrap();
        assert!(is_hash(&password_hash) && !is_hash("right"));
        let user = User { password_hash: password_hash.clone(), password_source: String::new(), says: Says::default() };
        assert!(fits(Some(&user), "", "right"));
        assert!(!fits(Some(&user), "", "wrong"));
        assert!(!fits(None, &password_hash, "right"), "the decoy opens nothing");
    }
}
