//! What identity promises.
#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::*;
use crate::event::RoomName;
use crate::settings::{Settings, Sources};

fn settings(directory: &std::path::Path, flags: &[(&str, &str)]) -> settings::Auth {
    let file = |name: &str| directory.join(name).display().to_string();
    let mut all: Vec<(String, String)> = ["token_file", "secret_file", "keys_file", "revoked_file"]
        .iter()
        .map(|name| (format!("auth.{name}"), file(name)))
        .collect();
    all.extend(flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Settings::load(&Sources { flags: all, ..Sources::default() }).unwrap().auth
}

fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

fn in_a_minute() -> u64 {
    clock::now_ms() / 1000 + 60
}

#[tokio::test]
async fn without_any_credential_a_token_is_made_and_opens_everything() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), &[]);
    let (auth, token) = Auth::open(&settings).unwrap();
    let identity = auth.identify(&token.clone().unwrap()).await.unwrap();
    assert!(identity.rights.admin && identity.rights.may_read_all());
    assert!(auth.identify("something").await.is_none());
    assert_eq!(Auth::open(&settings).unwrap().1, token, "the same at the next start");
}

#[tokio::test]
async fn a_token_reads_what_its_roles_allow_or_what_it_names_itself() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), &[("auth.jwt_secret", "s"), ("auth.roles.crew.rooms", "deck:*")]);
    let (auth, token) = Auth::open(&settings).unwrap();
    assert_eq!(token, None);
    let reads = async |claims: serde_json::Value, name: &str| {
        let token = mint(&settings, &claims).unwrap();
        auth.identify(&token).await.unwrap().rights.may_read(&room(name))
    };
    let exp = in_a_minute();
    assert!(reads(json!({"sub": "a", "exp": exp, "roles": ["crew"]}), "deck:1").await);
    assert!(!reads(json!({"sub": "a", "exp": exp, "roles": ["crew"]}), "hold:1").await);
    assert!(!reads(json!({"sub": "a", "exp": exp, "roles": ["nobody"]}), "deck:1").await);
    assert!(reads(json!({"sub": "a", "exp": exp}), "deck:1").await, "the default role reads");
    assert!(!reads(json!({"sub": "a", "exp": exp, "roles": ["admin"], "rooms": ["hold:*"]}), "deck:1").await);
}

#[tokio::test]
async fn what_a_user_may_do_ends_with_the_user_and_with_the_password() {
    let dir = tempfile::tempdir().unwrap();
    let hash = users::hash("secret").unwrap();
    let with = |hash: &str| {
        settings(
            dir.path(),
            &[("auth.jwt_secret", "s"), ("auth.users.ann.password_hash", hash), ("auth.users.ann.roles", "viewer")],
        )
    };
    let (auth, _) = Auth::open(&with(&hash)).unwrap();
    assert_eq!(auth.login("ann".into(), "wrong".into()).await.unwrap_err(), LoginError::Wrong);
    let issued = auth.login("ann".into(), "secret".into()).await.unwrap();
    let identity = auth.identify(&issued.token).await.unwrap();
    assert!(identity.rights.may_read_all() && identity.rights.publish.is_empty());
    assert!(auth.refresh(&identity).is_ok());
    auth.reload(&with(&users::hash("other").unwrap())).unwrap();
    assert!(auth.renew(&identity).is_none() && auth.identify(&issued.token).await.is_none());
}

#[tokio::test]
async fn a_revoked_token_is_wrong_at_once_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), &[("auth.jwt_secret", "s")]);
    let (auth, _) = Auth::open(&settings).unwrap();
    let token = mint(&settings, &json!({"sub": "a", "exp": in_a_minute(), "jti": "one"})).unwrap();
    let identity = auth.identify(&token).await.unwrap();
    let before = auth.generation();
    auth.revoke("one", identity.expires_ms).unwrap();
    assert!(auth.generation() > before && auth.renew(&identity).is_none());
    let (again, _) = Auth::open(&settings).unwrap();
    assert!(again.identify(&token).await.is_none());
}

#[tokio::test]
async fn keys_of_the_file_come_and_go_while_the_daemon_runs() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), &[("auth.api_keys", "a:b")]);
    let (auth, _) = Auth::open(&settings).unwrap();
    let stored = keys::StoredKey {
        sha256: files::hex(&keys::hash("k")),
        roles: vec!["viewer".into()],
        rooms: None,
        publish: None,
        created: String::new(),
        expires: None,
    };
    let file = keys::KeysFile { keys: [("new".to_owned(), stored)].into() };
    file.write(&settings.keys_file).unwrap();
    auth.look_after_files();
    assert!(auth.identify("k").await.is_none(), "a file is read when it has rested");
    auth.look_after_files();
    let identity = auth.identify("k").await.unwrap();
    keys::KeysFile::default().write(&settings.keys_file).unwrap();
    auth.look_after_files();
    auth.look_after_files();
    assert!(auth.renew(&identity).is_none());
}
