-- Stores the usage record of an exchange that held nothing, unless there is one of its request id.
-- ARGV: record, its request id, its at_ms.

if redis.call('HEXISTS', key('usage_entries'), ARGV[2]) == 0 then
  save_usage({record = ARGV[1], request_id = ARGV[2], at_ms = tonumber(ARGV[3])})
end
