-- outcome: what one request to the provider says about it. The transitions are the table of states.py.
--
-- KEYS    1 the breaker, 2 the lease of its probe
-- ARGV    1 `1` success, `0` failure; 2 consecutive failures that open; 3 shortest, 4 longest time open, ms; 5 how long a
--         breaker that nobody touches is kept, ms, beyond the time it is open
-- Reply   the state after it: 0 closed, 1 open. Half open is left by the outcome, whosever it is, and the probe's lease with it.
-- Cost    4 commands at most, state.lua's included.
local function open_for(length)
  redis.call('SET', KEYS[1], string.format('open:%d:%d', length, now + length), 'PX', string.format('%d', length + ARGV[5]))
  redis.call('DEL', KEYS[2])
  return 1
end

if state == 1 then return 1 end
if ARGV[1] == '1' then
  if value then redis.call('DEL', KEYS[1], KEYS[2]) end
  return 0
end
if state == 2 then return open_for(math.min(math.max(2 * open_ms, tonumber(ARGV[3])), tonumber(ARGV[4]))) end
if failures + 1 >= tonumber(ARGV[2]) then return open_for(tonumber(ARGV[3])) end
redis.call('SET', KEYS[1], string.format('closed:%d', failures + 1), 'PX', ARGV[5])
return 0
