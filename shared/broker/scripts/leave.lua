#!lua flags=allow-oom
-- A worker goes: give the turn back, and leave no trace if it holds nothing. What it still holds stays pending
-- under its lapsing lease, for others to recover.
-- KEYS requests turn bell leases worker   ARGV group me
-- Returns how many entries it still held.
--#include _group
local requests, turn, bell, leases, worker = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, me = ARGV[1], ARGV[2]
if redis.call('GET', turn) == me then redis.call('DEL', turn) end
ring(waiting_in(requests, group), turn, bell)
redis.call('DEL', worker)
local pending = redis.pcall('XPENDING', requests, group, '-', '+', 1000, me)
if pending.err then pending = {} end
if #pending == 0 then
  redis.pcall('XGROUP', 'DELCONSUMER', requests, group, me)
  redis.call('ZREM', leases, me)
end
return #pending
