#!lua flags=allow-oom
-- Renew a worker's lease and report; learn what it is held to have, how many live, and whose lease has lapsed.
-- KEYS leases requests worker   ARGV group me lease_ms report_ttl_ms, then field value …
-- Returns {now, {my pending entry ids}, workers alive, {worker, score, …}}; scores are compared as text, never as numbers
--#include _group
local leases, requests, worker = KEYS[1], KEYS[2], KEYS[3]
local group, me = ARGV[1], ARGV[2]
local now = now_ms()
redis.call('ZADD', leases, now + tonumber(ARGV[3]), me)
redis.call('HSET', worker, unpack(ARGV, 5))
redis.call('PEXPIRE', worker, ARGV[4])
local mine = {}
local pending = redis.pcall('XPENDING', requests, group, '-', '+', 200000, me)
if not pending.err then
  for i, row in ipairs(pending) do mine[i] = row[1] end
end
local from = string.format('%.0f', now)
local alive = redis.call('ZCOUNT', leases, from, '+inf')
return {now, mine, alive, redis.call('ZRANGEBYSCORE', leases, '-inf', '(' .. from, 'WITHSCORES')}
