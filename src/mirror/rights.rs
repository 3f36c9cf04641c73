//! Who may read: roles that were let in, with everything or with the rows of some companies.
//!
//! What a role may read is given by procedures of the database, which give only what is missing, so that they can be
//! called whenever something is made.

use std::time::Duration;

use sqlx::{PgConnection, Postgres, Transaction};

use super::{Mirror, SchemaError, cluster};

/// How often a table that somebody has locked is tried again, and how long between.
const TRIES_MAX: u32 = 40;
const PAUSE: Duration = Duration::from_millis(500);
/// Since when views can have the rights of those who read them, without which rows of companies cannot be kept apart.
const COMPANIES_VERSION: i32 = 150_000;

/// Why a role is not let in.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// There is none.
    #[error(
        "there is no role {role} in the database; create it first, for example: create role {role} login password '...'"
    )]
    NoRole {
        /// Its name.
        role: String,
    },
    /// It sees everything by itself, so it cannot be kept to some companies, and needs nothing.
    #[error("role {role} {reason}, so that rows of companies cannot be kept from it")]
    SeesAll {
        /// Its name.
        role: String,
        /// Why.
        reason: &'static str,
    },
    /// The server cannot.
    #[error("rights for single companies need PostgreSQL 15 or newer, and this is {version}")]
    TooOld {
        /// Its version.
        version: String,
    },
    /// A table stayed locked, or the database refused.
    #[error("the rights are not complete, give the command again; until then the role sees less than it should")]
    Schema(#[from] SchemaError),
    /// The database refused.
    #[error("the rights cannot be given")]
    Sql(#[from] sqlx::Error),
}

impl Mirror {
    /// Lets a role read what people read: of these companies alone, unless there are none. Replaces what it was let in
    /// for before. Returns how many mirrored tables it can read.
    pub async fn grant(&self, role: &str, companies: Option<&[i64]>) -> Result<usize, GrantError> {
        let mut transaction = self.begin_alone().await?;
        check(&mut transaction, role, companies.is_some()).await?;
        if companies.is_some() && cluster::has_nodes(&mut transaction).await? {
            cluster::tell_grants(&mut transaction).await?;
        }
        sqlx::query!("call nxt_mirror.take_rights($1::text::name)", role).execute(&mut *transaction).await?;
        sqlx::query!(
            "insert into nxt_mirror.grantee (role_name, companies) values ($1::text::name, $2)
             on conflict on constraint grantee_pkey do update set companies = excluded.companies",
            role,
            companies
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        let names = self.readable_names().await?;
        for name in &names {
            self.give_rights_patiently(name).await?;
        }
        self.give_rights_on_schemas().await?;
        Ok(self.descriptions().await?.len())
    }

    /// Gives all who were let in their rights on everything of this name that is there.
    pub(super) async fn give_rights(&self, name: &str) -> Result<(), SchemaError> {
        let failed = |source| SchemaError::of(name, source);
        let mut transaction = self.begin_alone().await.map_err(failed)?;
        let given = sqlx::query!("call nxt_mirror.give_rights($1::text::name)", name).execute(&mut *transaction).await;
        match given {
            Ok(_) => transaction.commit().await.map_err(failed),
            Err(error) => transaction.rollback().await.and(Err(error)).map_err(failed),
        }
    }

    /// Gives all who were let in what is not about one mirrored table.
    pub(crate) async fn give_common_rights(&self) -> Result<(), SchemaError> {
        for name in self.readable_names().await? {
            self.give_rights(&name).await?;
        }
        self.give_rights_on_schemas().await
    }

    /// Without tables: on schemas, views of `nxt_mirror` and functions.
    async fn give_rights_on_schemas(&self) -> Result<(), SchemaError> {
        let failed = |source| SchemaError::of("nxt_mirror", source);
        let mut transaction = self.begin_alone().await.map_err(failed)?;
        sqlx::query!("call nxt_mirror.give_common_rights()").execute(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// Whoever changes rights does so alone, since PostgreSQL refuses the second of two that change the rights of one
    /// thing ("tuple concurrently updated"). Nobody else waits long behind a change of rights.
    async fn begin_alone(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let mut transaction = self.pool.begin_with("begin; set local lock_timeout = '10s'").await?;
        // Not together with a setting: the extension `citus` passes settings on with all that is sent beside them.
        sqlx::query!("select pg_advisory_xact_lock(hashtextextended('nxt_mirror rights', 2)) as lock")
            .execute(&mut *transaction)
            .await?;
        sqlx::query!("set local lock_timeout = '500ms'").execute(&mut *transaction).await?;
        Ok(transaction)
    }

    async fn give_rights_patiently(&self, name: &str) -> Result<(), SchemaError> {
        let mut tries = 1;
        loop {
            match self.give_rights(name).await {
                Err(SchemaError::Busy { .. }) if tries < TRIES_MAX => tokio::time::sleep(PAUSE).await,
                result => return result,
            }
            tries += 1;
        }
    }

    /// Names of all relations that people read.
    async fn readable_names(&self) -> Result<Vec<String>, SchemaError> {
        sqlx::query_scalar!(
            r#"select distinct relation_name::text as "name!" from nxt_mirror.readable_relation order by 1"#
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|source| SchemaError::of("nxt_mirror.readable_relation", source))
    }
}

/// Whether the role is there, and whether it can be kept to some companies.
async fn check(connection: &mut PgConnection, role: &str, for_companies: bool) -> Result<(), GrantError> {
    let found = sqlx::query!(
        r#"select rolsuper as "is_super!", rolbypassrls as "is_free!",
                  pg_has_role(oid, current_user, 'usage') as "is_owner!",
                  pg_has_role(oid, 'pg_read_all_data', 'usage') as "reads_all!",
                  current_setting('server_version_num')::integer as "number!", current_setting('server_version') as "version!"
             from pg_roles where rolname = $1"#,
        role
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(found) = found else { return Err(GrantError::NoRole { role: role.to_owned() }) };
    let sees_all = |reason| Err(GrantError::SeesAll { role: role.to_owned(), reason });
    match () {
        () if !for_companies => Ok(()),
        () if found.number < COMPANIES_VERSION => Err(GrantError::TooOld { version: found.version }),
        () if found.is_super => sees_all("is a superuser"),
        () if found.is_free => sees_all("bypasses row-level security"),
        () if found.is_owner => sees_all("has the rights of the daemon's own role"),
        () if found.reads_all => sees_all("is a member of pg_read_all_data"),
        () => Ok(()),
    }
}
