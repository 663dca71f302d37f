#!lua flags=allow-oom
-- Release the fill lock, and wake an idle worker if entries wait.
-- KEYS requests fill_lock wakeup   ARGV group me
--#include _group
local requests, fill_lock, wakeup = KEYS[1], KEYS[2], KEYS[3]
if redis.call('GET', fill_lock) == ARGV[2] then redis.call('DEL', fill_lock) end
wake(waiting_in(requests, ARGV[1]), fill_lock, wakeup)
