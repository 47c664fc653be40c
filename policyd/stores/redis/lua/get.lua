-- The row of a reservation. ARGV: id.

return redis.call('HGETALL', reservation_key(ARGV[1]))
