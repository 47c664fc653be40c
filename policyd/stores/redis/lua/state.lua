-- Reads what was set after a revision. ARGV: the revision, how many places a revision has.
-- Answers the revision now, and of each item, oldest first, its JSON and the place that it was set at.

local found = {}
local after = '(' .. text((tonumber(ARGV[1]) + 1) * tonumber(ARGV[2]))
local items = redis.call('ZRANGEBYSCORE', key('state_order'), after, '+inf', 'WITHSCORES')
for index = 1, #items, 2 do
  table.insert(found, redis.call('HGET', key('state_items'), items[index]))
  table.insert(found, items[index + 1])
end
return {state_revision(), found}
