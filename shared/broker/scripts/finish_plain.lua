#!lua flags=allow-oom
-- Publish the replies of a batch and remove its entries, as `finish` does, where there is nothing else to say of any
-- of them: each reply is small, none is a dead letter, and none comes twice. That is nearly every batch, so
-- here nothing is made of an entry that can be taken as it came. All or nothing: unless every request is still open with
-- just this entry, nothing is done, and `finish` looks at each.
-- KEYS requests inflight, then the inboxes, then a reply key per entry, inbox by inbox, then bodies
-- ARGV group reply_ttl_ms inboxes count, of all together bytes rows, how many of them each inbox has, then a column each
--   of ids, entry_ids, held (what `inflight` holds of it), notices, replies
-- Returns whether it was done: 1 or 0.
--#include _inflight
local requests, inflight = KEYS[1], KEYS[2]
local group, reply_ttl, inboxes, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local first_body = 3 + inboxes + count
local function place(number, n) return 6 + inboxes + (number - 1) * count + n end
local function column(number) return unpack(ARGV, place(number, 1), place(number, count)) end

local sums = redis.call('HMGET', inflight, '#bytes', '#extra_rows', column(1)) -- and behind them what is held of each
for n = 1, count do
  if sums[n + 2] ~= ARGV[place(3, n)] then return 0 end
end
for n = 1, count do
  redis.call('SET', KEYS[2 + inboxes + n], ARGV[place(5, n)], 'PX', reply_ttl)
end
local sent = 0
for inbox = 1, inboxes do
  local from = sent + 1
  sent = sent + tonumber(ARGV[6 + inbox])
  redis.pcall('RPUSH', KEYS[2 + inbox], unpack(ARGV, place(4, from), place(4, sent))) -- the reply is there anyhow
  redis.call('PEXPIRE', KEYS[2 + inbox], reply_ttl)
end
change_inflight(inflight, sums, -tonumber(ARGV[5]), count - tonumber(ARGV[6]), {}, {column(1)})
if KEYS[first_body] then redis.call('UNLINK', unpack(KEYS, first_body)) end
redis.pcall('XACK', requests, group, column(2)) -- the group may be gone after a loss of data
redis.pcall('XDEL', requests, column(2))
return 1
