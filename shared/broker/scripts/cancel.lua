#!lua flags=allow-oom
-- Cancel waiting or running requests, for example after a disconnect. `finish` drops the result of a running one.
-- KEYS requests inflight, then a body per ID   ARGV group, then IDs
-- Returns how many were still inflight.
--#include _inflight
local requests, inflight = KEYS[1], KEYS[2]
local values = redis.call('HMGET', inflight, '#bytes', '#extra_rows', unpack(ARGV, 2)) -- then the value of each ID
local entry_ids, closed = {}, {}
for n = 1, #ARGV - 1 do
  local entry_id, bytes, rows = parse_inflight(values[n + 2])
  if entry_id then
    entry_ids[#entry_ids + 1] = entry_id
    closed[#closed + 1] = {ARGV[n + 1], bytes, rows}
  end
end
close_requests(inflight, closed, values)
if #entry_ids > 0 then
  redis.pcall('XACK', requests, ARGV[1], unpack(entry_ids))
  redis.pcall('XDEL', requests, unpack(entry_ids))
end
redis.call('UNLINK', unpack(KEYS, 3))
return #closed
