-- The hash `open` holds request_id -> entry_id|bytes|rows for everything admitted and not finished, plus the sums
-- #bytes and #wide (requests of several rows). It vanishes when nothing is open.
local function entry_of(open, id)
  local value = redis.call('HGET', open, id)
  if not value then return nil end
  return string.match(value, '^([^|]+)|(%d+)|(%d+)$')
end

local function open_request(open, id, entry_id, bytes, rows)
  redis.call('HSET', open, id, entry_id .. '|' .. bytes .. '|' .. rows)
  redis.call('HINCRBY', open, '#bytes', bytes)
  if tonumber(rows) > 1 then redis.call('HINCRBY', open, '#wide', 1) end
end

local function close_request(open, id, bytes, rows)
  redis.call('HDEL', open, id)
  if redis.call('HINCRBY', open, '#bytes', -tonumber(bytes)) <= 0 then redis.call('HDEL', open, '#bytes') end
  if tonumber(rows) > 1 and redis.call('HINCRBY', open, '#wide', -1) <= 0 then redis.call('HDEL', open, '#wide') end
end
