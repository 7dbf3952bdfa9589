//! `tidegate token`: makes tokens with the daemon's own secret, and says what a token says.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{SettingsArguments, complain};
use crate::auth::identity::patterns;
use crate::auth::{self, Auth, files, jwt};
use crate::clock;
use crate::settings::value::parse_time;

#[derive(Debug, Args)]
pub(super) struct TokenArguments {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token, signed with auth.jwt_secret or the secret in auth.secret_file
    Mint(MintArguments),
    /// Say what a token says, and whether it holds under these settings
    Inspect(InspectArguments),
}

#[derive(Debug, Args)]
struct MintArguments {
    /// Whom the token is for (its sub)
    #[arg(long, value_name = "NAME")]
    sub: String,
    /// A role; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// A room or pattern that it may read, in place of what its roles allow; may be repeated
    #[arg(long, value_name = "PATTERN")]
    rooms: Vec<String>,
    /// A room or pattern that it may publish to, in place of what its roles allow; may be repeated
    #[arg(long, value_name = "PATTERN")]
    publish: Vec<String>,
    /// How long it is good for, such as 15m, 1h, 30d
    #[arg(long, value_name = "TIME", default_value = "1h")]
    ttl: String,
    #[command(flatten)]
    settings: SettingsArguments,
}

#[derive(Debug, Args)]
struct InspectArguments {
    /// The token
    token: String,
    #[command(flatten)]
    settings: SettingsArguments,
}

pub(super) fn run(arguments: &TokenArguments) -> ExitCode {
    match &arguments.command {
        TokenCommand::Mint(mint) => run_mint(mint),
        TokenCommand::Inspect(inspect) => run_inspect(inspect),
    }
}

fn run_mint(arguments: &MintArguments) -> ExitCode {
    let settings = match arguments.settings.load() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let claims = match claims(arguments) {
        Ok(claims) => claims,
        Err(why) => {
            complain(&why);
            return ExitCode::from(2);
        }
    };
    let demands = &settings.auth.demands;
    let mut claims = claims;
    // As the daemon demands it, so that it takes its own token.
    if let Some(issuer) = &demands.issuer {
        claims["iss"] = issuer.as_str().into();
    }
    if let Some(audience) = demands.audience.first() {
        claims["aud"] = audience.as_str().into();
    }
    match auth::mint(&settings.auth, &claims) {
        Ok(token) => say(&token),
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn claims(arguments: &MintArguments) -> Result<Value, String> {
    if arguments.sub.trim().is_empty() {
        return Err("--sub: expected the name of whom the token is for".to_owned());
    }
    let ttl = parse_time(&arguments.ttl).filter(|ttl| !ttl.is_zero());
    let ttl = ttl.ok_or_else(|| format!("--ttl {}: expected a time such as 15m, 1h, 30d", arguments.ttl))?;
    let now = clock::now_ms() / 1000;
    let mut claims = json!({
        "sub": arguments.sub,
        "iat": now,
        "exp": now.saturating_add(ttl.as_secs().max(1)),
        "jti": files::random_hex::<16>(),
    });
    if !arguments.roles.is_empty() {
        claims["roles"] = arguments.roles.clone().into();
    }
    for (name, given) in [("rooms", &arguments.rooms), ("publish", &arguments.publish)] {
        if !given.is_empty() {
            patterns(given.iter().map(String::as_str)).map_err(|why| format!("--{name} {why}"))?;
            claims[name] = given.clone().into();
        }
    }
    Ok(claims)
}

fn run_inspect(arguments: &InspectArguments) -> ExitCode {
    let settings = match arguments.settings.load() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let (header, claims) = match jwt::look(&arguments.token) {
        Ok(looked) => looked,
        Err(why) => {
            complain(&why);
            return ExitCode::FAILURE;
        }
    };
    let holds = match holds(&settings.auth, &arguments.token) {
        Ok(holds) => holds,
        Err(why) => {
            complain(&why);
            return ExitCode::FAILURE;
        }
    };
    let end = claims.get("exp").and_then(Value::as_u64).map(|exp| clock::rfc3339(exp.saturating_mul(1000)));
    let mut body = json!({ "header": header, "claims": claims, "expires_at": end, "holds": holds.is_none() });
    if let Some(why) = &holds {
        body["reason"] = why.as_str().into();
    }
    let text = serde_json::to_string_pretty(&body).unwrap_or_default();
    let code = say(&text);
    match holds {
        None => code,
        Some(why) => {
            complain(&format!("the token does not hold under these settings: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// Why a token does not hold; nothing if it does.
fn holds(settings: &crate::settings::Auth, token: &str) -> Result<Option<String>, String> {
    let (auth, _) = Auth::open(settings).map_err(|error| error.to_string())?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    // A key set from elsewhere is asked for by TLS with the same cryptography.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let identity = runtime.block_on(async {
        auth.look_after_key_sets().await;
        auth.identify(token).await
    });
    Ok(if identity.is_some() { None } else { Some(auth.why_not(token)) })
}

/// Prints a line for whoever called.
pub(super) fn say(line: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
