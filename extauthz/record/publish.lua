-- Write a document and its epoch together, if nobody wrote in between.
--
-- KEYS[1] marker of the partition   KEYS[2] epoch   KEYS[3] document   KEYS[4] the set that lists it; all in one slot
-- ARGV[1] the epoch that was read, empty when there was none   ARGV[2] the new epoch   ARGV[3] the new document   ARGV[4] its id
-- Reply: 1 in force, 0 somebody else wrote, -1 the partition was emptied. Nothing is written but with 1.
-- Sent twice it answers 1 twice: a lost reply may be asked for again. No clock. At most 6 operations.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return -1
end
local epoch = redis.call('GET', KEYS[2]) or ''
if epoch ~= ARGV[2] then
  if epoch ~= ARGV[1] or (epoch == '' and redis.call('EXISTS', KEYS[3]) == 1) then
    return 0
  end
end
redis.call('SET', KEYS[3], ARGV[3])
redis.call('SET', KEYS[2], ARGV[2])
redis.call('SADD', KEYS[4], ARGV[4])
return 1
