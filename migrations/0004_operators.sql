-- What the operators' pages read, and programs through their API.

-- Names of the key's columns in the order of the key, by the description of their table.
create function nxt_mirror.key_names(spec jsonb) returns text[]
language sql immutable parallel safe as $$
    select array_agg(spec -> 'columns' -> position.index::integer ->> 'sql_name' order by position.ordinality)
      from jsonb_array_elements_text(spec -> 'key') with ordinality as position (index, ordinality)
$$;

-- How the daemon was, every ten seconds of the last day or so: what the charts are drawn from. Whichever replica comes
-- first writes a moment's row.
create table nxt_mirror.sample (
    at timestamptz not null constraint sample_pkey primary key,
    -- Of the time since the sample before.
    received bigint not null constraint sample_received check (received >= 0),
    applied bigint not null constraint sample_applied check (applied >= 0),
    failed bigint not null constraint sample_failed check (failed >= 0),
    -- Of the moment.
    lag_seconds double precision not null constraint sample_lag check (lag_seconds >= 0),
    backlog bigint not null,
    live_requests integer not null,
    walk_requests integer not null,
    -- Where the next sample begins to count.
    block_id bigint not null,
    log_id bigint not null
);
