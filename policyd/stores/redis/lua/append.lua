-- Stores the usage record of an exchange that held nothing.
-- ARGV: record, its request id, its at_ms.

save_usage({record = ARGV[1], request_id = ARGV[2], at_ms = tonumber(ARGV[3])})
