-- open: by hand, whatever the state is.
--
-- KEYS    1 the breaker, 2 the lease of its probe
-- ARGV    1 how long, ms; `0`: until it is closed by hand. 2 how long it is kept beyond that, half open, ms
-- Reply   unix ms at which it becomes half open; 0 never
-- Clock   TIME. 3 commands.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local length = tonumber(ARGV[1])
redis.call('DEL', KEYS[2])
if length == 0 then
  redis.call('SET', KEYS[1], 'open:0:9999999999999')
  return 0
end
redis.call('SET', KEYS[1], string.format('open:%d:%d', length, now + length), 'PX', string.format('%d', length + ARGV[2]))
return now + length
