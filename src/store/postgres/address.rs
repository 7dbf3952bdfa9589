//! Reads `sink.database_url`. What is wrong is said without repeating any of it: a password may stand anywhere in an address that is not understood.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use crate::store::StoreError;

/// Parameters that an address may have.
const KNOWN: &[&str] = &[
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Whether an address is understood.
///
/// # Errors
/// [`StoreError::Address`].
pub fn check(url: &str) -> Result<(), StoreError> {
    read(url).map(drop)
}

pub(super) fn read(url: &str) -> Result<PgConnectOptions, StoreError> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    // The driver would write one that it does not know into the log.
    if form_urlencoded::parse(query.as_bytes()).any(|(name, _)| !KNOWN.contains(&&*name)) {
        let known = KNOWN.join(", ");
        return Err(StoreError::Address(format!("it has a parameter that is not known; known are {known}")));
    }
    let options = PgConnectOptions::from_str(url).map_err(|_| {
        StoreError::Address(
            "it is not understood; expected postgres://USER:PASSWORD@HOST:PORT/NAME, with @ : / ? # % of a password written as %40 %3A %2F %3F %23 %25"
                .to_owned(),
        )
    })?;
    Ok(match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("tidegate"),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_understood_or_refused_without_being_repeated() {
        for good in ["postgres://u:p%40ss@db:5433/x?sslmode=verify-full", "postgresql:///x?host=/run/postgresql"] {
            check(good).unwrap();
        }
        for bad in [
            "postgres://u:swordfish@db:port/x",
            "postgres://db/x?swordfish=1",
            "postgres://u:a?swordfish@db/x",
            "postgres://db/x?sslmode=swordfish",
        ] {
            let text = check(bad).unwrap_err().to_string();
            assert!(text.contains("sink.database_url") && !text.contains("swordfish"), "{text}");
        }
    }
}
