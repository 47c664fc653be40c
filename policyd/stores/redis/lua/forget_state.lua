-- Forgets, of what stands beside the ledger, what is over; a few of each kind at a time.
-- ARGV: now_ms, ended_before_ms, how many at most of each kind.
-- Answers whether any kind had that many.

local count_max = tonumber(ARGV[3])
local full = 0

local function over(index, bound)
  local names = redis.call('ZRANGEBYSCORE', key(index), '-inf', bound, 'LIMIT', 0, count_max)
  if #names == count_max then
    full = 1
  end
  return names
end

for _, item in ipairs(over('state_expiring', '(' .. ARGV[2])) do
  redis.call('HDEL', key('state_items'), item)
  redis.call('ZREM', key('state_order'), item)
  redis.call('ZREM', key('state_expiring'), item)
end
for _, name in ipairs(over('window_ends', ARGV[1])) do
  redis.call('HDEL', key('windows'), name)
  redis.call('ZREM', key('window_ends'), name)
end
for _, scope in ipairs(over('run_ends', ARGV[1])) do
  redis.call('DEL', key('run:' .. scope))
  redis.call('ZREM', key('run_ends'), scope)
end
for _, name in ipairs(over('counter_ends', ARGV[1])) do
  redis.call('HDEL', key('counters'), name)
  redis.call('ZREM', key('counter_ends'), name)
end
for _, id in ipairs(over('event_ends', ARGV[1])) do
  local place = redis.call('HGET', key('event_places'), id)
  if place then
    redis.call('ZREM', key('event_order'), place)
  end
  redis.call('HDEL', key('event_places'), id)
  redis.call('HDEL', key('events'), id)
  redis.call('ZREM', key('event_ends'), id)
end
return full
