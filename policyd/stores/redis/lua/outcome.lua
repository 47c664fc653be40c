-- How the reservation of a part stands, at its home. ARGV: id.
-- Answers its state, when it expires, what it was charged and which parts it has; nothing where it is not known.

return redis.call('HMGET', reservation_key(ARGV[1]), 'state', 'expires_at_ms', 'charges', 'parts')
