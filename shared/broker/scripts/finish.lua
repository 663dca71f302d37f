#!lua flags=allow-oom
-- Publish the replies of a batch and remove its entries. Safe to repeat.
-- KEYS requests inflight dead, then the inboxes, then per entry its reply key, then bodies
-- ARGV group reply_ttl_ms dead_body_ttl_ms dead_max notice_reply_bytes inboxes, then per entry: entry_id id value note
--   value  the reply; up to notice_reply_bytes it is also in the notice
--   note   the number of its inbox, or inbox|size|body|dead_reason
--     size  if value is '': the size of a large reply that was SET before this call, or 0 for no reply (the client is
--           gone or the external payload lost). If a full Redis rejected that SET, this is an error and does nothing.
--     body  the number of its body, 0 without one
-- Returns how many requests this call finished.
-- `finish_plain` is enough for most batches. One command serves many entries wherever Redis has one.
--#include _inflight
local requests, inflight, dead = KEYS[1], KEYS[2], KEYS[3]
local group, reply_ttl, dead_body_ttl, dead_max = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local notice_reply_bytes, inboxes = tonumber(ARGV[5]), tonumber(ARGV[6])

local entry_ids, ids = {}, {}
for i = 7, #ARGV, 4 do
  entry_ids[#entry_ids + 1] = ARGV[i]
  ids[#ids + 1] = ARGV[i + 1]
end
local first_reply, first_body = 3 + inboxes, 3 + inboxes + #ids
local values = redis.call('HMGET', inflight, '#bytes', '#extra_rows', unpack(ids)) -- then the value of each ID
-- Create a dead letter. `id` is nil for an entry that is not inflight: then the letter is created only while the entry
-- is on the stream, so that repeating the call creates no second one.
local function dead_letter(entry_id, id, reason, body)
  local found = redis.call('XRANGE', requests, entry_id, entry_id)[1]
  if not found and not id then return end
  local fields = found and found[2] or {'id', id}
  local pending = redis.pcall('XPENDING', requests, group, entry_id, entry_id, 1)
  local deliveries = pending[1] and pending[1][4] - 1 or 0 -- the last delivery was not run
  redis.call('XADD', dead, 'MAXLEN', '~', dead_max, '*', 'reason', reason, 'entry_id', entry_id,
    'deliveries', deliveries, unpack(fields))
  redis.call('PEXPIRE', body, dead_body_ttl)
end

-- Whether the entry is that of another request. Around a failover two primaries may give the same ID to two entries, and
-- the one that this worker ran was lost.
local function of_another(entry_id, id)
  local found = redis.call('XRANGE', requests, entry_id, entry_id)[1]
  local other = found and found[2][2]
  return other and other ~= id and parse_inflight(redis.call('HGET', inflight, other)) == entry_id
end

-- Return the inbox's number, the size unless it is that of the value, the body's key or false, and the dead reason.
local function read_note(note)
  local inbox, size, body, reason = string.match(note, '^(%d+)|(%d+)|(%d+)|(.*)$')
  if not inbox then return tonumber(note), nil, nil, '' end
  return tonumber(inbox), size, body ~= '0' and KEYS[first_body + tonumber(body)], reason
end

local written = {} -- keys of large replies to inflight requests
for n in ipairs(ids) do
  local _, size = read_note(ARGV[6 + n * 4])
  if ARGV[5 + n * 4] == '' and size ~= '0' and parse_inflight(values[n + 2]) == entry_ids[n] then
    written[#written + 1] = KEYS[first_reply + n]
  end
end
if #written > 0 and redis.call('EXISTS', unpack(written)) < #written then
  return redis.error_reply('ERR a large reply is missing, which must be SET before this call')
end

local closed, done, notices, bodies, removed = {}, {}, {}, {}, {}
for n, id in ipairs(ids) do
  local entry_id, bytes, rows = parse_inflight(values[n + 2])
  local value = ARGV[5 + n * 4]
  local inbox, size, body, reason = read_note(ARGV[6 + n * 4])
  local mine = entry_id == entry_ids[n]
  if mine or not of_another(entry_ids[n], id) then removed[#removed + 1] = entry_ids[n] end
  if mine and not done[id] then
    done[id] = true
    closed[#closed + 1] = {id, bytes, rows}
    if reason ~= '' then
      dead_letter(entry_id, id, reason, body)
    elseif body then
      bodies[#bodies + 1] = body
    end
    if size ~= '0' then
      local notice = id .. '|' .. (value ~= '' and #value or size)
      if value ~= '' then
        redis.call('SET', KEYS[first_reply + n], value, 'PX', reply_ttl)
        if #value <= notice_reply_bytes then notice = notice .. '|' .. value end
      end
      notices[inbox] = notices[inbox] or {}
      table.insert(notices[inbox], notice)
    end
  elseif reason ~= '' and removed[#removed] == entry_ids[n] then
    dead_letter(entry_ids[n], nil, reason, body)
  end
end
close_requests(inflight, closed, values)
for inbox, texts in pairs(notices) do
  redis.call('RPUSH', KEYS[3 + inbox], unpack(texts))
  redis.call('PEXPIRE', KEYS[3 + inbox], reply_ttl)
end
if #bodies > 0 then redis.call('UNLINK', unpack(bodies)) end
if #removed > 0 then
  redis.pcall('XACK', requests, group, unpack(removed)) -- the group may be missing after a loss of data
  redis.pcall('XDEL', requests, unpack(removed))
end
return #closed
