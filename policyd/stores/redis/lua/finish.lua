-- Ends a reservation, or the part of one: settles or releases it.
-- ARGV: id, now_ms, the states from which that is allowed with the state that follows, charges by metric, record,
-- its request id, its at_ms. A part has no record.
-- Answers {'found', state, parts, charges of the first time} or {'ended', state} or {'unknown'}.

local id = ARGV[1]
local now_ms = ARGV[2]
local following = cjson.decode(ARGV[3])

local reservation = find(id)
if not reservation then
  return {'unknown'}
end
local state = reservation.state
local next_state = following[state]
if not next_state then
  return {'ended', state}
end
local parts = reservation.parts or ''
if next_state == state then
  return {'found', state, parts, reservation.charges}
end

local usage = ARGV[5] and {record = ARGV[5], request_id = ARGV[6], at_ms = tonumber(ARGV[7])}
local postings = ending(reservation, cjson.decode(ARGV[4]))
check(postings)

post(postings)
redis.call('HSET', reservation_key(id), 'state', next_state, 'charges', ARGV[4])
redis.call('ZREM', key(reservation.home and 'parts_due' or 'due'), id)
redis.call('ZADD', key('ended'), now_ms, id)
if usage then
  redis.call('HSET', reservation_key(id), 'record', usage.record)
  save_usage(usage)
end
return {'found', state, parts, ARGV[4]}
