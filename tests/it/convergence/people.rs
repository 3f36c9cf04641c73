//! What people do in the database meanwhile: objects of their own on mirrored tables, and locks.

use std::time::Duration;

use nxt_testkit::Site;
use rand::{RngExt, rngs::StdRng};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinSet;

use super::history::TABLES;

/// People at work.
#[derive(Default)]
pub struct People(JoinSet<()>);

impl People {
    /// One of them does something, which may fail: the table may not be there yet, or the server be away.
    pub fn work(&mut self, random: &mut StdRng, site: &Site) {
        let table = TABLES[random.random_range(0..TABLES.len())].sql_name;
        let name = table.trim_matches('"');
        let number = random.random_range(0..3);
        let pool = site.pool.clone();
        let sql = match random.random_range(0..8) {
            0 => format!("create index if not exists people_{name}_{number} on business_nxt.{table} (_fetched_at)"),
            1 => format!("drop index if exists business_nxt.people_{name}_{number}"),
            2 => format!("create or replace view people.{name} as select * from business_nxt.{table}"),
            3 => {
                format!("alter table business_nxt.{table} add column if not exists people_{number} text default 'own'")
            }
            4 => format!(
                "create or replace trigger people_watch after insert or update or delete on business_nxt.{table}
                 for each row execute function people.look()"
            ),
            5 => format!(
                "create or replace trigger people_refuse before insert or update on business_nxt.{table}
                 for each row execute function people.refuse()"
            ),
            6 => format!("drop trigger if exists people_refuse on business_nxt.{table}"),
            _ => {
                let millis = random.random_range(50..1_500);
                let sql = format!("lock table business_nxt.{table} in share mode");
                self.0.spawn(async move { hold(&pool, sql, Duration::from_millis(millis)).await });
                return;
            }
        };
        self.0.spawn(async move { hold(&pool, sql, Duration::ZERO).await });
    }

    /// They end what they do, and take away what refuses rows.
    pub async fn go_home(self, pool: &PgPool) {
        self.0.join_all().await;
        for table in TABLES {
            let sql = format!("drop trigger if exists people_refuse on business_nxt.{}", table.sql_name);
            sqlx::query(AssertSqlSafe(sql)).execute(pool).await.expect("a trigger can be dropped");
        }
    }
}

/// The functions of their triggers.
pub async fn prepare(pool: &PgPool) {
    let sql = "create schema people;
        create function people.look() returns trigger language plpgsql as 'begin return null; end';
        create function people.refuse() returns trigger language plpgsql as
            'begin raise exception ''people refuse this''; end'";
    sqlx::raw_sql(sql).execute(pool).await.expect("a schema of one's own");
}

/// Does something in a transaction and holds its locks for so long.
async fn hold(pool: &PgPool, sql: String, time: Duration) {
    let work = async {
        let mut transaction = pool.begin().await?;
        sqlx::query("set local lock_timeout = '2s'").execute(&mut *transaction).await?;
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *transaction).await?;
        tokio::time::sleep(time).await;
        transaction.commit().await
    };
    // Whatever comes of it is people's matter.
    let _: Result<(), sqlx::Error> = work.await;
}
