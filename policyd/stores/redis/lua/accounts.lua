-- Reads accounts by key. ARGV: the lower and the upper end of the range, as ZRANGEBYLEX takes them, how many at most.
-- Answers the key and the row of each.

local found = {}
for index, name in ipairs(redis.call('ZRANGEBYLEX', key('accounts'), ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])) do
  local row = redis.call('HMGET', account_key(name),
    'limit', 'scope', 'starts_at_ms', 'ends_at_ms', 'keep_until_ms', 'spent', 'reserved')
  found[index] = {name, row}
end
return found
