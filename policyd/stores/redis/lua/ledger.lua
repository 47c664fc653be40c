-- What every script begins with. A script works on one shard: KEYS[1] is what the names of all its keys begin with.
--
-- Redis counts in doubles here, which are exact up to 2^53 - 1. Every number that is compared or stored is checked
-- against that; numbers leave a script as integers or as text made by `text`, never by cjson, which rounds them.
--
-- A script that fails half-way would not be undone. So each reads and checks first, and only then writes.
--
-- No key has the bare name KEYS[1]. So while a cluster moves the slot to another node, where a script would find a part
-- of the shard's keys only, Redis sees a key that is not here and refuses the call (ASK).

local base = KEYS[1]
local EXACT_MAX = 9007199254740991
local WEIGHT_UNIT = 1000000

local function key(name)
  return base .. name
end

local function reservation_key(id)
  return key('reservation:' .. id)
end

local function account_key(name)
  return key('account:' .. name)
end

local function text(number)
  return string.format('%.0f', number + 0) -- makes 0 of -0
end

local function exact(number)
  if number > EXACT_MAX or number < -EXACT_MAX then
    error('INEXACT an account would pass 2^53 - 1')
  end
  return number
end

-- Rounded towards 0: no quotient is formed that a double could not hold.
local function whole_quotient(number, divisor)
  return (number - math.fmod(number, divisor)) / divisor
end

local function spent_and_reserved(name)
  local row = redis.call('HMGET', account_key(name), 'spent', 'reserved')
  return tonumber(row[1]), tonumber(row[2])
end

-- As policyd.core.ledger.carried: `weight` millionths of `total`, rounded up, with no step past 2^53.
local function carried(total, weight)
  local rest = math.fmod(total, WEIGHT_UNIT)
  local part = rest * weight
  local carry = whole_quotient(total, WEIGHT_UNIT) * weight + whole_quotient(part, WEIGHT_UNIT)
  if math.fmod(part, WEIGHT_UNIT) > 0 then
    carry = carry + 1
  end
  return carry
end

local function balance(hold)
  local spent, reserved = spent_and_reserved(hold.account)
  local found = {spent = spent or 0, reserved = reserved or 0, carried = 0}
  if hold.carry then
    local spent_before, reserved_before = spent_and_reserved(hold.carry)
    found.carried = carried((spent_before or 0) + (reserved_before or 0), hold.weight or 0)
  end
  found.used = found.spent + found.reserved + found.carried
  return found
end

local function balances(holds)
  local found = {}
  for index, hold in ipairs(holds) do
    found[index] = balance(hold)
  end
  return found
end

-- Three integers a balance.
local function flat(found)
  local numbers = {}
  for _, each in ipairs(found) do
    table.insert(numbers, each.spent)
    table.insert(numbers, each.reserved)
    table.insert(numbers, each.carried)
  end
  return numbers
end

local function as_text(numbers)
  local texts = {}
  for index, number in ipairs(numbers) do
    texts[index] = text(number)
  end
  return table.concat(texts, ' ')
end

-- As policyd.stores.postings.all_fit.
local function all_fit(holds, found)
  for index, hold in ipairs(holds) do
    if hold.enforce and hold.amount > 0 and found[index].used + hold.amount > hold.cap then
      return false
    end
  end
  return true
end

-- What is held for `hold` by now: extensions add the same to all holds of a metric.
local function held(hold, reservation)
  return hold.amount + tonumber(reservation['added:' .. hold.metric] or 0)
end

local function find(id)
  local reply = redis.call('HGETALL', reservation_key(id))
  if #reply == 0 then
    return nil
  end
  local reservation = {}
  for index = 1, #reply, 2 do
    reservation[reply[index]] = reply[index + 1]
  end
  reservation.holds = cjson.decode(reservation.holds)
  return reservation
end

-- Postings are what one step adds to accounts: {hold, spent, reserved}. To be checked before anything is written.
local function check(postings)
  for _, posting in ipairs(postings) do
    local spent, reserved = spent_and_reserved(posting.hold.account)
    posting.opens = spent == nil
    exact((spent or 0) + posting.spent)
    exact((reserved or 0) + posting.reserved)
  end
end

local function open_account(hold)
  local name = hold.account
  redis.call('HSET', account_key(name), 'limit', hold.limit, 'scope', hold.scope,
    'starts_at_ms', text(hold.starts_at_ms))
  redis.call('ZADD', key('accounts'), 0, name)
  if hold.ends_at_ms then
    redis.call('HSET', account_key(name), 'ends_at_ms', text(hold.ends_at_ms))
  end
  if hold.keep_until_ms then
    redis.call('HSET', account_key(name), 'keep_until_ms', text(hold.keep_until_ms))
    redis.call('ZADD', key('accounts_to_forget'), text(hold.keep_until_ms), name)
  end
end

local function forget_account(name)
  redis.call('DEL', account_key(name))
  redis.call('ZREM', key('accounts'), name)
  redis.call('ZREM', key('accounts_to_forget'), name)
end

-- Answers the names of the accounts that were not known before.
local function post(postings)
  local opened = {}
  for _, posting in ipairs(postings) do
    local name = posting.hold.account
    local spent = posting.spent
    if posting.opens then
      open_account(posting.hold)
      -- A late charge may correct an account that is forgotten: there is nothing left to correct.
      spent = math.max(0, spent)
      table.insert(opened, name)
    end
    redis.call('HINCRBY', account_key(name), 'spent', text(spent))
    redis.call('HINCRBY', account_key(name), 'reserved', text(posting.reserved))
  end
  return opened
end

local function reserving(holds)
  local postings = {}
  for _, hold in ipairs(holds) do
    if hold.amount > 0 then
      table.insert(postings, {hold = hold, spent = 0, reserved = hold.amount})
    end
  end
  return postings
end

-- As policyd.stores.postings.extending; `units` may be negative, to give back.
local function extending(holds, unit_amounts, units)
  local postings = {}
  for _, hold in ipairs(holds) do
    local amount = units * (unit_amounts[hold.metric] or 0)
    if amount ~= 0 then
      table.insert(postings, {hold = hold, spent = 0, reserved = exact(amount)})
    end
  end
  return postings
end

-- As policyd.stores.postings.ending. `charges` by metric; without them each hold is charged what expiry charges.
local function ending(reservation, charges)
  local postings = {}
  for _, hold in ipairs(reservation.holds) do
    local amount = held(hold, reservation)
    local on_expiry = hold.on_expiry or amount
    local charge = on_expiry
    if charges then
      charge = charges[hold.metric] or 0
    end
    local posting
    if reservation.state == 'reserved' then
      posting = {hold = hold, spent = charge, reserved = -amount}
    else
      if reservation.waived then
        on_expiry = 0
      end
      posting = {hold = hold, spent = charge - on_expiry, reserved = 0}
    end
    if posting.spent ~= 0 or posting.reserved ~= 0 then
      table.insert(postings, posting)
    end
  end
  return postings
end

-- Usage records: `usage` is the stream of them, `usage_order` finds them by age, `usage_entries` by their request. --

-- Sorts as the numbers do. No time before 1970 comes here.
local function padded(at_ms)
  return string.format('%016.0f', at_ms)
end

local function forget_usage(request_id)
  local found = redis.call('HGET', key('usage_entries'), request_id)
  if found then
    local age, entry = string.match(found, '^(%d+) (.+)$')
    redis.call('XDEL', key('usage'), entry)
    redis.call('ZREM', key('usage_order'), age .. request_id)
    redis.call('HDEL', key('usage_entries'), request_id)
  end
end

local function save_usage(usage)
  forget_usage(usage.request_id)
  local age = padded(usage.at_ms)
  local entry = redis.call('XADD', key('usage'), '*', 'record', usage.record)
  redis.call('ZADD', key('usage_order'), 0, age .. usage.request_id)
  redis.call('HSET', key('usage_entries'), usage.request_id, age .. ' ' .. entry)
end

-- The revision of the run-time state, as this shard knows it. ----------------------------------------------------------

local function state_revision()
  return tonumber(redis.call('GET', key('state_revision')) or 0)
end
