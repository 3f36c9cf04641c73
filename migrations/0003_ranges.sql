-- Walks of several key ranges at once, certificates with their duration, the silence alarm, and a floor for walks in
-- the request budget.

-- A table is walked in ranges of its key, each with a position of its own.
create table nxt_mirror.walk_range (
    tenant_kind text collate "C" not null,
    tenant_no bigint not null,
    table_name text collate "C" not null,
    purpose text not null,
    range_no integer not null constraint walk_range_no check (range_no >= 0),
    after_key jsonb,
    through_key jsonb,
    position jsonb,
    finished boolean not null default false,
    constraint walk_range_pkey primary key (tenant_kind, tenant_no, table_name, purpose, range_no),
    constraint walk_range_checkpoint foreign key (tenant_kind, tenant_no, table_name, purpose)
        references nxt_mirror.checkpoint on delete cascade
);
comment on column nxt_mirror.walk_range.after_key is 'The range begins behind this key; null at the beginning of the table';
comment on column nxt_mirror.walk_range.through_key is 'The range ends with this key; null at the end of the table';
comment on column nxt_mirror.walk_range.position is 'Key of the last row walked; null where the range begins';

-- Each range has its own.
alter table nxt_mirror.checkpoint
    drop column position,
    add column walk_id uuid,
    add column rows_total bigint;
comment on column nxt_mirror.checkpoint.rows_total is 'Rows of the table as the source counted them when the walk began';

-- A load that an operator ordered, until it has come to its end: killed, it goes on with what it had not finished.
create table nxt_mirror.ordered_load (
    selection text collate "C" not null constraint ordered_load_pkey primary key,
    started_at timestamptz not null
);
comment on column nxt_mirror.ordered_load.selection is 'Digest of the tables and tenants that were named';

-- Keys that a walk has met, a row for each page of it. Fingerprints, so that a walk of millions stays small; seeded by
-- the walk, so that two keys of one fingerprint are told apart by the next walk.
drop table nxt_mirror.walk_seen;
create table nxt_mirror.walk_met (
    walk_id uuid not null,
    met_at timestamptz not null default now(),
    fingerprints bigint[] not null
);
create index walk_met_walk on nxt_mirror.walk_met (walk_id);

alter table nxt_mirror.verification
    add column duration interval generated always as (finished_at - as_of) stored;

alter table nxt_mirror.mirrored_tenant
    add column last_notified_at timestamptz,
    add column silent_since timestamptz;
comment on column nxt_mirror.mirrored_tenant.last_notified_at is 'When a row was last settled that a notification had announced';
comment on column nxt_mirror.mirrored_tenant.silent_since is
    'The oldest change known that no notification announced, although the table used to send them; null when all is well';

alter table nxt_mirror.api_slot add column background boolean not null default false;
alter table nxt_mirror.api_budget add column background_wanted_until timestamptz not null default '-infinity';
comment on column nxt_mirror.api_budget.background_wanted_until is 'Walks want requests until then, so live work leaves them their floor';

drop function nxt_mirror.grant_request;
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

create or replace view nxt_mirror.freshness as
    select t.tenant_kind || ' ' || t.tenant_no as tenant,
           t.table_name,
           coalesce(nxt_mirror.count_rows(m.spec ->> 'sql_name', t.tenant_kind, t.tenant_no), 0) as rows,
           (c.last_finished_at is null) as partial,
           c.last_finished_at as last_walked,
           coalesce(d.backlog, 0) as backlog,
           d.oldest_waiting_since,
           t.last_applied_at as last_change_applied,
           v.as_of as last_verified,
           v.left_different as differences,
           t.silent_since
      from nxt_mirror.mirrored_tenant t
      left join nxt_mirror.mirrored_table m on m.table_name = t.table_name
      left join nxt_mirror.checkpoint c
             on (c.tenant_kind, c.tenant_no, c.table_name, c.purpose)
              = (t.tenant_kind, t.tenant_no, t.table_name, 'load')
      left join lateral (
            select count(*) as backlog, min(waiting_since) as oldest_waiting_since
              from nxt_mirror.dirty_row d
             where (d.tenant_kind, d.tenant_no, d.table_name) = (t.tenant_kind, t.tenant_no, t.table_name)
           ) d on true
      left join lateral (
            select as_of, left_different
              from nxt_mirror.verification v
             where (v.tenant_kind, v.tenant_no, v.table_name) = (t.tenant_kind, t.tenant_no, t.table_name)
             order by as_of desc limit 1
           ) v on true;
