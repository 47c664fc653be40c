-- ARGV: the place that the page starts after, as ZRANGEBYLEX takes it, how many at most.
-- Answers the events that nobody has acknowledged, oldest first.

local found = {}
for _, place in ipairs(redis.call('ZRANGEBYLEX', key('event_order'), ARGV[1], '+', 'LIMIT', 0, ARGV[2])) do
  found[#found + 1] = redis.call('HGET', key('events'), string.sub(place, 17))
end
return found
