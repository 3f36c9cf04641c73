-- Clear errors for keys that are none, where a row is waited for.

-- See migration 2. A key that is none of the table's is refused by one error that names the table, the columns that its
-- key has, and what was given. A part of a key is a text for a text column, and for a number a whole one of the column's
-- range, written as a number or as a text.
create or replace function nxt_mirror.row_question(table_name text, key jsonb, tenant_column text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    mirrored regclass;
    conditions text;
    columns text;
    is_key boolean;
begin
    if jsonb_typeof(key) is distinct from 'object' then
        raise exception 'the key of % is to be a JSON object of its key columns, such as {"order_no": 3}, and is given as %',
                        coalesce(row_question.table_name, 'no table'), coalesce(key::text, 'null')
              using errcode = 'invalid_parameter_value';
    end if;
    select class.oid into mirrored
      from pg_class as class
      join pg_attribute as attribute on attribute.attrelid = class.oid and attribute.attname = tenant_column
     where class.relnamespace = to_regnamespace('business_nxt') and class.relkind in ('r', 'p')
       and nxt_mirror.plain_name(class.relname) = nxt_mirror.plain_name(row_question.table_name)
     order by class.relname = row_question.table_name desc, class.relname limit 1;
    if mirrored is null then
        return null;
    end if;
    select string_agg(format('%s %s', attribute.attname, attribute.atttypid::regtype), ', ' order by part.position),
           string_agg(
               case when attribute.atttypid = 'text'::regtype
                    then format('lower(rtrim(m.%I)) = lower(rtrim($2 ->> %L))', attribute.attname, given.name)
                    else format('m.%I = ($2 ->> %L)::bigint', attribute.attname, given.name) end, ' and '),
           bool_and(case
                        when given.names <> 1 or jsonb_typeof(key -> given.name) not in ('string', 'number') then false
                        when attribute.atttypid = 'text'::regtype then true
                        -- In this order, since a cast of what is no such number fails.
                        when key ->> given.name !~ '^\s*[+-]?0*\d{1,19}\s*$' then false
                        else (key ->> given.name)::numeric
                             between case attribute.atttypid::regtype
                                         when 'smallint'::regtype then -32768
                                         when 'integer'::regtype then -2147483648
                                         else -9223372036854775808 end
                                 and case attribute.atttypid::regtype
                                         when 'smallint'::regtype then 32767
                                         when 'integer'::regtype then 2147483647
                                         else 9223372036854775807 end
                    end)
               and count(*) = (select count(*) from jsonb_object_keys(key))
      into columns, conditions, is_key
      from pg_index as index
     cross join unnest(index.indkey::smallint[]) with ordinality as part (attnum, position)
      join pg_attribute as attribute on attribute.attrelid = index.indrelid and attribute.attnum = part.attnum
     cross join lateral (select min(named.name) as name, count(*) as names from jsonb_object_keys(key) as named (name)
                          where nxt_mirror.plain_name(named.name) = nxt_mirror.plain_name(attribute.attname)) as given
     where index.indrelid = mirrored and index.indisprimary and attribute.attname <> tenant_column;
    if is_key is not true then
        raise exception 'the key of % has the columns (%), and is given as %', mirrored, columns, key
              using errcode = 'invalid_parameter_value';
    end if;
    -- A row that the source has no change time of is as new as the request that brought it.
    return format('select exists (select from %s as m where m.%I = $1 and %s and m._deleted_at is null
                     and ($3 is null or coalesce(m._changed_at, m._fetched_at) >= $3))',
                  mirrored, tenant_column, conditions);
end
$$;
