-- Write a value that never changes.
--
-- KEYS[1] marker of the partition   KEYS[2] the key, in the same slot
-- ARGV[1] the value
-- Reply: 1 it is there with this value, 0 another value is there, -1 the partition was emptied.
-- Sent twice it answers 1 twice. No clock. 3 operations.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return -1
end
redis.call('SET', KEYS[2], ARGV[1], 'NX')
if redis.call('GET', KEYS[2]) == ARGV[1] then
  return 1
end
return 0
