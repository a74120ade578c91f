-- state: what the others begin with. Reads the breaker of one provider at Redis' clock.
--
-- KEYS    1 the breaker. Absent: closed, no failure. `closed:failures`. `open:open_ms:until_ms`; open_ms 0: until closed by hand.
-- Clock   TIME. Open ends at until_ms; a breaker that would be open for longer than open_ms was opened before the clock stepped
--         back: it is half open, and a probe decides.
-- Result  locals now, state (0 closed, 1 open, 2 half open; states.py), failures, open_ms. 2 commands.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local value = redis.call('GET', KEYS[1])
local state, failures, open_ms = 0, 0, 0
if value then
  local count = string.match(value, '^closed:(%d+)$')
  local length, ends = string.match(value, '^open:(%d+):(%d+)$')
  if ends then
    open_ms = tonumber(length)
    local left = tonumber(ends) - now
    state = left > 0 and (open_ms == 0 or left <= open_ms) and 1 or 2
  elseif count then
    failures = tonumber(count)
  end
end
