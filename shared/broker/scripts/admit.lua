#!lua
-- Admit requests while the queue has room. Safe to repeat: a request that is inflight is not changed. An ID must not
-- occur twice in one call.
-- KEYS requests inflight fill_lock wakeup
-- ARGV group max_entries max_bytes force rows_per_ms batch_ms row_weight byte_weight gateway count, then the sums of bytes and of rows and the
--   smallest timeout_ms, then the IDs, then per request: size (bytes|rows), terms (timeout_ms|kind|trace) and payload.
--   rows_per_ms is the throughput of all workers, 0 if unknown; batch_ms the duration of a batch on the fastest. What a
--   request costs, in usual rows, is rows * row_weight + bytes * byte_weight.
-- Returns waiting, the inflight rows and bytes, then a code per request: 0 full, 1 admitted, 2 deadline unattainable.
-- No allow-oom: a full Redis rejects this script, and only this one, before it has written anything.
--#include _group
--#include _inflight
local requests, inflight, fill_lock, wakeup = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, max_entries, max_bytes, force = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local rows_per_ms, batch_ms, row_weight, byte_weight = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local gateway, count = ARGV[9], tonumber(ARGV[10])
local all_bytes, all_rows, min_timeout_ms = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local first_id, first_size = 14, 14 + count
local now = string.format('%.0f', now_ms())
local waiting, _, length = waiting_in(requests, group)
local values = redis.call('HMGET', inflight, '#bytes', '#extra_rows', unpack(ARGV, first_id, first_size - 1))
local inflight_bytes, inflight_rows = tonumber(values[1] or '0'), length + tonumber(values[2] or '0')

local function misses_deadline(rows, bytes, timeout_ms)
  local cost = (inflight_rows + rows) * row_weight + (inflight_bytes + bytes) * byte_weight
  return rows_per_ms > 0 and cost / rows_per_ms + batch_ms > timeout_ms
end

local header, new_fields = gateway .. '|' .. now .. '|', {}
local function add(n)
  local id, at = ARGV[first_id + n - 1], first_size + 3 * (n - 1)
  local size = ARGV[at]
  local entry_id = redis.call('XADD', requests, '*', 'id', id, 'header', header .. size .. '|' .. ARGV[at + 1],
    'payload', ARGV[at + 2])
  new_fields[#new_fields + 1] = id
  new_fields[#new_fields + 1] = entry_id .. '|' .. size
end

-- Usually all requests are new and there is room and time for all of them. Then none is checked by itself.
local all_fit = waiting + count <= max_entries and inflight_bytes + all_bytes <= max_bytes
  and not misses_deadline(all_rows, all_bytes, min_timeout_ms)
for n = 1, count do all_fit = all_fit and not values[n + 2] end

local codes, bytes_in, extra_in = {}, 0, 0
if all_fit then
  for n = 1, count do
    add(n)
    codes[n] = 1
  end
  waiting, inflight_rows, bytes_in, extra_in = waiting + count, inflight_rows + all_rows, all_bytes, all_rows - count
else
  for n = 1, count do
    local at = first_size + 3 * (n - 1)
    local size_bytes, size_rows = string.match(ARGV[at], '^(%d+)|(%d+)$')
    local bytes, rows = tonumber(size_bytes), tonumber(size_rows)
    local timeout_ms = tonumber(string.match(ARGV[at + 1], '^%d+'))
    codes[n] = 1
    if not values[n + 2] then
      if not force and (waiting >= max_entries or inflight_bytes + bytes_in + bytes > max_bytes) then
        codes[n] = 0
      elseif not force and waiting > 0 and misses_deadline(rows, bytes_in + bytes, timeout_ms) then
        codes[n] = 2
      else
        add(n)
        waiting, inflight_rows = waiting + 1, inflight_rows + rows
        bytes_in, extra_in = bytes_in + bytes, extra_in + rows - 1
      end
    end
  end
end
change_inflight(inflight, values, bytes_in, extra_in, new_fields, {})
wake(waiting, fill_lock, wakeup)
return {waiting, inflight_rows, inflight_bytes + bytes_in, unpack(codes)}
