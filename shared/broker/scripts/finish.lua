#!lua flags=allow-oom
-- Publish the replies of a batch and remove its entries. Sending it again is harmless.
-- KEYS requests open dead, then per entry: reply inbox body
-- ARGV group reply_ttl_ms dead_body_ttl_ms dead_max, then per entry: entry_id id value size dead_reason
--   value '' with size > 0: the reply key was written before this call, because it is large
--   value '' with size = 0: no reply; the request is given up (its client is gone or its body was lost)
-- Returns how many requests this call closed.
--#include _open
local requests, open, dead = KEYS[1], KEYS[2], KEYS[3]
local group, reply_ttl, dead_body_ttl, dead_max = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local closed = 0
for i = 0, (#ARGV - 4) / 5 - 1 do
  local reply, inbox, body = KEYS[4 + i * 3], KEYS[5 + i * 3], KEYS[6 + i * 3]
  local entry_id, id, value, size, reason =
    ARGV[5 + i * 5], ARGV[6 + i * 5], ARGV[7 + i * 5], tonumber(ARGV[8 + i * 5]), ARGV[9 + i * 5]
  local open_entry, bytes, rows = entry_of(open, id)
  if open_entry == entry_id then
    close_request(open, id, bytes, rows)
    closed = closed + 1
    if reason ~= '' then
      local found = redis.call('XRANGE', requests, entry_id, entry_id)[1]
      local fields = found and found[2] or {'id', id}
      redis.call('XADD', dead, 'MAXLEN', '~', dead_max, '*', 'reason', reason, 'entry_id', entry_id, unpack(fields))
      redis.call('PEXPIRE', body, dead_body_ttl)
    else
      redis.call('UNLINK', body)
    end
    if size > 0 then
      if value ~= '' then redis.call('SET', reply, value, 'PX', reply_ttl) end
      redis.call('RPUSH', inbox, id .. '|' .. size)
      redis.call('PEXPIRE', inbox, reply_ttl)
    end
  end
  redis.pcall('XACK', requests, group, entry_id) -- the group may be gone after a loss of data
  redis.pcall('XDEL', requests, entry_id)
end
return closed
