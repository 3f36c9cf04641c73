-- What is known of an outage of the API, and deletions that can be applied meanwhile.

alter table nxt_mirror.api_budget
    add column away_since timestamptz,
    add column away_noted_at timestamptz,
    add column away_reason text;
comment on column nxt_mirror.api_budget.away_since is 'Since when the API does not answer; null when it does';
comment on column nxt_mirror.api_budget.away_noted_at is
    'When that was last seen: a replica that was killed meanwhile cannot say that the API is back';

-- Left by an earlier text of the migration before this one: each range has its own.
alter table nxt_mirror.checkpoint drop column if exists position;

alter table nxt_mirror.dead_letter add column of_lane boolean not null default false;
comment on column nxt_mirror.dead_letter.of_lane is
    'The table or the tenant could not be read at all: the row is tried again by itself when they can';

-- Counted apart from a row's own failures, which make it travel in ever smaller company.
alter table nxt_mirror.dirty_row add column lane_failures integer not null default 0
    constraint dirty_row_lane_failures check (lane_failures >= 0);

create index dirty_row_deletion on nxt_mirror.dirty_row (priority, due_at) where deleted_at is not null;
