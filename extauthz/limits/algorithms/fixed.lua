-- fixed: a window opens with the first request counted and admits `limit` until it ends, `window` ms later.
--
-- Value   start:used    start: 13 digits, unix ms; used: decimal. The same definition in Python: fixed.py.
-- Clock   `now`, passed in. Before the stored start, the clock has stepped back: the window moves back with it and keeps
--         what it has counted, so it does not reopen, and it is over one window later, not one step later.
-- Returns retry_ms (0: fits; huge: never will), remaining, reset_ms, then what to write (see admit.lua): offset, tail.
-- Cost    O(1), no command.
local function fixed(value, now, limit, window, cost)
  local start, used, offset, moved = now, 0, false, false
  if value then
    local stored = tonumber(sub(value, 1, 13))
    if not (now >= stored + window) then
      used = tonumber(sub(value, 15))
      if now >= stored then start, offset = stored, '14' else moved = true end
    end
  end
  local reset, total = start + window - now, used + cost
  -- Written so that a value that is no number is refused, never admitted.
  if total <= limit then
    if offset then return 0, limit - total, reset, offset, format('%d', total) end
    return 0, limit - total, reset, false, format('%013d:%d', start, total)
  end
  return cost <= limit and reset or huge, limit - used, reset, false, moved and format('%013d:%d', start, used)
end
