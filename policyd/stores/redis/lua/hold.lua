-- Holds the part of a reservation whose accounts are in this shard, all of it or nothing. The reservation itself is
-- kept by another shard, its home, which is asked last.
-- ARGV: id, the home's number, expires_at_ms, holds.
-- Answers {'held', 1, balances}; {'held', 0, the balances of then} if an earlier attempt holds it; {'refused', 0,
-- balances}.

local id = ARGV[1]
local existing = redis.call('HGET', reservation_key(id), 'balances')
if existing then
  -- From now on no attempt gives the part back: another one may count on it.
  redis.call('HINCRBY', reservation_key(id), 'attempts', 1)
  local numbers = {}
  for number in string.gmatch(existing, '%S+') do
    table.insert(numbers, tonumber(number))
  end
  return {'held', 0, numbers}
end

local holds = cjson.decode(ARGV[4])
local found = balances(holds)
if not all_fit(holds, found) then
  return {'refused', 0, flat(found)}
end

local postings = reserving(holds)
local keys = {reservation_key(id), key('parts_due')}
prepare(postings, keys)
touch(keys)

local opened = post(postings)
redis.call('HSET', reservation_key(id),
  'state', 'reserved', 'home', ARGV[2], 'expires_at_ms', ARGV[3], 'holds', ARGV[4], 'balances', as_text(flat(found)),
  'attempts', 1, 'opened', cjson.encode(opened))
redis.call('ZADD', key('parts_due'), ARGV[3], id)
return {'held', 1, flat(found)}
