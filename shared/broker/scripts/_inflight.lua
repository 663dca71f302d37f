-- The hash `inflight` maps request_id -> entry_id|bytes|rows of all requests admitted and not finished. It also has the
-- sums #bytes and #extra_rows (rows beyond the first of each request). It does not exist when no request is inflight.
-- Redis stores a hash of up to 128 or 512 short fields as a list, and searches it from one end. #about is too long for
-- a list, so this hash is a table from the start.
local ABOUT = 'requests admitted and not finished: request id -> entry id|bytes|rows, and sums over all'
local function parse_inflight(value)
  if not value then return nil end
  return string.match(value, '^([^|]+)|(%d+)|(%d+)$')
end

-- Add `bytes` and `extra_rows` to the sums of `inflight`, set the fields of `set` (field, value, …) and delete those of
-- `deleted`, with one HSET and one HDEL. `sums` is the result of HMGET '#bytes' '#extra_rows' in the same script.
local function change_inflight(inflight, sums, bytes, extra_rows, set, deleted)
  for n, field in ipairs({'#bytes', '#extra_rows'}) do
    local before = tonumber(sums[n] or '0')
    local after = before + (n == 1 and bytes or extra_rows)
    if after > 0 and after ~= before then
      set[#set + 1] = field
      set[#set + 1] = string.format('%.0f', after)
    elseif after <= 0 and sums[n] then
      deleted[#deleted + 1] = field
      if field == '#bytes' then deleted[#deleted + 1] = '#about' end -- no request is inflight any more
    end
  end
  if #set > 0 and not sums[1] then
    set[#set + 1] = '#about'
    set[#set + 1] = ABOUT
  end
  if #set > 0 then redis.call('HSET', inflight, unpack(set)) end
  if #deleted > 0 then redis.call('HDEL', inflight, unpack(deleted)) end
end

-- Remove `requests`, a list of {id, bytes, rows}; `sums` as above.
local function close_requests(inflight, requests, sums)
  local ids, bytes, extra_rows = {}, 0, 0
  for n, request in ipairs(requests) do
    ids[n] = request[1]
    bytes = bytes + tonumber(request[2])
    extra_rows = extra_rows + tonumber(request[3]) - 1
  end
  change_inflight(inflight, sums, -bytes, -extra_rows, {}, ids)
end
