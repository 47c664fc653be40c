-- Sets items of the run-time state: all or none. One shard has them all.
-- ARGV: the revision that is expected ('': any), how many places a revision has, then of each item: kind, key, value,
-- expires_at_ms ('': never).
-- Answers {1, the new revision}, or {0, the revision} where another one was expected.

local revision = state_revision()
if ARGV[1] ~= '' and tonumber(ARGV[1]) ~= revision then
  return {0, revision}
end

revision = redis.call('INCR', key('state_revision'))
for index = 3, #ARGV, 4 do
  local kind, name, value, expires_at_ms = unpack(ARGV, index, index + 3)
  local item = #kind .. ':' .. kind .. name
  redis.call('HSET', key('state_items'), item, cjson.encode({kind, name, value, expires_at_ms}))
  redis.call('ZADD', key('state_order'), text(revision * tonumber(ARGV[2]) + index), item)
  if expires_at_ms == '' then
    redis.call('ZREM', key('state_expiring'), item)
  else
    redis.call('ZADD', key('state_expiring'), expires_at_ms, item)
  end
end
return {1, revision}
