-- What the group has not claimed yet. XINFO's own `lag` turns nil once entries are deleted out of order.
-- Returns waiting (a count), the group's last-delivered-id or nil where there is no such group, and all entries.
local function waiting_in(requests, group)
  local length = redis.call('XLEN', requests)
  for _, fields in ipairs(redis.pcall('XINFO', 'GROUPS', requests)) do -- an error (no stream) has no items
    local found = {}
    for i = 1, #fields, 2 do found[fields[i]] = fields[i + 1] end
    if found['name'] == group then
      return length - found['pending'], found['last-delivered-id'], length
    end
  end
  return length, nil, length
end

-- Wake one idle worker if work waits that nobody is filling a batch from. One token at the most: a token that
-- nobody popped proves that no worker is idle.
local function wake(waiting, fill_lock, wakeup)
  if waiting > 0 and redis.call('EXISTS', fill_lock) == 0 and redis.call('LLEN', wakeup) == 0 then
    redis.call('RPUSH', wakeup, '1')
  end
end

-- Milliseconds on the one clock that all processes share.
local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
