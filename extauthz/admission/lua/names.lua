-- What the fragments below use, looked up once a run.
local call, unpack_rule, huge = redis.call, struct.unpack, math.huge
local sub, find, format, floor, ceil = string.sub, string.find, string.format, math.floor, math.ceil
