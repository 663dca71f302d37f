#!lua flags=allow-oom
-- Give the turn back, and wake the next worker if work waits.
-- KEYS requests turn bell   ARGV group me
--#include _group
local requests, turn, bell = KEYS[1], KEYS[2], KEYS[3]
if redis.call('GET', turn) == ARGV[2] then redis.call('DEL', turn) end
ring(waiting_in(requests, ARGV[1]), turn, bell)
return 1
