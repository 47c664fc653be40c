-- Gives back a part that this attempt holds for a reservation which is not granted. Leaves no trace.
-- ARGV: id.

local id = ARGV[1]
local part = find(id)
if not part or part.state ~= 'reserved' or part.attempts ~= '1' then
  return
end

local postings = ending(part, {})
check(postings)

post(postings)
for _, name in ipairs(cjson.decode(part.opened)) do
  local spent, reserved = spent_and_reserved(name)
  if spent == 0 and reserved == 0 then
    forget_account(name)
  end
end
redis.call('DEL', reservation_key(id))
redis.call('ZREM', key('parts_due'), id)
