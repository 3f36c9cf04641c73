-- The key of a row that was set aside, by the names of its mirrored table or, where there is none, as its notification
-- spells them.
create or replace view nxt_mirror.dead_letter as
    select dead.id, 'row' as kind, dead.reason, dead.attempts, dead.first_at, dead.last_at,
           case when target.tenant_kind = 'company' then target.tenant_no end as company_no,
           case when target.tenant_kind = 'customer' then target.tenant_no end as customer_no,
           target.table_name,
           case when mirrored.spec is not null then nxt_mirror.shown_key(dead.row_key, mirrored.spec)
                else nxt_mirror.notified_key(dead.row_key, coalesce(
                         (select block.body[(dead.notification_id % 1024 + 1)::integer]
                            from nxt_mirror.ledger_block as block where block.id = dead.notification_id / 1024), ''))
           end as key,
           null::text as delivery_id, dead.notification_id, null::bytea as body
      from nxt_mirror.dead_row as dead
      join nxt_mirror.target as target on target.id = dead.target_id
      left join nxt_mirror.mirrored_table as mirrored on mirrored.table_name = target.table_name
     union all
    select id, 'body', reason, 0, received_at, received_at, null, null, null, null, delivery_id, null, body
      from nxt_mirror.quarantine;
