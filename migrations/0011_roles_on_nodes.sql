-- What roles were let in for is on every node where tables are distributed, and the extension `citus` lets nobody but
-- superusers read it together with `pg_roles`. So roles are looked up by their names, and apart.

create or replace function nxt_mirror.granted_companies() returns bigint[]
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    reader pg_roles;
    granted record;
    companies bigint[];
begin
    select * into reader from pg_roles
     where rolname = case current_setting('role') when 'none' then session_user::text else current_setting('role') end;
    if not found then
        return '{}';
    end if;
    if reader.rolbypassrls or pg_has_role(reader.oid, current_user, 'usage') then
        return null;
    end if;
    for granted in
        select grantee.role_name, grantee.companies
          from nxt_mirror.grantee as grantee where grantee.companies is not null
    loop
        if pg_has_role(reader.oid, to_regrole(quote_ident(granted.role_name)), 'usage') then
            companies := coalesce(companies, '{}') || granted.companies;
        end if;
    end loop;
    return companies;
end
$$;

create or replace procedure nxt_mirror.give_rights(wanted name)
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
            select grantee.role_name, to_regrole(quote_ident(grantee.role_name))::oid as id
              from nxt_mirror.grantee as grantee
        loop
            if role.id is not null and not exists (select from aclexplode(readable.rights) as acl
                                                    where acl.grantee = role.id and acl.privilege_type = 'SELECT') then
                execute format('grant select on %s to %I', readable.relation::regclass, role.role_name);
            end if;
        end loop;
    end loop;
end
$$;

create or replace procedure nxt_mirror.give_common_rights()
language plpgsql as $$
declare
    readable constant text[] := '{freshness,recent_activity,verification,change}';
    -- With what they call: none of it tells or changes anything beside them.
    waiting constant text[] := '{wait_for_row,wait_until,row_question,plain_name,end_look,sleep_until,is_settled}';
    part record;
    role record;
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
    for role in
        select grantee.role_name, to_regrole(quote_ident(grantee.role_name))::oid as id
          from nxt_mirror.grantee as grantee
    loop
        continue when role.id is null;
        for part in
            select format('usage on schema %I', namespace.nspname) as rights
              from pg_namespace as namespace
             where namespace.nspname in
                   ('business_nxt', 'business_nxt_readable', 'business_nxt_history', 'business_nxt_model', 'nxt_mirror')
               and not exists (select from aclexplode(namespace.nspacl) as acl where acl.grantee = role.id)
             union all
            select format('select on nxt_mirror.%I', class.relname)
              from pg_class as class
             where class.relnamespace = 'nxt_mirror'::regnamespace and class.relname = any (readable)
               and not exists (select from aclexplode(class.relacl) as acl where acl.grantee = role.id)
             union all
            select format('execute on function %s', proc.oid::regprocedure)
              from pg_proc as proc
             where proc.pronamespace = 'nxt_mirror'::regnamespace
               and (proc.proname = any (waiting) or proc.proname = 'granted_companies' or exists (
                        select from pg_depend as depend
                          join pg_rewrite as rule on depend.classid = 'pg_rewrite'::regclass and rule.oid = depend.objid
                          join pg_class as class on class.oid = rule.ev_class
                         where depend.refclassid = 'pg_proc'::regclass and depend.refobjid = proc.oid
                           and class.relnamespace = 'nxt_mirror'::regnamespace and class.relname = any (readable)))
               and not exists (select from aclexplode(proc.proacl) as acl where acl.grantee = role.id)
        loop
            execute format('grant %s to %I', part.rights, role.role_name);
        end loop;
    end loop;
end
$$;
