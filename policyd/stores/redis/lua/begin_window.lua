-- ARGV: key, now_ms, length_ms, '1' to begin one if there is none.
-- Answers when the window began, or nothing.

local name = ARGV[1]
local now_ms = tonumber(ARGV[2])
local length_ms = tonumber(ARGV[3])
local begins = ARGV[4] == '1'

local starts_at_ms = tonumber(redis.call('HGET', key('windows'), name))
local ends_at_ms
if not starts_at_ms or now_ms >= starts_at_ms + length_ms then
  if not begins then
    return false
  end
  starts_at_ms = now_ms
  ends_at_ms = now_ms + length_ms
  redis.call('HSET', key('windows'), name, text(starts_at_ms))
elseif begins then
  ends_at_ms = math.max(starts_at_ms + length_ms, tonumber(redis.call('ZSCORE', key('window_ends'), name)))
end
if ends_at_ms then
  redis.call('ZADD', key('window_ends'), text(ends_at_ms), name)
end
return starts_at_ms
