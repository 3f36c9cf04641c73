-- The daemon's own state. Mirrored rows live in schema business_nxt, whose tables are made from the API's metadata.
create schema if not exists business_nxt;

-- Receiving: an append, and nothing else. Nobody but the receiver writes to these tables, retention aside.

-- One connection of one receiver. Its blocks become visible in the order of their ids, so that a reader can remember how
-- far it has come.
create table nxt_mirror.stream (
    id bigint generated always as identity constraint stream_pkey primary key,
    opened_at timestamptz not null default now()
);

-- One commit's notifications. Position n of the arrays, counted from 0, is notification id * 1024 + n.
create table nxt_mirror.ledger_block (
    id bigint generated always as identity constraint ledger_block_pkey primary key,
    stream_id bigint not null,
    received_at timestamptz not null default now(),
    is_company boolean[] not null,
    tenant_no bigint[] not null,
    table_name text[] not null,
    row_key text[] not null,
    event text[] not null,
    changed_at timestamptz[] not null,
    deleted_at timestamptz[] not null,
    changed_by text[] not null,
    delivery_id text[] not null,
    body text[] not null,
    -- Columns that this receiver has not announced before, as Table.column.
    announced_columns text[] not null default '{}'
);
create index ledger_block_stream on nxt_mirror.ledger_block (stream_id, id);
-- The server compresses each block while its senders wait: several times faster by this method, where it has it.
do $$ begin
    alter table nxt_mirror.ledger_block
        alter column table_name set compression lz4, alter column row_key set compression lz4,
        alter column changed_at set compression lz4, alter column deleted_at set compression lz4,
        alter column changed_by set compression lz4, alter column delivery_id set compression lz4,
        alter column tenant_no set compression lz4, alter column event set compression lz4,
        alter column body set compression lz4;
exception when feature_not_supported then
    raise notice 'this server has no lz4, so blocks are compressed by its default method';
end $$;

create sequence nxt_mirror.dead_letter_id as bigint;
-- Signed bodies that were not understood.
create table nxt_mirror.quarantine (
    id bigint not null default nextval('nxt_mirror.dead_letter_id') constraint quarantine_pkey primary key,
    received_at timestamptz not null default now(),
    reason text not null,
    delivery_id text,
    body bytea not null
);

-- Work.

-- A daemon that works: alive as long as it says so. What a dead one holds is free.
create table nxt_mirror.worker (
    id bigint generated always as identity constraint worker_pkey primary key,
    started_at timestamptz not null default now(),
    alive_until timestamptz not null
) with (fillfactor = 50);

-- One tenant's table: the unit of isolation, of order and of health.
create table nxt_mirror.target (
    id integer generated always as identity constraint target_pkey primary key,
    tenant_kind text collate "C" not null constraint target_tenant_kind check (tenant_kind in ('company', 'customer')),
    tenant_no bigint not null,
    table_name text collate "C" not null,
    first_seen_at timestamptz not null default now(),
    -- The worker that works on its dirty rows, while that is alive.
    worker_id bigint,
    -- Health: failures one after the other, and until when nothing is asked.
    failures integer not null default 0 constraint target_failures check (failures >= 0),
    paused_until timestamptz,
    paused_because text,
    -- Rows that live, as of the last walk, brought forward since.
    rows bigint not null default 0,
    last_change_applied timestamptz,
    last_notified_at timestamptz,
    silent_since timestamptz
) with (fillfactor = 50);
create unique index target_identity on nxt_mirror.target (tenant_kind, tenant_no, lower(table_name));
comment on column nxt_mirror.target.last_notified_at is 'When a row was last settled that a notification had announced';
comment on column nxt_mirror.target.silent_since is
    'The oldest change known that no notification announced, although the table used to send them; null when all is well';

-- How far each stream is folded into dirty rows. Rows are only inserted, and trimmed at the old end, so that the newest
-- is found at once however long old versions must be kept.
create table nxt_mirror.fold (
    stream_id bigint not null,
    through_id bigint not null,
    constraint fold_pkey primary key (stream_id, through_id)
);

-- Rows that need a fetch: one for each (target, key), whatever the number of notifications.
create table nxt_mirror.dirty_row (
    target_id integer not null,
    row_key text collate "C" not null,
    -- Drawn anew with whatever is learned of the row; a verdict clears the row only if it is still the one that was
    -- claimed. Not counted, because a row that was cleared and is dirty again would bear the numbers of its first life,
    -- and a verdict of then, late by a process that stood still, would clear it.
    generation bigint not null default (random() * 9007199254740992)::bigint,
    -- 0: live; 1: marked by replay or by a walk. Live work goes first.
    priority smallint not null default 0 constraint dirty_row_priority check (priority in (0, 1)),
    due_at timestamptz not null,
    -- When the oldest notification was received that is not settled.
    waiting_since timestamptz not null,
    notification_id bigint,
    deleted_at timestamptz,
    delete_received_at timestamptz,
    announced boolean not null,
    -- Latest ChangedTimestamp announced; null when one of the announcements had none.
    changed_at timestamptz,
    -- Answers since the last notification that were not believed yet: the row was there; it was not.
    found_rechecks integer not null default 0,
    missing_rechecks integer not null default 0,
    constraint dirty_row_rechecks check (found_rechecks >= 0 and missing_rechecks >= 0),
    attempts integer not null default 0 constraint dirty_row_attempts check (attempts >= 0),
    last_error text,
    constraint dirty_row_pkey primary key (target_id, row_key),
    constraint dirty_row_deletion check ((deleted_at is null) = (delete_received_at is null))
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);
-- Partial in name only: so that a row that is looked up by its key is never looked for here, among all of its target's.
create index dirty_row_due on nxt_mirror.dirty_row (target_id, priority, due_at) where due_at > '-infinity';
-- For deletions, which need no answer of the API while it is away.
create index dirty_row_deleted on nxt_mirror.dirty_row (target_id, priority, due_at) where deleted_at is not null;

-- Columns that notifications announced, so that a description that lacks one is renewed.
create table nxt_mirror.announced_column (
    table_name text collate "C" not null,
    column_name text collate "C" not null,
    announced_at timestamptz not null default now(),
    constraint announced_column_pkey primary key (table_name, column_name)
);
create index announced_column_folded on nxt_mirror.announced_column (lower(table_name));

-- The last deletion of each key that is not in the mirror, by folded key (see domain::key).
create table nxt_mirror.tombstone (
    target_id integer not null,
    folded_key text collate "C" not null,
    deleted_at timestamptz not null,
    received_at timestamptz not null,
    constraint tombstone_pkey primary key (target_id, folded_key)
);
create index tombstone_received on nxt_mirror.tombstone (received_at);

-- Rows that were set aside, with all that was known of them.
create table nxt_mirror.dead_row (
    id bigint not null default nextval('nxt_mirror.dead_letter_id') constraint dead_row_pkey primary key,
    target_id integer not null,
    row_key text collate "C" not null,
    reason text not null,
    attempts integer not null,
    first_at timestamptz not null default now(),
    last_at timestamptz not null default now(),
    notification_id bigint,
    deleted_at timestamptz,
    delete_received_at timestamptz,
    announced boolean not null,
    changed_at timestamptz,
    -- The target could not be read or written at all: the row is tried again by itself when it can.
    of_target boolean not null,
    constraint dead_row_row unique (target_id, row_key)
);

-- What was done to each row, and what operators asked for, newest last.
create table nxt_mirror.sync_log (
    id bigint generated always as identity constraint sync_log_pkey primary key,
    at timestamptz not null default now(),
    -- Null where an operator asked for something that is about no single target or row.
    target_id integer,
    key jsonb,
    action text not null constraint sync_log_action check (
        action in ('inserted', 'updated', 'unchanged', 'deleted', 'already_absent', 'stale', 'recheck', 'failed',
                   'dead_letter', 'ignored', 'operator')),
    reason text not null,
    notification_id bigint,
    source_changed_at timestamptz,
    fetch_started_at timestamptz
);

-- The description each mirrored table was last brought in line with.
create table nxt_mirror.mirrored_table (
    table_name text collate "C" not null constraint mirrored_table_pkey primary key,
    spec jsonb not null,
    created_at timestamptz not null default now(),
    described_at timestamptz not null default now(),
    note text,
    -- Columns that are narrower than the source's.
    narrow_columns text[] collate "C" not null default '{}',
    -- The table itself. Another one of its name was made or restored by somebody else, whatever it holds; none was dropped.
    relation oid
);

-- Walks.

-- What one replica does for all: its holder is a living worker.
create table nxt_mirror.lease (
    name text not null constraint lease_pkey primary key,
    worker_id bigint
) with (fillfactor = 50);
insert into nxt_mirror.lease (name) values ('schedule');

-- The full scan of each target: the one under way, else the last one.
create table nxt_mirror.walk (
    target_id integer not null constraint walk_pkey primary key,
    walk_id uuid not null,
    started_at timestamptz not null,
    finished_at timestamptz,
    last_finished_at timestamptz,
    rows_walked bigint not null default 0,
    rows_total bigint,
    note text
) with (fillfactor = 50);
comment on column nxt_mirror.walk.last_finished_at is 'When a walk last came to the end of the table';
comment on column nxt_mirror.walk.rows_total is 'Rows of the table as the source counted them when the walk began';

-- A table is walked in ranges of its key, each with a position of its own.
create table nxt_mirror.walk_range (
    target_id integer not null constraint walk_range_walk references nxt_mirror.walk on delete cascade,
    range_no integer not null constraint walk_range_no check (range_no >= 0),
    after_key jsonb,
    through_key jsonb,
    position jsonb,
    finished boolean not null default false,
    constraint walk_range_pkey primary key (target_id, range_no)
) with (fillfactor = 50);
comment on column nxt_mirror.walk_range.after_key is 'The range begins behind this key; null at the beginning of the table';
comment on column nxt_mirror.walk_range.through_key is 'The range ends with this key; null at the end of the table';
comment on column nxt_mirror.walk_range.position is 'Key of the last row walked; null where the range begins';

-- Keys that a walk has met, a row for each page of it, as fingerprints seeded by the walk.
create table nxt_mirror.walk_met (
    walk_id uuid not null,
    met_at timestamptz not null default now(),
    fingerprints bigint[] not null
);
create index walk_met_walk on nxt_mirror.walk_met (walk_id);

-- How far each target is swept.
create table nxt_mirror.sweep (
    target_id integer not null constraint sweep_pkey primary key,
    -- The newest change, by the source's clock, up to which everything is applied.
    watermark timestamptz not null,
    swept_at timestamptz
) with (fillfactor = 50);

-- A load that an operator ordered, until it has come to its end: killed, it goes on with what it had not finished.
create table nxt_mirror.ordered_load (
    selection text collate "C" not null constraint ordered_load_pkey primary key,
    started_at timestamptz not null
);
comment on column nxt_mirror.ordered_load.selection is 'Digest of the tables and tenants that were named';

-- One line for each comparison of a whole table.
create table nxt_mirror.certificate (
    id bigint generated always as identity constraint certificate_pkey primary key,
    target_id integer not null,
    as_of timestamptz not null,
    finished_at timestamptz not null default now(),
    rows_compared bigint not null constraint certificate_rows check (rows_compared >= 0),
    differences bigint not null,
    repaired bigint not null,
    left_different bigint not null
);
create index certificate_target on nxt_mirror.certificate (target_id, as_of);

-- The request budget over all replicas: a request holds a slot from its start until 60 s after its end, so that no 60 s
-- contain more requests than there are slots.

create table nxt_mirror.api_slot (
    slot integer not null constraint api_slot_pkey primary key,
    free_at timestamptz not null default '-infinity',
    -- Set while the request is under way.
    in_flight_until timestamptz,
    tenants text[] not null default '{}',
    background boolean not null default false
) with (fillfactor = 50);
-- Its one row is locked for each grant, so that grants are given one after the other.
create table nxt_mirror.api_budget (
    single boolean not null default true constraint api_budget_pkey primary key
        constraint api_budget_single check (single),
    -- Set by an answer that says the limit is reached: nothing is sent before.
    paused_until timestamptz not null default '-infinity',
    -- Walks want requests until then, so live work leaves them their floor.
    background_wanted_until timestamptz not null default '-infinity',
    -- Since when the API does not answer; null when it does.
    away_since timestamptz,
    -- When that was last seen: a replica that was killed meanwhile cannot say that the API is back.
    away_noted_at timestamptz,
    away_reason text
) with (fillfactor = 50);
insert into nxt_mirror.api_budget default values;

-- Grants a request to the API, or says how long to wait. A function, because each of its statements sees what was
-- committed before it, so that the counts are right once the budget's row is locked.
create function nxt_mirror.grant_request(
    slots_max integer,      -- requests in any 60 seconds
    in_flight_max integer,  -- requests under way for one tenant
    is_background boolean,  -- whether a walk asks
    live_share integer,     -- slots that walks leave to live work
    walk_floor integer,     -- slots that live work leaves to walks while they want any
    wanted_tenants text[],
    hold interval,          -- after this a request is over, even if nobody said so
    out granted_slot integer,
    out granted_at timestamptz,
    out wait_seconds double precision
) language plpgsql as $$
declare
    budget nxt_mirror.api_budget;
    taken bigint;
    by_walks bigint;
    crowded timestamptz;
    next_free timestamptz;
    moment timestamptz;
    within boolean;
begin
    select * into budget from nxt_mirror.api_budget for update;
    moment := clock_timestamp();
    if budget.paused_until > moment then
        wait_seconds := extract(epoch from budget.paused_until - moment);
        return;
    end if;
    select count(*), count(*) filter (where background), min(free_at) into taken, by_walks, next_free
      from nxt_mirror.api_slot where free_at > moment;
    if is_background then
        within := taken < slots_max and (taken < slots_max - live_share or by_walks < walk_floor);
        if budget.background_wanted_until < moment + interval '3 seconds' then
            update nxt_mirror.api_budget set background_wanted_until = moment + interval '5 seconds';
        end if;
    elsif budget.background_wanted_until > moment then
        within := taken - by_walks < slots_max - walk_floor and taken < slots_max;
    else
        within := taken < slots_max;
    end if;
    if not within then
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
       set free_at = moment + interval '60 seconds' + hold, in_flight_until = moment + hold, tenants = wanted_tenants,
           background = is_background
     where slot = (select min(slot) from nxt_mirror.api_slot where free_at <= moment)
    returning slot into granted_slot;
    granted_at := moment;
end
$$;

-- Rights.

-- Roles that were let in to read (`nxt-mirror grant`).
create table nxt_mirror.grantee (
    role_name name not null constraint grantee_pkey primary key,
    -- The companies whose rows it sees alone; null: it sees everything.
    companies bigint[]
);

-- The companies that whoever asks was let in for; null for those who see everything. Not whoever owns a function that
-- asks: the role of the session, or that which it has taken.
create function nxt_mirror.granted_companies() returns bigint[]
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    with reader as (
        select role.oid, role.rolbypassrls or pg_has_role(role.oid, current_user, 'usage') as is_free
          from pg_roles as role
         where role.rolname = case current_setting('role') when 'none' then session_user::text else current_setting('role') end
    ), granted as (
        select grantee.companies
          from nxt_mirror.grantee as grantee
          join pg_roles as role on role.rolname = grantee.role_name
          join reader on not reader.is_free and pg_has_role(reader.oid, role.oid, 'usage')
         where grantee.companies is not null
    )
    select case when exists (select from granted)
                then array(select distinct company from granted, unnest(companies) as company) end
$$;

-- All targets, and whether whoever asks may know of each.
create view nxt_mirror.known_target as
    select *,
           case when (select nxt_mirror.granted_companies()) is null then true
                else tenant_kind = 'company' and tenant_no = any ((select nxt_mirror.granted_companies())::bigint[])
           end as is_visible
      from nxt_mirror.target;
create view nxt_mirror.visible_target as select * from nxt_mirror.known_target where is_visible;

-- What people and programs read.

-- `orderLine` as the mirror names it: see domain::naming.
create function nxt_mirror.snake_case(name text) returns text
language sql immutable parallel safe as $$
    select lower(regexp_replace(name, '([a-z0-9])([A-Z])', '\1_\2', 'g'))
$$;

-- The key of a notification, such as {"order_no": 3}: its names as its body spells them. The body is never cast, since
-- it may be JSON that jsonb refuses: with a byte order mark, an escaped NUL or half of a character, a number too long.
create function nxt_mirror.notified_key(row_key text, body text) returns jsonb
language sql stable parallel safe as $$
    select jsonb_object_agg(nxt_mirror.snake_case(coalesce(spelled.name, pair.key)), pair.value)
      from jsonb_each(row_key::jsonb) as pair
     cross join lateral (select substring(body from '(?i)"(' || pair.key || ')"\s*:') as name) as spelled
$$;

-- The key of a dirty or dead row, whose names are in lower case, by the names of its mirrored table where that is known.
create function nxt_mirror.shown_key(row_key text, spec jsonb) returns jsonb
language sql stable parallel safe as $$
    select jsonb_object_agg(coalesce(
               (select described ->> 'sql_name' from jsonb_array_elements(spec -> 'columns') as described
                 where lower(described ->> 'name') = pair.key),
               pair.key), pair.value)
      from jsonb_each(row_key::jsonb) as pair
$$;

create view nxt_mirror.notification as
    select block.id * 1024 + entry.position - 1 as id,
           block.received_at,
           entry.delivery_id,
           case when entry.is_company then entry.tenant_no end as company_no,
           case when not entry.is_company then entry.tenant_no end as customer_no,
           entry.table_name,
           nxt_mirror.notified_key(entry.row_key, entry.body) as key,
           entry.event,
           entry.changed_at,
           entry.deleted_at,
           entry.changed_by,
           entry.body
      from nxt_mirror.ledger_block as block,
           unnest(block.is_company, block.tenant_no, block.table_name, block.row_key, block.event, block.changed_at,
                  block.deleted_at, block.changed_by, block.delivery_id, block.body)
               with ordinality as entry (is_company, tenant_no, table_name, row_key, event, changed_at, deleted_at,
                                         changed_by, delivery_id, body, position);

-- Blocks that are stored and not yet folded into dirty rows: those of the last moment.
create view nxt_mirror.unfolded as
    select block.id, block.stream_id, block.received_at, block.is_company, block.tenant_no, block.table_name
      from nxt_mirror.stream as stream
     cross join lateral (select coalesce(max(through_id), 0) as through_id
                           from nxt_mirror.fold where fold.stream_id = stream.id) as folded
     -- Fenced, so that the planner goes by the index and never through the ledger.
     cross join lateral (select id, stream_id, received_at, is_company, tenant_no, table_name
                           from nxt_mirror.ledger_block as entry
                          where (entry.stream_id, entry.id) > (stream.id, folded.through_id)
                            and entry.stream_id <= stream.id
                          order by entry.stream_id, entry.id offset 0) as block;

-- All that waits: how many rows or notifications, and since when.
create view nxt_mirror.waiting as
    select coalesce(sum(part.rows), 0)::bigint as rows, min(part.since) as since
      from (select count(*) as rows, min(waiting_since) as since from nxt_mirror.dirty_row
             union all
            select sum(cardinality(is_company)), min(received_at) from nxt_mirror.unfolded) as part;

create view nxt_mirror.dead_letter as
    select dead.id, 'row' as kind, dead.reason, dead.attempts, dead.first_at, dead.last_at,
           case when target.tenant_kind = 'company' then target.tenant_no end as company_no,
           case when target.tenant_kind = 'customer' then target.tenant_no end as customer_no,
           target.table_name,
           nxt_mirror.shown_key(dead.row_key, mirrored.spec) as key,
           null::text as delivery_id, dead.notification_id, null::bytea as body
      from nxt_mirror.dead_row as dead
      join nxt_mirror.target as target on target.id = dead.target_id
      left join nxt_mirror.mirrored_table as mirrored on mirrored.table_name = target.table_name
     union all
    select id, 'body', reason, 0, received_at, received_at, null, null, null, null, delivery_id, null, body
      from nxt_mirror.quarantine;

-- Who reads on from the greatest id seen goes by the index: so the view has no order of its own and is no security barrier,
-- as little as nxt_mirror.change, and of an entry that whoever asks may not know of every column but the id is null,
-- whatever asks for it before the condition below leaves the entry out.
create view nxt_mirror.recent_activity as
    select log.id,
           case when log.is_visible then log.at end as at,
           case when log.is_visible and log.tenant_kind = 'company' then log.tenant_no end as company_no,
           case when log.is_visible and log.tenant_kind = 'customer' then log.tenant_no end as customer_no,
           case when log.is_visible then log.table_name end as table_name,
           case when log.is_visible then log.key end as key,
           case when log.is_visible then log.action end as action,
           case when log.is_visible then log.reason end as reason,
           case when log.is_visible then
               case log.action
                   when 'inserted' then 'row added'
                   when 'updated' then 'row changed'
                   when 'unchanged' then 'row fetched, nothing had changed'
                   when 'deleted' then 'row removed'
                   when 'already_absent' then 'row was already absent'
                   when 'stale' then 'notification ignored'
                   when 'recheck' then 'to be fetched again'
                   when 'failed' then 'failed, will be tried again'
                   when 'dead_letter' then 'set aside in the dead letters'
                   when 'ignored' then 'not mirrored'
                   when 'operator' then 'an operator asked'
               end || ': ' || log.reason end as what,
           case when log.is_visible then log.notification_id end as notification_id
      from (select entry.id, entry.at, entry.key, entry.action, entry.reason, entry.notification_id,
                   target.tenant_kind, target.tenant_no, target.table_name,
                   -- What is about no target is for those who see everything.
                   case when entry.target_id is null then (select nxt_mirror.granted_companies()) is null
                        else target.is_visible
                   end as is_visible
              from nxt_mirror.sync_log as entry
              left join nxt_mirror.known_target as target on target.id = entry.target_id) as log
     where log.is_visible;

create view nxt_mirror.verification with (security_barrier = true) as
    select certificate.id,
           case when target.tenant_kind = 'company' then target.tenant_no end as company_no,
           case when target.tenant_kind = 'customer' then target.tenant_no end as customer_no,
           target.table_name, certificate.as_of, certificate.finished_at,
           certificate.finished_at - certificate.as_of as duration,
           certificate.rows_compared, certificate.differences, certificate.repaired, certificate.left_different
      from nxt_mirror.certificate as certificate
      join nxt_mirror.visible_target as target on target.id = certificate.target_id;

-- "Is it right, and as of when?", from evidence only. Counts no mirrored rows.
create view nxt_mirror.freshness with (security_barrier = true) as
    select case when target.tenant_kind = 'company' then target.tenant_no end as company_no,
           case when target.tenant_kind = 'customer' then target.tenant_no end as customer_no,
           target.table_name,
           target.rows,
           case
               when target.paused_until > now() or target.silent_since is not null or dead.has_any then 'degraded'
               when coalesce(dirty.backlog, 0) + coalesce(unfolded.backlog, 0) > 0 then 'catching up'
               else 'current'
           end as state,
           walk.last_finished_at is null as partial,
           coalesce(dirty.backlog, 0) + coalesce(unfolded.backlog, 0) as backlog,
           least(dirty.since, unfolded.since) as oldest_waiting_since,
           target.last_change_applied,
           walk.last_finished_at as last_walked,
           verified.as_of as last_verified,
           verified.left_different as differences,
           target.silent_since,
           case when target.paused_until > now() then target.paused_until end as paused_until,
           case when target.paused_until > now() then target.paused_because end as paused_because
      from nxt_mirror.visible_target as target
      left join nxt_mirror.walk as walk on walk.target_id = target.id
      left join (select target_id, count(*) as backlog, min(waiting_since) as since
                   from nxt_mirror.dirty_row group by target_id) as dirty on dirty.target_id = target.id
      left join (select entry.is_company, entry.tenant_no, lower(entry.table_name collate "C") as table_name, count(*) as backlog,
                        min(block.received_at) as since
                   from nxt_mirror.unfolded as block,
                        unnest(block.is_company, block.tenant_no, block.table_name)
                            as entry (is_company, tenant_no, table_name)
                  group by 1, 2, 3) as unfolded
             on unfolded.is_company = (target.tenant_kind = 'company') and unfolded.tenant_no = target.tenant_no
            and unfolded.table_name = lower(target.table_name)
      left join lateral (select exists (select from nxt_mirror.dead_row where dead_row.target_id = target.id)
                                as has_any) as dead on true
      left join lateral (select as_of, left_different from nxt_mirror.certificate
                          where certificate.target_id = target.id order by as_of desc limit 1) as verified on true;
