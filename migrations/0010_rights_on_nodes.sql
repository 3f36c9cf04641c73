-- Rows of companies are kept apart where tables are distributed over several nodes, too. The extension `citus` passes on
-- no policy that restricts others and none that asks a question, so that there one policy for everybody does it, and the
-- companies are looked up when a query is planned.

-- The companies whose rows whoever asks may read: {0} stands for all of them, and nothing is told where it cannot be
-- looked up. It may be called on every node, within a query on distributed rows. It is not immutable in the strict sense:
-- a plan that is kept goes by what was granted when it was made. `grant` takes rights on the tables and gives them anew,
-- which makes kept plans void.
create or replace function business_nxt_model.readable_companies() returns bigint[]
language plpgsql immutable security definer parallel unsafe
set search_path = pg_catalog, pg_temp as $$
declare
    reader pg_roles;
    known bigint;
    granted jsonb;
begin
    -- Where a plan is only shown, the extension answers without a row.
    select count(*), jsonb_agg(jsonb_build_array(role_name, companies)) into known, granted
      from nxt_mirror.grantee where companies is not null;
    if known is null then
        return null;
    end if;
    select * into reader from pg_roles
     where rolname = case current_setting('role') when 'none' then session_user::text else current_setting('role') end;
    if not found then
        return null;
    end if;
    if reader.rolbypassrls or pg_has_role(reader.oid, current_user, 'usage') then
        return '{0}';
    end if;
    return coalesce((select array_agg(distinct company::bigint)
                       from jsonb_array_elements(granted) as one
                       join pg_roles as role on role.rolname = one ->> 0 and pg_has_role(reader.oid, role.oid, 'usage'),
                            jsonb_array_elements_text(one -> 1) as company), '{0}');
end
$$;
comment on function business_nxt_model.readable_companies is
    'the companies whose rows you may read; {0} stands for all';

-- Whether a table lies on several nodes.
create or replace function nxt_mirror.is_distributed(target regclass) returns boolean
language plpgsql stable as $$
declare
    found_there boolean := false;
begin
    if exists (select from pg_extension where extname = 'citus') then
        execute 'select exists (select from pg_dist_partition where logicalrelid = $1)' into found_there using target;
    end if;
    return found_there;
end
$$;

-- Rows of one distributed table by company. Policies of others cannot be restricted there: they let in whom they let in.
create or replace procedure nxt_mirror.keep_companies_apart_on_nodes(
    target regclass, tenant_column name, has_row_security boolean)
language plpgsql as $$
declare
    readable constant text := 'business_nxt_model.readable_companies()';
    visible text := format('0 = any (%s)', readable);
    -- Of a time when the table lay on one node.
    was_for_all boolean := (select polroles = '{0}' from pg_policy where polrelid = target and polname = 'nxt_mirror_all');
    readers text := 'public';
begin
    if exists (select from pg_policy where polrelid = target and polname = 'nxt_mirror_companies')
       or not exists (select from nxt_mirror.grantee where companies is not null) then
        return;
    end if;
    -- Where somebody else keeps rows apart, everybody else stays with their policies.
    if not coalesce(was_for_all, not has_row_security) then
        readers := (select string_agg(quote_ident(role_name), ', ' order by role_name) from nxt_mirror.grantee);
    end if;
    if tenant_column in ('_company_no', 'company_no') then
        visible := format('%s or %I = any (%s)', visible, tenant_column, readable);
    end if;
    execute format('drop policy if exists nxt_mirror_all on %s', target);
    execute format('create policy nxt_mirror_companies on %s to %s using (%s) with check (true)', target, readers, visible);
    if not has_row_security then
        execute format('alter table %s enable row level security', target);
    end if;
end
$$;

-- Rows of one table by company, wherever they are: for the roles that were let in for companies.
do $$ begin
    if to_regprocedure('nxt_mirror.keep_companies_apart_here(regclass, name, boolean)') is null then
        alter procedure nxt_mirror.keep_companies_apart(regclass, name, boolean) rename to keep_companies_apart_here;
    end if;
end $$;
create or replace procedure nxt_mirror.keep_companies_apart(target regclass, tenant_column name, has_row_security boolean)
language plpgsql as $$
begin
    if nxt_mirror.is_distributed(target) then
        call nxt_mirror.keep_companies_apart_on_nodes(target, tenant_column, has_row_security);
    else
        call nxt_mirror.keep_companies_apart_here(target, tenant_column, has_row_security);
    end if;
end
$$;
