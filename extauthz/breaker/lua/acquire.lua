-- acquire: the one probe of a half-open breaker, as a lease.
--
-- KEYS    1 the breaker, 2 the lease
-- ARGV    1 the token, 2 the lease's length in ms
-- Reply   1 the probe is the caller's; 0 another has it, or the breaker is not half open (any more)
-- Cost    3 commands at most, state.lua's included.
if state ~= 2 then return 0 end
return redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0
