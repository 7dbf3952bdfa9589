//! JSON Web Tokens (RFC 7519): the keys that tokens are checked with, checking, and signing.
//!
//! A token's algorithm is what its key says, never what the token says (RFC 8725, section 3.1): each key carries the algorithms that it may be used with, all of one family.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, TokenData, Validation};
use sha2::{Digest, Sha256};

use super::identity::Claims;

/// The longest token that is looked at, in bytes.
const TOKEN_BYTES: usize = 16 << 10;
const RSA: &[Algorithm] =
    &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];
const EC: &[Algorithm] = &[Algorithm::ES256, Algorithm::ES384];
const ED: &[Algorithm] = &[Algorithm::EdDSA];

/// What a token must satisfy beside its signature.
#[derive(Debug, Clone, Default)]
pub struct Demands {
    /// The issuer, where one is demanded.
    pub issuer: Option<String>,
    /// One of these audiences, where any is given.
    pub audience: Vec<String>,
    /// By how many seconds clocks may differ.
    pub leeway_seconds: u64,
    /// Whether it must end.
    pub require_exp: bool,
}

/// A key that tokens are checked with.
#[derive(Clone)]
pub(super) struct CheckingKey {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
    /// Tells it from others: the SHA-256 of what it was made from.
    pub(super) mark: [u8; 32],
}

impl std::fmt::Debug for CheckingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckingKey")
            .field("kid", &self.kid)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

impl CheckingKey {
    /// The key of the HS256 secret.
    pub(super) fn secret(secret: &str) -> Self {
        let key = DecodingKey::from_secret(secret.as_bytes());
        Self { kid: None, algorithms: vec![Algorithm::HS256], key, mark: Sha256::digest(secret).into() }
    }

    /// A public key in PEM.
    pub(super) fn pem(kid: Option<String>, path: &Path) -> Result<Self, String> {
        let fault = |why: &str| format!("auth.jwt_keys: {}: {why}", path.display());
        let pem = std::fs::read(path).map_err(|error| fault(&error.to_string()))?;
        if pem.windows(11).any(|window| window == b"PRIVATE KEY") {
            return Err(fault(
                "this is a private key; tokens are checked with the public one, and the private one belongs to who signs",
            ));
        }
        let made = [
            (DecodingKey::from_rsa_pem(&pem), RSA),
            (DecodingKey::from_ec_pem(&pem), EC),
            (DecodingKey::from_ed_pem(&pem), ED),
        ];
        let found = made.into_iter().find_map(|(key, algorithms)| Some((key.ok()?, algorithms.to_vec())));
        let (key, algorithms) = found.ok_or_else(|| fault("expected a public RSA, EC or Ed25519 key in PEM"))?;
        Ok(Self { kid, algorithms, key, mark: Sha256::digest(&pem).into() })
    }

    /// A key of a key set (RFC 7517); `None` for one that is not for checking signatures with a public key.
    fn jwk(jwk: &Jwk) -> Option<Self> {
        let own = &jwk.common;
        if matches!(own.public_key_use, Some(PublicKeyUse::Encryption)) {
            return None;
        }
        let family = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA,
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => &[Algorithm::ES256],
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P384 => &[Algorithm::ES384],
            AlgorithmParameters::OctetKeyPair(_) => ED,
            // A secret that stands in a key set is no secret.
            _ => return None,
        };
        let algorithms = match own.key_algorithm {
            None => family.to_vec(),
            Some(named) => vec![*family.iter().find(|algorithm| same(named, **algorithm))?],
        };
        let key = DecodingKey::from_jwk(jwk).ok()?;
        let mark = Sha256::digest(serde_json::to_vec(&jwk.algorithm).ok()?).into();
        Some(Self { kid: own.key_id.clone(), algorithms, key, mark })
    }
}

fn same(named: KeyAlgorithm, algorithm: Algorithm) -> bool {
    named.to_string() == format!("{algorithm:?}")
}

/// The keys of a key set. Those that cannot be used are passed over.
pub(super) fn key_set(json: &[u8]) -> Result<Vec<CheckingKey>, String> {
    // Key by key, so that one of an unknown kind does not hide the others.
    let set: serde_json::Value = serde_json::from_slice(json).map_err(|error| format!("no JSON: {error}"))?;
    let keys = set.get("keys").and_then(serde_json::Value::as_array).ok_or("no key set: \"keys\" is not there")?;
    let set = JwkSet { keys: keys.iter().filter_map(|key| serde_json::from_value(key.clone()).ok()).collect() };
    Ok(set.keys.iter().filter_map(CheckingKey::jwk).collect())
}

/// Why a token is not good. Only said in the daemon's own log: its bearer learns no more than that it is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is no token, or its signature, its claims or its time are wrong.
    Refused,
    /// It names a key that is not known; somebody may have to ask for the keys again.
    UnknownKey,
}

/// Checks a token against the keys; its claims and the key that fits.
pub(super) fn check(keys: &[CheckingKey], demands: &Demands, token: &str) -> Result<(Claims, [u8; 32]), Wrong> {
    if token.len() > TOKEN_BYTES || token.bytes().filter(|byte| *byte == b'.').count() != 2 {
        return Err(Wrong::Refused);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| Wrong::Refused)?;
    // RFC 7515, section 4.1.11: what must be understood and is not makes the token a wrong one. Nothing of that kind is understood here.
    if header.crit.is_some() {
        return Err(Wrong::Refused);
    }
    let named = header.kid.as_deref();
    for key in keys {
        // A key that has no name of its own may fit any token; a named one only where the token names it or names none.
        let fits = match (&key.kid, named) {
            (Some(own), Some(named)) => own == named,
            _ => true,
        };
        if !fits || !key.algorithms.contains(&header.alg) {
            continue;
        }
        let decoded: Result<TokenData<Claims>, _> = jsonwebtoken::decode(token, &key.key, &validation(key, demands));
        if let Ok(data) = decoded {
            // There is one issuer (RFC 7519, section 4.1.1); the library would take a list with the right one in it.
            let one_issuer =
                demands.issuer.is_none() || data.claims.iss.as_ref().is_some_and(serde_json::Value::is_string);
            return if one_issuer { Ok((data.claims, key.mark)) } else { Err(Wrong::Refused) };
        }
    }
    let known = named.is_none_or(|named| keys.iter().any(|key| key.kid.as_deref() == Some(named)));
    Err(if known { Wrong::Refused } else { Wrong::UnknownKey })
}

fn validation(key: &CheckingKey, demands: &Demands) -> Validation {
    let mut validation = Validation::new(key.algorithms[0]);
    validation.algorithms.clone_from(&key.algorithms);
    validation.leeway = demands.leeway_seconds;
    validation.validate_nbf = true;
    if !demands.require_exp {
        validation.required_spec_claims.clear();
    }
    if let Some(issuer) = &demands.issuer {
        validation.set_issuer(&[issuer]);
        validation.required_spec_claims.insert("iss".to_owned());
    }
    if demands.audience.is_empty() {
        validation.validate_aud = false;
    } else {
        validation.set_audience(&demands.audience);
        validation.required_spec_claims.insert("aud".to_owned());
    }
    validation
}

/// Signs claims with the HS256 secret.
pub(super) fn sign(secret: &str, claims: &impl serde::Serialize) -> Result<String, String> {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes()))
        .map_err(|error| error.to_string())
}

/// Why no key takes a token, in words for whoever owns the keys.
pub(super) fn why_not(keys: &[CheckingKey], demands: &Demands, token: &str) -> String {
    let Ok(header) = jsonwebtoken::decode_header(token) else {
        return "its header names no algorithm that is known".to_owned();
    };
    let fitting = keys.iter().filter(|key| key.algorithms.contains(&header.alg));
    let errors: Vec<_> = fitting
        .filter_map(|key| jsonwebtoken::decode::<Claims>(token, &key.key, &validation(key, demands)).err())
        .collect();
    let of_signature = |error: &&jsonwebtoken::errors::Error| matches!(error.kind(), ErrorKind::InvalidSignature);
    match errors.iter().find(|error| !of_signature(error)).map(|error| error.kind()) {
        Some(ErrorKind::ExpiredSignature) => "it has expired (exp)".to_owned(),
        Some(ErrorKind::ImmatureSignature) => "it is not good yet (nbf)".to_owned(),
        Some(ErrorKind::InvalidIssuer) => "its issuer (iss) is not auth.issuer".to_owned(),
        Some(ErrorKind::InvalidAudience) => "its audience (aud) is none of auth.audience".to_owned(),
        Some(ErrorKind::MissingRequiredClaim(claim)) => format!("it has no {claim}"),
        Some(_) => format!("{}", errors[0]),
        None if errors.is_empty() => format!("there is no key for its algorithm, {:?}", header.alg),
        None => "its signature fits no key".to_owned(),
    }
}

/// A part of a token as JSON, unchecked.
fn part(token: &str, index: usize) -> Option<serde_json::Value> {
    let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(index)?).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Whether a token was signed with this secret and is good now; for those who try what untrusted text does to the check.
#[doc(hidden)]
#[must_use]
pub fn is_signed_with(secret: &str, token: &str) -> bool {
    let demands = Demands { require_exp: false, ..Demands::default() };
    check(&[CheckingKey::secret(secret)], &demands, token).is_ok()
}

/// What a token says, unchecked: for people who look at one.
///
/// # Errors
/// Why it is no token.
pub fn look(token: &str) -> Result<(serde_json::Value, serde_json::Value), String> {
    let parts = (token.split('.').count() == 3).then(|| (part(token, 0), part(token, 1)));
    match parts {
        Some((Some(header), Some(claims))) if header.is_object() && claims.is_object() => Ok((header, claims)),
        _ => Err("this is no token: expected three parts, of which the first two are JSON in base64url".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    fn demands() -> Demands {
        Demands { leeway_seconds: 0, require_exp: true, ..Demands::default() }
    }

    #[test]
    fn a_token_is_good_only_with_the_key_it_was_signed_with_and_in_its_time() {
        let keys = [CheckingKey::secret("one")];
        let end = jsonwebtoken::get_current_timestamp() + 60;
        let good = sign("one", &json!({"sub": "a", "exp": end})).unwrap();
        assert_eq!(check(&keys, &demands(), &good).unwrap().0.sub, "a");
        for (secret, claims) in [
            ("two", json!({"sub": "a", "exp": end})),
            ("one", json!({"sub": "a", "exp": 1})),
            ("one", json!({"sub": "a"})),
            ("one", json!({"sub": "a", "exp": end, "nbf": end})),
            ("one", json!({"sub": "a", "exp": end, "roles": "admin"})),
        ] {
            let token = sign(secret, &claims).unwrap();
            assert_eq!(check(&keys, &demands(), &token).unwrap_err(), Wrong::Refused, "{claims}");
        }
        assert_eq!(check(&keys, &demands(), "a.b.c").unwrap_err(), Wrong::Refused);
    }

    #[test]
    fn a_set_with_keys_of_unknown_kinds_gives_those_that_can_be_used() {
        let set = br#"{"keys":[{"kty":"XYZ"},{"kty":"oct","k":"c2VjcmV0"},
            {"kty":"OKP","crv":"Ed25519","kid":"e","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        let keys = key_set(set).unwrap();
        assert_eq!((keys.len(), keys[0].kid.as_deref(), &keys[0].algorithms[..]), (1, Some("e"), ED));
        assert!(key_set(b"{}").is_err());
    }
}
