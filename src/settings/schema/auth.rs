//! The settings of identity: credentials, roles, users.

use super::super::value::Kind;
use super::{DAY, HOUR, SECOND, Setting, setting};

/// In the order in which they are shown.
pub(super) const SETTINGS: &[Setting] = &[
    setting(
        "auth.api_keys",
        Kind::List,
        "[]",
        "Keys that may read and publish everything (role operator), as name:key. Where there is no credential at all, a token for an admin is made at first start and kept in auth.token_file.",
    ),
    setting("auth.token_file", Kind::Path, "\"data/token\"", "Where the token made at first start is kept (mode 600)."),
    setting(
        "auth.keys_file",
        Kind::Path,
        "\"data/keys.toml\"",
        "Keys made with tidegate key create, as hashes; read again when it changes.",
    ),
    setting(
        "auth.jwt_secret",
        Kind::Text,
        "\"\"",
        "The HS256 secret of tokens, those of a login and those minted elsewhere; where it is empty, one is made and kept in auth.secret_file. At least 32 random characters.",
    ),
    setting("auth.secret_file", Kind::Path, "\"data/secret\"", "Where that secret is kept (mode 600)."),
    setting(
        "auth.jwt_keys",
        Kind::List,
        "[]",
        "Public keys (PEM files: RSA, EC, Ed25519) that tokens may be signed with, as path or kid=path; read again when they change.",
    ),
    setting(
        "auth.jwks_file",
        Kind::Text,
        "\"\"",
        "A file with a JSON Web Key Set; read again when it changes. Empty: none.",
    ),
    setting("auth.jwks_url", Kind::Text, "\"\"", "Where to fetch a JSON Web Key Set. Empty: nowhere."),
    setting(
        "auth.jwks_refresh",
        Kind::Time(5 * SECOND, 7 * DAY),
        "\"5m\"",
        "How often it is fetched; a token of an unknown key has it fetched at once, at most every 5 s.",
    ),
    setting("auth.issuer", Kind::Text, "\"\"", "The iss that tokens must have. Empty: any."),
    setting("auth.audience", Kind::List, "[]", "A token's aud must name one of these. Empty: any."),
    setting("auth.leeway", Kind::Time(0, HOUR), "\"30s\"", "By how much the clocks of issuer and daemon may differ."),
    setting("auth.require_exp", Kind::Flag, "true", "Whether a token must have an end (exp)."),
    setting("auth.default_role", Kind::Text, "\"viewer\"", "The role of a token that names none. Empty: none."),
    setting(
        "auth.admin_password",
        Kind::Text,
        "\"\"",
        "The password of the user admin (roles admin, platform_admin). Empty: there is no such user.",
    ),
    setting("auth.token_ttl", Kind::Time(SECOND, 365 * DAY), "\"1h\"", "How long the token of a login is good for."),
    setting(
        "auth.session_max",
        Kind::Time(0, 3650 * DAY),
        "\"24h\"",
        "How long after a login its token may be exchanged for a new one; 0 means for ever.",
    ),
    setting(
        "auth.revoked_file",
        Kind::Path,
        "\"data/revoked\"",
        "Where revoked tokens are kept until they would have ended.",
    ),
    setting(
        "auth.expiry_warning",
        Kind::Time(0, DAY),
        "\"60s\"",
        "How long before its token ends a connection is told.",
    ),
    setting("auth.roles.viewer.rooms", Kind::List, "[\"*\"]", "What a viewer may read: names and patterns of rooms."),
    setting("auth.roles.viewer.publish", Kind::List, "[]", "Where a viewer may publish."),
    setting("auth.roles.operator.rooms", Kind::List, "[\"*\"]", "What an operator may read."),
    setting("auth.roles.operator.publish", Kind::List, "[\"*\"]", "Where an operator may publish."),
    setting("auth.roles.admin.rooms", Kind::List, "[\"*\"]", "What an admin may read. Admin calls need this role."),
    setting("auth.roles.admin.publish", Kind::List, "[\"*\"]", "Where an admin may publish."),
    setting("auth.roles.platform_admin.rooms", Kind::List, "[\"*\"]", "What a platform administrator may read."),
    setting("auth.roles.platform_admin.publish", Kind::List, "[\"*\"]", "Where a platform administrator may publish."),
    setting("auth.roles.*.rooms", Kind::List, "[]", "What a role of your own may read."),
    setting("auth.roles.*.publish", Kind::List, "[]", "Where a role of your own may publish."),
    setting(
        "auth.users.*.password_hash",
        Kind::Text,
        "\"\"",
        "A user's password as tidegate user hash writes it (argon2).",
    ),
    setting("auth.users.*.roles", Kind::List, "[]", "A user's roles."),
    setting("auth.users.*.rooms", Kind::List, "[]", "What a user may read, in place of what the roles allow."),
    setting("auth.users.*.publish", Kind::List, "[]", "Where a user may publish, in place of what the roles allow."),
];
