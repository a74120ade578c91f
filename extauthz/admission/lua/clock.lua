-- Redis' own clock, in unix ms. The one fragment that a simulation replaces.
local clock = call('TIME')
local now = clock[1] * 1000 + floor(clock[2] / 1000)
