#!lua flags=allow-oom
-- Delete the keys of a partition that nobody serves any more, unless entries are on its stream or a worker has a lease.
-- KEYS requests inflight fill_lock wakeup leases limits served [dead]
-- Returns {entries, workers}: what is left; {0, 0} if the keys are deleted. What has a TTL expires by itself.
--#include _group
local requests, leases = KEYS[1], KEYS[5]
local entries = redis.call('XLEN', requests)
local workers = redis.call('ZCOUNT', leases, string.format('%.0f', now_ms()), '+inf')
if entries == 0 and workers == 0 then redis.call('UNLINK', unpack(KEYS)) end
return {entries, workers}
