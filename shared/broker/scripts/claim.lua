#!lua flags=allow-oom
-- Claim entries for one batch, or one entry of a dead worker.
-- KEYS requests inflight fill_lock wakeup leases
-- ARGV group me mode(idle|top|ahead) held_rows room_rows room_bytes hold_ms lease_ms soon dead_worker dead_score
-- Returns {kind(batch|isolated|empty), now, waiting, last_delivered_id, next_too_large, deliveries, entries}
--   idle   my device is free
--   top    I hold the fill lock and add to my batch
--   ahead  my device is busy: claim only entries that no idle worker could
--#include _group
local requests, inflight, fill_lock, wakeup, leases = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, me, mode = ARGV[1], ARGV[2], ARGV[3]
local held_rows, room_rows, room_bytes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local hold_ms, lease_ms, soon = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9] == '1'
local dead_worker, dead_score = ARGV[10], ARGV[11]

local now = now_ms()
redis.call('ZADD', leases, now + lease_ms, me)
local waiting, last = waiting_in(requests, group)
if not last then
  redis.call('XGROUP', 'CREATE', requests, group, '0', 'MKSTREAM')
  waiting, last = waiting_in(requests, group)
end
local function result(kind, next_too_large, deliveries, entries)
  return {kind, now, waiting, last, next_too_large, deliveries, entries}
end

-- Claim one entry of a dead worker, isolated, because it may have crashed that worker. The lease must still have the
-- score with which the worker was found dead; otherwise the worker is alive again.
if mode == 'idle' and redis.call('ZSCORE', leases, dead_worker) == dead_score then
  while true do
    local pending = redis.call('XPENDING', requests, group, '-', '+', 1, dead_worker)
    if #pending == 0 then
      redis.call('XGROUP', 'DELCONSUMER', requests, group, dead_worker)
      redis.call('ZREM', leases, dead_worker)
      break
    end
    local entry_id, deliveries = pending[1][1], pending[1][4]
    local claimed = redis.call('XCLAIM', requests, group, me, 0, entry_id)
    if claimed[1] then return result('isolated', 0, deliveries + 1, {claimed[1]}) end
    redis.call('XACK', requests, group, entry_id) -- cancelled meanwhile
  end
end

local holder = redis.call('GET', fill_lock)
local locked_by_other = holder and holder ~= me
if waiting == 0 and mode == 'idle' and held_rows > 0 and hold_ms > 0 and not locked_by_other then
  redis.call('SET', fill_lock, me, 'PX', hold_ms) -- I have entries from claiming ahead and wait for more
end
if waiting == 0
  or (locked_by_other and (mode ~= 'idle' or waiting < room_rows))
  or (mode == 'ahead' and (redis.call('LLEN', wakeup) == 0 or (waiting < room_rows and not soon)))
then
  return result('empty', 0, 0, {})
end

-- Return the bytes and rows in an entry's header. A malformed entry, later a dead letter, counts as 1 and 1.
local function size_of(entry)
  local bytes, rows = string.match(entry[2][4] or '', '^[^|]*|%d+|(%d+)|(%d+)|')
  return tonumber(bytes) or 1, tonumber(rows) or 1
end

-- A batch is limited in rows and bytes. If every inflight request has one row and their bytes fit, one read suffices.
-- Otherwise read one entry at a time, after checking whether it fits, which costs a copy of the entry.
local entries, rows, bytes, next_too_large = {}, 0, 0, 0
local sums = redis.call('HMGET', inflight, '#extra_rows', '#bytes')
local extra_rows = sums[1]
if not extra_rows and tonumber(sums[2] or '0') <= room_bytes then
  local streams = redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', room_rows, 'STREAMS', requests, '>')
  entries = streams and streams[1][2] or {}
  rows = #entries
  if rows > 0 then last = entries[rows][1] end
else
  while rows < room_rows and bytes < room_bytes do
    if extra_rows and (held_rows > 0 or rows > 0) then
      local head = redis.call('XRANGE', requests, '(' .. last, '+', 'COUNT', 1)[1]
      if head then
        local _, head_rows = size_of(head)
        if rows + head_rows > room_rows then
          next_too_large = 1
          break
        end
      end
    end
    local streams = redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', 1, 'STREAMS', requests, '>')
    if not streams then break end
    local entry = streams[1][2][1]
    last = entry[1]
    local entry_bytes, entry_rows = size_of(entry)
    bytes, rows = bytes + entry_bytes, rows + entry_rows
    entries[#entries + 1] = entry
  end
end
waiting = waiting - #entries

if rows >= room_rows or bytes >= room_bytes or next_too_large == 1 or hold_ms <= 0 then
  if holder == me then redis.call('DEL', fill_lock) end
elseif not locked_by_other then
  redis.call('SET', fill_lock, me, 'PX', hold_ms)
end
wake(waiting, fill_lock, wakeup)
return result('batch', next_too_large, 1, entries)
