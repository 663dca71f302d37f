#!lua
-- Admit requests while there is room for them. Sending it again is harmless: an id that is open stays as it is.
-- KEYS requests open turn bell
-- ARGV group max_entries max_bytes force rows_per_ms batch_ms gateway, then per request: id timeout_ms rows bytes kind
--   trace payload. rows_per_ms is what the workers do together, 0 if unknown; batch_ms what a batch of the quickest takes.
-- Returns waiting, the open rows, then a code per request: 1 admitted, 0 full, 2 it could only be late.
-- No allow-oom: a full Redis refuses this script, and only this one, before it has written anything.
--#include _group
--#include _open
local requests, open, turn, bell = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, max_entries, max_bytes, force = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local rows_per_ms, batch_ms, gateway = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local now = string.format('%.0f', now_ms())
local waiting, _, length = waiting_in(requests, group)
local asked = {'#bytes', '#wide'}
for i = 8, #ARGV, 7 do asked[#asked + 1] = ARGV[i] end
local found = redis.call('HMGET', open, unpack(asked))
local held, open_rows = tonumber(found[1] or '0'), length + tonumber(found[2] or '0')

local function late(rows, timeout_ms)
  return rows_per_ms > 0 and waiting > 0 and (open_rows + rows) / rows_per_ms + batch_ms > timeout_ms
end

local reply, opened, seen, wide, before = {0, 0}, {}, {}, 0, held
for i = 8, #ARGV, 7 do
  local id, timeout_ms, rows, bytes = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local code = 1
  if not found[#reply + 1] and not seen[id] then
    if not force and (waiting >= max_entries or held + tonumber(bytes) > max_bytes) then
      code = 0
    elseif not force and late(tonumber(rows), tonumber(timeout_ms)) then
      code = 2
    else
      local entry_id = redis.call('XADD', requests, '*', 'id', id, 'gateway', gateway, 't', now,
        'timeout_ms', timeout_ms, 'rows', rows, 'bytes', bytes, 'kind', ARGV[i + 4], 'trace', ARGV[i + 5],
        'payload', ARGV[i + 6])
      seen[id] = true
      opened[#opened + 1] = id
      opened[#opened + 1] = entry_id .. '|' .. bytes .. '|' .. rows
      wide = wide + tonumber(rows) - 1
      open_rows = open_rows + tonumber(rows)
      waiting = waiting + 1
      held = held + tonumber(bytes)
    end
  end
  reply[#reply + 1] = code
end
if #opened > 0 then change_open(open, found, held - before, wide, opened, {}) end
ring(waiting, turn, bell)
reply[1], reply[2] = waiting, open_rows
return reply
