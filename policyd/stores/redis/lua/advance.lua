-- Tells a shard of a revision of the run-time state that was set. ARGV: revision.

if tonumber(ARGV[1]) > state_revision() then
  redis.call('SET', key('state_revision'), ARGV[1])
end
