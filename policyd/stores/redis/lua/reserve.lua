-- Holds every hold of a reservation in the shard that keeps the reservation itself, or none.
-- ARGV: id, fingerprint, expires_at_ms, holds, entries, known balances, parts, record, state revision ('': any).
-- Answers {'exists', row}, {'stale', revision}, or {'granted' or 'refused', balances}.

local id = ARGV[1]
local existing = redis.call('HGETALL', reservation_key(id))
if #existing > 0 then
  return {'exists', existing}
end

local revision = state_revision()
if ARGV[9] ~= '' and tonumber(ARGV[9]) ~= revision then
  return {'stale', revision}
end

local holds = cjson.decode(ARGV[4])
local found = balances(holds)
if not all_fit(holds, found) then
  return {'refused', flat(found)}
end

local postings = reserving(holds)
check(postings)

post(postings)
redis.call('HSET', reservation_key(id),
  'state', 'reserved', 'fingerprint', ARGV[2], 'expires_at_ms', ARGV[3], 'holds', ARGV[4], 'entries', ARGV[5],
  'known', ARGV[6], 'parts', ARGV[7], 'record', ARGV[8], 'balances', as_text(flat(found)), 'extensions', 0)
redis.call('ZADD', key('due'), ARGV[3], id)
return {'granted', flat(found)}
