-- What the database says of itself: comments, readable views, names of values and of tenants, relations.

-- One view for each mirrored table, made from its description.
create schema if not exists business_nxt_readable;
create schema if not exists business_nxt_model;
comment on schema business_nxt_readable is
    'The mirrored tables for people: with real dates and times, and with names of companies and of values';
comment on schema business_nxt_model is 'What the API tells of its model: names of values, relations, companies';

-- Names of values, by the API's identifier of the table and the mirrored name of the column. A value that was met and has
-- no name yet has none here, too.
create table business_nxt_model.enum_member (
    table_name text collate "C" not null,
    column_name text collate "C" not null,
    value bigint not null,
    name text,
    constraint enum_member_pkey primary key (table_name, column_name, value)
);
comment on table business_nxt_model.enum_member is 'Names of values, as the API calls them; of flags, those of single bits';

create table business_nxt_model.relation (
    from_table text collate "C" not null,
    from_columns text[] collate "C" not null,
    to_table text collate "C" not null,
    to_columns text[] collate "C" not null,
    name text collate "C" not null,
    constraint relation_pkey primary key (from_table, name, to_table, from_columns, to_columns)
);
comment on table business_nxt_model.relation is
    'Which mirrored columns refer to which, as the API''s joins tell it: within one company, beside what is listed';

create table business_nxt_model.company (
    company_no bigint not null constraint company_pkey primary key,
    customer_no bigint,
    name text not null
);
create table business_nxt_model.customer (
    customer_no bigint not null constraint customer_pkey primary key,
    name text not null
);
comment on table business_nxt_model.company is 'Names of companies, as Visma.net has them';
comment on table business_nxt_model.customer is 'Names of customers, as Visma.net has them';

-- What is known of a table beside its description.
create table nxt_mirror.explanation (
    table_name text collate "C" not null constraint explanation_pkey primary key,
    -- Columns as they were last described, those among them that the API shows no longer.
    columns jsonb not null default '[]',
    -- The statement that the readable view was last made by.
    readable_as text,
    -- As the server shows the view that it made. Another one was made by somebody else, or follows a table that was renamed.
    readable_shown text,
    -- Labels from the model, and their language; null: not asked yet.
    language text,
    label text,
    column_labels jsonb not null default '{}',
    -- When the model was last asked, and when it last answered.
    asked_at timestamptz,
    answered_at timestamptz
) with (fillfactor = 50);

-- Values that a writer met for the first time, until they are noted for all. Rows are only inserted, so that no writer
-- waits for another one.
create table nxt_mirror.met_value (
    table_name text collate "C" not null,
    column_name text collate "C" not null,
    value bigint not null,
    is_flags boolean not null,
    tenant_kind text collate "C" not null,
    tenant_no bigint not null
);
-- Values whose names are asked for, and where they were met.
create table nxt_mirror.unnamed_value (
    table_name text collate "C" not null,
    column_name text collate "C" not null,
    value bigint not null,
    tenant_kind text collate "C" not null,
    tenant_no bigint not null,
    attempts integer not null default 0 constraint unnamed_value_attempts check (attempts >= 0),
    ask_at timestamptz not null default now(),
    constraint unnamed_value_pkey primary key (table_name, column_name, value)
);

-- When the names of tenants were last asked for.
create table nxt_mirror.tenant_names (
    single boolean not null default true constraint tenant_names_pkey primary key
        constraint tenant_names_single check (single),
    asked_at timestamptz not null default '-infinity'
) with (fillfactor = 50);
insert into nxt_mirror.tenant_names default values;

-- Dates and times that cannot fail. Plain expressions, so that the planner sees through them.

-- 20260201 → 2026-02-01; null for 0 and for what is no date.
create function business_nxt_model.as_date(value bigint) returns date
language sql immutable parallel safe as $$
    select case
        when value not between 10101 and 99991231 then null
        when value / 100 % 100 not between 1 and 12 or value % 100 < 1 then null
        when value % 100 <= case value / 100 % 100
                 when 2 then case when value / 10000 % 4 = 0
                                   and (value / 10000 % 100 <> 0 or value / 10000 % 400 = 0) then 29 else 28 end
                 when 4 then 30 when 6 then 30 when 9 then 30 when 11 then 30
                 else 31
             end
        then make_date((value / 10000)::integer, (value / 100 % 100)::integer, (value % 100)::integer)
    end
$$;
comment on function business_nxt_model.as_date is 'yyyymmdd as a date; null for 0 and for what is no date';

-- 1330 → 13:30; null for what is no time, 2400 among it.
create function business_nxt_model.as_time(value bigint) returns time
language sql immutable parallel safe as $$
    select case when value between 0 and 2359 and value % 100 < 60
                then make_time((value / 100)::integer, (value % 100)::integer, 0) end
$$;
comment on function business_nxt_model.as_time is 'hhmm as a time; null for what is no time';

-- Rights of the roles that were let in (nxt_mirror.grantee, by `nxt-mirror grant`), on what is there. Run again whenever
-- something is made. Only what is missing is given, so that nothing is locked for nothing.
--
-- Rows of companies are kept apart by row-level security, and nobody but those who were let in for companies notices it:
-- owners are free of it, all others have a policy that lets everything through. Which companies a role was let in for
-- does not stand in the policies, which everybody can read.

-- The mirrored tables, their readable views, their history, and what the model tells.
create view nxt_mirror.readable_relation as
    select class.oid as relation, namespace.nspname as schema_name, class.relname as relation_name,
           class.relkind in ('r', 'p') as is_table, class.relrowsecurity as has_row_security, class.relacl as rights,
           (select attribute.attname from pg_attribute as attribute
             where attribute.attrelid = class.oid and attribute.attname in ('_company_no', '_customer_no', 'company_no', 'customer_no')
               and not attribute.attisdropped order by attribute.attnum limit 1) as tenant_column
      from pg_class as class
      join pg_namespace as namespace on namespace.oid = class.relnamespace
     where class.relkind in ('r', 'p', 'v') and pg_has_role(current_user, class.relowner, 'usage')
       and (namespace.nspname = 'business_nxt_model'
            or namespace.nspname in ('business_nxt', 'business_nxt_readable', 'business_nxt_history')
               and exists (select from nxt_mirror.mirrored_table as mirrored
                            where mirrored.spec ->> 'sql_name' = class.relname));

-- Rows of one table by company: for the roles that were let in for companies.
create procedure nxt_mirror.keep_companies_apart(target regclass, tenant_column name, has_row_security boolean)
language plpgsql as $$
declare
    everybody text := (select string_agg(quote_ident(role_name), ', ' order by role_name) from nxt_mirror.grantee);
    restricted text := (select string_agg(quote_ident(role_name), ', ' order by role_name)
                          from nxt_mirror.grantee where companies is not null);
    present text := (select string_agg(quote_ident(role.rolname), ', ' order by role.rolname)
                       from pg_policy as policy join pg_roles as role on role.oid = any (policy.polroles)
                      where policy.polrelid = target and policy.polname = 'nxt_mirror_companies');
    visible text := case when tenant_column in ('_company_no', 'company_no')
        then format('%I = any ((select nxt_mirror.granted_companies())::bigint[])', tenant_column) else 'false' end;
begin
    if restricted is not distinct from present then
        return;
    end if;
    if not exists (select from pg_policy where polrelid = target and polname = 'nxt_mirror_all') then
        -- Where somebody else keeps rows apart, everybody else stays with their policies.
        execute format('create policy nxt_mirror_all on %s to %s using (true) with check (true)', target,
                       case when has_row_security then everybody else 'public' end);
    end if;
    if present is not null then
        execute format('drop policy nxt_mirror_companies on %s', target);
    end if;
    if restricted is not null then
        execute format('create policy nxt_mirror_companies on %s as restrictive to %s using (%s)', target, restricted, visible);
        if not has_row_security then
            execute format('alter table %s enable row level security', target);
        end if;
    end if;
end
$$;

-- Everything of one name in the four schemas.
create procedure nxt_mirror.give_rights(wanted name)
language plpgsql as $$
declare
    readable record;
    role record;
begin
    if not exists (select from nxt_mirror.grantee) then
        return;
    end if;
    for readable in select * from nxt_mirror.readable_relation where relation_name = wanted loop
        if readable.is_table and readable.tenant_column is not null then
            call nxt_mirror.keep_companies_apart(readable.relation, readable.tenant_column, readable.has_row_security);
        end if;
        for role in
            select grantee.role_name from nxt_mirror.grantee as grantee join pg_roles as own on own.rolname = grantee.role_name
             where not exists (select from aclexplode(readable.rights) as acl
                                where acl.grantee = own.oid and acl.privilege_type = 'SELECT')
        loop
            execute format('grant select on %s to %I', readable.relation::regclass, role.role_name);
        end loop;
    end loop;
end
$$;

-- What is not about one mirrored table: schemas, the views of nxt_mirror, and functions. Of the functions of nxt_mirror
-- those that wait, and those that the views call.
create procedure nxt_mirror.give_common_rights()
language plpgsql as $$
declare
    readable constant text[] := '{freshness,recent_activity,verification,change}';
    -- With what they call: none of it tells or changes anything beside them.
    waiting constant text[] := '{wait_for_row,wait_until,row_question,plain_name,end_look,sleep_until,is_settled}';
    part record;
begin
    if not exists (select from nxt_mirror.grantee) then
        return;
    end if;
    for part in
        select proc.oid::regprocedure as function, proc.prokind from pg_proc as proc
         where proc.pronamespace = 'nxt_mirror'::regnamespace
           and (proc.proacl is null or exists (select from aclexplode(proc.proacl) as acl where acl.grantee = 0))
    loop
        execute format('revoke execute on routine %s from public', part.function);
    end loop;
    for part in
        select format('grant usage on schema %I to %I', namespace.nspname, grantee.role_name) as statement
          from nxt_mirror.grantee as grantee
          join pg_roles as own on own.rolname = grantee.role_name
          join pg_namespace as namespace on namespace.nspname in
               ('business_nxt', 'business_nxt_readable', 'business_nxt_history', 'business_nxt_model', 'nxt_mirror')
         where not exists (select from aclexplode(namespace.nspacl) as acl where acl.grantee = own.oid)
         union all
        select format('grant select on nxt_mirror.%I to %I', class.relname, grantee.role_name)
          from nxt_mirror.grantee as grantee
          join pg_roles as own on own.rolname = grantee.role_name
          join pg_class as class on class.relnamespace = 'nxt_mirror'::regnamespace and class.relname = any (readable)
         where not exists (select from aclexplode(class.relacl) as acl where acl.grantee = own.oid)
         union all
        select format('grant execute on function %s to %I', proc.oid::regprocedure, grantee.role_name)
          from nxt_mirror.grantee as grantee
          join pg_roles as own on own.rolname = grantee.role_name
          join pg_proc as proc on proc.pronamespace = 'nxt_mirror'::regnamespace
         where (proc.proname = any (waiting) or proc.proname = 'granted_companies' or exists (
                    select from pg_depend as depend
                      join pg_rewrite as rule on depend.classid = 'pg_rewrite'::regclass and rule.oid = depend.objid
                      join pg_class as class on class.oid = rule.ev_class
                     where depend.refclassid = 'pg_proc'::regclass and depend.refobjid = proc.oid
                       and class.relnamespace = 'nxt_mirror'::regnamespace and class.relname = any (readable)))
           and not exists (select from aclexplode(proc.proacl) as acl where acl.grantee = own.oid)
    loop
        execute part.statement;
    end loop;
end
$$;

-- Everything that a role was given in these schemas.
create procedure nxt_mirror.take_rights(role_name name)
language plpgsql as $$
declare
    schema_name name;
begin
    for schema_name in
        select nspname from pg_namespace where nspname in
               ('business_nxt', 'business_nxt_readable', 'business_nxt_history', 'business_nxt_model', 'nxt_mirror')
    loop
        execute format('revoke all on all tables in schema %I from %I', schema_name, role_name);
        execute format('revoke all on all sequences in schema %I from %I', schema_name, role_name);
        execute format('revoke all on all routines in schema %I from %I', schema_name, role_name);
        execute format('revoke all on schema %I from %I', schema_name, role_name);
    end loop;
end
$$;

