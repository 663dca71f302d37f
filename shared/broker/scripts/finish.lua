#!lua flags=allow-oom
-- Publish the replies of a batch and remove its entries. Sending it again is harmless.
-- KEYS requests open dead, then per entry: reply inbox body
-- ARGV group reply_ttl_ms dead_body_ttl_ms dead_max carried_bytes, then per entry: entry_id id value size dead_reason
--   value '' with size > 0: the reply key was written before this call, because it is large
--   value '' with size = 0: no reply; the request is given up (its client is gone or its body was lost)
--   value of up to carried_bytes: its notice in the inbox carries it, too
-- Returns how many requests this call closed.
-- One command for many entries wherever there is one: this script is a third of the broker's time.
--#include _open
local requests, open, dead = KEYS[1], KEYS[2], KEYS[3]
local group, reply_ttl, dead_body_ttl, dead_max = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local carried_bytes = tonumber(ARGV[5])

local entry_ids, ids = {}, {}
for i = 6, #ARGV, 5 do
  entry_ids[#entry_ids + 1] = ARGV[i]
  ids[#ids + 1] = ARGV[i + 1]
end
local held = redis.call('HMGET', open, unpack(ids))

-- `id` is nil for an entry that no gateway admitted: then there is a letter only while it stands on the stream, so
-- that sending this again makes no second one.
local function bury(entry_id, id, reason, body)
  local found = redis.call('XRANGE', requests, entry_id, entry_id)[1]
  if not found and not id then return end
  local fields = found and found[2] or {'id', id}
  local pending = redis.pcall('XPENDING', requests, group, entry_id, entry_id, 1)
  local deliveries = not pending.err and pending[1] and pending[1][4] - 1 or 0 -- but this last one, never run
  redis.call('XADD', dead, 'MAXLEN', '~', dead_max, '*', 'reason', reason, 'entry_id', entry_id,
    'deliveries', deliveries, unpack(fields))
  redis.call('PEXPIRE', body, dead_body_ttl)
end

local closed, seen, notices, bodies = {}, {}, {}, {}
for n, id in ipairs(ids) do
  local entry_id, bytes, rows = parse_open(held[n])
  if entry_id == entry_ids[n] and not seen[id] then
    seen[id] = true
    closed[#closed + 1] = {id, bytes, rows}
    local reply, inbox, body = KEYS[1 + n * 3], KEYS[2 + n * 3], KEYS[3 + n * 3]
    local value, size, reason = ARGV[3 + n * 5], ARGV[4 + n * 5], ARGV[5 + n * 5]
    if reason ~= '' then
      bury(entry_id, id, reason, body)
    else
      bodies[#bodies + 1] = body
    end
    if size ~= '0' then
      local notice = id .. '|' .. size
      if value ~= '' then
        redis.call('SET', reply, value, 'PX', reply_ttl)
        if #value <= carried_bytes then notice = notice .. '|' .. value end
      end
      notices[inbox] = notices[inbox] or {}
      table.insert(notices[inbox], notice)
    end
  elseif ARGV[5 + n * 5] ~= '' then
    bury(entry_ids[n], nil, ARGV[5 + n * 5], KEYS[3 + n * 3])
  end
end
close_requests(open, closed)
for inbox, texts in pairs(notices) do
  redis.call('RPUSH', inbox, unpack(texts))
  redis.call('PEXPIRE', inbox, reply_ttl)
end
if #bodies > 0 then redis.call('UNLINK', unpack(bodies)) end
redis.pcall('XACK', requests, group, unpack(entry_ids)) -- the group may be gone after a loss of data
redis.pcall('XDEL', requests, unpack(entry_ids))
return #closed
