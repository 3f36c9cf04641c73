-- The feed: what changed in the mirrored rows, in an order that can be followed with a cursor.

-- Held by a transaction from the moment its entries get their numbers until it has committed. So the numbers of the sync
-- log and of the feed become visible in their order, and nobody waits for a transaction that is merely open. It has no
-- rows: numbers come from sequences, which leave no old versions behind for as long as somebody holds a snapshot.
create table nxt_mirror.turn ();

create table nxt_mirror.change_log (
    position bigint generated always as identity constraint change_log_pkey primary key,
    at timestamptz not null,
    target_id integer not null,
    key jsonb not null,
    action text not null constraint change_log_action check (action in ('insert', 'update', 'delete')),
    changed_by text,
    changed_columns text[],
    source_changed_at timestamptz,
    notification_id bigint
);

-- Gives the transaction's journal its numbers and stores it. To be followed by the commit in the same message, so that
-- no client can stand still in between: see queue::journal. A function, because it is one statement for the client.
create function nxt_mirror.publish() returns void
language plpgsql set lock_timeout = '10s' as $$
declare
    journal jsonb := current_setting('nxt_mirror.journal')::jsonb;
    moment timestamptz;
    last_position bigint;
begin
    lock table nxt_mirror.turn in exclusive mode;
    moment := clock_timestamp();
    insert into nxt_mirror.sync_log
        (at, target_id, key, action, reason, notification_id, source_changed_at, fetch_started_at)
    select moment, entry.target_id, entry.key::jsonb, entry.action, entry.reason, entry.notification_id,
           entry.source_changed_at, entry.fetch_started_at
      from rows from (jsonb_to_recordset(journal -> 'activity')
               as (target_id integer, key text, action text, reason text, notification_id bigint,
                   source_changed_at timestamptz, fetch_started_at timestamptz)) with ordinality
           as entry (target_id, key, action, reason, notification_id, source_changed_at, fetch_started_at, n)
     order by entry.n;
    with appended as (
        insert into nxt_mirror.change_log
            (at, target_id, key, action, changed_by, changed_columns, source_changed_at, notification_id)
        select moment, entry.target_id, entry.key::jsonb, entry.action, entry.changed_by, entry.changed_columns,
               entry.source_changed_at, entry.notification_id
          from rows from (jsonb_to_recordset(journal -> 'changes')
                   as (target_id integer, key text, action text, changed_by text, changed_columns text[],
                       source_changed_at timestamptz, notification_id bigint)) with ordinality
               as entry (target_id, key, action, changed_by, changed_columns, source_changed_at, notification_id, n)
         order by entry.n
        returning position
    )
    select max(position) into last_position from appended;
    if last_position is not null then
        perform pg_notify('nxt_mirror_change', last_position::text);
    end if;
end
$$;

-- Who remembers the greatest position seen and asks for greater ones misses nothing and sees nothing twice.
create view nxt_mirror.change as
    select entry.position, entry.at,
           case when target.tenant_kind = 'company' then target.tenant_no end as company_no,
           case when target.tenant_kind = 'customer' then target.tenant_no end as customer_no,
           target.table_name, entry.key, entry.action, entry.changed_by, entry.changed_columns,
           entry.source_changed_at, entry.notification_id
      from nxt_mirror.change_log as entry
      join nxt_mirror.target as target on target.id = entry.target_id;
