#!lua flags=allow-oom
-- Deregister a worker: release the fill lock, and delete the lease if no entries are pending. Pending entries stay so
-- until the lease expires and another worker claims them. The last worker frees the model's name, if `served` is given.
-- KEYS requests fill_lock wakeup leases worker [served]   ARGV group me
-- Returns the number of pending entries.
--#include _group
local requests, fill_lock, wakeup, leases, worker, served = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local group, me = ARGV[1], ARGV[2]
if redis.call('GET', fill_lock) == me then redis.call('DEL', fill_lock) end
wake(waiting_in(requests, group), fill_lock, wakeup)
redis.call('DEL', worker)
local pending = redis.pcall('XPENDING', requests, group, '-', '+', 1000, me) -- an error (no group) has no items
if #pending == 0 then
  redis.pcall('XGROUP', 'DELCONSUMER', requests, group, me)
  redis.call('ZREM', leases, me)
  if served and redis.call('EXISTS', leases) == 0 then redis.call('DEL', served) end
end
return #pending
