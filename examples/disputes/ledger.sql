-- The audit: every accepted dispute against the refunds that were really paid.
-- It reads no claim, no offset and no state that Perdure computed, except which
-- dead letters still wait for a person.
with paid as (
  select dispute_id, count(*) as times, bool_and(r.amount_cents = a.amount_cents and r.currency = a.currency) as right_amount
  from disputes.refunds r left join accepted a using (dispute_id)
  group by dispute_id
), letters as (
  select distinct key as dispute_id from perdure.dead_letters
  where state in ('open', 'held') and kind like 'dispute.%'
)
select
  (select count(*) from accepted),
  (select count(*) from accepted join paid using (dispute_id)),
  (select count(*) from accepted join letters using (dispute_id) left join paid using (dispute_id) where times is null),
  (select count(*) from accepted left join letters l using (dispute_id) left join paid using (dispute_id)
    where times is null and l.dispute_id is null),
  -- Every payment beyond the first, and every payment for what nobody asked.
  (select coalesce(sum(times - 1), 0) from accepted join paid using (dispute_id))
    + (select coalesce(sum(times), 0) from paid left join accepted a using (dispute_id) where a.dispute_id is null),
  (select count(*) from accepted join paid using (dispute_id) where not right_amount),
  (select count(*) from accepted join paid using (dispute_id) join letters using (dispute_id))
