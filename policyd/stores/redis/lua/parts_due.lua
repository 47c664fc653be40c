-- Finds parts that are due. ARGV: now_ms, how many at most.
-- Answers {id, the home's number} of each.

local due = {}
for index, id in ipairs(redis.call('ZRANGEBYSCORE', key('parts_due'), '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])) do
  due[index] = {id, redis.call('HGET', reservation_key(id), 'home')}
end
return due
