#!lua
-- Admit requests while there is room for them. Sending it again is harmless: an id that is open stays as it is.
-- KEYS requests open turn bell
-- ARGV group max_entries max_bytes force, then per request: id gateway timeout_ms rows bytes kind trace payload
-- Returns waiting, then a code per request: 1 admitted, 0 full.
-- No allow-oom: a full Redis refuses this script, and only this one, before it has written anything.
--#include _group
--#include _open
local requests, open, turn, bell = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, max_entries, max_bytes, force = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local now = string.format('%.0f', now_ms())
local waiting = waiting_in(requests, group)
local held = tonumber(redis.call('HGET', open, '#bytes') or '0')

local reply, opened, seen, wide, before = {0}, {}, {}, 0, held
for i = 5, #ARGV, 8 do
  local id, gateway, timeout_ms, rows, bytes = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local code = 1
  if redis.call('HEXISTS', open, id) == 0 and not seen[id] then
    if not force and (waiting >= max_entries or held + tonumber(bytes) > max_bytes) then
      code = 0
    else
      local entry_id = redis.call('XADD', requests, '*', 'id', id, 'gateway', gateway, 't', now,
        'timeout_ms', timeout_ms, 'rows', rows, 'bytes', bytes, 'kind', ARGV[i + 5], 'trace', ARGV[i + 6],
        'payload', ARGV[i + 7])
      seen[id] = true
      opened[#opened + 1] = id
      opened[#opened + 1] = entry_id .. '|' .. bytes .. '|' .. rows
      if rows ~= '1' then wide = wide + 1 end
      waiting = waiting + 1
      held = held + tonumber(bytes)
    end
  end
  reply[#reply + 1] = code
end
if #opened > 0 then
  redis.call('HSET', open, unpack(opened))
  add_to(open, '#bytes', held - before)
  add_to(open, '#wide', wide)
end
ring(requests, group, turn, bell)
reply[1] = waiting
return reply
