-- ARGV: scope, digest, now_ms, forget_after_ms, whether it is counted.
-- Answers how many times in a row the digest has come, this one included.

local scope = ARGV[1]
local digest = ARGV[2]
local now_ms = tonumber(ARGV[3])
local run = key('run:' .. scope)

local times = 0
local ends_at_ms = tonumber(redis.call('ZSCORE', key('run_ends'), scope))
local row = redis.call('HMGET', run, 'digest', 'times')
if ends_at_ms and ends_at_ms > now_ms and row[1] == digest then
  times = tonumber(row[2])
end
if ARGV[5] == '1' then
  redis.call('HSET', run, 'digest', digest, 'times', times + 1)
  redis.call('ZADD', key('run_ends'), text(now_ms + tonumber(ARGV[4])), scope)
end
return times + 1
