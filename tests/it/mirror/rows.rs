//! Rows: what is written, compared, removed and found of them, and whose matter it is when one does not fit.

use super::*;

#[tokio::test]
async fn what_is_unchanged_is_neither_written_nor_locked() {
    let bed = Bed::new().await;
    let (target, mut rows) = with_products(&bed, 3).await;
    let before = bed.versions("product").await;
    assert_eq!(bed.write(&target, &rows, 20).await.unwrap(), [Became::Unchanged; 3]);
    assert_eq!(bed.versions("product").await, before);
    rows[1] = product_row(&target.table, "P1", "2", 1);
    rows.push(product_row(&target.table, "P9", "9", 9));
    let written = bed.write(&target, &rows, 30).await.unwrap();
    assert_eq!(written, [Became::Unchanged, Became::Updated, Became::Unchanged, Became::Inserted]);
    let told: String = bed
        .scalar(
            "select string_agg(concat_ws(' ', product_no, price, extract(epoch from _fetched_at)::bigint - 1770000000, \
             _notification_id, extract(epoch from _changed_at)::bigint - 1770000000), ', ' order by product_no) \
             from business_nxt.product where _company_no = 7",
        )
        .await;
    assert_eq!(told, "P0 1.50 10 10 1, P1 2 30 30 1, P2 1.50 10 10 1, P9 9 30 30 1");
}

#[tokio::test]
async fn a_row_that_is_there_unexpectedly_is_brought_in_line() {
    let bed = Bed::new().await;
    let (target, rows) = with_products(&bed, 2).await;
    let changed = [rows[0].clone(), product_row(&target.table, "P1", "7", 7)];
    let mut transaction = bed.mirror.begin().await.unwrap();
    let fetched = changed.each_ref().map(|row| Fetched {
        row,
        started_at: DatabaseTime::new(time(20)),
        notification_id: None,
        is_mirrored: false,
    });
    let written = bed.mirror.write(&mut transaction, &target, &fetched).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(written, [Written::Unchanged, Written::Inserted]);
    assert_eq!(bed.compare(&target, &changed).await, [Comparison::Equal, Comparison::Equal]);
}

#[tokio::test]
async fn a_row_that_a_trigger_refuses_is_that_row_s_matter() {
    if cluster::has_no("triggers on distributed tables").await {
        return;
    }
    let bed = Bed::new().await;
    let (target, rows) = with_products(&bed, 3).await;
    bed.execute(
        "create function public.refuse() returns trigger language plpgsql as $$
         begin if new.product_no = 'P1' then raise exception 'not this one'; end if; return new; end $$;
         create trigger refuse before insert or update on business_nxt.product for each row execute function refuse()",
    )
    .await;
    let changed: Vec<Row> =
        rows.iter().map(|row| row.key.to_string()).map(|no| product_row(&target.table, &no, "8", 8)).collect();
    let diagnosis = bed.write(&target, &changed, 20).await.unwrap_err().diagnose();
    assert_eq!(diagnosis.owner, Owner::Row);
    assert!(diagnosis.reason.starts_with("not this one; a trigger or function"), "{}", diagnosis.reason);
    let written = bed.write(&target, &[changed[0].clone(), changed[2].clone()], 20).await.unwrap();
    assert_eq!(written, [Became::Updated; 2]);
    // A function that misses a table of its own is no reason to describe ours again.
    bed.execute(
        "create or replace function public.refuse() returns trigger language plpgsql as $$
         begin insert into nowhere values (1); return new; end $$",
    )
    .await;
    assert_eq!(bed.write(&target, &changed[1..2], 30).await.unwrap_err().diagnose().owner, Owner::Row);
}

#[tokio::test]
async fn an_error_at_the_commit_is_diagnosed_too() {
    if cluster::has_no("triggers on distributed tables").await {
        return;
    }
    let bed = Bed::new().await;
    let (target, _) = with_products(&bed, 1).await;
    bed.execute(
        "create function public.refuse() returns trigger language plpgsql as $$ begin raise exception 'late'; end $$;
         create constraint trigger refuse after insert on business_nxt.product
         deferrable initially deferred for each row execute function refuse()",
    )
    .await;
    let row = product_row(&target.table, "late", "1", 1);
    let fetched =
        Fetched { row: &row, started_at: DatabaseTime::new(time(1)), notification_id: None, is_mirrored: false };
    let mut transaction = bed.mirror.begin().await.unwrap();
    bed.mirror.write(&mut transaction, &target, &[fetched]).await.unwrap();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(diagnose(&error, Carried::Rows, &target.table.sql_name).owner, Owner::Row);
}

#[tokio::test]
async fn rows_are_inserted_when_another_transaction_gives_their_tenant_its_place_meanwhile() {
    let bed = Bed::new().await;
    if !cluster::is_there(&bed.database) {
        return;
    }
    let (target, _) = with_products(&bed, 1).await;
    let other = TargetTable { id: TargetId(2), tenant: Tenant::Company(8), table: Arc::clone(&target.table) };
    let row = product_row(&target.table, "first", "1", 1);
    let fetched =
        [Fetched { row: &row, started_at: DatabaseTime::new(time(1)), notification_id: None, is_mirrored: false }];
    let mut placing = bed.pool.begin().await.unwrap();
    execute_each(&mut placing, "insert into nxt_mirror.tenant_place (tenant_no) values (8)").await;
    let mut writing = bed.pool.begin().await.unwrap();
    let placed = async {
        let waits = "select least(1, count(*)) - 1 from citus_lock_waits";
        nxt_testkit::Wait::seconds(240).for_count("sessions that wait", &bed.pool, 0, waits).await.unwrap();
        placing.commit().await.unwrap();
    };
    let (written, ()) = tokio::join!(bed.mirror.write(&mut writing, &other, &fetched), placed);
    assert_eq!(written.unwrap(), [Written::Inserted]);
}

#[tokio::test]
async fn two_writers_of_a_target_follow_each_other() {
    let bed = Bed::new().await;
    let (target, rows) = with_products(&bed, 1).await;
    let mut transaction = bed.mirror.begin().await.unwrap();
    bed.mirror.lock(&mut transaction, &target).await.unwrap();
    assert_eq!(bed.write(&target, &rows, 20).await.unwrap_err().diagnose().owner, Owner::Target);
    let other = TargetTable { id: TargetId(2), tenant: Tenant::Company(8), table: Arc::clone(&target.table) };
    assert_eq!(bed.write(&other, &rows, 20).await.unwrap(), [Became::Inserted]);
}

#[tokio::test]
async fn values_of_every_type_arrive_without_loss() {
    let bed = Bed::new().await;
    let spec = every_type();
    bed.mirror.ensure(&spec).await.unwrap();
    let target = target(&spec);
    let text = "tab\t newline\n backslash\\N quote' \"double\" {brace,} æøå 😀 NULL";
    let amount = "-12345678901234567890123456789.00000000000000000001230";
    let mut empty = every_type_row(&spec, 2, 1, "", "0.00");
    for index in [0, 3, 4, 5, 6, 7, 8] {
        empty.values[index] = Value::Null;
    }
    let rows = [every_type_row(&spec, 1, i64::from(i16::MIN), text, amount), empty];
    assert_eq!(bed.write(&target, &rows, 1).await.unwrap(), [Became::Inserted; 2]);
    let told: String = bed
        .scalar(
            "select concat_ws('|', text, line_no, order_no, big, amount, flag, changed_timestamp, at, day, code) \
             from business_nxt.every_type where order_no = 1",
        )
        .await;
    let expected = format!(
        "{text}|-32768|1|-9223372036854775808|{amount}|t|2026-02-02 02:40:00.123456+00|1999-12-31 23:59:59.999999|1999-12-31|a"
    );
    assert_eq!(told, expected);
    assert_eq!(bed.compare(&target, &rows).await, [Comparison::Equal, Comparison::Equal]);
    let changed = every_type_row(&spec, 2, 1, "x", "0.00");
    let differs = ["text", "big", "amount", "flag", "changed_timestamp", "at", "day"].map(String::from).to_vec();
    let absent = every_type_row(&spec, 2, 2, "x", "0.00");
    assert_eq!(
        bed.compare(&target, &[changed.clone(), absent]).await,
        [Comparison::Different(differs), Comparison::Missing]
    );
    assert_eq!(bed.write(&target, &[changed], 2).await.unwrap(), [Became::Updated]);
}

#[tokio::test]
async fn values_that_do_not_fit_their_column_are_their_row_s_matter() {
    let bed = Bed::new().await;
    let (target, _) = with_products(&bed, 1).await;
    for bad in [
        product_row(&target.table, "P0", "1", i64::MAX),
        product_row(&target.table, "P0", "many", 1),
        product_row(&target.table, "a\0b", "1", 1),
    ] {
        let error = bed.write(&target, &[bad], 20).await.unwrap_err();
        assert_eq!(error.diagnose().owner, Owner::Row, "{:?}", error.source);
    }
}

#[tokio::test]
async fn a_softly_deleted_row_comes_back() {
    let bed = Bed::with(Deletes::Soft).await;
    let (target, rows) = with_products(&bed, 3).await;
    let keys = [text_key("P1"), text_key("absent")];
    assert_eq!(bed.remove(&target, &keys).await, HashSet::from([text_key("P1")]));
    assert_eq!(bed.remove(&target, &keys).await, HashSet::new());
    assert_eq!(bed.count(&target).await, 2);
    let deleted_at: i64 = bed
        .scalar("select extract(epoch from _deleted_at)::bigint from business_nxt.product where product_no = 'P1'")
        .await;
    assert_eq!(deleted_at, time(500).timestamp());
    assert_eq!(bed.compare(&target, &rows[1..2]).await, [Comparison::Missing]);
    // The same content again: it lives again.
    let written = bed.write(&target, &rows, 600).await.unwrap();
    assert_eq!(written, [Became::Unchanged, Became::Inserted, Became::Unchanged]);
    assert_eq!(bed.count(&target).await, 3);
    assert_eq!(bed.compare(&target, &rows[1..2]).await, [Comparison::Equal]);
}

#[tokio::test]
async fn keys_spelled_otherwise_are_found() {
    let bed = Bed::new().await;
    let (target, _) = with_products(&bed, 3).await;
    bed.write(&target, &[product_row(&target.table, "Ærø ", "1", 1)], 20).await.unwrap();
    let mut connection = bed.pool.acquire().await.unwrap();
    let keys = ["p1  ", "P2", "ærø"].map(text_key);
    let others = bed.mirror.other_spellings(&mut connection, &target, &keys).await.unwrap();
    let mut found: Vec<_> =
        others.into_iter().map(|other| (other.index, other.key, other.mirrored.changed_at)).collect();
    found.sort_by_key(|(index, ..)| *index);
    let changed_at = Some(SourceTime::new(time(1)));
    assert_eq!(found, [(0, text_key("P1"), changed_at), (2, text_key("Ærø "), changed_at)]);
    let elsewhere = TargetTable { tenant: Tenant::Company(8), ..target };
    assert!(bed.mirror.other_spellings(&mut connection, &elsewhere, &keys).await.unwrap().is_empty());
}

/// A product as it was changed last.
fn product_changed(target: &TargetTable, no: &str, changed_at: i64) -> Row {
    Row { changed_at: Some(SourceTime::new(time(changed_at))), ..product_row(&target.table, no, "1", 1) }
}

/// As a walk does with what a request brought that started then.
async fn take_page(writer: &Writer, target: &TargetTable, row: Row, started_at: i64) {
    let started_at = DatabaseTime::new(time(started_at));
    let page = Page { target, rows: &[row], started_at, walk: None, is_logged: false };
    let (mut transaction, mut journal) = (writer.begin().await.unwrap(), Journal::default());
    writer.take_page(&mut transaction, page, &mut journal).await.unwrap();
    writer.commit(transaction, target, journal).await.unwrap();
}

#[tokio::test]
async fn one_row_is_read_under_one_spelling_and_never_goes_back() {
    let bed = Bed::new().await;
    let (target, _) = with_products(&bed, 0).await;
    bed.execute("insert into nxt_mirror.target (tenant_kind, tenant_no, table_name) values ('company', 7, 'Product')")
        .await;
    let writer = Writer::new(bed.mirror.clone());
    let take = async |no: &str, changed_at: i64, started_at: i64| {
        take_page(&writer, &target, product_changed(&target, no, changed_at), started_at).await;
        bed.scalar::<String>(
            "select coalesce(string_agg(product_no, ',' order by product_no), '') from business_nxt.product",
        )
        .await
    };
    let dirty = "select coalesce(string_agg(row_key, ',' order by row_key), '') from nxt_mirror.dirty_row";
    assert_eq!(take("bø", 10, 11).await, "bø");
    // The older row leaves with the transaction that brings the newer one, and the source is asked about it.
    assert_eq!(take("BØ ", 20, 21).await, "BØ ");
    assert_eq!(bed.scalar::<String>(dirty).await, r#"{"productno":"bø"}"#);
    // An answer from before that comes late, and one that comes of an old copy.
    assert_eq!(take("bø", 10, 15).await, "BØ ");
    assert_eq!(take("bø", 10, 25).await, "BØ ");
    // A row of its own, to a source that tells them apart.
    assert_eq!(take("bø", 30, 31).await, "bø");
    assert_eq!(bed.scalar::<String>(dirty).await, r#"{"productno":"BØ "},{"productno":"bø"}"#);
    let told =
        "select string_agg(action || ' ' || (key ->> 'product_no'), ', ' order by position) from nxt_mirror.change";
    let expected = "insert bø, delete bø, insert BØ , delete BØ , insert bø";
    assert_eq!(bed.scalar::<String>(told).await, expected);
}

/// When a request started does not tell when it read: one that started earlier may have seen the row made again, and one
/// that started later may not have seen it yet.
#[tokio::test]
async fn a_row_that_others_have_written_meanwhile_is_not_removed_by_an_answer_without_it() {
    let bed = Bed::new().await;
    let (target, _) = with_products(&bed, 0).await;
    bed.execute("insert into nxt_mirror.target (tenant_kind, tenant_no, table_name) values ('company', 7, 'Product')")
        .await;
    let writer = Writer::new(bed.mirror.clone());
    let queue = Queue::new(bed.pool.clone());
    let (me, claims) = (queue.register().await.unwrap(), Claims::new());
    for (no, is_page) in [("walked", true), ("thawed", false)] {
        let row = product_changed(&target, no, 35);
        let asked = row.key.announced(&target.table).unwrap();
        queue::mark(&mut bed.connect().await, target.id, &[asked], Priority::Live).await.unwrap();
        let wanted = Wanted { target: target.id, priority: Priority::Live, rows_max: 10 };
        let claim = queue.claim(me, &claims, &[wanted], Claimable::All).await.unwrap().remove(0);
        let seen = |claimed: &DirtyRow, started_at: i64, row: Option<Row>| Item {
            claimed: claimed.clone(),
            key: text_key(no),
            seen: Some((DatabaseTime::new(time(started_at)), row)),
        };
        let claimed = claim.rows.iter().find(|claimed| claimed.row_key.contains(no)).unwrap();
        if is_page {
            take_page(&writer, &target, row, 30).await;
        } else {
            // A worker that stood still, and whose claim was given to another one.
            let before = DirtyRow { generation: claimed.generation - 1, ..claimed.clone() };
            writer.settle(&target, &[seen(&before, 30, Some(row))]).await.unwrap();
        }
        let tally = writer.settle(&target, &[seen(claimed, 40, None)]).await.unwrap();
        assert_eq!(tally, Tally::from([(SyncAction::Recheck, 1)]), "{no}");
        assert_eq!(bed.count(&target).await, if is_page { 1 } else { 2 });
    }
    assert_eq!(bed.scalar::<i64>("select count(*) from nxt_mirror.dirty_row").await, 2);
}

#[tokio::test]
async fn batches_of_any_size_reach_their_own_rows_alone() {
    let bed = Bed::new().await;
    let spec = every_type();
    bed.mirror.ensure(&spec).await.unwrap();
    let target = target(&spec);
    let neighbour = TargetTable { id: TargetId(2), tenant: Tenant::Company(8), table: Arc::clone(&spec) };
    let rows: Vec<Row> = (0..6_000).map(|number| every_type_row(&spec, number / 10, number % 10, "x", "1")).collect();
    for target in [&target, &neighbour] {
        let written = bed.write(target, &rows, 1).await.unwrap();
        assert!(written.iter().all(|written| *written == Became::Inserted));
    }
    let mut changed = rows.clone();
    for row in changed.iter_mut().step_by(2) {
        row.values[0] = Value::Text("y".into());
    }
    let written = bed.write(&target, &changed, 2).await.unwrap();
    for (index, written) in written.into_iter().enumerate() {
        assert_eq!(written, if index % 2 == 0 { Became::Updated } else { Became::Unchanged });
    }
    assert!(bed.compare(&target, &changed).await.iter().all(|row| *row == Comparison::Equal));
    assert!(bed.compare(&neighbour, &rows).await.iter().all(|row| *row == Comparison::Equal));
    let keys: Vec<RowKey> = rows.iter().skip(100).step_by(3).map(|row| row.key.clone()).collect();
    assert_eq!(bed.remove(&target, &keys).await, keys.iter().cloned().collect());
    assert_eq!(bed.count(&target).await, 6_000 - keys.len() as i64);
    assert_eq!(bed.count(&neighbour).await, 6_000);
}

#[tokio::test]
async fn what_a_batch_reads_does_not_grow_with_the_tenant() {
    if cluster::has_no("statistics of all nodes in one place").await {
        return;
    }
    let bed = Bed::new().await;
    let (target, rows) = with_products(&bed, 20_000).await;
    // The planner knows of one tenant only, and expects no row of the other.
    bed.execute("alter table business_nxt.product set (autovacuum_enabled = off); analyze business_nxt.product").await;
    let other = TargetTable { id: TargetId(2), tenant: Tenant::Company(8), table: Arc::clone(&target.table) };
    bed.write(&other, &rows, 20).await.unwrap();
    for count in [3, 40, 400] {
        let changed: Vec<Row> = rows[..count]
            .iter()
            .map(|row| product_row(&other.table, &row.key.to_string(), "2", -(count as i64)))
            .collect();
        let fetched: Vec<Fetched<'_>> = changed
            .iter()
            .map(|row| Fetched {
                row,
                started_at: DatabaseTime::new(time(30)),
                notification_id: None,
                is_mirrored: true,
            })
            .collect();
        let keys: Vec<RowKey> = changed.iter().map(|row| row.key.clone()).collect();
        let removals: Vec<Removal> = rows[1_000..1_000 + count]
            .iter()
            .map(|row| Removal { key: row.key.clone(), deleted_at: SourceTime::new(time(30)) })
            .collect();
        let mut transaction = bed.mirror.begin().await.unwrap();
        let known = bed.mirror.known(&mut transaction, &other, &keys).await.unwrap();
        assert!(known.iter().all(Option::is_some));
        assert!(bed.mirror.other_spellings(&mut transaction, &other, &keys).await.unwrap().is_empty());
        let rows: Vec<&Row> = changed.iter().collect();
        assert!(bed.mirror.differing(&mut transaction, &other, &rows).await.unwrap().iter().all(|differs| *differs));
        let written = bed.mirror.write(&mut transaction, &other, &fetched).await.unwrap();
        assert!(written.iter().all(|written| matches!(written, Written::Updated(_))));
        assert_eq!(bed.mirror.remove(&mut transaction, &other, &removals).await.unwrap().len(), count);
        let read: i64 = sqlx::query_scalar(
            "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'product'",
        )
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
        transaction.rollback().await.unwrap();
        assert!(read <= 8 * count as i64, "{read} rows read for {count}");
    }
}

#[tokio::test]
async fn a_walk_finds_the_rows_that_it_has_not_met() {
    let bed = Bed::new().await;
    let (target, rows) = with_products(&bed, 10).await;
    let walk = WalkId { id: Uuid::new_v4(), started_at: DatabaseTime::new(time(50)) };
    let keys: Vec<&RowKey> = rows.iter().take(8).map(|row| &row.key).collect();
    bed.write(&target, &[product_row(&target.table, "young", "1", 1)], 60).await.unwrap();
    let mut transaction = bed.mirror.begin().await.unwrap();
    bed.mirror.note_met(&mut transaction, &target, walk, &keys).await.unwrap();
    bed.mirror.declare_unmet(&mut transaction, &target, walk).await.unwrap();
    let unmet = bed.mirror.next_unmet(&mut transaction, &target).await.unwrap();
    assert_eq!(HashSet::from_iter(unmet), HashSet::from(["P8", "P9"].map(text_key)));
    assert!(bed.mirror.next_unmet(&mut transaction, &target).await.unwrap().is_empty());
    transaction.rollback().await.unwrap();
    // Another table's cursor, with other columns, on the same connection.
    let spec = every_type();
    bed.mirror.ensure(&spec).await.unwrap();
    let other = TargetTable { table: spec, ..target };
    let rows = [every_type_row(&other.table, 1, 2, "x", "1")];
    bed.write(&other, &rows, 1).await.unwrap();
    let mut transaction = bed.mirror.begin().await.unwrap();
    bed.mirror.declare_unmet(&mut transaction, &other, walk).await.unwrap();
    assert_eq!(bed.mirror.next_unmet(&mut transaction, &other).await.unwrap(), [rows[0].key.clone()]);
}
