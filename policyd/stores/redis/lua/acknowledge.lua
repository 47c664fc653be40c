-- Takes events from the list. ARGV: their ids.
-- Answers how many were on it.

local taken = 0
for _, id in ipairs(ARGV) do
  local place = redis.call('HGET', key('event_places'), id)
  if place then
    taken = taken + redis.call('ZREM', key('event_order'), place)
  end
end
return taken
