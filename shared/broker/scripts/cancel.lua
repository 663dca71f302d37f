#!lua flags=allow-oom
-- Cancel requests whose client is gone, waiting or running. A running copy's finish then drops its result.
-- KEYS requests inflight, then a body per id   ARGV group, then ids
-- Returns how many were still open.
--#include _inflight
local requests, inflight = KEYS[1], KEYS[2]
local sums = redis.call('HMGET', inflight, '#bytes', '#extra_rows', unpack(ARGV, 2)) -- and behind them what is held of each
local entry_ids, closed = {}, {}
for n = 1, #ARGV - 1 do
  local entry_id, bytes, rows = parse_inflight(sums[n + 2])
  if entry_id then
    entry_ids[#entry_ids + 1] = entry_id
    closed[#closed + 1] = {ARGV[n + 1], bytes, rows}
  end
end
close_requests(inflight, closed, sums)
if #entry_ids > 0 then
  redis.pcall('XACK', requests, ARGV[1], unpack(entry_ids))
  redis.pcall('XDEL', requests, unpack(entry_ids))
end
redis.call('UNLINK', unpack(KEYS, 3))
return #closed
