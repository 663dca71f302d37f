-- Count the entries that the group has not claimed. XINFO's `lag` is nil once entries are deleted out of order.
-- Returns waiting, the group's last-delivered-id (nil without such a group), and the number of all entries.
local function waiting_in(requests, group)
  local length = redis.call('XLEN', requests)
  for _, group_fields in ipairs(redis.pcall('XINFO', 'GROUPS', requests)) do -- an error (no stream) has no items
    local info = {}
    for i = 1, #group_fields, 2 do info[group_fields[i]] = group_fields[i + 1] end
    if info['name'] == group then
      return length - info['pending'], info['last-delivered-id'], length
    end
  end
  return length, nil, length
end

-- Wake one idle worker if entries wait and no worker holds the fill lock. There is at most one token, because a token
-- that no worker has popped shows that none is idle.
local function wake(waiting, fill_lock, wakeup)
  if waiting > 0 and redis.call('EXISTS', fill_lock) == 0 and redis.call('LLEN', wakeup) == 0 then
    redis.call('RPUSH', wakeup, '1')
  end
end

-- Return milliseconds on the Redis clock, which all processes share.
local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
