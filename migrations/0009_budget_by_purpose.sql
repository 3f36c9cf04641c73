-- Who asks uses up the budget: each slot knows what its request is made for. A daemon of the version before, which does
-- not say it, goes on beside this one.
alter table nxt_mirror.api_slot add column if not exists purpose text not null default 'other';
drop function if exists nxt_mirror.grant_request(integer, integer, boolean, integer, integer, text[], interval);

-- Grants a request to the API, or says how long to wait. A function, because each of its statements sees what was
-- committed before it, so that the counts are right once the budget's row is locked.
create or replace function nxt_mirror.grant_request(
    slots_max integer,      -- requests in any 60 seconds
    in_flight_max integer,  -- requests under way for one tenant
    is_background boolean,  -- whether a walk asks
    live_share integer,     -- slots that walks leave to live work
    walk_floor integer,     -- slots that live work leaves to walks while they want any
    wanted_tenants text[],
    hold interval,          -- after this a request is over, even if nobody said so
    wanted_for text default null, -- what it is made for, where that is known
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
           background = is_background,
           purpose = coalesce(wanted_for, case when is_background then 'other' else 'live' end)
     where slot = (select min(slot) from nxt_mirror.api_slot where free_at <= moment)
    returning slot into granted_slot;
    granted_at := moment;
end
$$;
