-- The key of a dirty or dead row, whose names are in lower case: by the names of its mirrored table, and what that does
-- not have as its notification spells it. The spelling is looked for only where it is needed.
create or replace function nxt_mirror.shown_key(row_key text, spec jsonb, notification_id bigint) returns jsonb
language sql stable parallel safe as $$
    select jsonb_object_agg(coalesce(
               (select described ->> 'sql_name' from jsonb_array_elements(spec -> 'columns') as described
                 where lower(described ->> 'name') = pair.key limit 1),
               nxt_mirror.snake_case(
                   (select substring(block.body[(notification_id % 1024 + 1)::integer] from '(?i)"(' || pair.key || ')"\s*:')
                      from nxt_mirror.ledger_block as block where block.id = notification_id / 1024)),
               pair.key), pair.value)
      from jsonb_each(row_key::jsonb) as pair
$$;

create or replace view nxt_mirror.dead_letter as
    select dead.id, 'row' as kind, dead.reason, dead.attempts, dead.first_at, dead.last_at,
           case when target.tenant_kind = 'company' then target.tenant_no end as company_no,
           case when target.tenant_kind = 'customer' then target.tenant_no end as customer_no,
           target.table_name,
           nxt_mirror.shown_key(dead.row_key, mirrored.spec, dead.notification_id) as key,
           null::text as delivery_id, dead.notification_id, null::bytea as body
      from nxt_mirror.dead_row as dead
      join nxt_mirror.target as target on target.id = dead.target_id
      left join nxt_mirror.mirrored_table as mirrored on mirrored.table_name = target.table_name
     union all
    select id, 'body', reason, 0, received_at, received_at, null, null, null, null, delivery_id, null, body
      from nxt_mirror.quarantine;

-- A key as JSON, so that two that the source holds equal read alike: its texts without regard to case and trailing
-- blanks. A blank before a quotation mark that is no part of a text is one before the next member, in both alike.
create or replace function nxt_mirror.folded_key(key text) returns text
language sql immutable parallel safe as $$
    select lower(regexp_replace(key, ' +"', '"', 'g'))
$$;
