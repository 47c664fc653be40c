-- Reads usage records by age and request, the newest first.
-- ARGV: the upper and the lower end of the range, as ZREVRANGEBYLEX takes them, how many at most.

local records = {}
for _, member in ipairs(redis.call('ZREVRANGEBYLEX', key('usage_order'), ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])) do
  local found = redis.call('HGET', key('usage_entries'), string.sub(member, 17))
  local entry = string.match(found, ' (.+)$')
  records[#records + 1] = redis.call('XRANGE', key('usage'), entry, entry)[1][2][2]
end
return records
