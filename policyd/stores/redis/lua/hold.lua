-- Holds the part of a reservation whose accounts are in this shard, all of it or nothing. The reservation itself is
-- kept by another shard, its home, which is asked last.
-- ARGV: id, the home's number, expires_at_ms, holds.
-- Answers {'held', 1, balances}; {'held', 0, the balances of then} if an earlier attempt holds it; {'refused', 0,
-- balances}; or {'ended', 0, {}} if it is part of a reservation that has ended.

local id = ARGV[1]
local existing = redis.call('HMGET', reservation_key(id), 'state', 'waived', 'balances')
if existing[1] == 'reserved' then
  -- From now on no attempt gives the part back: another one may count on it.
  redis.call('HINCRBY', reservation_key(id), 'attempts', 1)
  local numbers = {}
  for number in string.gmatch(existing[3], '%S+') do
    table.insert(numbers, tonumber(number))
  end
  return {'held', 0, numbers}
elseif existing[1] and not existing[2] then
  return {'ended', 0, {}}
end

local holds = cjson.decode(ARGV[4])
local found = balances(holds)
if not all_fit(holds, found) then
  return {'refused', 0, flat(found)}
end

local postings = reserving(holds)
check(postings)

local opened = post(postings)
-- An earlier attempt may be left, which expired before it came to anything.
redis.call('DEL', reservation_key(id))
redis.call('ZREM', key('ended'), id)
redis.call('HSET', reservation_key(id),
  'state', 'reserved', 'home', ARGV[2], 'expires_at_ms', ARGV[3], 'holds', ARGV[4], 'balances', as_text(flat(found)),
  'attempts', 1, 'opened', cjson.encode(opened))
redis.call('ZADD', key('parts_due'), ARGV[3], id)
return {'held', 1, flat(found)}
