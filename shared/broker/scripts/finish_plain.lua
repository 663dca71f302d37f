#!lua flags=allow-oom
-- Publish the replies of a batch and remove its entries, like `finish`, but faster. Every reply must be small, and no
-- entry a dead letter or a duplicate, which holds for nearly every batch. Arguments are passed to commands unchanged.
-- All or nothing: unless `inflight` has exactly this entry for every request, this does nothing, and the worker calls
-- `finish`.
-- KEYS requests inflight, then the inboxes, then a reply key per entry, ordered by inbox, then bodies
-- ARGV group reply_ttl_ms inboxes count, the sums of bytes and of rows, the number of entries per inbox, then one column
--   each of ids, entry_ids, expected values of `inflight`, notices, replies
-- Returns 1 if the entries were finished, else 0.
--#include _inflight
local requests, inflight = KEYS[1], KEYS[2]
local group, reply_ttl, inboxes, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local first_body = 3 + inboxes + count
local function index(number, n) return 6 + inboxes + (number - 1) * count + n end
local function column(number) return unpack(ARGV, index(number, 1), index(number, count)) end

local values = redis.call('HMGET', inflight, '#bytes', '#extra_rows', column(1)) -- then the value of each ID
for n = 1, count do
  if values[n + 2] ~= ARGV[index(3, n)] then return 0 end
end
for n = 1, count do
  redis.call('SET', KEYS[2 + inboxes + n], ARGV[index(5, n)], 'PX', reply_ttl)
end
-- A failed RPUSH is ignored, because the reconciler reads the reply key.
local sent = 0
for inbox = 1, inboxes do
  local from = sent + 1
  sent = sent + tonumber(ARGV[6 + inbox])
  redis.pcall('RPUSH', KEYS[2 + inbox], unpack(ARGV, index(4, from), index(4, sent)))
  redis.call('PEXPIRE', KEYS[2 + inbox], reply_ttl)
end
change_inflight(inflight, values, -tonumber(ARGV[5]), count - tonumber(ARGV[6]), {}, {column(1)})
if KEYS[first_body] then redis.call('UNLINK', unpack(KEYS, first_body)) end
redis.pcall('XACK', requests, group, column(2)) -- the group may be missing after a loss of data
redis.pcall('XDEL', requests, column(2))
return 1
