-- Walks of whole tables: first load, healing, sweeps, and the proof that mirror and source are equal.

-- Tables of tenants that hold something, by evidence: a notification or a walk brought it.
create table nxt_mirror.mirrored_tenant (
    tenant_kind text collate "C" not null,
    tenant_no bigint not null,
    table_name text collate "C" not null,
    first_seen_at timestamptz not null default now(),
    last_applied_at timestamptz,
    constraint mirrored_tenant_pkey primary key (tenant_kind, tenant_no, table_name)
);

-- Keys that a walk has met, so that at its end the rows that only the mirror has can be told. Emptied when it ends.
create table nxt_mirror.walk_seen (
    tenant_kind text collate "C" not null,
    tenant_no bigint not null,
    table_name text collate "C" not null,
    purpose text not null,
    row_key text collate "C" not null,
    constraint walk_seen_pkey primary key (tenant_kind, tenant_no, table_name, purpose, row_key)
);

alter table nxt_mirror.checkpoint
    add column last_finished_at timestamptz,
    add column note text;
comment on column nxt_mirror.checkpoint.position is 'Key of the last row walked, as a list; null at the start';
comment on column nxt_mirror.checkpoint.last_finished_at is 'When a walk of this purpose last came to the end of the table';

-- One line for each table that was compared in full: the certificate.
create table nxt_mirror.verification (
    id bigint generated always as identity constraint verification_pkey primary key,
    tenant_kind text collate "C" not null,
    tenant_no bigint not null,
    table_name text collate "C" not null,
    as_of timestamptz not null,
    finished_at timestamptz not null default now(),
    rows_compared bigint not null constraint verification_rows check (rows_compared >= 0),
    differences bigint not null,
    repaired bigint not null,
    left_different bigint not null
);
create index verification_table on nxt_mirror.verification (tenant_kind, tenant_no, table_name, as_of);
comment on column nxt_mirror.verification.as_of is 'When the comparison began: the mirror is proved as of this moment';

-- Counts rows of a mirrored table. Its name comes from nxt_mirror.mirrored_table, thus from the API's metadata.
create function nxt_mirror.count_rows(sql_name text, kind text, number bigint) returns bigint
language plpgsql stable as $$
declare
    counted bigint;
begin
    if to_regclass(format('business_nxt.%I', sql_name)) is null then
        return 0;
    end if;
    execute format('select count(*) from business_nxt.%I where %I = $1 and _deleted_at is null',
                   sql_name, case kind when 'company' then '_company_no' else '_customer_no' end)
       into counted using number;
    return counted;
end
$$;

create view nxt_mirror.freshness as
    select t.tenant_kind || ' ' || t.tenant_no as tenant,
           t.table_name,
           coalesce(nxt_mirror.count_rows(m.spec ->> 'sql_name', t.tenant_kind, t.tenant_no), 0) as rows,
           (c.last_finished_at is null) as partial,
           c.last_finished_at as last_walked,
           coalesce(d.backlog, 0) as backlog,
           d.oldest_waiting_since,
           t.last_applied_at as last_change_applied,
           v.as_of as last_verified,
           v.left_different as differences
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
