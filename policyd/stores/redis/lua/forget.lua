-- Forgets what is old: reservations that ended, usage records, accounts with nothing reserved; a few of each at a time.
-- ARGV: ended_before_ms, usage_before_ms, accounts' now_ms, how many at most of each, how many accounts to pass over.
-- Answers whether any kind had that many, how many accounts to pass over next, and how many reservations are open.

local count_max = tonumber(ARGV[4])
local passed = tonumber(ARGV[5])

local ended = redis.call('ZRANGEBYSCORE', key('ended'), '-inf', '(' .. ARGV[1], 'LIMIT', 0, count_max)
for _, id in ipairs(ended) do
  redis.call('DEL', reservation_key(id))
  redis.call('ZREM', key('ended'), id)
end

local before = '(' .. padded(math.max(0, tonumber(ARGV[2])))
local records = redis.call('ZRANGEBYLEX', key('usage_order'), '-', before, 'LIMIT', 0, count_max)
for _, member in ipairs(records) do
  forget_usage(string.sub(member, 17))
end

local accounts = redis.call('ZRANGEBYSCORE', key('accounts_to_forget'), '-inf', ARGV[3], 'LIMIT', passed, count_max)
for _, name in ipairs(accounts) do
  local _, reserved = spent_and_reserved(name)
  if reserved and reserved ~= 0 then
    passed = passed + 1
  else
    forget_account(name)
  end
end

local more = #ended == count_max or #records == count_max or #accounts == count_max
return {more and 1 or 0, passed, redis.call('ZCARD', key('due'))}
