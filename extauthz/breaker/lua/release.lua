-- release: give a probe back that was not made, so that the next request can probe.
--
-- KEYS    1 the lease
-- ARGV    1 the token
-- Reply   1 given back; 0 it was not the caller's any more. 2 commands at most.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
