//! What tests do otherwise where the test server is the coordinator of a cluster.

use nxt_testkit::TestDatabase;
use sqlx::{AssertSqlSafe, PgConnection};

/// Whether the test server is a cluster, which does not have what a test is about. Says so, and the test ends.
pub async fn has_no(what: &str) -> bool {
    let is_cluster = nxt_testkit::is_cluster().await;
    if is_cluster {
        eprintln!("SKIPPED: the test server is a cluster, which has no {what}");
    }
    is_cluster
}

/// Whether the test server is a cluster, which a test is about. Says so where it is not, and the test ends.
pub fn is_there(database: &TestDatabase) -> bool {
    if !database.is_distributed() {
        eprintln!(
            "SKIPPED: the test server is no coordinator of a cluster; let NXT_TEST_DATABASE_URL lead to one to test it"
        );
    }
    database.is_distributed()
}

/// Runs statements one by one: those that change distributed tables come alone.
pub async fn execute_each(connection: &mut PgConnection, sql: &str) {
    for statement in statements(sql) {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(&mut *connection)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

/// Statements as they are between semicolons that are not within quotes.
fn statements(sql: &str) -> Vec<&str> {
    let (mut is_quoted, mut dollars) = (false, 0);
    let parts = sql.split(|character| {
        is_quoted ^= character == '\'';
        dollars += usize::from(character == '$');
        // Two of them begin a body, and two end it.
        character == ';' && !is_quoted && dollars % 4 == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

#[test]
fn statements_are_cut_at_semicolons_outside_of_quotes() {
    let sql = "select ';'; do $body$ begin null; end $body$;\n select 1;";
    assert_eq!(statements(sql), ["select ';'", "do $body$ begin null; end $body$", "select 1"]);
}
