//! Who runs a command, as the sync log tells it.

use sqlx::PgPool;

use crate::database;

/// Variables that name the user of the system; the first one where somebody acts as another user.
const USERS: [&str; 3] = ["SUDO_USER", "USER", "LOGNAME"];

/// `asked by a command of kari, database role nxt_mirror from 10.0.0.7`. The role and the address are the server's word,
/// the user is the environment's.
pub(super) async fn asker(pool: &PgPool) -> anyhow::Result<String> {
    let database::Client { role, address } = database::client(pool).await?;
    let place = address.map_or_else(|| "on the server itself".to_owned(), |address| format!("from {address}"));
    let user = USERS.iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let user = user.map(|user| format!(" of {user}")).unwrap_or_default();
    Ok(format!("asked by a command{user}, database role {role} {place}"))
}
