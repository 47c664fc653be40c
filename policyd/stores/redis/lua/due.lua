-- Finds reservations that are due. ARGV: now_ms, how many at most.
-- Answers {id, row} of each.

local due = {}
for index, id in ipairs(redis.call('ZRANGEBYSCORE', key('due'), '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])) do
  due[index] = {id, redis.call('HGETALL', reservation_key(id))}
end
return due
