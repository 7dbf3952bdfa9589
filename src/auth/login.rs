//! Signing in with a name and a password, going on with a fresh token, signing out.

use std::sync::Arc;
use std::time::Duration;

use super::identity::{Claims, Credential, Identity};
use super::{Auth, jwt, users};
use crate::clock;

/// How long a login waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(5);
/// The longest name or password that is looked at, in bytes.
const WORD_BYTES: usize = 1024;

/// A token that was given out.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The token.
    pub token: String,
    /// How long it is good for, in seconds.
    pub expires_in: u64,
}

/// Why there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Name or password are wrong; which, is not said.
    #[error("the name or the password is wrong")]
    Wrong,
    /// Too many others sign in.
    #[error("too many sign in at this moment")]
    Busy,
    /// The daemon cannot sign.
    #[error("the daemon cannot sign tokens")]
    Failed,
}

/// Why a token is not made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefreshError {
    /// It did not come from a login.
    #[error("only a token that a login gave can be exchanged for a new one; ask whoever issued yours")]
    Foreign,
    /// The login was too long ago.
    #[error("the login was longer ago than auth.session_max; sign in again")]
    TooOld,
    /// The daemon cannot sign.
    #[error("the daemon cannot sign tokens")]
    Failed,
}

impl Auth {
    /// Checks a name and a password. Takes as long for a name that does not exist.
    ///
    /// # Errors
    /// Why there is no token.
    pub async fn login(&self, name: String, password: String) -> Result<Issued, LoginError> {
        if name.len() > WORD_BYTES || password.len() > WORD_BYTES {
            return Err(LoginError::Wrong);
        }
        let turn = tokio::time::timeout(TURN_WAIT, self.0.hashing.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(LoginError::Busy) };
        let known = self.0.known.load_full();
        let checking = tokio::task::spawn_blocking(move || {
            let fits = users::fits(known.users.get(&name), &known.decoy, &password);
            fits.then_some(name)
        });
        let name = checking.await.map_err(|_| LoginError::Failed)?.ok_or(LoginError::Wrong)?;
        self.issue(&name, clock::now_ms() / 1000).ok_or(LoginError::Failed)
    }

    /// A new token for the bearer of one that a login gave.
    ///
    /// # Errors
    /// Why there is none.
    pub fn refresh(&self, identity: &Arc<Identity>) -> Result<Issued, RefreshError> {
        let Credential::User(facts) = &identity.credential else { return Err(RefreshError::Foreign) };
        let signed_in = facts.signed_in.ok_or(RefreshError::Foreign)?;
        let longest = self.0.known.load().settings.session_max.as_secs();
        if longest > 0 && clock::now_ms() / 1000 >= signed_in + longest {
            return Err(RefreshError::TooOld);
        }
        self.issue(&identity.subject, signed_in).ok_or(RefreshError::Failed)
    }

    fn issue(&self, name: &str, signed_in: u64) -> Option<Issued> {
        let known = self.0.known.load();
        let user = known.users.get(name)?;
        let now = clock::now_ms() / 1000;
        let settings = &known.settings;
        let session_end = match settings.session_max.as_secs() {
            0 => u64::MAX,
            longest => signed_in + longest,
        };
        let exp = (now + settings.token_ttl.as_secs()).min(session_end);
        let claims = Claims {
            sub: name.to_owned(),
            exp: Some(exp.into()),
            iat: Some(now.into()),
            iss: known.demands.issuer.clone().map(Into::into),
            aud: known.demands.audience.first().cloned().map(Into::into),
            jti: Some(super::files::random_hex::<16>()),
            // For the page or dashboard that reads its own token; here the user's roles of the moment count.
            roles: Some(user.says.roles.clone()),
            password_mark: Some(known.password_mark(name, user)),
            auth_time: Some(signed_in),
            ..Claims::default()
        };
        let token = jwt::sign(&known.secret, &claims).ok()?;
        Some(Issued { token, expires_in: exp - now })
    }
}
