-- Holds more on all holds at once: all of the units that are wanted, or what fits if that is enough, or nothing.
-- ARGV: id, unit amounts by metric, wanted units, at least so many.
-- Answers {'extended', units, parts}, {'ended', state} or {'unknown'}.

local id = ARGV[1]
local unit_amounts = cjson.decode(ARGV[2])
local wanted = tonumber(ARGV[3])
local at_least = tonumber(ARGV[4])

local reservation = find(id)
if not reservation then
  return {'unknown'}
end
if reservation.state ~= 'reserved' then
  return {'ended', reservation.state}
end

-- As policyd.stores.postings.units_granted.
local units = wanted
for index, found in ipairs(balances(reservation.holds)) do
  local hold = reservation.holds[index]
  local unit_amount = unit_amounts[hold.metric] or 0
  if hold.enforce and unit_amount > 0 then
    units = math.min(units, whole_quotient(math.max(0, hold.cap - found.used), unit_amount))
  end
end
if units < wanted and units < at_least then
  units = 0
end

local postings = extending(reservation.holds, unit_amounts, units)
check(postings)

post(postings)
redis.call('HINCRBY', reservation_key(id), 'extensions', 1)
for metric, unit_amount in pairs(unit_amounts) do
  redis.call('HINCRBY', reservation_key(id), 'added:' .. metric, text(units * unit_amount))
end
return {'extended', units, reservation.parts or ''}
