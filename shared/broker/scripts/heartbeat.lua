#!lua flags=allow-oom
-- Renew a worker's lease and publish its status report.
-- KEYS leases requests worker limits   ARGV group me lease_ms report_ttl_ms, then field value …
-- Returns {now, {my pending entry ids}, workers alive, {worker, score, …}, {max_batch_size, max_wait_time}}. The fourth
-- lists expired leases; their scores are compared as text, never as numbers.
--#include _group
local leases, requests, worker, limits = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, me = ARGV[1], ARGV[2]
local now = now_ms()
redis.call('ZADD', leases, now + tonumber(ARGV[3]), me)
redis.call('HSET', worker, unpack(ARGV, 5))
redis.call('PEXPIRE', worker, ARGV[4])
local mine = {}
local pending = redis.pcall('XPENDING', requests, group, '-', '+', 200000, me) -- an error (no group) has no items
for i, row in ipairs(pending) do mine[i] = row[1] end
local from = string.format('%.0f', now)
local alive = redis.call('ZCOUNT', leases, from, '+inf')
local expired = redis.call('ZRANGEBYSCORE', leases, '-inf', '(' .. from, 'WITHSCORES')
local live = redis.pcall('HMGET', limits, 'max_batch_size', 'max_wait_time')
return {now, mine, alive, expired, live.err and {false, false} or live}
