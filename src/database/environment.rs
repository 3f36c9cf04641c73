//! What of the database's making costs people something later: looked at when the daemon starts, and by `doctor`.

use sqlx::PgPool;

use super::DatabaseError;

/// Something that should be otherwise, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// What the server says of the database and of our session.
struct Environment {
    database: String,
    role: String,
    ctype: String,
    is_libc: bool,
    timezone: String,
    may_create: bool,
    /// Schemas of ours that are there and that the role may not make tables in.
    closed: Vec<String>,
}

/// What should be otherwise. What makes the database useless is an error of its own when it is connected to.
pub async fn findings(pool: &PgPool) -> Result<Vec<Finding>, DatabaseError> {
    let environment = sqlx::query_as!(
        Environment,
        r#"select own.datname::text as "database!", current_user::text as "role!", own.datctype::text as "ctype!",
                  coalesce(to_jsonb(own) ->> 'datlocprovider', 'c') = 'c' as "is_libc!",
                  current_setting('TimeZone') as "timezone!",
                  has_database_privilege(own.oid, 'CREATE') as "may_create!",
                  array(select nspname::text from pg_namespace
                         where nspname in ('nxt_mirror', 'business_nxt')
                           and not has_schema_privilege(oid, 'CREATE')
                         order by 1) as "closed!"
             from pg_database as own where own.datname = current_database()"#
    )
    .fetch_one(pool)
    .await?;
    Ok(environment.findings())
}

impl Environment {
    fn findings(&self) -> Vec<Finding> {
        let Self { database, role, ctype, timezone, .. } = self;
        let mut found = Vec::new();
        let mut add = |what: String, remedy: String| found.push(Finding { what, remedy });
        if self.is_libc && ["C", "POSIX"].contains(&ctype.as_str()) {
            add(
                format!("the database's ctype is {ctype}: letters beyond ASCII change no case in lower() and ilike"),
                "create the database with lc_ctype 'C.UTF-8' and template template0, if people search in texts".into(),
            );
        }
        if timezone != "UTC" {
            add(
                format!("sessions are in the time zone {timezone} although they ask for UTC"),
                "let the pooler pass TimeZone on (ignore_startup_parameters must not name it)".into(),
            );
        }
        if !self.may_create && self.closed.is_empty() {
            add(
                format!("role {role} may not create schemas in database {database}"),
                format!("grant create on database \"{database}\" to \"{role}\""),
            );
        }
        for schema in &self.closed {
            add(
                format!("role {role} may not create tables in schema {schema}"),
                format!("alter schema {schema} owner to \"{role}\""),
            );
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(change: impl FnOnce(&mut Environment)) -> Vec<String> {
        let mut environment = Environment {
            database: "erp".into(),
            role: "mirror".into(),
            ctype: "C.UTF-8".into(),
            is_libc: true,
            timezone: "UTC".into(),
            may_create: true,
            closed: vec![],
        };
        change(&mut environment);
        environment.findings().into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn what_is_as_it_should_be_is_not_told() {
        assert_eq!(whats(|_| ()), [""; 0]);
        let is_icu = |environment: &mut Environment| (environment.ctype, environment.is_libc) = ("C".into(), false);
        assert_eq!(whats(is_icu), [""; 0]);
    }

    #[test]
    fn each_oddity_is_told_by_itself() {
        assert!(whats(|environment| environment.ctype = "C".into())[0].contains("ctype is C"));
        assert!(whats(|environment| environment.timezone = "Europe/Oslo".into())[0].contains("Europe/Oslo"));
        assert!(whats(|environment| environment.may_create = false)[0].contains("may not create schemas"));
        let closed = |environment: &mut Environment| environment.closed = vec!["business_nxt".into()];
        assert!(whats(closed)[0].contains("tables in schema business_nxt"));
    }
}
