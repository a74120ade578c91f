-- sliding: two neighbouring buckets of one window each; the older one counts for the part of it that a window ending now covers,
-- rounded up. The part is in 1/65536ths, rounded up too, so that no product reaches 2^53 (2^31 requests, 2^35 ms).
--
-- Value   start:before:used    start of the newer bucket: 13 digits, unix ms; the rest decimal. In Python: sliding.py.
-- Clock   `now`, passed in. Before the stored start, the clock has stepped back: the newer bucket moves back with it, the older
--         one then counts in full, so nothing reopens.
-- Returns retry_ms (0: fits; huge: never will), remaining, reset_ms, then what to write (see admit.lua): offset, tail.
-- Cost    O(1), no command.
local function sliding(value, now, limit, window, cost)
  local start, before, used, offset, moved = now, 0, 0, false, false
  if value then
    local stored, colon = tonumber(sub(value, 1, 13)), find(value, ':', 15, true)
    if not (now >= stored + 2 * window) then
      before, used = tonumber(sub(value, 15, colon - 1)), tonumber(sub(value, colon + 1))
      if now < stored then
        moved = true
      elseif now < stored + window then
        start, offset = stored, colon
      else
        start, before, used = stored + window, used, 0
      end
    end
  end
  local left = start + window - now
  local weighed = before > 0 and ceil(before * ceil(left * 65536 / window) / 65536) or 0
  local total, reset = used + weighed + cost, used + cost > 0 and left + window or left
  -- Written so that a value that is no number is refused, never admitted.
  if total <= limit then
    if offset then return 0, limit - total, reset, offset, format('%d', used + cost) end
    return 0, limit - total, reset, false, format('%013d:%d:%d', start, before, used + cost)
  end
  local retry, free = huge, limit - cost
  if free >= used then
    -- In this bucket, once the older one weighs no more than what is free.
    retry = left - floor(floor((free - used) * 65536 / before) * window / 65536)
  elseif free >= 0 then
    -- In the next bucket, when this one is the older.
    retry = left + window - floor(floor(free * 65536 / used) * window / 65536)
  end
  moved = moved and format('%013d:%d:%d', start, before, used)
  return retry, limit - used - weighed, used > 0 and left + window or left, false, moved
end
