-- The hash `inflight` holds request_id -> entry_id|bytes|rows for everything admitted and not finished, plus the sums
-- #bytes and #extra_rows (rows beyond the first of each request). It vanishes when nothing is open.
-- A hash of short fields is a list, to Redis, which it searches from one end for each (up to 128 or 512 of them, by
-- version and settings). #about is too long for a list, so this hash is a table from its first field on.
local ABOUT = 'requests admitted and not finished: request id -> entry id|bytes|rows, and sums over all'
local function parse_inflight(value)
  if not value then return nil end
  return string.match(value, '^([^|]+)|(%d+)|(%d+)$')
end

-- Write the sums of `inflight`, which were read in this script (with HMGET, '#bytes' and '#extra_rows'), changed by so much, and
-- whatever else is to be set (`set`: field, value, …) or deleted (`deleted`) there: one command each for all of it.
local function change_inflight(inflight, sums, bytes, extra_rows, set, deleted)
  for n, field in ipairs({'#bytes', '#extra_rows'}) do
    local before = tonumber(sums[n] or '0')
    local after = before + (n == 1 and bytes or extra_rows)
    if after > 0 and after ~= before then
      set[#set + 1] = field
      set[#set + 1] = string.format('%.0f', after)
    elseif after <= 0 and sums[n] then
      deleted[#deleted + 1] = field
      if field == '#bytes' then deleted[#deleted + 1] = '#about' end -- nothing is open any more
    end
  end
  if #set > 0 and not sums[1] then
    set[#set + 1] = '#about'
    set[#set + 1] = ABOUT
  end
  if #set > 0 then redis.call('HSET', inflight, unpack(set)) end
  if #deleted > 0 then redis.call('HDEL', inflight, unpack(deleted)) end
end

-- `requests` holds {id, bytes, rows} of each to close; `sums` as above.
local function close_requests(inflight, requests, sums)
  local ids, bytes, extra_rows = {}, 0, 0
  for n, request in ipairs(requests) do
    ids[n] = request[1]
    bytes = bytes + tonumber(request[2])
    extra_rows = extra_rows + tonumber(request[3]) - 1
  end
  change_inflight(inflight, sums, -bytes, -extra_rows, {}, ids)
end
