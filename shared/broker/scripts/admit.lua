#!lua
-- Admit requests while there is room for them. Sending it again is harmless: an id that is open stays as it is. But
-- none may come twice in one call.
-- KEYS requests inflight fill_lock wakeup
-- ARGV group max_entries max_bytes force rows_per_ms batch_ms gateway count, then of all together bytes rows
--   least_timeout_ms, then an id each, then size (bytes|rows), terms (timeout_ms|kind|trace) and payload of each.
--   rows_per_ms is what the workers do together, 0 if unknown; batch_ms what a batch of the quickest takes.
-- Returns waiting, the open rows, then a code per request: 1 admitted, 0 full, 2 it could only be late.
-- No allow-oom: a full Redis refuses this script, and only this one, before it has written anything.
--#include _group
--#include _inflight
local requests, inflight, fill_lock, wakeup = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, max_entries, max_bytes, force = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local rows_per_ms, batch_ms, gateway, count = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
local all_bytes, all_rows, least_timeout_ms = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local first_id, first_size = 12, 12 + count
local now = string.format('%.0f', now_ms())
local waiting, _, length = waiting_in(requests, group)
local found = redis.call('HMGET', inflight, '#bytes', '#extra_rows', unpack(ARGV, first_id, first_size - 1))
local held, open_rows = tonumber(found[1] or '0'), length + tonumber(found[2] or '0')

local function late(rows, timeout_ms)
  return rows_per_ms > 0 and (open_rows + rows) / rows_per_ms + batch_ms > timeout_ms
end

local header, opened = gateway .. '|' .. now .. '|', {}
local function put(n)
  local id, at = ARGV[first_id + n - 1], first_size + 3 * (n - 1)
  local size = ARGV[at]
  local entry_id = redis.call('XADD', requests, '*', 'id', id, 'header', header .. size .. '|' .. ARGV[at + 1],
    'payload', ARGV[at + 2])
  opened[#opened + 1] = id
  opened[#opened + 1] = entry_id .. '|' .. size
end

-- As a rule all are new, and there is room and time for them together: then none is looked at by itself.
local plain = waiting + count <= max_entries and held + all_bytes <= max_bytes
  and not late(all_rows, least_timeout_ms)
for n = 1, count do plain = plain and not found[n + 2] end

local codes, bytes_in, extra_in = {}, 0, 0
if plain then
  for n = 1, count do
    put(n)
    codes[n] = 1
  end
  waiting, open_rows, bytes_in, extra_in = waiting + count, open_rows + all_rows, all_bytes, all_rows - count
else
  for n = 1, count do
    local at = first_size + 3 * (n - 1)
    local size_bytes, size_rows = string.match(ARGV[at], '^(%d+)|(%d+)$')
    local bytes, rows = tonumber(size_bytes), tonumber(size_rows)
    local timeout_ms = tonumber(string.match(ARGV[at + 1], '^%d+'))
    codes[n] = 1
    if not found[n + 2] then
      if not force and (waiting >= max_entries or held + bytes_in + bytes > max_bytes) then
        codes[n] = 0
      elseif not force and waiting > 0 and late(rows, timeout_ms) then
        codes[n] = 2
      else
        put(n)
        waiting, open_rows, bytes_in, extra_in = waiting + 1, open_rows + rows, bytes_in + bytes, extra_in + rows - 1
      end
    end
  end
end
change_inflight(inflight, found, bytes_in, extra_in, opened, {})
wake(waiting, fill_lock, wakeup)
return {waiting, open_rows, unpack(codes)}
