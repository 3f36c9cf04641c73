-- What is known of an outage of the API, and deletions that can be applied meanwhile.

alter table nxt_mirror.api_budget
    add column away_since timestamptz,
    add column away_noted_at timestamptz,
    add column away_reason text;
comment on column nxt_mirror.api_budget.away_since is 'Since when the API does not answer; null when it does';
comment on column nxt_mirror.api_budget.away_noted_at is
    'When that was last seen: a replica that was killed meanwhile cannot say that the API is back';

create index dirty_row_deletion on nxt_mirror.dirty_row (priority, due_at) where deleted_at is not null;
