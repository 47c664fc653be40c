-- ARGV: id.
-- Answers the row of the reservation, empty if it is not known, and the revision of the run-time state.

return {redis.call('HGETALL', reservation_key(ARGV[1])), state_revision()}
