-- admit: count one request under every rule, or nothing at all.
--
-- KEYS    1 epoch of the tenant, 2 epoch of the key, 3 the tenant's breaker for the provider, 4.. a counter per rule; one slot,
--         but for counters of global limits, which make this a script for a single Redis or Sentinel.
-- ARGV    1 and 2 the epochs the decision rests on, 3 a record of 25 bytes per rule, little endian: algorithm (uint8), limit,
--         window in ms, cost (float64 each, integers under 2^47).
-- Reply   {0, rule, remaining, reset_ms}           counted; the rule with the least remaining, from 0; -1 without rules
--         {1, rule, remaining, reset_ms, retry_ms} the denying rule with the longest wait; retry_ms -1: the cost is over the limit
--         {2}                                      an epoch is missing or another: the documents must be read again
--         {3, retry_ms}                            the tenant's breaker for this provider is open
--         Only {0} has counted, and then every rule. A value that does not parse is an error before anything is written.
-- Clock   TIME, once.
-- Cost    2 + rules commands at most: MGET, TIME, then SETRANGE, or SET with PX when a window opens; 3 without rules.
--
-- An algorithm answers what to write as offset and tail. With an offset the tail replaces the end of the value, and the TTL that
-- was set when the window opened stays. Without one the tail is the whole value, and its TTL covers the window and the next,
-- and a second more, since the clock of expiry may lag TIME. A denied rule has a tail only when the clock has stepped back.
local values = call('MGET', unpack(KEYS))
if values[1] ~= ARGV[1] or values[2] ~= ARGV[2] then return {2} end
--@clock
local open_until = values[3]
if open_until and not (tonumber(open_until) <= now) then return {3, open_until - now} end

local parameters, position, code, limit, window, cost = ARGV[3], 1
-- Room for four rules at once; growing a table by one costs more than the rest of its turn. A tail takes its value's place.
local offsets, moved = {false, false, false, false, false, false, false}, false
local chosen, least, resets, longest = 3, 0, 0, 0
for i = 4, #KEYS do
  code, limit, window, cost, position = unpack_rule('<Bddd', parameters, position)
  local retry, remaining, reset, offset, tail = algorithms[code](values[i], now, limit, window, cost)
  offsets[i], values[i] = offset, tail
  if retry > 0 then
    if retry > longest then chosen, least, resets, longest = i, remaining, reset, retry end
    if tail then
      moved = moved or {}
      moved[#moved + 1] = i
    end
  elseif longest == 0 and (chosen == 3 or remaining < least or remaining == least and reset > resets) then
    chosen, least, resets = i, remaining, reset
  end
end

local function write_whole(i)
  local _, _, length = unpack_rule('<Bddd', parameters, i * 25 - 99)
  call('SET', KEYS[i], values[i], 'PX', format('%d', 2 * length + 1000))
end

if longest > 0 then
  for _, i in ipairs(moved or {}) do write_whole(i) end
  return {1, chosen - 4, least > 0 and least or 0, resets, longest < huge and longest or -1}
end
-- Without a rule nothing would be written, and a replica or a primary cut off from its replicas could not refuse. This changes
-- nothing, an epoch has no TTL, but it is a write to them.
if chosen == 3 then call('PERSIST', KEYS[1]) end
for i = 4, #KEYS do
  if offsets[i] then call('SETRANGE', KEYS[i], offsets[i], values[i]) else write_whole(i) end
end
return {0, chosen - 4, least, resets}
