-- Keeps an event unless there is one of its id. ARGV: id, its place in the list, keep_until_ms, the event.
-- Answers whether it is new.

local new = redis.call('HSETNX', key('events'), ARGV[1], ARGV[4])
if new == 1 then
  redis.call('HSET', key('event_places'), ARGV[1], ARGV[2])
  redis.call('ZADD', key('event_order'), 0, ARGV[2])
  redis.call('ZADD', key('event_ends'), ARGV[3], ARGV[1])
end
return new
