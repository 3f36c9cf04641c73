-- The daemon's own state. Mirrored rows live in schema business_nxt, whose tables are made from the API's metadata.
create schema if not exists nxt_mirror;
create schema if not exists business_nxt;

-- Every notification that was accepted, body and all; one partition a day.
create sequence nxt_mirror.notification_id as bigint;
create table nxt_mirror.notification (
    id bigint not null,
    received_at timestamptz not null,
    delivery_id text,
    tenant_kind text collate "C" not null constraint notification_tenant_kind check (tenant_kind in ('company', 'customer')),
    tenant_no bigint not null,
    table_name text collate "C" not null,
    row_key text collate "C" not null,
    event text not null constraint notification_event check (event in ('INSERT', 'UPDATE', 'DELETE')),
    changed_at timestamptz,
    deleted_at timestamptz,
    changed_by text,
    body text not null,
    constraint notification_pkey primary key (id, received_at)
) partition by range (received_at);
-- Holds what falls outside the prepared days, so that a clock far off never refuses a notification.
create table nxt_mirror.notification_default partition of nxt_mirror.notification default;
alter sequence nxt_mirror.notification_id owned by nxt_mirror.notification.id;

comment on table nxt_mirror.notification is 'Ledger of accepted webhook notifications';
comment on column nxt_mirror.notification.delivery_id is 'x-vwd-notification-id; a digest of it where it is long or not text';
comment on column nxt_mirror.notification.changed_at is 'ChangedTimestamp among the changed columns';
comment on column nxt_mirror.notification.deleted_at is 'timestamp of a DELETE';

-- Which notification ids were accepted: unique over all days, which a partitioned table cannot be.
create table nxt_mirror.delivery (
    id text collate "C" not null constraint delivery_pkey primary key,
    received_at timestamptz not null
);

create index delivery_received on nxt_mirror.delivery using brin (received_at);

-- Rows that need a look: one for each (tenant, table, key), whatever the number of notifications.
create table nxt_mirror.dirty_row (
    tenant_kind text collate "C" not null constraint dirty_row_tenant_kind check (tenant_kind in ('company', 'customer')),
    tenant_no bigint not null,
    table_name text collate "C" not null,
    row_key text collate "C" not null,
    generation bigint not null default 1 constraint dirty_row_generation check (generation > 0),
    -- 0: live; 1: marked by replay or by a walk. Live work goes first.
    priority smallint not null default 0 constraint dirty_row_priority check (priority in (0, 1)),
    -- When it may be claimed; a claim moves it into the future, which is its lease.
    due_at timestamptz not null,
    waiting_since timestamptz not null,
    claim_id uuid,
    notification_id bigint,
    deleted_at timestamptz,
    delete_received_at timestamptz,
    announced boolean not null,
    -- Latest ChangedTimestamp announced; null when one of the announcements had none.
    changed_at timestamptz,
    looks integer not null default 0 constraint dirty_row_looks check (looks >= 0),
    attempts integer not null default 0 constraint dirty_row_attempts check (attempts >= 0),
    last_failed_at timestamptz,
    last_error text,
    constraint dirty_row_pkey primary key (tenant_kind, tenant_no, table_name, row_key),
    constraint dirty_row_deletion check ((deleted_at is null) = (delete_received_at is null))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);
create index dirty_row_due on nxt_mirror.dirty_row (priority, due_at);

-- The last deletion of each key that is not in the mirror, by folded key (see domain::key).
create table nxt_mirror.tombstone (
    tenant_kind text collate "C" not null,
    tenant_no bigint not null,
    table_name text collate "C" not null,
    folded_key text collate "C" not null,
    deleted_at timestamptz not null,
    received_at timestamptz not null,
    constraint tombstone_pkey primary key (tenant_kind, tenant_no, table_name, folded_key)
);
create index tombstone_received on nxt_mirror.tombstone (received_at);

-- What was set aside: bodies that were not understood, and rows that cannot be mirrored.
create table nxt_mirror.dead_letter (
    id bigint generated always as identity constraint dead_letter_pkey primary key,
    kind text not null constraint dead_letter_kind check (kind in ('body', 'row')),
    reason text not null,
    attempts integer not null default 0,
    first_at timestamptz not null,
    last_at timestamptz not null,
    delivery_id text,
    body bytea,
    tenant_kind text collate "C",
    tenant_no bigint,
    table_name text collate "C",
    row_key text collate "C",
    notification_id bigint,
    deleted_at timestamptz,
    delete_received_at timestamptz,
    announced boolean not null default false,
    changed_at timestamptz,
    constraint dead_letter_shape check (
        (kind = 'body' and body is not null)
        or (kind = 'row' and tenant_kind is not null and tenant_no is not null and table_name is not null and row_key is not null)
    )
);
-- One letter for one row, however often it fails.
create unique index dead_letter_row on nxt_mirror.dead_letter (tenant_kind, tenant_no, table_name, row_key) where kind = 'row';

-- What was done to each row, newest last.
create table nxt_mirror.sync_log (
    id bigint generated always as identity constraint sync_log_pkey primary key,
    at timestamptz not null default now(),
    tenant_kind text collate "C" not null,
    tenant_no bigint not null,
    table_name text collate "C" not null,
    row_key text collate "C" not null,
    action text not null constraint sync_log_action check (
        action in ('inserted', 'updated', 'unchanged', 'deleted', 'already_absent', 'stale', 'look_again', 'failed', 'dead_letter', 'ignored')),
    reason text not null,
    notification_id bigint,
    source_changed_at timestamptz,
    fetch_started_at timestamptz
);
create index sync_log_at on nxt_mirror.sync_log (at);

-- The description each mirrored table was last brought in line with.
create table nxt_mirror.mirrored_table (
    table_name text collate "C" not null constraint mirrored_table_pkey primary key,
    spec jsonb not null,
    created_at timestamptz not null default now(),
    described_at timestamptz not null default now(),
    note text
);

-- How far a walk of a table has come, so that it can go on after any interruption.
create table nxt_mirror.checkpoint (
    tenant_kind text collate "C" not null,
    tenant_no bigint not null,
    table_name text collate "C" not null,
    purpose text not null,
    position jsonb,
    started_at timestamptz not null,
    finished_at timestamptz,
    rows_walked bigint not null default 0,
    constraint checkpoint_pkey primary key (tenant_kind, tenant_no, table_name, purpose)
);

-- The request budget over all replicas: a request holds a slot from its start until 60 s after its end, so that no
-- 60 s contain more requests than there are slots.
create table nxt_mirror.api_slot (
    slot integer not null constraint api_slot_pkey primary key,
    free_at timestamptz not null default '-infinity',
    -- Set while the request is under way.
    in_flight_until timestamptz,
    tenants text[] not null default '{}'
) with (fillfactor = 50);
-- Its one row is locked for each grant, so that grants are given one after the other.
create table nxt_mirror.api_budget (
    single boolean not null default true constraint api_budget_pkey primary key constraint api_budget_single check (single),
    -- Set by an answer that says the limit is reached: nothing is sent before.
    paused_until timestamptz not null default '-infinity'
);
insert into nxt_mirror.api_budget default values;

-- Grants a request to the API, or says how long to wait. A function, because each of its statements sees what was
-- committed before it, so that the counts are right once the budget's row is locked.
create function nxt_mirror.grant_request(
    slots_max integer,      -- requests in any 60 seconds
    in_flight_max integer,  -- requests under way for one tenant
    spare integer,          -- slots that must be left for others
    wanted_tenants text[],
    hold interval,          -- after this a request is over, even if nobody said so
    out granted_slot integer,
    out granted_at timestamptz,
    out wait_seconds double precision
) language plpgsql as $$
declare
    paused timestamptz;
    taken bigint;
    crowded timestamptz;
    next_free timestamptz;
    moment timestamptz;
begin
    select paused_until into paused from nxt_mirror.api_budget for update;
    moment := clock_timestamp();
    if paused > moment then
        wait_seconds := extract(epoch from paused - moment);
        return;
    end if;
    select count(*), min(free_at) into taken, next_free from nxt_mirror.api_slot where free_at > moment;
    if taken + spare >= slots_max then
        wait_seconds := coalesce(extract(epoch from next_free - moment), 1);
        return;
    end if;
    select min(soonest) into crowded
      from (select min(in_flight_until) as soonest
              from nxt_mirror.api_slot, unnest(tenants) as tenant
             where in_flight_until > moment and tenant = any(wanted_tenants)
             group by tenant
            having count(*) >= in_flight_max) as full_tenants;
    if crowded is not null then
        wait_seconds := 0.25;
        return;
    end if;
    update nxt_mirror.api_slot
       set free_at = moment + interval '60 seconds' + hold, in_flight_until = moment + hold, tenants = wanted_tenants
     where slot = (select min(slot) from nxt_mirror.api_slot where free_at <= moment)
    returning slot into granted_slot;
    granted_at := moment;
end
$$;

-- "Is it right, and as of when?", from evidence only.
create view nxt_mirror.recent_activity as
    select at,
           tenant_kind || ' ' || tenant_no as tenant,
           table_name,
           row_key,
           case action
               when 'inserted' then 'row added'
               when 'updated' then 'row changed'
               when 'unchanged' then 'row looked at, nothing had changed'
               when 'deleted' then 'row removed'
               when 'already_absent' then 'row was already absent'
               when 'stale' then 'notification ignored'
               when 'look_again' then 'looking again'
               when 'failed' then 'fetch failed, will be tried again'
               when 'dead_letter' then 'set aside in the dead letters'
               when 'ignored' then 'not mirrored'
           end || ': ' || reason as what,
           notification_id
      from nxt_mirror.sync_log
     order by id desc;
