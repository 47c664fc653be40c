-- Expires a reservation, or the part of one, that is due: each hold is charged what expiry charges.
-- ARGV: id, now_ms, '1' to charge nothing (the reservation was never granted), then for a reservation: its extensions
-- as the record counts them, record, its request id, its at_ms.
-- Answers 1, or 0 where it is not due any more or was extended meanwhile.

local id = ARGV[1]
local now_ms = tonumber(ARGV[2])
local waived = ARGV[3] == '1'

local reservation = find(id)
if not reservation or reservation.state ~= 'reserved' or tonumber(reservation.expires_at_ms) > now_ms then
  return 0
end
local usage
if ARGV[4] then
  if reservation.extensions ~= ARGV[4] then
    return 0
  end
  usage = {record = ARGV[5], request_id = ARGV[6], at_ms = tonumber(ARGV[7])}
end

local postings = ending(reservation, waived and {} or nil)
check(postings)

post(postings)
redis.call('HSET', reservation_key(id), 'state', 'expired')
if waived then
  redis.call('HSET', reservation_key(id), 'waived', 1)
end
redis.call('ZREM', key(reservation.home and 'parts_due' or 'due'), id)
redis.call('ZADD', key('ended'), text(now_ms), id)
if usage then
  redis.call('HSET', reservation_key(id), 'record', usage.record)
  save_usage(usage)
end
return 1
