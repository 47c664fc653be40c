-- Adds to counters, of which one shard has all. ARGV: now_ms, keep_until_ms, then of each its name and what is added.

local now_ms = tonumber(ARGV[1])
local values = {}
for index = 3, #ARGV, 2 do
  local ends_at_ms = tonumber(redis.call('ZSCORE', key('counter_ends'), ARGV[index]))
  local value = 0
  if ends_at_ms and ends_at_ms > now_ms then
    value = tonumber(redis.call('HGET', key('counters'), ARGV[index]))
  end
  values[index] = exact(value + tonumber(ARGV[index + 1]))
end

for index, value in pairs(values) do
  redis.call('HSET', key('counters'), ARGV[index], text(value))
  redis.call('ZADD', key('counter_ends'), 'GT', ARGV[2], ARGV[index])
end
