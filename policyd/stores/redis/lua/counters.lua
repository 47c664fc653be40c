-- ARGV: prefix, now_ms.
-- Answers the name and the value of each counter that is not over.

local prefix = ARGV[1]
local found = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', key('counter_ends'), '(' .. ARGV[2], '+inf')) do
  if string.sub(name, 1, #prefix) == prefix then
    table.insert(found, name)
    table.insert(found, redis.call('HGET', key('counters'), name))
  end
end
return found
