-- Sets a later expiry on reservations, or parts, that are reserved; never an earlier one.
-- ARGV: expires_at_ms, ids.
-- Answers the other shards that hold parts of each, '' for what is not reserved.

local expires_at_ms = ARGV[1]
local parts = {}
for index = 2, #ARGV do
  local id = ARGV[index]
  local row = redis.call('HMGET', reservation_key(id), 'state', 'expires_at_ms', 'parts', 'home')
  parts[index - 1] = ''
  if row[1] == 'reserved' then
    parts[index - 1] = row[3] or ''
    if tonumber(row[2]) < tonumber(expires_at_ms) then
      local due = key(row[4] and 'parts_due' or 'due')
      redis.call('HSET', reservation_key(id), 'expires_at_ms', expires_at_ms)
      redis.call('ZADD', due, expires_at_ms, id)
    end
  end
end
return parts
