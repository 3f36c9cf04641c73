-- Freshness that knows of an outage of the API.

-- The outage of the API that goes on, as all replicas know it. It counts as over when nobody has noted it for so long: a
-- probe may take a minute, and the next one follows half a minute later.
create view nxt_mirror.outage as
    select away_since as since, away_reason as reason
      from nxt_mirror.api_budget
     where away_since is not null and away_noted_at > clock_timestamp() - interval '180 seconds';

-- "Is it right, and as of when?", from evidence only. Counts no mirrored rows. While the API is away no target is as good
-- as it could be, and a pause of its own is the nearer reason.
create or replace view nxt_mirror.freshness with (security_barrier = true) as
    select case when target.tenant_kind = 'company' then target.tenant_no end as company_no,
           case when target.tenant_kind = 'customer' then target.tenant_no end as customer_no,
           target.table_name,
           target.rows,
           case
               when target.paused_until > now() or target.silent_since is not null or dead.has_any
                    or outage.since is not null then 'degraded'
               when coalesce(dirty.backlog, 0) + coalesce(unfolded.backlog, 0) > 0 then 'catching up'
               else 'current'
           end as state,
           walk.last_finished_at is null as partial,
           coalesce(dirty.backlog, 0) + coalesce(unfolded.backlog, 0) as backlog,
           least(dirty.since, unfolded.since) as oldest_waiting_since,
           target.last_change_applied,
           walk.last_finished_at as last_walked,
           verified.as_of as last_verified,
           verified.left_different as differences,
           target.silent_since,
           case when target.paused_until > now() then target.paused_until end as paused_until,
           case when target.paused_until > now() then target.paused_because
                when outage.since is not null then 'the API is away: ' || outage.reason
           end as paused_because
      from nxt_mirror.visible_target as target
      left join nxt_mirror.outage as outage on true
      left join nxt_mirror.walk as walk on walk.target_id = target.id
      left join (select target_id, count(*) as backlog, min(waiting_since) as since
                   from nxt_mirror.dirty_row group by target_id) as dirty on dirty.target_id = target.id
      left join (select entry.is_company, entry.tenant_no, lower(entry.table_name collate "C") as table_name, count(*) as backlog,
                        min(block.received_at) as since
                   from nxt_mirror.unfolded as block,
                        unnest(block.is_company, block.tenant_no, block.table_name)
                            as entry (is_company, tenant_no, table_name)
                  group by 1, 2, 3) as unfolded
             on unfolded.is_company = (target.tenant_kind = 'company') and unfolded.tenant_no = target.tenant_no
            and unfolded.table_name = lower(target.table_name)
      left join lateral (select exists (select from nxt_mirror.dead_row where dead_row.target_id = target.id)
                                as has_any) as dead on true
      left join lateral (select as_of, left_different from nxt_mirror.certificate
                          where certificate.target_id = target.id order by as_of desc limit 1) as verified on true;
