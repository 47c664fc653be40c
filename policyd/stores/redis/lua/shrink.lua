-- Takes back units of an extension which another shard had no room for.
-- ARGV: id, unit amounts by metric, units.

local id = ARGV[1]
local unit_amounts = cjson.decode(ARGV[2])
local units = -tonumber(ARGV[3])

local reservation = find(id)
if not reservation or reservation.state ~= 'reserved' then
  return
end

local postings = extending(reservation.holds, unit_amounts, units)
check(postings)

post(postings)
redis.call('HINCRBY', reservation_key(id), 'extensions', 1)
for metric, unit_amount in pairs(unit_amounts) do
  redis.call('HINCRBY', reservation_key(id), 'added:' .. metric, text(units * unit_amount))
end
