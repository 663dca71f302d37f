-- The hash `open` holds request_id -> entry_id|bytes|rows for everything admitted and not finished, plus the sums
-- #bytes and #wide (rows beyond the first of each request). It vanishes when nothing is open.
local function parse_open(value)
  if not value then return nil end
  return string.match(value, '^([^|]+)|(%d+)|(%d+)$')
end

local function add_to(open, field, amount)
  if amount ~= 0 and redis.call('HINCRBY', open, field, amount) <= 0 then redis.call('HDEL', open, field) end
end

-- `requests` holds {id, bytes, rows} of each to close.
local function close_requests(open, requests)
  if #requests == 0 then return end
  local ids, bytes, wide = {}, 0, 0
  for n, request in ipairs(requests) do
    ids[n] = request[1]
    bytes = bytes + tonumber(request[2])
    wide = wide + tonumber(request[3]) - 1
  end
  redis.call('HDEL', open, unpack(ids))
  add_to(open, '#bytes', -bytes)
  add_to(open, '#wide', -wide)
end
