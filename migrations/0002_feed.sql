-- What changed in the mirrored rows: the feed, waiting for a change, and the versions of rows.

-- The feed.

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
--
-- A security barrier would keep the planner from reading on by the index of positions. So it is none, and of an entry that
-- whoever asks may not know of every column but the position is null, whatever asks for it before the condition below
-- leaves the entry out.
create view nxt_mirror.change as
    select entry.position,
           case when target.is_visible then entry.at end as at,
           case when target.is_visible and target.tenant_kind = 'company' then target.tenant_no end as company_no,
           case when target.is_visible and target.tenant_kind = 'customer' then target.tenant_no end as customer_no,
           case when target.is_visible then target.table_name end as table_name,
           case when target.is_visible then entry.key end as key,
           case when target.is_visible then entry.action end as action,
           case when target.is_visible then entry.changed_by end as changed_by,
           case when target.is_visible then entry.changed_columns end as changed_columns,
           case when target.is_visible then entry.source_changed_at end as source_changed_at,
           case when target.is_visible then entry.notification_id end as notification_id
      from nxt_mirror.change_log as entry
      join nxt_mirror.known_target as target on target.id = entry.target_id
     where target.is_visible;

-- Reading one's own write.

-- A name without what its two forms differ in: `orderLine` and `order_line` are one name.
create function nxt_mirror.plain_name(name text) returns text
language sql immutable parallel safe as $$
    select replace(lower(name), '_', '')
$$;

-- What `wait_for_row` asks of a mirrored table: whether the living row of a key is at least so new. Null while there is no
-- such table. Its parameters are the tenant ($1), the key ($2) and the moment ($3). Texts are compared without case and
-- trailing blanks, as SQL Server does, by the table's index of spellings.
create function nxt_mirror.row_question(table_name text, key jsonb, tenant_column text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    mirrored regclass;
    conditions text;
    columns text[];
    is_complete boolean;
begin
    select class.oid into mirrored
      from pg_class as class
      join pg_attribute as attribute on attribute.attrelid = class.oid and attribute.attname = tenant_column
     where class.relnamespace = to_regnamespace('business_nxt') and class.relkind in ('r', 'p')
       and nxt_mirror.plain_name(class.relname) = nxt_mirror.plain_name(row_question.table_name)
     order by class.relname = row_question.table_name desc, class.relname limit 1;
    if mirrored is null then
        return null;
    end if;
    select array_agg(attribute.attname::text order by part.position),
           string_agg(
               case when attribute.atttypid = 'text'::regtype
                    then format('lower(rtrim(m.%I)) = lower(rtrim($2 ->> %L))', attribute.attname, given.name)
                    else format('m.%I = ($2 ->> %L)::bigint', attribute.attname, given.name) end, ' and '),
           bool_and(given.name is not null)
      into columns, conditions, is_complete
      from pg_index as index
     cross join unnest(index.indkey::smallint[]) with ordinality as part (attnum, position)
      join pg_attribute as attribute on attribute.attrelid = index.indrelid and attribute.attnum = part.attnum
      left join jsonb_object_keys(key) as given (name)
           on nxt_mirror.plain_name(given.name) = nxt_mirror.plain_name(attribute.attname)
     where index.indrelid = mirrored and index.indisprimary and attribute.attname <> tenant_column;
    if is_complete is not true or cardinality(columns) <> (select count(*) from jsonb_object_keys(key)) then
        raise exception 'the key of % has the columns (%), and is given as %', mirrored, array_to_string(columns, ', '), key
              using errcode = 'invalid_parameter_value';
    end if;
    -- A row that the source has no change time of is as new as the request that brought it.
    return format('select exists (select from %s as m where m.%I = $1 and %s and m._deleted_at is null
                     and ($3 is null or coalesce(m._changed_at, m._fetched_at) >= $3))',
                  mirrored, tenant_column, conditions);
end
$$;

-- Raised to end a look: what it has locked is free at once, so that nobody waits for who waits.
create function nxt_mirror.end_look() returns void
language plpgsql as $$
begin
    raise exception using errcode = 'NXT01', message = 'the look is over';
end
$$;

-- Sleeps before the next look; false when there is none, because the time is over. A transaction that sees nothing of what
-- is committed meanwhile would wait in vain.
create function nxt_mirror.sleep_until(deadline timestamptz, look_began timestamptz) returns boolean
language plpgsql as $$
declare
    moment timestamptz := clock_timestamp();
begin
    if moment >= deadline then
        return false;
    end if;
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        raise exception 'a % transaction does not see what is committed while it waits; wait in one that is read committed',
                        current_setting('transaction_isolation') using errcode = 'invalid_transaction_state';
    end if;
    -- A look that takes long is not repeated all the time.
    perform pg_sleep(extract(epoch from least(deadline - moment,
                                              greatest((moment - look_began) * 10, interval '20 milliseconds'))));
    return true;
end
$$;

-- True as soon as the mirrored row is at least that new, false after the time-out. A deleted row is never new enough.
create function nxt_mirror.wait_for_row(
    table_name text, key jsonb, company_no bigint, changed_at timestamptz, timeout interval,
    customer_no bigint default null
) returns boolean
language plpgsql as $$
declare
    deadline timestamptz := clock_timestamp() + coalesce(timeout, interval '0');
    look_began timestamptz;
    question text;
    is_there boolean := false;
begin
    if (company_no is null) = (customer_no is null) then
        raise exception 'either company_no or customer_no is to be given' using errcode = 'invalid_parameter_value';
    end if;
    loop
        look_began := clock_timestamp();
        begin
            question := nxt_mirror.row_question(
                table_name, key, case when customer_no is null then '_company_no' else '_customer_no' end);
            if question is not null then
                execute question into is_there using coalesce(company_no, customer_no), key, changed_at;
            end if;
            perform nxt_mirror.end_look();
        exception
            when sqlstate 'NXT01' then null;
            -- Dropped or renamed meanwhile.
            when undefined_table or undefined_column then null;
        end;
        if is_there or not nxt_mirror.sleep_until(deadline, look_began) then
            return is_there;
        end if;
    end loop;
end
$$;

-- Whether everything received up to that moment, and committed, is settled or set aside. With the daemon's rights, as it
-- reads the ledger and the dirty rows, of which it tells nothing else.
create function nxt_mirror.is_settled(company_no bigint, moment timestamptz) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    -- Nobody learns of a company that he was not let in for.
    if company_no <> all (nxt_mirror.granted_companies()) then
        return false;
    end if;
    -- A commit of a receiver that is under way, which bears the time of its beginning.
    if exists (select from pg_stat_activity as session
                where session.datname = current_database() and session.usename = current_user
                  and session.application_name like '%receiver'
                  and session.xact_start <= moment) then
        return false;
    end if;
    if exists (select from nxt_mirror.unfolded as block
                where block.received_at <= moment
                  and exists (select from unnest(block.is_company, block.tenant_no) as entry (is_company, tenant_no)
                               where entry.is_company and entry.tenant_no = is_settled.company_no)) then
        return false;
    end if;
    -- Folded before the question above was asked, so seen by this one.
    return not exists (select from nxt_mirror.target as target
                         join nxt_mirror.dirty_row as dirty on dirty.target_id = target.id
                        where target.tenant_kind = 'company' and target.tenant_no = is_settled.company_no
                          and dirty.waiting_since <= moment);
end
$$;

-- True when everything received up to that moment is settled, false after the time-out.
create function nxt_mirror.wait_until(company_no bigint, moment timestamptz, timeout interval) returns boolean
language plpgsql as $$
declare
    deadline timestamptz := clock_timestamp() + coalesce(timeout, interval '0');
    look_began timestamptz;
    is_settled boolean := false;
begin
    if company_no is null or moment is null then
        raise exception 'company_no and moment are to be given' using errcode = 'invalid_parameter_value';
    end if;
    loop
        look_began := clock_timestamp();
        if moment < look_began then
            begin
                -- Of a company that the caller does not see nothing is told, as of one that there is not.
                is_settled := exists (select from nxt_mirror.freshness as known
                                       where known.company_no = wait_until.company_no)
                              and nxt_mirror.is_settled(company_no, moment);
                perform nxt_mirror.end_look();
            exception when sqlstate 'NXT01' then null;
            end;
        end if;
        if is_settled or not nxt_mirror.sleep_until(deadline, look_began) then
            return is_settled;
        end if;
    end loop;
end
$$;

-- History: the versions of mirrored rows, in tables that are made from the mirrored ones.
create schema if not exists business_nxt_history;

-- Targets whose history has begun with the rows that there were, and in which table.
create table nxt_mirror.history (
    target_id integer not null constraint history_pkey primary key,
    relation oid not null,
    begun_at timestamptz not null default now()
);
